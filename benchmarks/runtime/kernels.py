"""Pruned linear layers beside dense ones of other engines.

``python -m benchmarks.runtime.kernels --install`` fetches OpenVINO and ONNX Runtime,
``python -m benchmarks.runtime.kernels`` runs what has not been run and writes
``docs/benchmarks/runtime_kernels.rst``. Every run is a new process on one core: one
shape, one pattern, all sparsities of it and all dense engines, which take turns. Times
are CPU seconds of the process, the least of all rounds.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks._rival_environments import ENGINES, install
from benchmarks._runs import (
    ROOT,
    Clock,
    Results,
    Row,
    add_choices,
    arguments,
    carry_out,
    chosen,
    cores,
    parse,
    thread_variables,
)
from benchmarks.pruning import _pretrained
from benchmarks.runtime import _engines, _kernels_report
from benchmarks.runtime._engines import Call, Floats
from benchmarks.runtime._peaks import peaks
from vitalfew._native._blocksparse import levels
from vitalfew.packed import pack
from vitalfew.runtime import SparseLinear
from vitalfew.runtime._linear import Precision

PATTERNS = {
    "float32": (
        "16x1",
        "8x1",
        "4x1",
        "32x1",
        "4x4",
        "8x8",
        "16x16",
        "32x32",
        "unstructured",
    ),
    "bfloat16": ("16x2", "16x16"),
    "int8": ("16x4", "16x16"),
}
SHAPES, TOY_SHAPES = ("1024x1024", "4096x1024", "4096x4096"), ("64x96",)
ENCODER = {  # layers of all-MiniLM-L6-v2 by their shapes
    "1536x384": "encoder.layer.2.intermediate.dense.weight",
    "384x1536": "encoder.layer.2.output.dense.weight",
}
TOKENS, TOY_TOKENS = (1, 8, 16, 128), (1, 16)
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
CHOICES: dict[str, tuple[Any, ...]] = {
    "precision": tuple(PATTERNS),
    "pattern": tuple(dict.fromkeys(p for own in PATTERNS.values() for p in own)),
    "weights": ("memory", "cache"),
    "masks": ("uniform", "uneven", "encoder"),
    "shape": (*SHAPES, *ENCODER, *TOY_SHAPES),
    "tokens": TOKENS,
}
SIGMA = 0.5  # of the logarithms of the scales of rows and columns
PEAKS = {"peaks": "one core"}
ROUNDS, TOY_ROUNDS = 9, 2
STREAMED = 32 << 20  # bytes of the copies of one layer, as much as a third-level cache
MOST_COPIES = 64
LEAST_SECONDS = 0.002  # of calls with weights in cache that are timed together
MOST_SECONDS = 600  # of one run


def cells(toy: bool) -> Iterator[Row]:
    """Yield all runs, single precision with 16x1 blocks first."""
    available = get_args(Precision)
    ranked = [
        (rank, precision, pattern)
        for precision, patterns in PATTERNS.items()
        for rank, pattern in enumerate(patterns)
        if precision in available
    ]
    ranked.sort(key=lambda item: item[0])
    shapes, tokens = (TOY_SHAPES, TOY_TOKENS) if toy else (SHAPES, TOKENS)
    kinds = [*product(("uniform", "uneven"), shapes)]
    if not toy:
        kinds += [("encoder", shape) for shape in ENCODER]
    for _, precision, pattern in ranked:
        for weights, (masks, shape), n in product(CHOICES["weights"], kinds, tokens):
            yield {
                "precision": precision,
                "pattern": pattern,
                "weights": weights,
                "masks": masks,
                "shape": shape,
                "tokens": n,
            }


def weights_of(shape: tuple[int, int], masks: str, rng: np.random.Generator) -> Floats:
    """Return a dense matrix.

    Parameters
    ----------
    shape : tuple of int
        Outputs and inputs.
    masks : {"uniform", "uneven", "encoder"}
        Uneven ones come from rows and columns with scales of their own.
    rng : numpy.random.Generator
        Source of the numbers.

    Returns
    -------
    float32 array of shape `shape`
        Normal numbers, times log-normal scales where masks are to be uneven; or a
        layer of the pretrained encoder.
    """
    if masks == "encoder":
        from safetensors.numpy import load_file

        file = _pretrained.folder() / "model.safetensors"
        layer: Floats = load_file(file)[ENCODER[f"{shape[0]}x{shape[1]}"]]
        return layer.astype(np.float32)
    n_out, n_in = shape
    weights = rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(n_in))
    if masks == "uneven":
        weights *= np.exp(SIGMA * rng.standard_normal((n_out, 1), np.float32))
        weights *= np.exp(SIGMA * rng.standard_normal((1, n_in), np.float32))
    return weights


def mask_of(
    weights: Floats,
    block: tuple[int, int],
    sparsity: float,
    masks: str,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Return which blocks are kept, (block rows, block columns).

    Parameters
    ----------
    weights : array of shape (n_out, n_in)
        The matrix.
    block : tuple of int
        Rows and columns of a block, which divide those of the matrix.
    sparsity : float
        The fraction that is removed.
    masks : {"uniform", "uneven", "encoder"}
        Chosen at random, or else those with the largest sums of squares in the matrix.
    rng : numpy.random.Generator
        Source of the choice.

    Returns
    -------
    bool array of shape (n_out / block[0], n_in / block[1])
        The same number of blocks either way.
    """
    (n_out, n_in), (r, c) = weights.shape, block
    tiles = weights.reshape(n_out // r, r, n_in // c, c)
    scores = np.einsum("irjc,irjc->ij", tiles, tiles)
    if masks == "uniform":
        scores = rng.random(scores.shape, np.float32)
    kept = round((1 - sparsity) * scores.size)
    found = np.zeros(scores.size, bool)
    found[np.argpartition(scores, -kept, axis=None)[-kept:]] = True
    return found.reshape(scores.shape)


def measure(cell: Row, toy: bool) -> Row:
    """Time one pattern and all dense engines in this process.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool
        Two rounds.

    Returns
    -------
    dict
        Microseconds of a call and differences from double precision, over the largest
        result, of every engine and of every sparsity; and what is stored.
    """
    shape = _pair(cell["shape"])
    rng = np.random.default_rng([*shape, cell["tokens"], len(cell["masks"])])
    weights = weights_of(shape, cell["masks"], rng)
    x = rng.standard_normal((cell["tokens"], shape[1]), np.float32)
    streamed = cell["weights"] == "memory"

    def n_copies(nbytes: int) -> int:
        if toy or not streamed:
            return 1
        return min(MOST_COPIES, math.ceil(STREAMED / nbytes))

    dense, left_out, calls, held = _dense(weights, x, n_copies)
    sparse: dict[str, Row] = {}
    for sparsity in map(str, SPARSITIES):
        sparse[sparsity], calls[sparsity] = _pruned(
            cell, weights, x, float(sparsity), rng, n_copies
        )
    seconds = _seconds(calls, TOY_ROUNDS if toy else ROUNDS, streamed)
    del held  # not before
    for name, facts in [*dense.items(), *sparse.items()]:
        facts["us"] = round(1e6 * seconds[name], 3)
    return {
        "dense": dense,
        "sparse": sparse,
        "left_out": left_out,
        "versions": _engines.versions(),
    }


def _dense(
    weights: Floats, x: Floats, n_copies: Callable[[int], int]
) -> tuple[dict[str, Row], dict[str, str], dict[str, list[Call]], list[Any]]:
    """Return facts, failures and calls of each engine, and what is to be held."""
    found: dict[str, Row] = {}
    failures, calls, held = {}, {}, []
    for title, precision, engine in _engines.engines():
        name = f"{title} {precision}"
        try:
            make = engine(weights, x)
            n = n_copies(weights.size * _engines.SIZES[precision])
            layers = [make() for _ in range(n)]
        except RuntimeError as error:
            failures[name] = str(error).splitlines()[0][:120]
            continue
        call, read = layers[0]
        found[name] = {"difference": _difference(read(call()), weights, x)}
        calls[name] = [call for call, _ in layers]
        held.append(make)  # its arrays are lent to the engine
    return found, failures, calls, held


def _pruned(
    cell: Row,
    weights: Floats,
    x: Floats,
    sparsity: float,
    rng: np.random.Generator,
    n_copies: Callable[[int], int],
) -> tuple[Row, list[Call]]:
    """Return facts and calls of a pruned layer."""
    precision, pattern = cell["precision"], cell["pattern"]
    block = _pair("1x1" if pattern == "unstructured" else pattern)
    kept = mask_of(weights, block, sparsity, cell["masks"], rng)
    pruned = weights * np.kron(kept, np.ones(block, np.float32))
    packed = pack(pruned, block)

    def layer() -> SparseLinear:
        return SparseLinear(packed, threads=1, precision=precision)

    first = layer()
    tokens = _engines.bits(x) if precision == "bfloat16" else x
    y = first(tokens)
    result = _engines.numbers(y) if precision == "bfloat16" else y
    copies = [first, *(layer() for _ in range(1, n_copies(first.nbytes)))]
    facts: Row = {
        "difference": _difference(result, pruned, x),
        "nbytes": first.nbytes,
        "weights": int(kept.sum()) * block[0] * block[1],
        "fullest": float(kept.sum(1).max() / kept.sum(1).mean()),
    }
    return facts, [_call(copy, tokens, y) for copy in copies]


def _pair(text: str) -> tuple[int, int]:
    rows, columns = text.split("x")
    return int(rows), int(columns)


def _call(layer: SparseLinear, tokens: NDArray[Any], y: NDArray[Any]) -> Call:
    return lambda: layer(tokens, out=y)


def _difference(y: Floats, weights: Floats, x: Floats) -> float:
    exact = x.astype(np.float64) @ weights.T.astype(np.float64)
    return float(np.abs(y - exact).max() / np.abs(exact).max())


def _seconds(
    calls: dict[str, list[Call]], rounds: int, streamed: bool
) -> dict[str, float]:
    """Return CPU seconds of a call of each, in turns, the least of all rounds.

    Parameters
    ----------
    calls : dict of lists
        Of each, calls with copies of the weights; one call where they are to be in
        cache.
    rounds : int
        How many.
    streamed : bool
        In a turn each copy is used once. Otherwise the only one is used again and
        again, after a call that is not timed.
    """
    if not streamed:
        calls = {name: own * _repeats(own[0]) for name, own in calls.items()}
    least = dict.fromkeys(calls, math.inf)
    clock = Clock()
    for _ in range(rounds):
        for name, own in calls.items():
            if not streamed:
                own[0]()
            with clock:
                for call in own:
                    call()
            least[name] = min(least[name], clock.cpu / len(own))
    return least


def _repeats(call: Call) -> int:
    call()
    clock = Clock()
    with clock:
        call()
    return max(1, math.ceil(LEAST_SECONDS / max(clock.cpu, 1e-6)))


def run(cell: Row, toy: bool) -> Row:
    """Make one run in a process of its own.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool
        Two rounds.

    Returns
    -------
    dict
        As `measure` returns it, or the reason why there is nothing.
    """
    if cell["masks"] == "encoder":
        _pretrained.folder()  # fetched here, or skipped
    command = [sys.executable, "-m", "benchmarks.runtime.kernels"]
    command += ["--one", json.dumps({"cell": cell, "toy": toy})]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **thread_variables(1)},
            timeout=MOST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {MOST_SECONDS} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": (lines or [f"ended with {done.returncode}"])[-1][:200]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _one(asked: Row) -> Row:
    """Make one run on one core of this process."""
    import torch

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[-1:])
    torch.set_num_threads(1)
    with torch.inference_mode():
        return measure(asked["cell"], asked["toy"])


def _facts() -> Row:
    return {"instructions": levels()[0], **peaks()}


def main(given: list[str] | None = None) -> int:
    """Run the benchmark and write its page.

    Parameters
    ----------
    given : list of str, optional
        The command line by default.

    Returns
    -------
    int
        0, or 1 when runs are left for another time.
    """
    parser = arguments(__doc__, "runtime_kernels.jsonl")
    parser.add_argument(
        "--install", action="store_true", help="fetch the other engines, and stop"
    )
    parser.add_argument("--one", metavar="JSON", help="make one run and print it")
    add_choices(parser, CHOICES)
    options = parse(parser, given)
    if options.install:
        install([ENGINES])
        return 0
    if options.one:
        sys.stdout.write(json.dumps(_one(json.loads(options.one))) + "\n")
        return 0
    results = Results(options.results)
    left = 0
    if not options.report_only:
        wanted: Iterable[Row] = chosen(cells(options.toy), CHOICES, options)
        left = carry_out([PEAKS], lambda _: _facts(), results, math.inf)
        left += carry_out(
            wanted,
            lambda cell: run(cell, options.toy),
            results,
            options.budget_minutes,
        )
    _kernels_report.write(results, options.pages)
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
