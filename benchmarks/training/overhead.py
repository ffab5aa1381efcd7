"""What pruning adds to a step of training, in time and in memory.

``python -m benchmarks.training.overhead`` times steps of a perceptron 1024-1024-1024
with Adam, dense, with plain masks and with attention, in turns, on one thread.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from benchmarks._runs import (
    ROOT,
    Clock,
    Memory,
    Row,
    add_choices,
    arguments,
    conduct,
    parse,
    thread_variables,
)
from benchmarks.training import _overhead_report
from benchmarks.training._arms import DENSE
from vitalfew.pruning.training import Phase, Pruner, Schedule, training_methods
from vitalfew.structures import Blocks, Cardinality

Tensor = torch.Tensor

WIDTH, DENSITY = 1_024, 0.1
ROUNDS = 15
LEAST_SECONDS = 0.05  # of the steps that are timed together
TRAINING = 10_000  # steps, over which selections are spread
VARIANTS = {
    DENSE: "",
    "masks": "gradual-magnitude",
    "attention": "sequential-attention++",
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "pattern": ("32x32", "16x16", "8x8", "unstructured"),
    "batch": (32, 128, 512, 2_048),
}
TOY_WIDTH, TOY_ROUNDS = 64, 2


@dataclass(frozen=True, kw_only=True)
class Sparse(Schedule):
    """Sparse from the beginning to the end, selecting in every step or once.

    Parameters
    ----------
    every : int
        Steps from one selection to the next; 0 for one.
    """

    every: int

    name: ClassVar[str] = "sparse"
    use: ClassVar[str] = "measuring"

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Return one phase."""
        name = "sparsification" if self.every else "sparse"
        return (
            Phase(
                name=name,
                start=0,
                end=total_steps,
                every=self.every,
                revive=True,
                zero=False,
            ),
        )


