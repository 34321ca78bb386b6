"""A small MLP-Mixer (Tolstikhin et al., arXiv 2105.01601) on patches of 2 x 2 pixels, with LayerNorm."""

import torch.nn.functional as F
from torch import nn

PATCH = 2


class Mix(nn.Module):
    """One pre-normalised MLP over the last dimension, and a shortcut past it."""

    def __init__(self, width, hidden):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.reduce = nn.Linear(hidden, width)

    def forward(self, x):
        return x + self.reduce(F.gelu(self.expand(self.norm(x))))


class Mixer(nn.Module):
    """Patches mixed over positions and channels in turn, then their mean is classified."""

    def __init__(self, num_classes, in_chans, positions, width, depth):
        super().__init__()
        self.embed = nn.Conv2d(in_chans, width, PATCH, PATCH)
        self.over_positions = nn.ModuleList(Mix(positions, 2 * positions) for _ in range(depth))
        self.over_channels = nn.ModuleList(Mix(width, 2 * width) for _ in range(depth))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.embed(x).flatten(2)  # [n, width, positions]
        for positions, channels in zip(self.over_positions, self.over_channels):
            x = positions(x)
            x = channels(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x.mean(2))


def small_mixer(num_classes, in_chans, img_size, width=32, depth=2):
    """Images [n, in_chans, img_size, img_size] -> logits [n, num_classes]."""
    return Mixer(num_classes, in_chans, (img_size // PATCH) ** 2, width, depth)
