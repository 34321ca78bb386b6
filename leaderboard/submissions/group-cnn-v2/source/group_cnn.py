"""A small convolutional network with GroupNorm (Wu and He, arXiv 1803.08494)."""

import torch.nn.functional as F
from torch import nn


class Layer(nn.Module):
    """A 3 x 3 convolution, GroupNorm, ReLU."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(4, outputs)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


def group_cnn(num_classes, in_chans, width=8):
    """Images [n, in_chans, h, w] -> logits [n, num_classes]."""
    return nn.Sequential(
        Layer(in_chans, width, 1),
        Layer(width, 2 * width, 2),
        Layer(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )
