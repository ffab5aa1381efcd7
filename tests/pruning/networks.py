"""Small trained-looking networks and data for the tests of pruning."""

import torch
from torch import nn


def mlp(seed: int = 0, width: int = 24, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(16, width, bias=bias),
        nn.ReLU(),
        nn.Linear(width, 12, bias=bias),
        nn.ReLU(),
        nn.Linear(12, 4, bias=bias),
    )


def convnet(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 10, 3, stride=2, bias=False),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 10, 2, groups=5),
        nn.Flatten(),
        nn.Linear(10, 4),
    )


def pairs(shape=(16,), n_batches: int = 4, size: int = 32, seed: int = 1):
    """Batches of correlated inputs and classes."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(shape[-1], shape[-1], generator=generator)
    batches = []
    for _ in range(n_batches):
        x = torch.randn(size, *shape, generator=generator) @ mix
        y = torch.randint(0, 4, (size,), generator=generator)
        batches.append((x, y))
    return batches


def accuracy(model: nn.Module, batches) -> float:
    with torch.no_grad():
        hits = [(model(x).argmax(1) == y).float().mean() for x, y in batches]
    return float(sum(hits) / len(hits))
