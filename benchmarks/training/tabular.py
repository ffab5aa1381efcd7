"""A perceptron on categories, its first layer pruned while it trains.

``python -m benchmarks.training.tabular`` trains a perceptron of three layers of 400 on
embeddings of ten numbers for each field of a table, adult and drawn clicks shaped like
Criteo's, and prunes its first layer in square blocks by every arm.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks._runs import (
    Clock,
    Row,
    Skipped,
    add_choices,
    arguments,
    conduct,
    parse,
)
from benchmarks.training import _tabular_report
from benchmarks.training._arms import DENSE, OURS, blocks, cell_of
from benchmarks.training._criteo import clicks
from benchmarks.training._fit import facts, fit, shuffled
from vitalfew.datasets import load
from vitalfew.exceptions import DataError, MissingDependencyError
from vitalfew.pruning.training.schedules import ACDC, SequentialAttentionPlusPlus

Tensor = torch.Tensor

SIZE, WIDTH = 10, 400  # of an embedding, of a layer
CLASSES = 16  # of a number of adult, by its quantiles
ROWS, TEST_ROWS = 500_000, 100_000  # of drawn clicks
BATCH = 512
STEPS = {"adult": 1_000, "criteo-like": 976}  # 15.7 passes, 1 pass
RATE, LAST_RATE, DECAY = 2e-3, 2e-5, 1e-4
TOY_STEPS, TOY_BATCH, TOY_ROWS = 24, 16, 1_000
ARMS = (
    "magnitude",
    "powerpropagation",
    "acdc",
    "sequential-attention++",
    "gradual-magnitude",
    *OURS,
)
# the lengths of the paper for this network, where acdc hides weights
_LENGTHS = {"dense": 0.2, "n_cycles": 10, "extension": 0.0, "fine_tuning": 0.2}
SCHEDULES = {
    "acdc": ACDC(zero=False, **_LENGTHS),
    "sequential-attention++": SequentialAttentionPlusPlus(**_LENGTHS),
}
PATTERNS = ("5x5", "10x10", "20x20")
SPARSITIES = (0.9, 0.95, 0.97, 0.98, 0.99)
SEEDS = 8
CHOICES: dict[str, tuple[Any, ...]] = {
    "data": tuple(STEPS),
    "pattern": (DENSE, *PATTERNS),
    "sparsity": (0.0, *SPARSITIES),
    "arm": (DENSE, *ARMS),
    "seed": tuple(range(SEEDS)),
}


@dataclass(frozen=True, eq=False)
class Table:
    """Fields as places of embeddings, numbered on from one field to the next.

    Attributes
    ----------
    x, y, x_test, y_test : tensors
        Training and validation rows, and whether each is of the second class.
    n_places : int
        Of all fields together.
    least : float or None
        Log loss of the true probabilities, where they are known.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    n_places: int
    least: float | None = None


class Net(nn.Module):
    """Embeddings beside each other, three layers of 400, one output."""

    def __init__(self, n_places: int, n_fields: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_places, SIZE)
        nn.init.normal_(self.embedding.weight, 0, 0.1)
        self.first = nn.Linear(n_fields * SIZE, WIDTH)
        self.rest = nn.Sequential(
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, 1),
        )

    def forward(self, places: Tensor) -> Tensor:
        """Return log odds of shape (n,) of places of shape (n, n_fields)."""
        return self.rest(self.first(self.embedding(places).flatten(1)))[:, 0]


@cache
def adult() -> Table:
    """Return the 14 fields of adult: numbers in classes by quantiles, text as it is.

    Cut into training and validation rows as the table says. A level that no training
    row has gets a place whose embedding stays as it began.

    Raises
    ------
    Skipped
        If the table is not there; the message says why.
    """
    try:
        columns = dict(load("adult").columns)
    except (DataError, MissingDependencyError) as error:
        raise Skipped(f"adult: {error}") from error
    train = columns.pop("split") == "train"
    y = np.array([str(text).strip().startswith(">") for text in columns.pop("income")])
    fields, n_places = [], 0
    for values in columns.values():
        if values.dtype == object:
            text = np.array([str(value) for value in values])
            levels = np.unique(text[train])
            codes = np.searchsorted(levels, text).clip(max=len(levels) - 1)
            codes[levels[codes] != text] = len(levels)
            n_levels = len(levels) + 1
        else:
            inner = np.arange(1, CLASSES) / CLASSES
            cuts = np.unique(np.quantile(values[train], inner))
            codes, n_levels = np.searchsorted(cuts, values), len(cuts) + 1
        fields.append(codes + n_places)
        n_places += n_levels
    return _table(np.stack(fields, 1), y, train, n_places)


