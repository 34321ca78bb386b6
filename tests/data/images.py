"""Small data sets in the layouts of the hub, written by pyarrow and Pillow alone."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def encode(pixels, kind="PNG"):
    """`[h, w]` or `[h, w, 3]` uint8 as the bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def pictures(n, shape=(3, 32, 32), seed=0):
    """`n` random images, `[h, w]` or `[h, w, 3]` each, after their `[c, h, w]` shape."""
    c, h, w = shape
    size = (n, h, w) if c == 1 else (n, h, w, 3)
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def write_parquet(path, data, labels, image="img", label="label", names=None, row_group=None):
    """A parquet file as `datasets` writes it: {bytes, path} images and, with `names`, its features."""
    table = pa.table(
        {
            image: pa.array(
                [{"bytes": d, "path": None} for d in data],
                pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            ),
            label: pa.array(
                labels, None if any(v is None or isinstance(v, str) for v in labels) else pa.int64()
            ),
        }
    )
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group)
    return path


def write_cifar10(folder, n=40, kind="PNG", names=tuple("abcdefghij")):
    """Both splits in `folder`; returns their pixels and labels by split."""
    made = {}
    for split, seed in (("train", 1), ("test", 2)):
        pixels, labels = pictures(n, seed=seed), [i % 10 for i in range(n)]
        write_parquet(
            folder / f"{split}-00000-of-00001.parquet",
            [encode(p, kind) for p in pixels],
            labels,
            names=list(names),
        )
        made[split] = (pixels.transpose(0, 3, 1, 2), labels)
    return made


def write_bands(path, values, labels, names=tuple("abcdefghij")):
    """A parquet file with an Array3D column, `values` `[n, h, w, c]`, as `datasets` writes it."""
    n, h, w, c = values.shape
    kind = "uint16" if values.dtype == np.uint16 else str(values.dtype)
    leaf = pa.array(values.reshape(-1))
    for size in (c, w, h):
        leaf = pa.ListArray.from_arrays(pa.array(np.arange(0, len(leaf) + 1, size), pa.int32()), leaf)
    features = {
        "image": {"shape": [h, w, c], "dtype": kind, "_type": "Array3D"},
        "label": {"names": list(names), "_type": "ClassLabel"},
        "filename": {"dtype": "string", "_type": "Value"},
    }
    table = pa.table({"image": leaf, "label": labels, "filename": [f"{i}.tif" for i in range(n)]})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path
    )
