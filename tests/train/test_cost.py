"""FLOPs of a training step: a count by hand, and nothing left behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmcbench.train.cost import step_flop


class Counting(nn.Module):
    """A linear layer, dropout, statistics, and a buffer that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm2d(2), nn.Linear(2 * 3 * 3, 5)
        self.register_buffer("passes", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += self.training
        return self.last(torch.dropout(self.norm(x), 0.5, self.training).flatten(1))


def test_a_linear_layer_costs_three_products_and_the_model_stays_as_it_is() -> None:
    model = Counting().eval()
    before = {n: t.clone() for n, t in (*model.named_parameters(), *model.named_buffers())}
    generator = torch.get_rng_state()
    # forward, and backward to the weights and to the normalised images: 2 n in out each
    assert step_flop(model, (2, 3, 3), 7) == 3 * 2 * 7 * 18 * 5
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.get_rng_state(), generator)