@cache
def criteo_like(n: int, n_test: int) -> Table:
    """Return drawn clicks, the last of them to validate on."""
    drawn = clicks(n + n_test)
    starts = np.cumsum((0, *drawn.places[:-1])).astype(np.int32)
    train = np.arange(n + n_test) < n
    return _table(drawn.fields + starts, drawn.y, train, sum(drawn.places), drawn.least)


def _table(
    fields: Any, y: Any, train: Any, n_places: int, least: float | None = None
) -> Table:
    x, target = torch.from_numpy(fields), torch.from_numpy(y.astype(np.float32))
    mark = torch.from_numpy(train)
    return Table(x[mark], target[mark], x[~mark], target[~mark], n_places, least)


def cells() -> Iterator[Row]:
    """Yield all runs, one seed before the next."""
    for seed in range(SEEDS):
        for data in STEPS:
            yield cell_of(data, DENSE, 0.0, DENSE, seed)
            for pattern in PATTERNS:
                for sparsity in SPARSITIES:
                    for arm in ARMS:
                        yield cell_of(data, pattern, sparsity, arm, seed)


def run(cell: Row, toy: bool = False) -> Row:
    """Make one run.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool, default=False
        A few steps, few drawn rows.

    Returns
    -------
    dict
        Mean log loss on the validation rows, in nats, what was kept, and CPU seconds
        of training.
    """
    rows = (TOY_ROWS, TOY_ROWS // 4) if toy else (ROWS, TEST_ROWS)
    table = adult() if cell["data"] == "adult" else criteo_like(*rows)
    size = TOY_BATCH if toy else BATCH
    n_steps = TOY_STEPS if toy else STEPS[cell["data"]]
    arm, seed = cell["arm"], cell["seed"]
    generator = torch.Generator().manual_seed(seed)
    clock = Clock()
    with torch.random.fork_rng([]), clock:
        torch.manual_seed(seed)
        model = Net(table.n_places, table.x.shape[1])
        try:
            report = fit(
                model,
                shuffled(table.x, table.y, size, n_steps, generator),
                _optimizer(model),
                partial(_height, n_steps=n_steps),
                functional.binary_cross_entropy_with_logits,
                arm,
                blocks(cell),
                n_steps,
                rng=seed,
                include="first",
                schedule=SCHEDULES.get(arm),
            )
        except FloatingPointError as error:
            return {"error": str(error)}
    return {
        "loss": log_loss(model, table.x_test, table.y_test),
        **({"least": table.least} if table.least is not None else {}),
        "fields": table.x.shape[1],
        **facts(model, report),
        "rows": len(table.x),
        "steps": n_steps,
        "cpu": round(clock.cpu, 2),
    }


def _optimizer(model: Net) -> torch.optim.Optimizer:
    """Return Adam; rare rows of the embedding are not to fade, so it has no decay."""
    weights = [p for p in model.parameters() if p is not model.embedding.weight]
    groups = [
        {"params": weights, "weight_decay": DECAY},
        {"params": [model.embedding.weight]},
    ]
    return torch.optim.Adam(groups, RATE)


def _height(step: int, n_steps: int) -> float:
    """Return the fraction of the highest rate, which falls exponentially."""
    return (LAST_RATE / RATE) ** min(1.0, step / n_steps)


@torch.no_grad()
def log_loss(model: nn.Module, x: Tensor, y: Tensor, batch: int = 4_096) -> float:
    """Return the mean log loss of a model, in nats.

    Parameters
    ----------
    model : Module
        From rows to log odds.
    x, y : tensors
        Rows, and 1 for those of the second class.
    batch : int, default=4_096
        Rows at a time.

    Returns
    -------
    float
        In double precision.
    """
    total = 0.0
    for rows, wanted in zip(x.split(batch), y.split(batch), strict=True):
        odds = model(rows).double()
        total += float(
            functional.binary_cross_entropy_with_logits(
                odds, wanted.double(), reduction="sum"
            )
        )
    return total / len(y)


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
    parser = arguments(__doc__, "training_tabular.jsonl")
    add_choices(parser, CHOICES)
    options = parse(parser, given)
    return conduct(
        options,
        cells(),
        lambda cell: run(cell, options.toy),
        _tabular_report.write,
        CHOICES,
    )


if __name__ == "__main__":
    sys.exit(main())
