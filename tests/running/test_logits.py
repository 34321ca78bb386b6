"""What is read off logits, and how they are kept: whatever their type and size."""

import numpy as np
import pytest
import torch

from lmcbench.connect.interpolation import scores_from_logits
from lmcbench.ensemble.predictions import softmax
from lmcbench.running.splits import score_logits, to_stored


def test_logits_beyond_half_precision_are_kept_with_their_probabilities():
    """Cut off at 65504, two classes would be as likely as each other and the lowest be predicted."""
    logits = torch.tensor([[7e4, 8e4, 0.0], [1.0, 3.0, 2.0], [-1e6, -1e6 + 1, -1e6 + 0.5]])
    kept = to_stored(logits)
    assert kept.dtype == np.float16
    assert np.isfinite(kept).all()
    assert kept.argmax(-1).tolist() == [1, 1, 1]
    assert softmax(kept) == pytest.approx(softmax(logits.numpy()), abs=1e-6)
    # what fits is kept as it is
    assert (kept[1] == logits[1].numpy()).all()


def test_half_precision_is_scored_as_its_curve_is():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 10, generator=generator).half()
    labels = torch.randint(10, (2000,), generator=generator)
    expected = float(scores_from_logits(logits[None], labels).loss.mean())
    assert score_logits(logits, labels).loss == pytest.approx(expected, rel=1e-12)
    # which NumPy has not
    assert score_logits(logits.bfloat16(), labels).loss == pytest.approx(expected, rel=1e-2)