class Training:
    """A network, its optimizer and, if it is pruned, its pruner.

    Parameters
    ----------
    variant : str
        One of `VARIANTS`.
    pattern : str
        Of blocks.
    batch : int
        Rows of a step.
    every : int, default=0
        Steps from one selection to the next; 0 for one.
    width : int, default=1024
        Inputs and outputs of both layers.
    """

    def __init__(
        self,
        variant: str,
        pattern: str,
        batch: int,
        every: int = 0,
        width: int = WIDTH,
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), weight_decay=1e-4)
        self.x, self.y = torch.randn(2, batch, width)
        self.pruner = None
        if VARIANTS[variant]:
            self.pruner = Pruner(
                self.model,
                structure(pattern),
                method=VARIANTS[variant],
                schedule=Sparse(every=every),
                total_steps=10**9,
                optimizer=self.optimizer,
                min_blocks=1,
            )
            for parameter in self.pruner.parameters():
                nn.init.normal_(parameter)  # equal scores sort faster

    def step(self) -> None:
        """Take a step of the optimizer and of the pruner."""
        self.optimizer.zero_grad()
        functional.mse_loss(self.model(self.x), self.y).backward()
        self.optimizer.step()
        if self.pruner is not None:
            self.pruner.step()

    def held(self) -> int:
        """Return the bytes of parameters, gradients, buffers and moments."""
        parameters = list(self.model.parameters())
        tensors = [*parameters, *self.model.buffers()]
        tensors += [p.grad for p in parameters if p.grad is not None]
        for state in self.optimizer.state.values():
            tensors += [v for v in state.values() if isinstance(v, Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors)


def structure(pattern: str) -> Any:
    """Return what may stay."""
    if pattern == "unstructured":
        return Cardinality(density=DENSITY)
    rows, columns = map(int, pattern.split("x"))
    return Blocks((rows, columns), density=DENSITY)


def cells() -> Iterator[Row]:
    """Yield all runs, large blocks and batches first."""
    for pattern in CHOICES["pattern"]:
        for batch in reversed(CHOICES["batch"]):
            yield {"pattern": pattern, "batch": batch}


def run(cell: Row, toy: bool = False) -> Row:
    """Time steps of all variants in turns, and measure their memory.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool, default=False
        A small network, two rounds, memory in this process.

    Returns
    -------
    dict
        Milliseconds of CPU of a step of each variant and of a selection, the least of
        all rounds; the most memory of some steps in MB of 10^6 bytes, what is held
        after them, and what a copy of the pruned weights takes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng([]):
            found = _timed(cell, toy)
    finally:
        torch.set_num_threads(threads)
    memory = {
        variant: measure(cell, variant, toy) if toy else _in_a_process(cell, variant)
        for variant in VARIANTS
    }
    for key in ("peak", "held"):
        found[key] = {variant: memory[variant][key] for variant in VARIANTS}
    return found


def _timed(cell: Row, toy: bool) -> Row:
    width = TOY_WIDTH if toy else WIDTH
    what = cell["pattern"], cell["batch"]
    stepping = {name: Training(name, *what, width=width) for name in VARIANTS}
    selecting = {
        name: Training(name, *what, every=1, width=width)
        for name in VARIANTS
        if name != DENSE
    }
    n_steps = max(1, round(LEAST_SECONDS / _seconds(stepping[DENSE].step, 3)))
    steps: dict[str, list[float]] = {name: [] for name in stepping}
    selections: dict[str, list[float]] = {name: [] for name in selecting}
    for _ in range(TOY_ROUNDS if toy else ROUNDS):
        for name, each in stepping.items():
            steps[name].append(_seconds(each.step, n_steps))
        for name, each in selecting.items():
            assert each.pruner is not None
            selections[name].append(_seconds(each.pruner.step, 1))
    return {
        "step": {name: 1e3 * min(seconds) for name, seconds in steps.items()},
        "selection": {name: 1e3 * min(found) for name, found in selections.items()},
        "n_steps": n_steps,
        "n_selections": {name: _n_selections(VARIANTS[name]) for name in selecting},
        "training": TRAINING,
        "copy": 2 * width**2 * 4 / 1e6,
    }


def _n_selections(method: str) -> int:
    """Return how many selections a method makes in a training."""
    found = 0
    for phase in training_methods()[method].schedule.phases(TRAINING):
        if phase.end > phase.start:
            found += phase.removed != (0.0, 0.0)
            found += sum(map(phase.selects_at, range(phase.start + 1, phase.end)))
    return found


def _seconds(call: Callable[[], None], n: int) -> float:
    """Return CPU seconds of a call, the mean of some."""
    clock = Clock()
    with clock:
        for _ in range(n):
            call()
    return clock.cpu / n


def measure(cell: Row, variant: str, toy: bool = False) -> Row:
    """Take three steps in this process, and tell the memory they took.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    variant : str
        One of `VARIANTS`.
    toy : bool, default=False
        A small network.

    Returns
    -------
    dict
        The most memory over what was held before the network was made, and what it
        holds after the steps; MB of 10^6 bytes.
    """
    torch.set_num_threads(1)
    Training(DENSE, cell["pattern"], 8, width=8).step()  # what is loaded only once
    memory = Memory()
    training = Training(
        variant, cell["pattern"], cell["batch"], width=TOY_WIDTH if toy else WIDTH
    )
    for _ in range(3):
        training.step()
    return {"peak": memory.grown(), "held": training.held() / 1e6}


def _in_a_process(cell: Row, variant: str) -> Row:
    command = [sys.executable, "-m", "benchmarks.training.overhead", "--one"]
    command += [json.dumps({"cell": cell, "variant": variant})]
    # freed memory is given back at once, so that the peak is what is in use
    freed = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **thread_variables(1), **freed},
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


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
    parser = arguments(__doc__, "training_overhead.jsonl")
    parser.add_argument("--one", metavar="JSON", help="measure one memory, print it")
    add_choices(parser, CHOICES)
    options = parse(parser, given)
    if options.one:
        found = measure(**json.loads(options.one))
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    return conduct(
        options,
        cells(),
        lambda cell: run(cell, options.toy),
        _overhead_report.write,
        CHOICES,
    )


if __name__ == "__main__":
    sys.exit(main())
