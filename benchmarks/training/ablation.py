"""What helps when a network is pruned while it trains: one recipe, many methods.

``python -m benchmarks.training.ablation`` trains perceptrons on MNIST and Fashion-MNIST
and a small residual network on CIFAR-10, each pruned in blocks on the way by every arm
with the same steps and rates. The runs that decide come first, with eight seeds.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks._runs import (
    Clock,
    Row,
    add_choices,
    arguments,
    conduct,
    parse,
)
from benchmarks.pruning import _data
from benchmarks.pruning._models import ResNet
from benchmarks.pruning._train import accuracy, varied
from benchmarks.training import _ablation_report
from benchmarks.training._arms import ARMS, DENSE, OURS, blocks, cell_of
from benchmarks.training._fit import facts, fit, shuffled

Tensor = torch.Tensor

EPOCHS, BATCH = 15, 128
N_TRAIN = 10_000  # images, drawn anew for each seed where there are more
TOY_STEPS, TOY_BATCH = 24, 8
SEEDS, DECISIVE_SEEDS = 5, 8
PATTERNS = ("4x4", "8x8", "16x16", "32x32", "16x1")


@dataclass(frozen=True)
class SetUp:
    """A network, its images and what is measured on it.

    Attributes
    ----------
    patterns, sparsities, arms : tuple
        All of them with each other.
    exclude : str or None
        Layer that always stays dense.
    """

    patterns: tuple[str, ...]
    sparsities: tuple[float, ...]
    arms: tuple[str, ...]
    exclude: str | None = None


_MLP = SetUp(PATTERNS, (0.7, 0.9, 0.95, 0.98), ARMS, "fc3")
SET_UPS = {
    "fashion": _MLP,
    "mnist": _MLP,
    "cifar10": SetUp(
        ("8x8", "16x1"),
        (0.7, 0.8, 0.9),
        ("gradual-magnitude", "acdc", "sequential-attention++", *OURS),
    ),
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "data": tuple(SET_UPS),
    "pattern": (DENSE, *PATTERNS),
    "sparsity": (0.0, 0.7, 0.8, 0.9, 0.95, 0.98),
    "arm": (DENSE, *ARMS),
    "seed": tuple(range(DECISIVE_SEEDS)),
}


class MLP(nn.Module):
    """Perceptron 784-256-256-10."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores of shape (n, 10) of images of shape (n, 784)."""
        hidden = torch.relu(self.fc1(images))
        return self.fc3(torch.relu(self.fc2(hidden)))


def cells() -> Iterator[Row]:
    """Yield all runs: those that decide, the other perceptrons, photographs.

    Within each of these, one seed before the next, so that what there is at any time
    has all arms.
    """
    told = set()
    perceptrons = ("fashion", "mnist")
    for seeds, names, patterns, sparsities in (
        (DECISIVE_SEEDS, perceptrons, ("16x16",), (0.95, 0.98)),
        (SEEDS, perceptrons, None, None),
        (SEEDS, ("cifar10",), None, None),
    ):
        for seed in range(seeds):
            for name in names:
                for found in _of(name, patterns, sparsities, seed):
                    if tuple(found.values()) not in told:
                        told.add(tuple(found.values()))
                        yield found


def _of(
    name: str,
    patterns: tuple[str, ...] | None,
    sparsities: tuple[float, ...] | None,
    seed: int,
) -> Iterator[Row]:
    set_up = SET_UPS[name]
    yield cell_of(name, DENSE, 0.0, DENSE, seed)
    for pattern in patterns or set_up.patterns:
        for sparsity in sparsities or set_up.sparsities:
            for arm in set_up.arms:
                yield cell_of(name, pattern, sparsity, arm, seed)


def run(cell: Row, toy: bool = False) -> Row:
    """Make one run.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool, default=False
        A few steps.

    Returns
    -------
    dict
        Test accuracy in per cent, what was kept, and CPU seconds of training.
    """
    name, seed = cell["data"], cell["seed"]
    data = _images(name)
    photographs = data.x.ndim == 4
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(data.x), generator=generator)[:N_TRAIN]
    size = TOY_BATCH if toy else BATCH
    n_steps = TOY_STEPS if toy else EPOCHS * (len(rows) // BATCH)
    batches = shuffled(data.x[rows], data.y[rows], size, n_steps, generator)
    clock = Clock()
    with torch.random.fork_rng([]), clock:
        torch.manual_seed(seed)
        model: nn.Module = ResNet(1) if photographs else MLP()
        if photographs:
            model = model.to(memory_format=torch.channels_last)
        try:
            report = fit(
                model,
                ((varied(x, generator), y) for x, y in batches),
                _optimizer(model, photographs),
                partial(_height, n_steps=n_steps),
                functional.cross_entropy,
                cell["arm"],
                blocks(cell),
                n_steps,
                rng=seed,
                exclude=SET_UPS[name].exclude,
            )
        except FloatingPointError as error:
            return {"error": str(error)}
    return {
        "accuracy": accuracy(model, data.x_test, data.y_test),
        **facts(model, report),
        "steps": n_steps,
        "cpu": round(clock.cpu, 2),
    }


def _images(name: str) -> _data.Data:
    if name == "mnist":
        return _data.mnist()
    return _data.fashion_mnist() if name == "fashion" else _data.cifar10()


def _optimizer(model: nn.Module, photographs: bool) -> torch.optim.Optimizer:
    if photographs:
        return torch.optim.SGD(
            model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
    return torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-4)


def _height(step: int, n_steps: int) -> float:
    """Return the fraction of the highest rate: half a cosine."""
    return (1 + math.cos(math.pi * min(1.0, step / n_steps))) / 2


def main(given: list[str] | None = None) -> int:
    """Run the experiment and write its page.

    Parameters
    ----------
    given : list of str, optional
        The command line by default.

    Returns
    -------
    int
        0, or 1 when runs are left for another time.
    """
    parser = arguments(__doc__, "training_ablation.jsonl")
    add_choices(parser, CHOICES)
    options = parse(parser, given)
    return conduct(
        options,
        cells(),
        lambda cell: run(cell, options.toy),
        _ablation_report.write,
        CHOICES,
    )


if __name__ == "__main__":
    sys.exit(main())
