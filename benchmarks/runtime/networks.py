"""Pruned networks, compiled, beside dense ones in other engines.

``python -m benchmarks.runtime.kernels --install`` fetches OpenVINO, ONNX Runtime and
what quantises for them; ``python -m benchmarks.runtime.networks`` runs what has not
been run and writes ``docs/benchmarks/runtime_networks.rst``. Every run is a new
process: one network, one pattern, all sparsities of it and all dense engines, which
take turns. Times of one thread are CPU seconds of the process, of two threads seconds
by the clock, the least of all rounds.
"""

import copy
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks._runs import (
    ROOT,
    Clock,
    Memory,
    Row,
    Skipped,
    add_choices,
    arguments,
    conduct,
    cores,
    parse,
    thread_variables,
)
from benchmarks.pruning import _pretrained, _train
from benchmarks.pruning._models import ResNet, minilm
from benchmarks.runtime import _network_engines, _networks_report
from benchmarks.runtime._engines import versions
from vitalfew.neural import prunable_layers
from vitalfew.pruning import prune
from vitalfew.runtime import CompiledModel, compile, load
from vitalfew.runtime._operator import SegmentModule
from vitalfew.structures import Blocks

Tensor = torch.Tensor

RESNET, MLPS, ENCODER, LOADING = "resnet-20", "mlps", "encoder", "loading"
SPARSITIES, TOY_SPARSITIES = (0.5, 0.7, 0.8, 0.9), (0.8,)
# rows and columns of blocks, and the precision of the compiled network
PATTERNS = {
    "8x1": "float32",
    "16x1": "float32",
    "4x1": "float32",
    "16x2": "bfloat16",
    "16x4": "int8",
}
# magnitude in the whole network or in each layer, or at random in each layer
MASKS: dict[str, dict[str, str]] = {
    "network": {"method": "magnitude", "allocation": "global"},
    "layers": {"method": "magnitude", "allocation": "uniform"},
    "random": {"method": "random", "allocation": "uniform"},
}
SIZES = {  # examples and tokens of each, 0 for images
    RESNET: ((1, 0), (32, 0)),
    MLPS: ((1, 128), (16, 128), (1, 16)),
    ENCODER: ((1, 128), (16, 128), (1, 16)),
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "network": (*SIZES, LOADING),
    "batch": (1, 16, 32),
    "tokens": (0, 16, 128),
    "pattern": tuple(PATTERNS),
    "masks": tuple(MASKS),
    "threads": (1, 2),
}
MANY = 1000, 29_000  # ids of words of the encoder's vocabulary
N_SAMPLES = 8  # inputs that engines may calibrate with
ROUNDS, TOY_ROUNDS = 15, 2
LEAST_SECONDS = 0.01  # of calls that are timed together
MOST_SECONDS = 1800  # of one run
LOADED = 6, (1536, 1088)  # layers of the network that is loaded, and their shapes
TOY_LOADED = 6, (48, 64)
TIMES_LOADED = 5  # processes


def cells(toy: bool) -> Iterator[Row]:
    """Yield all runs: one thread before two, masks of the network first."""
    found: list[tuple[Any, ...]] = []
    for network, sizes in SIZES.items():
        wide = network != RESNET
        for size in sizes:
            found.append((network, *size, "16x1" if wide else "8x1", "network", 1))
    found += [(LOADING, 1, 0, "16x1", "random", 1)]
    for network in (RESNET, MLPS):
        for size in SIZES[network]:
            pattern = "8x1" if network == RESNET else "16x1"
            found += [(network, *size, pattern, masks, 1) for masks in MASKS]
    for network in (MLPS, ENCODER):
        for size in SIZES[network]:
            for pattern in ("16x2", "16x4"):
                found.append((network, *size, pattern, "network", 1))
    found += [(RESNET, *size, "8x1", "network", 2) for size in SIZES[RESNET]]
    found += [(MLPS, *size, "16x1", "network", 2) for size in SIZES[MLPS]]
    found += [
        (RESNET, *size, pattern, masks, 1)
        for pattern in ("16x1", "4x1")
        for masks in MASKS
        for size in SIZES[RESNET]
    ]
    if toy:
        found = [values for values in found if values[1] == 1]
    for values in dict.fromkeys(found):
        yield dict(zip(CHOICES, values, strict=True))


