"""How a network is built for images of a size: as published, or with which adaptation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lmcbench.ready.trial import Size, made_up_images
from lmcbench.spec.architectures import ADAPTATIONS, Architecture
from lmcbench.train.build import UnfitError, build

AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Fit:
    """What was tried, and what is taken.

    Attributes:
        architecture: with the adaptation that is taken; None where none fits.
        others: further adaptations that fit too.
        refused: what was tried and does not fit, with the reason.
    """

    architecture: Architecture | None
    others: tuple[str, ...]
    refused: dict[str, str]


def fit(asked: Architecture, size: Size, thorough: bool = True) -> Fit:
    """The first that fits of: the network as it is, and each adaptation; the one asked for, if one is.

    Args:
        asked: the network; an adaptation in it is the only one tried.
        size: of the images.
        thorough: try the other adaptations too where the first fits.

    Raises:
        UserError: where the network cannot be found or imported.
        LogitsError: where it does not give logits: no adaptation will mend that.
    """
    # reversed: patch4 fits only what projects patches, small-stem whatever begins with a convolution
    wanted: list[str | None] = [asked.adapt] if asked.adapt is not None else [None, *reversed(ADAPTATIONS)]
    taken: Architecture | None = None
    others: list[str] = []
    refused: dict[str, str] = {}
    for adapt in wanted:
        candidate = asked.model_copy(update={"adapt": adapt})
        reason = why_not(candidate, size)
        if reason is not None:
            refused[adapt if adapt is not None else AS_IT_IS] = reason
        elif taken is None:
            taken = candidate
            if not thorough:
                break
        else:
            assert adapt is not None
            others.append(adapt)
    return Fit(taken, tuple(others), refused)


def why_not(architecture: Architecture, size: Size) -> str | None:
    """Why the network cannot be built at this size; None where it can, and gives finite logits."""
    try:
        model = build(architecture, size.shape, size.classes, 0)
    except UnfitError as error:
        return error.reason
    images = torch.from_numpy(made_up_images(size)[0][:2]).float() / 255
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        finite = bool(torch.isfinite(model(images)).all())
    return None if finite else "its logits are not finite at this size"
