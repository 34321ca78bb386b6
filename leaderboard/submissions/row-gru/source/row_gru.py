"""A recurrent network that reads an image row by row: a gated recurrent unit (Cho et al., arXiv 1406.1078)."""

import torch
from torch import nn


class RowGru(nn.Module):
    """State after the last row -> classes; no normalisation."""

    def __init__(self, num_classes, inputs, width):
        super().__init__()
        self.width = width
        self.gates = nn.Linear(inputs + width, 2 * width)
        self.candidate = nn.Linear(inputs + width, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        rows = x.permute(2, 0, 1, 3).flatten(2)  # [h, n, channels * w]
        state = rows.new_zeros(rows.shape[1], self.width)
        for row in rows:
            update, reset = torch.sigmoid(self.gates(torch.cat([row, state], 1))).chunk(2, 1)
            candidate = torch.tanh(self.candidate(torch.cat([row, reset * state], 1)))
            state = (1 - update) * state + update * candidate
        return self.head(state)


def row_gru(num_classes, in_chans, img_size, width=64):
    """Images [n, in_chans, img_size, img_size] -> logits [n, num_classes]."""
    return RowGru(num_classes, in_chans * img_size, width)
