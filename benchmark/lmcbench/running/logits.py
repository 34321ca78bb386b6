"""What is read off a network's logits, and how they are kept."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lmcbench.ensemble.predictions import expected_calibration_error, softmax
from lmcbench.ensemble.rescore import Logits
from lmcbench.results.record import Score

FP16_MAX = float(np.finfo(np.float16).max)


def score_logits(logits: Tensor, labels: Tensor) -> Score:
    """Error, loss and calibration of one network from its logits `[n, classes]`."""
    # half precision would round each loss to 3 digits, where a curve's (`scores_of`) are not
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    loss = F.cross_entropy(logits, labels, reduction="none").double().mean()
    wrong = (logits.argmax(-1) != labels).double().mean()
    ece = expected_calibration_error(softmax(logits.cpu().numpy()), labels.cpu().numpy())
    return Score(error=float(wrong), loss=float(loss), ece=ece)


def stored_logits(logits: Tensor) -> Logits:
    """Logits as they are kept: fp16; an image's that go beyond its range are counted from the largest.

    That changes no probability, where cut off at the range's end two classes would be equally likely.
    """
    beyond = logits.abs().amax(-1, keepdim=True) > FP16_MAX
    within = torch.where(beyond, logits - logits.amax(-1, keepdim=True), logits)
    kept: Logits = within.clamp(-FP16_MAX, FP16_MAX).half().cpu().numpy()
    return kept
