"""A network in the engines that run it on this machine, measured in turns."""

import copy
import importlib.util
import logging
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from vitalfew.exceptions import IncompatibleError
from vitalfew.runtime._graph import difference
from vitalfew.runtime._linear import Precision
from vitalfew.runtime._model import CompiledModel, Explanation, compile, example_call

__all__ = ["ENGINES", "BenchReport", "EngineTimes", "bench"]

INSTALL = "pip install 'vitalfew[bench]'"
INSTALLED = ("onnx", "onnxruntime", "onnxscript", "openvino")  # by that line
TALKATIVE = ("onnx_ir", "onnxscript", "openvino", "torch.onnx")
TURN = 5e-3  # seconds that a turn of an engine takes at least
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # for terminals
LONGEST = 300  # characters of what an engine says when it fails

Run = Callable[[], Any]
Progress = Callable[[str, int, int], Any]


@dataclass(frozen=True)
class EngineTimes:
    """What an engine took for a call.

    Attributes
    ----------
    engine : str
        One of `ENGINES`.
    latency, median : float
        Least and median seconds of a call by the clock, over the rounds.
    cpu : float
        Least seconds of a call of all threads together.
    throughput : float
        Examples a second, at the least latency.
    difference : float or None
        Largest difference from torch's results, over their largest; None where torch
        was not there to compare with.
    """

    engine: str
    latency: float
    median: float
    cpu: float
    throughput: float
    difference: float | None

    @property
    def dense(self) -> bool:
        """Whether the engine multiplies by zeros."""
        return not self.engine.startswith("vitalfew")

    @property
    def precision(self) -> Precision:
        """Type of the numbers that it multiplies."""
        return _precision(self.engine)


