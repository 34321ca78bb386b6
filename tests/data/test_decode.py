"""Encoded images: upright, opaque, 8 bits and one frame, or refused by file and row."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lmcbench.data.decode import open_image, pixels_of
from lmcbench.data.open_dataset import open_dataset
from lmcbench.errors import UserError

from .images import encode, pictures, write_bands, write_parquet

COLOUR, GREY = pictures(1, (3, 8, 12))[0], pictures(1, (1, 8, 12))[0]
PALETTE = Image.fromarray(COLOUR).convert("P")


def saved(image, kind="PNG", **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def read(data, channels=3):
    return pixels_of(open_image(data, "a.parquet, row 3", False), "a.parquet, row 3", channels)


def deep_png(values):
    """`[h, w, 3]` uint16 as a PNG of 16 bits a channel, which Pillow reads but does not write."""
    h, w, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def with_alpha(level, first):
    """A colour image of which one pixel has alpha `first` and all others `level`."""
    alpha = np.full(COLOUR.shape[:2], level, np.uint8)
    alpha[0, 0] = first
    return saved(Image.fromarray(np.dstack([COLOUR, alpha])))


# --- what comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, COLOUR), (3, COLOUR[::-1, ::-1]), (6, np.rot90(COLOUR, -1)), (8, np.rot90(COLOUR, 1))],
)
def test_photographs_are_turned_upright_by_their_exif_orientation(orientation, upright):
    tags = Image.Exif()
    tags[0x0112] = orientation
    assert (read(saved(Image.fromarray(COLOUR), exif=tags)) == upright).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0no tags at all", b"II*\0\x08\0\0\0\x05\0\x12\x01"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_unreadable_exif_data_are_ignored(kind, exif):
    with_tags, without = (
        saved(Image.fromarray(COLOUR), kind, **settings) for settings in ({"exif": exif}, {})
    )
    assert (read(with_tags) == read(without)).all()


def test_opaque_images_keep_their_pixels_in_every_mode():
    assert (read(with_alpha(255, 255)) == COLOUR).all()
    assert (read(saved(Image.fromarray(GREY).convert("LA")), 1) == GREY).all()
    unused = min(set(range(256)) - set(np.asarray(PALETTE).ravel().tolist()))
    for data in (saved(PALETTE), saved(PALETTE, transparency=unused)):
        assert (read(data) == np.asarray(PALETTE.convert("RGB"))).all()


def test_grey_images_stored_in_colour_keep_every_level():
    assert (read(saved(Image.fromarray(GREY).convert("RGB")), 1) == GREY).all()
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (read(saved(Image.fromarray(levels).convert("RGB")), 1) == levels).all()
    assert (read(encode(GREY), 3) == GREY[:, :, None]).all()


def test_a_bitmap_of_16_bits_a_pixel_has_8_or_fewer_a_channel():
    header = struct.pack("<2sIHHI", b"BM", 70 + 32, 0, 0, 70)
    info = struct.pack("<IiiHHIIiiII", 40, 4, -4, 1, 16, 3, 32, 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xF800, 0x07E0, 0x001F, 0)
    bitmap = header + info + masks + struct.pack("<16H", *[0xF800] * 16)
    assert (read(bitmap) == [255, 0, 0]).all()


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "channels", "message"),
    [
        (with_alpha(255, 254), 3, "row 3: the image has transparent pixels. Put all images on a background"),
        (saved(PALETTE, transparency=PALETTE.getpixel((0, 0))), 3, "has transparent pixels"),
        (deep_png(COLOUR.astype(np.uint16) * 16), 3, r"8 bits a channel, found more \(Pillow's mode RGB\)"),
        (b"P6 2 1 4095\n" + bytes(12), 3, "8 bits a channel, found more"),
        (b"P3 2 1 4095\n" + b"7 " * 6, 3, "8 bits a channel, found more"),
        (saved(Image.fromarray(GREY.astype(np.uint16))), 1, r"found more \(Pillow's mode I;16\)"),
        (
            saved(
                Image.fromarray(COLOUR), "GIF", save_all=True, append_images=[Image.fromarray(255 - COLOUR)]
            ),
            3,
            "row 3: the file has 2 frames or pages",
        ),
        (
            saved(Image.fromarray(GREY), "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]),
            1,
            "2 frames",
        ),
        (encode(COLOUR), 1, "row 3: the image is coloured, but the data set is grey"),
        (encode(COLOUR), 13, "row 3: an encoded image, but those of the data set have 13 channels"),
    ],
)
def test_images_that_cannot_be_read_without_loss_are_refused(data, channels, message):
    with pytest.raises(UserError, match=message):
        read(data, channels)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "birds"
    write_parquet(folder / "test-0.parquet", [encode(p) for p in pictures(4)], [0, 1, 0, 1], "image")
    return folder


def refused(place, match):
    with pytest.raises(UserError, match=match):
        open_dataset(str(place))
    pixels = place.parent / "cache" / "pixels"
    assert not pixels.is_dir() or not list(pixels.iterdir())


def test_a_coloured_image_after_a_grey_one_makes_all_of_them_rgb(place):
    grey = pictures(1, (1, 32, 32))[0]
    data = [encode(p) for p in [grey, *pictures(3)]]
    write_parquet(place / "train-0.parquet", data, [0, 1, 0, 1], "image")
    dataset = open_dataset(str(place))
    assert dataset.shape == (3, 32, 32)
    assert (dataset.train.images[0] == grey).all()
    assert (dataset.train.images[1:] == pictures(3).transpose(0, 3, 1, 2)).all()


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("encoded", r"train-1.parquet, row 0: an array of values, but the first image is encoded"),
        ("array", r"train-1.parquet, row 0: an encoded image, but the first is an array of values"),
    ],
)
def test_encoded_images_and_arrays_are_not_mixed(place, first, message):
    encoded, arrays = place / "train-0.parquet", place / "train-1.parquet"
    if first == "array":
        encoded, arrays = arrays, encoded
    write_parquet(encoded, [encode(p) for p in pictures(2)], [0, 1], "image", names=["a", "b"])
    write_bands(arrays, pictures(2), [0, 1], names=["a", "b"])
    refused(place, message)
