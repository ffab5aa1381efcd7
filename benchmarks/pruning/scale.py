"""One layer of growing size: time and memory of pruning it.

``python -m benchmarks.pruning.scale`` prunes a square linear layer with 128 x 2,048
calibration tokens, through `prune`, in a new process for each run. The inputs are made
on the way by a fixed layer in front of it, as a network makes them: 256 normal numbers
for each token, a random product and a rectifier, so that inputs are correlated.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks._runs import (
    ROOT,
    Clock,
    Memory,
    Row,
    add_choices,
    arguments,
    conduct,
    cores,
    parse,
    say,
    thread_variables,
)
from benchmarks.pruning import _scale_report

SIZES, TOY_SIZES = (512, 1_024, 2_048, 4_096), (32, 64)
METHODS = ("magnitude", "wanda", "obs", "admm", "iht")
PATTERNS = ("unstructured", "16x1", "2:4")
CHOICES: dict[str, tuple[Any, ...]] = {
    "size": (*SIZES, *TOY_SIZES),
    "pattern": PATTERNS,
    "method": METHODS,
}
DENSITY = 0.3
N_SEQUENCES, LENGTH, N_FACTORS = 128, 2_048, 256
MOST_SECONDS = 1_800  # of one run


def cells(toy: bool) -> Iterator[Row]:
    """Yield all runs, small layers first."""
    for size in TOY_SIZES if toy else SIZES:
        for pattern in PATTERNS:
            for method in METHODS:
                yield {"size": size, "pattern": pattern, "method": method}


def measure(cell: Row, toy: bool) -> Row:
    """Prune one layer in this process.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool
        Few tokens.

    Returns
    -------
    dict
        Seconds, growth of memory in MB over what was held before, error of the layer on
        tokens of its own and as reported.
    """
    import torch
    from torch import nn

    from vitalfew.pruning import prune
    from vitalfew.structures import NM, Blocks, Cardinality

    torch.set_num_threads(len(cores()))
    size, pattern = cell["size"], cell["pattern"]
    structures = {
        "unstructured": Cardinality(density=DENSITY),
        "16x1": Blocks((16, 1), density=DENSITY),
        "2:4": NM(2, 4),
    }
    generator = torch.Generator().manual_seed(1)
    probe = torch.randn(512, N_FACTORS, generator=generator)
    memory = Memory()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(N_FACTORS, size, bias=False),
        nn.ReLU(),
        nn.Linear(size, size, bias=False),
    )
    with torch.no_grad():
        outputs = model(probe).double()
    length = 32 if toy else LENGTH
    batches = [torch.randn(1, length, N_FACTORS) for _ in range(N_SEQUENCES)]
    clock = Clock()
    with clock:
        report = prune(
            model,
            structures[pattern],
            method=cell["method"],
            calibration=batches,
            include="2",
            rng=0,
        )
    grown, layer = memory.grown(), report.layers[0]
    with torch.no_grad():
        change = model(probe).double() - outputs
    return {
        "cpu": round(clock.cpu, 2),
        "wall": round(clock.wall, 2),
        "memory": round(grown, 1),
        "layer_error": float(change.square().sum() / outputs.square().sum()),
        "reported_error": layer.error,
        "asked": layer.asked,
        "kept": layer.kept,
        "threads": len(cores()),
    }


def run(cell: Row, toy: bool) -> Row:
    """Make one run in a process of its own.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool
        Few tokens.

    Returns
    -------
    dict
        As `measure` returns it, or the reason why there is nothing.
    """
    command = [sys.executable, "-m", "benchmarks.pruning.scale", "--one"]
    command += [json.dumps({"cell": cell, "toy": toy})]
    environment = {**os.environ, **thread_variables(len(cores()))}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=MOST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {MOST_SECONDS} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": (lines or ["no message"])[-1][:200]}
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
    parser = arguments(__doc__, "pruning_scale.jsonl")
    parser.add_argument("--one", metavar="JSON", help="make one run and print it")
    add_choices(parser, CHOICES)
    options = parse(parser, given)
    if options.one:
        asked: dict[str, Any] = json.loads(options.one)
        sys.stdout.write(json.dumps(measure(asked["cell"], asked["toy"])) + "\n")
        return 0
    say(f"{len(cores())} cores")
    return conduct(
        options,
        cells(options.toy),
        lambda cell: run(cell, options.toy),
        _scale_report.write,
        CHOICES,
    )


if __name__ == "__main__":
    sys.exit(main())