@dataclass(frozen=True)
class BenchReport:
    """Engines on the same inputs.

    Attributes
    ----------
    times : tuple of EngineTimes
        Of the engines that ran, in the order asked for.
    missing : dict of str to str
        Engines that did not, and why.
    batch, threads, rounds : int
        Examples of a call, threads of each engine, and how often they took turns.
    explanations : dict of str to Explanation
        What `CompiledModel.explain` says, by engine.
    interrupted : bool
        Whether Ctrl-C ended it before all rounds were done.
    """

    times: tuple[EngineTimes, ...]
    missing: Mapping[str, str]
    batch: int
    threads: int
    rounds: int
    explanations: Mapping[str, Explanation]
    interrupted: bool = False

    def of(self, engine: str) -> EngineTimes:
        """Return the times of an engine.

        Parameters
        ----------
        engine : str
            One that ran.

        Returns
        -------
        EngineTimes
            Its.

        Raises
        ------
        KeyError
            If it did not.
        """
        for found in self.times:
            if found.engine == engine:
                return found
        raise KeyError(f"{engine}: {self.missing.get(engine, 'not asked for')}")

    def over_torch(self, engine: str) -> float | None:
        """Return how many times as fast as torch an engine is.

        By the clock, or for one thread by the time of the processor, which other
        programs do not lengthen.

        Parameters
        ----------
        engine : str
            One that ran.

        Returns
        -------
        float or None
            None where torch in single precision did not run.
        """
        found = [self._seconds(t) for t in self.times if t.engine == "torch"]
        return found[0] / self._seconds(self.of(engine)) if found else None

    def over_dense(self, engine: str) -> float | None:
        """Return how many times as fast as the quickest dense engine an engine is.

        Measured as by `over_torch`.

        Parameters
        ----------
        engine : str
            One that ran.

        Returns
        -------
        float or None
            Against the quickest one of the same precision or a higher one; None where
            none ran.
        """
        own = self.of(engine)
        rank = PRECISIONS.index(own.precision)
        found = [
            self._seconds(t)
            for t in self.times
            if t.dense and PRECISIONS.index(t.precision) <= rank
        ]
        return min(found) / self._seconds(own) if found else None

    def _seconds(self, times: EngineTimes) -> float:
        """Return what engines are compared by."""
        return times.cpu if self.threads == 1 else times.latency

    def __str__(self) -> str:
        head = f"{'engine':<20}{'ms':>10}{'median':>10}{'cpu ms':>10}{'a second':>11}"
        lines = [head + f"{'x torch':>9}{'x dense':>9}{'differs by':>12}"]
        for t in self.times:
            ratios = [self.over_torch(t.engine), self.over_dense(t.engine)]
            cells = ["-" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
            differs = "-" if t.difference is None else f"{t.difference:.1e}"
            lines.append(
                f"{t.engine:<20}{1e3 * t.latency:>10.3f}{1e3 * t.median:>10.3f}"
                f"{1e3 * t.cpu:>10.3f}{t.throughput:>11.1f}"
                f"{cells[0]:>9}{cells[1]:>9}{differs:>12}"
            )
        lines += [f"{name}: {why}" for name, why in self.missing.items()]
        return "\n".join(lines)


def bench(
    model: torch.nn.Module,
    example_inputs: Any,
    *,
    engines: Iterable[str] | None = None,
    threads: int = 1,
    rounds: int = 20,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure a network in every engine that is installed, on the same inputs.

    Parameters
    ----------
    model : Module
        Pruned; it is not changed. A `CompiledModel` is measured by itself: what it was
        compiled from is not in it.
    example_inputs : tensor, tuple or dict
        What it is called with; arrays of NumPy become tensors. The first tensor's first
        dimension counts examples.
    engines : iterable of str, optional
        Some of `ENGINES`; all by default. Those that are not installed or cannot run
        the network are told in the report.
    threads : int, default=1
        Of each engine; a `CompiledModel` has its own.
    rounds : int, default=20
        How often the engines take turns.
    progress : callable, optional
        Takes the part at work, how much of it is done, and its total.

    Returns
    -------
    BenchReport
        Prints as a table. After Ctrl-C it has the rounds that were complete.

    Raises
    ------
    ValueError
        If an engine is not known, or a number is out of its range.
    IncompatibleError
        If the model is compiled and other engines are asked for.

    Notes
    -----
    All engines compute on the CPU of this machine. A turn is one call, or, where a call
    takes less than five milliseconds, several after one that is not counted. Engines
    hold a copy of the weights each, and are prepared for the sizes of the example.
    Language models of transformers return no cache of keys and values.

    Examples
    --------
    >>> import torch
    >>> from vitalfew.runtime import bench
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> model[0].weight.data[:, 8:] = 0
    >>> report = bench(model, torch.ones(4, 64), engines=["torch", "vitalfew"])
    >>> report.of("vitalfew").difference < 1e-5
    True
    """
    names = _names(model, engines)
    if threads < 1 or rounds < 1:
        raise ValueError(
            f"threads and rounds must be at least 1, got {threads!r} and {rounds!r}"
        )
    told = progress or (lambda part, done, total: None)
    args, kwargs = pytree.tree_map(_as_tensor, example_call(example_inputs))
    given = _given(model, args, kwargs)
    batch = len(given[0][1]) if given and given[0][1].ndim else 1
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad(), _hushed():
            job = _Job(model, args, kwargs, given, threads, {})
            if not isinstance(model, CompiledModel):
                job.model = _copied(model)
            wanted = _tensors(job.model(*args, **kwargs))
            calls, missing, differences = _prepared(job, names, wanted, told)
            times, interrupted = _measured(calls, rounds, told)
    finally:
        torch.set_num_threads(before)
    found = tuple(
        EngineTimes(
            name,
            min(clock),
            statistics.median(clock),
            min(cpu),
            batch / min(clock),
            differences[name],
        )
        for name, (clock, cpu) in times.items()
    )
    done = len(next(iter(times.values()))[0]) if times else 0
    return BenchReport(
        found, missing, batch, threads, done, job.explanations, interrupted
    )


def _copied(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy as it is measured."""
    found = copy.deepcopy(model).cpu().eval()
    config: Any = getattr(found, "config", None)
    if getattr(config, "use_cache", False):
        config.use_cache = False  # what it returns is no tensor, and not needed
    return found


@dataclass
class _Job:
    """What engines are made from."""

    model: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    given: list[tuple[str, torch.Tensor]]
    threads: int
    explanations: dict[str, Explanation]


def _names(model: Any, engines: Iterable[str] | None) -> tuple[str, ...]:
    """Return the engines to measure."""
    names = None if engines is None else tuple(dict.fromkeys(engines))
    for name in names or ():
        if name not in ENGINES:
            raise ValueError(f"engines must be some of {tuple(ENGINES)}, got {name!r}")
    if not isinstance(model, CompiledModel):
        return tuple(ENGINES) if names is None else names
    (own,) = (
        n for n in ENGINES if n.startswith("vitalfew") and _precision(n) == model.dtype
    )
    if names not in (None, (own,)):
        raise IncompatibleError(
            f"a network that is compiled runs in {own!r} alone, got engines {names}: "
            "give the network that it was compiled from"
        )
    return (own,)


def _precision(engine: str) -> Precision:
    found: Precision
    for found in ("bfloat16", "int8"):
        if engine.endswith(found):
            return found
    return "float32"


def _as_tensor(leaf: Any) -> Any:
    return torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf


def _given(model: Any, args: Any, kwargs: Any) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors of a call with the names of the arguments they are in."""
    try:
        arguments = signature(model.forward).bind(*args, **kwargs).arguments
    except TypeError:  # the call itself will say what is wrong
        arguments = {"": (args, kwargs)}
    return [
        (name, leaf)
        for name, value in arguments.items()
        for leaf in pytree.tree_leaves(value)
        if torch.is_tensor(leaf)
    ]


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep to themselves what exporters tell of their own doing."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _prepared(
    job: _Job, names: Iterable[str], wanted: list[torch.Tensor], told: Progress
) -> tuple[dict[str, Run], dict[str, str], dict[str, float | None]]:
    """Return the engines that run, why others do not, and how results differ."""
    calls: dict[str, Run] = {}
    missing: dict[str, str] = {}
    differences: dict[str, float | None] = {}
    names = tuple(names)
    for i, name in enumerate(names):
        told(f"preparing {name}", i, len(names))
        try:
            call = ENGINES[name](job)
            # caches and the like may follow the results
            found = _tensors(call())[: len(wanted)]
            if len(found) < len(wanted):
                missing[name] = f"it gives {len(found)} results, not {len(wanted)}"
                continue
        except ModuleNotFoundError as error:
            how = f": {INSTALL}" if error.name in INSTALLED else ""
            missing[name] = f"{error.name} is not installed{how}"
            continue
        except Exception as error:  # whatever an engine cannot do is told
            said = COLOURS.sub("", f"{type(error).__name__}: {error}")
            said = " ".join(said.split())
            missing[name] = said[:LONGEST]
            continue
        compiled = isinstance(job.model, CompiledModel)
        differences[name] = None if compiled else difference(found, wanted)
        calls[name] = call
    return calls, missing, differences


def _tensors(found: Any) -> list[torch.Tensor]:
    """Return the tensors of a result, in single precision."""
    leaves = map(_as_tensor, pytree.tree_leaves(found))
    return [leaf.float() for leaf in leaves if torch.is_tensor(leaf)]


Times = dict[str, tuple[list[float], list[float]]]


def _measured(
    calls: Mapping[str, Run], rounds: int, told: Progress
) -> tuple[Times, bool]:
    """Return seconds of a call by the clock and of the process, for each round.

    Ctrl-C ends it after the last round that was complete, if there is one.
    """
    times: Times = {name: ([], []) for name in calls}
    repeats = {}
    for name, call in calls.items():
        seconds = min(_turn(call, 1)[0] for _ in range(3))
        repeats[name] = max(1, int(TURN / max(seconds, 1e-7)))
    for i in range(rounds if calls else 0):
        told("measuring", i, rounds)
        try:
            turns = {name: _turn(call, repeats[name]) for name, call in calls.items()}
        except KeyboardInterrupt:
            if not i:
                raise
            return times, True
        for name, (clock, cpu) in turns.items():
            times[name][0].append(clock)
            times[name][1].append(cpu)
    return times, False


def _turn(call: Run, repeats: int) -> tuple[float, float]:
    if repeats > 1:  # threads of the engine wake up, its weights come to the caches
        call()
    clock, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        call()
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    return clock / repeats, cpu / repeats


def _torch(job: _Job) -> Run:
    return lambda: job.model(*job.args, **job.kwargs)


def _torch_bfloat16(job: _Job) -> Run:
    half = copy.deepcopy(job.model).to(torch.bfloat16)

    def narrow(leaf: Any) -> Any:
        floats = torch.is_tensor(leaf) and leaf.is_floating_point()
        return leaf.to(torch.bfloat16) if floats else leaf

    args, kwargs = pytree.tree_map(narrow, (job.args, job.kwargs))
    return lambda: half(*args, **kwargs)


def _compiled(engine: str) -> Callable[[_Job], Run]:
    def build(job: _Job) -> Run:
        fast = job.model
        if not isinstance(fast, CompiledModel):
            fast = compile(
                fast,
                job.kwargs or job.args,
                dtype=_precision(engine),
                threads=job.threads,
            )
        job.explanations[engine] = fast.explain()
        return lambda: fast(*job.args, **job.kwargs)

    return build


def _openvino(precision: str) -> Callable[[_Job], Run]:
    def build(job: _Job) -> Run:
        import openvino

        try:
            traced = openvino.convert_model(
                job.model, example_input=job.kwargs or job.args
            )
        except Exception:  # what its tracing cannot follow torch's own may
            traced = openvino.convert_model(
                torch.export.export(job.model, job.args, job.kwargs)
            )
        ports = [(port, port.get_names()) for port in traced.inputs]
        arrays = [x.numpy() for x in _inputs(job.given, ports)]
        for (port, _), array in zip(ports, arrays, strict=True):
            port.get_node().set_partial_shape(openvino.PartialShape(array.shape))
        traced.validate_nodes_and_infer_types()
        compiled = openvino.Core().compile_model(
            traced,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": job.threads,
                "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": precision,
            },
        )
        request, inputs = compiled.create_infer_request(), dict(enumerate(arrays))
        return lambda: list(request.infer(inputs, share_inputs=True).values())

    return build


def _onnxruntime(job: _Job) -> Run:
    import onnxruntime

    for needed in ("onnx", "onnxscript"):
        if importlib.util.find_spec(needed) is None:
            raise ModuleNotFoundError(f"No module named {needed!r}", name=needed)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        torch.onnx.export(
            job.model,
            job.args,
            file,
            kwargs=job.kwargs or None,
            dynamo=True,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
    ports = [(port.name, {port.name}) for port in session.get_inputs()]
    tensors = _inputs(job.given, ports)
    inputs = {name: x.numpy() for (name, _), x in zip(ports, tensors, strict=True)}
    return lambda: session.run(None, inputs)


def _inputs(
    given: list[tuple[str, torch.Tensor]], ports: list[tuple[Any, set[str]]]
) -> list[torch.Tensor]:
    """Return what goes to each input of an engine: by its name, or in order.

    An engine may have no input for what does not matter to the results.
    """
    by_name = dict(given)
    found = [[by_name[n] for n in names if n in by_name] for _, names in ports]
    if len(by_name) == len(given) and all(found):
        return [tensors[0] for tensors in found]
    if len(given) != len(ports):
        raise ValueError(f"it takes {len(ports)} inputs of {len(given)}")
    return [tensor for _, tensor in given]


PRECISIONS = ("float32", "bfloat16", "int8")  # from high to low
ENGINES: dict[str, Callable[[_Job], Run]] = {
    "torch": _torch,
    "torch bfloat16": _torch_bfloat16,
    "openvino": _openvino("f32"),
    "openvino bfloat16": _openvino("bf16"),
    "onnxruntime": _onnxruntime,
    "vitalfew": _compiled("vitalfew"),
    "vitalfew bfloat16": _compiled("vitalfew bfloat16"),
    "vitalfew int8": _compiled("vitalfew int8"),
}
