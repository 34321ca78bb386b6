"""Images that are read batch by batch: from a `DataLoader`, a `Dataset` or a data set of this package."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lmcbench.errors import UserError, describe

BATCH = 256
"""Images per batch of a `Dataset`."""

IMAGE_KEYS = ("pixel_values", "image", "images", "img", "x", "input")
LABEL_KEYS = ("labels", "label", "target", "targets", "y")


class Images(Protocol):
    """Floating images in batches `[b, c, h, w]`: a tensor, or an object that creates them on demand."""

    def __len__(self) -> int: ...

    def split(self, size: int, /) -> Any:
        """Return batches of `size`; the last may be smaller."""
        ...


def is_lazy(given: object) -> TypeGuard[Images]:
    """Whether images are created on demand."""
    return (
        not isinstance(given, Tensor | str | bytes) and hasattr(given, "split") and hasattr(given, "__len__")
    )


def is_loader(given: object) -> TypeGuard[DataLoader[Any] | Dataset[Any]]:
    """Whether `given` is a `DataLoader` or a `Dataset`."""
    return isinstance(given, DataLoader | Dataset)


def whole(images: Images) -> Tensor:
    """Return all images, `[n, c, h, w]`."""
    return images if isinstance(images, Tensor) else torch.cat(list(images.split(BATCH)))


def first_images(images: Images, n: int) -> Tensor:
    """Return the first `n` images."""
    found: Tensor = next(iter(images.split(n)))
    return found


def equal_parts(images: Images, count: int) -> Iterator[Tensor]:
    """Yield `images` in `count` batches of sizes equal up to one, as `Tensor.tensor_split` has them."""
    if isinstance(images, Tensor):
        yield from images.tensor_split(count)
        return
    n = len(images)
    if count == 1:
        yield whole(images)
        return
    ends = [n // count * (i + 1) + min(i + 1, n % count) for i in range(count)]
    waiting: list[Tensor] = []
    start = 0
    for batch in images.split(max(1, n // count)):
        waiting.append(batch)
        while ends and start + sum(map(len, waiting)) >= ends[0]:
            joined = torch.cat(waiting)
            size = ends.pop(0) - start
            yield joined[:size]
            waiting, start = [joined[size:]], start + size


def rebatched(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Yield the images of `batches` in batches of `size`, in order; the last may be smaller."""
    waiting: list[Tensor] = []
    for images in batches:
        waiting.append(images)
        if sum(map(len, waiting)) >= size:
            *full, rest = torch.split(torch.cat(waiting) if len(waiting) > 1 else images, size)
            waiting = [rest]
            if len(rest) == size:
                full, waiting = [*full, rest], []
            yield from full
    if waiting:
        yield torch.cat(waiting)


class JoinedImages:
    """Several sets of images of one shape as one, so that a batch may hold images of two of them."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def split(self, size: int, /) -> Iterator[Tensor]:
        """Yield batches of `size`, in order; the last may be smaller."""
        yield from rebatched((batch for part in self.parts for batch in part.split(size)), size)


class LoaderImages:
    """The images of a `DataLoader` or `Dataset`, which is passed once for each use.

    The first pass takes the labels and a checksum of each batch; a later pass with other images is refused,
    because states would be compared on different images.

    Args:
        given: batches (or items) of images and labels, as pairs or dictionaries.
        what: names it in errors.

    Attributes:
        labels: `[n]`; None if the batches have none.
    """

    def __init__(self, given: DataLoader[Any] | Dataset[Any], what: str) -> None:
        self.what = what
        self.loader = given if isinstance(given, DataLoader) else _loader(given)
        self.sums: list[int] = []
        labels: list[Tensor] = []
        count = 0
        for images, target in self._pass():
            self.sums.append(_checksum(images))
            count += len(images)
            if target is not None:
                labels.append(target)
        if count == 0:
            raise UserError(f"{what} is empty.")
        self.count = count
        self.labels = torch.cat(labels) if labels else None
        self._check(0, next((images for images, _ in self._pass()), None))

    def __len__(self) -> int:
        return self.count

    def split(self, size: int, /) -> Iterator[Tensor]:
        """Yield batches of `size`, in order.

        Raises:
            UserError: if the images differ from those of the first pass.
        """
        yield from rebatched(self._checked(), size)

    def _checked(self) -> Iterator[Tensor]:
        done = 0
        for images, _ in self._pass():
            self._check(done, images)
            done += 1
            yield images
        if done < len(self.sums):
            self._check(done, None)

    def _check(self, i: int, images: Tensor | None) -> None:
        """Compare batch `i` with that of the first pass; `images` is None if this pass has no batch `i`."""
        if images is None or i >= len(self.sums) or _checksum(images) != self.sums[i]:
            raise UserError(
                f"{self.what}: two passes give different images. "
                "Use a fixed order, no random augmentation (shuffle=False) and no iterator that is used up."
            )

    def _pass(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        try:
            for batch in self.loader:
                yield self._pair(batch)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self.what} cannot be read: {describe(error)}. Its items must "
                "be pairs of a tensor and a label: give it a transform with ToTensor and Normalize."
            ) from error

    def _pair(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        labels: Any = None
        if isinstance(batch, Mapping):
            images = next((batch[key] for key in IMAGE_KEYS if key in batch), None)
            labels = next((batch[key] for key in LABEL_KEYS if key in batch), None)
        elif isinstance(batch, tuple | list):
            images, labels = batch[0], batch[1] if len(batch) > 1 else None
        else:
            images = batch
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 2:
            found = f"{images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
            raise UserError(
                f"{self.what}: batches must have floating images [n, c, h, w], found {found}: "
                "scale and normalise them as for training."
            )
        if not bool(torch.isfinite(images).all()):
            raise UserError(f"{self.what}: images hold NaN or infinity.")
        if labels is not None:
            labels = torch.as_tensor(labels)
            if labels.ndim == 0 or len(labels) != len(images):
                raise UserError(
                    f"{self.what}: a batch of {len(images)} images has labels of shape {list(labels.shape)}. "
                    "Give the DataLoader a batch_size."
                )
        return images.detach(), labels


def _loader(dataset: Dataset[Any]) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=BATCH, collate_fn=default_collate)


def _checksum(images: Tensor) -> int:
    return zlib.crc32(images.cpu().contiguous().numpy().data, len(images))
