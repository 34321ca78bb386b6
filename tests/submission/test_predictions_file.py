"""What is kept of a run's logits must fit what a submission may hold."""

import numpy as np
from safetensors.numpy import save

from lmcbench.submission.predictions_file import TENSOR_BYTES


def test_a_file_of_many_splits_is_no_larger_than_it_is_counted():
    """However many evaluation shifts a suite has, and however long their names and many their images are."""
    for splits in (1, 3, 12, 90):
        tensors = {
            f"test:corruption_of_a_long_name-{i}": np.zeros((4, 1000, 100), np.float16) for i in range(splits)
        }
        tensors["labels"] = np.zeros(1000, np.int16)
        content = sum(t.nbytes for t in tensors.values())
        assert len(save(tensors)) <= content + TENSOR_BYTES * (1 + len(tensors))