# -- The networks ----------------------------------------------------------------------


class MLPs(nn.Module):
    """The perceptrons of an encoder, one after another, without its attention.

    Parameters
    ----------
    encoder : transformers.BertModel
        Whose layers are used: linear, GELU, linear, residual, layer norm.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        layers = encoder.encoder.layer
        self.up = nn.ModuleList(layer.intermediate.dense for layer in layers)
        self.down = nn.ModuleList(layer.output.dense for layer in layers)
        self.norms = nn.ModuleList(layer.output.LayerNorm for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return hidden states of the shape of those given."""
        for up, down, norm in zip(self.up, self.down, self.norms, strict=True):
            x = norm(down(nn.functional.gelu(up(x))) + x)
        return x


class Encoder(nn.Module):
    """An encoder that maps words to hidden states.

    Parameters
    ----------
    encoder : transformers.BertModel
        Without what it makes of the first state alone.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder.pooler = None

    def forward(self, words: Tensor) -> Tensor:
        """Return hidden states of shape (n, length, width)."""
        states: Tensor = self.encoder(words).last_hidden_state
        return states


def network(cell: Row, toy: bool) -> tuple[nn.Module, list[Tensor]]:
    """Return a dense network and inputs for it.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool
        A small one with random weights.

    Returns
    -------
    tuple of (Module, list of tensor)
        Inputs of the size that is asked for, different ones.
    """
    torch.manual_seed(0)
    n, batch = 1 + N_SAMPLES, cell["batch"]
    if cell["network"] == RESNET:
        if toy:
            return ResNet(1).eval(), list(torch.randn(n, batch, 3, 32, 32))
        images = _train.data(RESNET).x_test[: n * batch].contiguous()
        return _train.trained(RESNET, 0), list(images.split(batch))
    encoder = _small() if toy else minilm()[0]
    low, high = (0, 50) if toy else MANY
    words = torch.randint(low, high, (n, batch, cell["tokens"]))
    if cell["network"] == ENCODER:
        return Encoder(encoder).eval(), list(words)
    states: list[Tensor] = []
    first = encoder.encoder.layer[0].intermediate
    hook = first.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    for each in words:
        encoder(each)
    hook.remove()
    return MLPs(encoder).eval(), [state.contiguous() for state in states]


def _small() -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
        )
    ).eval()


def pruned(model: nn.Module, cell: Row, sparsity: float) -> nn.Module:
    """Return a copy of a network with blocks of its weights removed.

    Parameters
    ----------
    model : Module
        Dense.
    cell : dict
        As `cells` yields it.
    sparsity : float
        The fraction of the blocks that is removed.

    Returns
    -------
    Module
        Embeddings and layers of very few blocks are left as they are.
    """
    found = copy.deepcopy(model)
    rows, columns = map(int, cell["pattern"].split("x"))
    with _network_engines.hushed():
        prune(
            found,
            Blocks((rows, columns), density=round(1 - sparsity, 6)),
            rng=0,
            **MASKS[cell["masks"]],
        )
    return found


@torch.no_grad()
def work(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Return which part of the weights, and of the multiply-adds, is not zero.

    Parameters
    ----------
    model : Module
        Whose linear layers and convolutions are counted.
    x : tensor
        What it is called with.
    """
    layers, _ = prunable_layers(model)
    calls: dict[str, int] = {}

    def count(name: str, n_out: int, _: Any, __: Any, y: Tensor) -> None:
        calls[name] = calls.get(name, 0) + y.numel() // n_out

    hooks = [
        layer.module.register_forward_hook(partial(count, layer.name, layer.shape[0]))
        for layer in layers
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    kept = np.array([int(layer.module.weight.count_nonzero()) for layer in layers])
    whole = np.array([layer.module.weight.numel() for layer in layers])
    times = np.array([calls.get(layer.name, 0) for layer in layers])
    return float(kept.sum() / whole.sum()), float(kept @ times / (whole @ times))


# -- One run ---------------------------------------------------------------------------


def measure(cell: Row, toy: bool) -> Row:
    """Time one network, pruned and dense, in this process.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool
        A small network, two rounds.

    Returns
    -------
    dict
        Microseconds of a call and differences from torch's results, over their largest,
        of every engine and of every sparsity; and what was compiled.
    """
    model, (x, *samples) = network(cell, toy)
    job = _network_engines.Job(model, x, samples, cell["threads"])
    wanted = model(x)
    dense: dict[str, Row] = {}
    left_out: dict[str, str] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for name, make in _network_engines.engines(job):
        try:
            with _network_engines.hushed():
                run, read = make(job)
                found = read(run())
        except Exception as error:  # whatever an engine cannot do is told
            said = " ".join(f"{type(error).__name__}: {error}".split())
            left_out[name] = said[:160]
            continue
        dense[name] = {"difference": _difference(found, wanted)}
        calls[name] = run
    sparse: dict[str, Row] = {}
    for sparsity in TOY_SPARSITIES if toy else SPARSITIES:
        sparse[str(sparsity)], fast = _compiled(model, x, cell, sparsity)
        calls[str(sparsity)] = partial(fast, x)
    seconds = _seconds(calls, cell["threads"], TOY_ROUNDS if toy else ROUNDS)
    for name, facts in [*dense.items(), *sparse.items()]:
        facts["us"] = round(1e6 * seconds[name], 3)
    return {
        "dense": dense,
        "sparse": sparse,
        "left_out": left_out,
        "versions": versions(),
    }


def _compiled(
    model: nn.Module, x: Tensor, cell: Row, sparsity: float
) -> tuple[Row, CompiledModel]:
    """Return facts of a pruned network and what it is compiled to."""
    sparse = pruned(model, cell, sparsity)
    clock = Clock()
    with clock:
        fast = compile(
            sparse, x, dtype=PATTERNS[cell["pattern"]], threads=cell["threads"]
        )
    told = fast.explain()
    kernels: dict[str, int] = {}
    for layer in told.layers:
        kernels[layer.kernel] = kernels.get(layer.kernel, 0) + 1
    density, multiply_adds = work(sparse, x)
    facts = {
        "difference": _difference(fast(x), sparse(x)),
        "density": round(density, 4),
        "multiply_adds": round(multiply_adds, 4),
        "segments": told.segments,
        "kernels": kernels,
        "left_to_torch": dict(told.operators),
        "reason": told.reason,
        "compile_seconds": round(clock.cpu, 2),
    }
    return facts, fast


def _difference(y: Tensor, wanted: Tensor) -> float:
    return float((y.float() - wanted).abs().max() / wanted.abs().max())


def _seconds(
    calls: dict[str, Callable[[], Any]], threads: int, rounds: int
) -> dict[str, float]:
    """Return seconds of a call of each, in turns, the least of all rounds.

    Parameters
    ----------
    calls : dict of str to callable
        By the name of the engine.
    threads : int
        Time of one is that of the processor, of more that of the clock.
    rounds : int
        How many.
    """
    least, clock = {}, Clock()

    def turn(call: Callable[[], Any], n: int) -> float:
        call()  # threads wake up, weights come to the caches
        with clock:
            for _ in range(n):
                call()
        return (clock.cpu if threads == 1 else clock.wall) / n

    for name, call in calls.items():
        least[name] = min(turn(call, 1) for _ in range(3))
    n = {k: math.ceil(LEAST_SECONDS / max(v, 1e-6)) for k, v in least.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            least[name] = min(least[name], turn(call, n[name]))
    return least


# -- Loading ---------------------------------------------------------------------------


def loaded(cell: Row, toy: bool) -> Row:
    """Compile and save a network of linear layers, and load it in new processes.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool
        Small layers.

    Returns
    -------
    dict
        For each sparsity seconds of loading, by the clock and of the processor, and
        bytes, in the process and of what is stored, beside those of dense weights.
    """
    n, shape = TOY_LOADED if toy else LOADED
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(n):
        layers += [nn.Linear(*shape[:: 1 if i % 2 else -1]), nn.ReLU()]
    model = nn.Sequential(*layers).eval()
    x = torch.randn(cell["batch"], shape[1])
    found: dict[str, Row] = {}
    for sparsity in TOY_SPARSITIES if toy else SPARSITIES:
        with tempfile.TemporaryDirectory() as folder:
            sparse = pruned(model, cell, sparsity)
            compile(sparse, x, threads=1, dense_below=0.0).save(folder)
            asked = {"load": folder, "inputs": list(x.shape)}
            runs = [_asked(asked) for _ in range(1 if toy else TIMES_LOADED)]
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
        found[str(sparsity)] = {
            "density": round(work(sparse, x)[0], 4),
            "file_bytes": size,
            "dense_bytes": sum(4 * p.numel() for p in model.parameters()),
            **{key: min(run[key] for run in runs) for key in runs[0]},
        }
    return {"loading": found}


def load_once(folder: str, inputs: list[int]) -> Row:
    """Load a compiled network in this process, which has imported torch.

    Parameters
    ----------
    folder : str
        Where it is.
    inputs : list of int
        Shape of what it is called with.

    Returns
    -------
    dict
        Milliseconds of loading and of the first call, and bytes: how much the process
        grew, and what arrays take.
    """
    memory, clock, first = Memory(), Clock(), Clock()
    with clock:
        fast = load(folder)
    grown = memory.grown()
    x = torch.ones(inputs)
    with first:
        fast(x)
    matrices = [
        matrix
        for module in fast.modules()
        if isinstance(module, SegmentModule)
        for matrix in module.segment.matrices
    ]
    rest = [*fast.parameters(), *fast.buffers()]
    return {
        "ms": round(1e3 * clock.wall, 2),
        "cpu_ms": round(1e3 * clock.cpu, 2),
        "first_call_ms": round(1e3 * first.wall, 2),
        "array_bytes": sum(m.nbytes for m in matrices)
        + sum(t.numel() * t.element_size() for t in rest),
        "grown_bytes": round(1e6 * grown),
    }


# -- Processes -------------------------------------------------------------------------


def run(cell: Row, toy: bool) -> Row:
    """Make one run in a process of its own.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool
        Small.

    Returns
    -------
    dict
        As `measure` or `loaded` returns it, or the reason why there is nothing.
    """
    if not toy and cell["network"] in (MLPS, ENCODER):
        _pretrained.folder()  # fetched here, or skipped
    if not toy and cell["network"] == RESNET:
        _train.trained(RESNET, 0)  # trained here, or skipped
    return _asked({"cell": cell, "toy": toy}, cell["threads"])


def _asked(asked: Row, threads: int = 1) -> Row:
    """Return what a new process finds."""
    command = [sys.executable, "-m", "benchmarks.runtime.networks"]
    try:
        done = subprocess.run(
            [*command, "--one", json.dumps(asked)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **thread_variables(threads)},
            timeout=MOST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {MOST_SECONDS} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        last = (lines or [f"ended with {done.returncode}"])[-1]
        if "Skipped: " in last:
            raise Skipped(last.split("Skipped: ", 1)[1])
        return {"error": last[:200]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


@torch.no_grad()
def _one(asked: Row) -> Row:
    """Make one run on as many cores as it has threads."""
    if "load" in asked:
        return load_once(asked["load"], asked["inputs"])
    cell = asked["cell"]
    threads = cell["threads"]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[-threads:])
    torch.set_num_threads(threads)
    return (loaded if cell["network"] == LOADING else measure)(cell, asked["toy"])


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
    parser = arguments(__doc__, "runtime_networks.jsonl")
    parser.add_argument("--one", metavar="JSON", help="make one run and print it")
    add_choices(parser, CHOICES)
    options = parse(parser, given)
    if options.one:
        sys.stdout.write(json.dumps(_one(json.loads(options.one))) + "\n")
        return 0
    return conduct(
        options,
        cells(options.toy),
        lambda cell: run(cell, options.toy),
        _networks_report.write,
        CHOICES,
    )


if __name__ == "__main__":
    sys.exit(main())
