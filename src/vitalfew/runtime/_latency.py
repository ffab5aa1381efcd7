"""What a layer of a given density costs in time, for budgets in time."""

import copy
import glob
import math
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vitalfew._native._blocksparse_twins import narrow
from vitalfew._validation import check_count
from vitalfew.packed import Block, pack
from vitalfew.runtime._linear import Precision, SparseConv2d, SparseLinear

__all__ = ["Latency"]

Shape = tuple[int, ...]
Key = TypeVar("Key", bound=Hashable)
DENSITIES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
DENSE = "dense"
SECONDS = 0.01  # for each call that is measured
ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Microseconds of a layer at a density, measured on this machine.

    A cost for `vitalfew.pruning.allocation.DynamicProgramme`: budgets are then divided
    by what the layers of a network take rather than by how many weights they have. A
    layer is measured with random masks of some densities, once for each shape, and
    costs what lies between them; where torch's dense layer is quicker, it costs what
    that takes.

    Parameters
    ----------
    tokens : int, default=128
        Rows that each linear layer is applied to, where `shapes` does not say.
    shapes : mapping of str to tuple of int, optional
        By the name of a layer the shape of its input, or a list of them where it is
        called more than once. Convolutions need it; `of` finds it out.
    block : tuple of int, default=(16, 1)
        Rows and columns of the blocks in which layers are to be pruned, of the weights
        as a matrix.
    dtype : {"float32", "bfloat16", "int8"}, default="float32"
        Precision of sparse linear layers, as `compile` takes it; dense layers and
        convolutions are of single precision.
    threads : int, default=1
        How many are used.
    seed : int, default=0
        Of the masks and of the numbers.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Notes
    -----
    Least times over rounds in which the densities take turns, of the processor with one
    thread and by the clock with more; about half a second for a shape of a million
    weights. Masks are spread evenly, and each layer runs by itself: a compiled network
    also saves what its layers spend on the order of numbers in memory. Convolutions
    with groups, and all but two-dimensional ones, have no sparse kernel and cost the
    same at each density.

    Examples
    --------
    >>> import torch
    >>> from vitalfew.neural import prunable_layers
    >>> from vitalfew.pruning.allocation import DynamicProgramme
    >>> from vitalfew.runtime import Latency
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 32)
    ... )
    >>> cost = Latency.of(model, torch.ones(32, 64))
    >>> first, last = prunable_layers(model)[0]
    >>> cost(first, 0.1) <= cost(first, 0.5) <= cost(first, 1.0)
    True
    >>> [(row["layers"], row["shape"]) for row in cost.table()]
    [(['0'], (128, 64))]

    Half the blocks, and half the time of the dense layers, in a network large enough
    for its zeros to save that:

    >>> from vitalfew import pruning
    >>> from vitalfew.structures import Blocks
    >>> report = pruning.prune(  # doctest: +SKIP
    ...     model,
    ...     Blocks((16, 1), density=0.5),
    ...     calibration=batches,
    ...     allocation=DynamicProgramme(cost=cost),
    ... )
    """

    tokens: int = 128
    shapes: Mapping[str, Shape | Sequence[Shape]] = field(default_factory=dict)
    block: Block = (16, 1)
    dtype: Precision = "float32"
    threads: int = 1
    seed: int = 0
    _curves: dict[Hashable, dict[str, Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_count("tokens", self.tokens, 1)
        check_count("threads", self.threads, 1)
        check_count("seed", self.seed, 0)
        for size in self.block:
            check_count("block", size, 1)
        if self.dtype not in ("float32", "bfloat16", "int8"):
            raise ValueError(
                f"dtype must be 'float32', 'bfloat16' or 'int8', got {self.dtype!r}"
            )

    @classmethod
    def of(cls, model: Any, example_inputs: Any, **settings: Any) -> "Latency":
        """Return the cost of a network's layers on the shapes of an example.

        Parameters
        ----------
        model : Module
            Run once, in evaluation mode.
        example_inputs : tensor, tuple or mapping
            What it is called with: one tensor, positional or keyword arguments.
        **settings
            As the class takes them, less `shapes`.

        Returns
        -------
        Latency
            A layer that the example does not reach costs nothing.
        """
        import torch

        from vitalfew.neural import evaluating, prunable_layers, run, same_random_state
        from vitalfew.neural.watching import watching

        names = [glob.escape(name) for name, _ in model.named_modules()]
        layers, _ = prunable_layers(model, names)
        shapes: dict[str, list[Shape]] = {layer.name: [] for layer in layers}
        with (
            watching(layers, inputs=lambda on, x: shapes[on.name].append((*x.shape,))),
            evaluating(model),
            same_random_state(),
            torch.no_grad(),
        ):
            given = example_inputs
            run(model, (tuple(given) if isinstance(given, list) else given, None))
        return cls(shapes=shapes, **settings)

    def __call__(self, layer: Any, density: float) -> float:
        """Return the microseconds of a layer.

        Parameters
        ----------
        layer : Layer
            Of `vitalfew.neural`, as an allocation passes it.
        density : float
            Part of its blocks that is stored.

        Returns
        -------
        float
            Not less than at a lower density; of all its calls together.

        Raises
        ------
        ValueError
            If the shape of a convolution's input is not known.
        """
        curves = [self._curve(layer, shape) for shape in self._inputs(layer)]
        costs = (np.interp(density, c["densities"], c["microseconds"]) for c in curves)
        return float(sum(costs))

    def table(self) -> list[dict[str, Any]]:
        """Return what was measured, one row for each shape.

        Returns
        -------
        list of dict
            ``layers`` with their names, ``shape`` of the weights, ``inputs``,
            ``densities``, ``microseconds`` at each of them, ``sparse``, those of the
            sparse kernel alone or None without one, and ``dense``, torch's.
        """
        return [dict(curve) for curve in self._curves.values()]

    def _inputs(self, layer: Any) -> list[Shape]:
        """Shapes of what a layer is called with."""
        found = self.shapes.get(layer.name)
        if found is None:
            if hasattr(layer.module, "kernel_size"):
                raise ValueError(
                    f"shapes must have the shape of the input of {layer.name!r}, a "
                    "convolution: give it, or use Latency.of(model, example_inputs)"
                )
            found = (self.tokens, layer.shape[1])
        if all(isinstance(n, int) for n in found) and len(found):
            return [cast(Shape, tuple(found))]
        return [tuple(shape) for shape in cast(Sequence[Shape], found)]

    def _curve(self, layer: Any, inputs: Shape) -> dict[str, Any]:
        """Return what a shape costs; measured when it is asked for first."""
        module, shape = layer.module, layer.shape
        # whatever else makes two layers different is in what they print
        key = (shape, inputs, str(module))
        if key not in self._curves:
            import torch

            rng = np.random.default_rng([self.seed, *shape, *inputs])
            x = rng.standard_normal(inputs, np.float32)
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            try:
                calls = self._calls(module, shape, x, rng)
                least = quickest(calls, self.threads)
            finally:
                torch.set_num_threads(before)
            self._curves[key] = _fitted(shape, inputs, least)
        curve = self._curves[key]
        if layer.name not in curve["layers"]:
            curve["layers"].append(layer.name)
        return curve

    def _calls(
        self,
        module: Any,
        shape: tuple[int, int],
        x: NDArray[np.float32],
        rng: Generator,
    ) -> dict[Hashable, Callable[[], Any]]:
        """Return what is measured: the layer by torch, and at each density."""
        import torch

        dense = copy.deepcopy(module).to("cpu", torch.float32).eval()
        calls: dict[Hashable, Callable[[], Any]] = {
            DENSE: partial(_undifferentiated, dense, torch.from_numpy(x))
        }
        geometry = _geometry(module)
        if geometry is None:
            return calls
        bias = None
        if getattr(module, "bias", None) is not None:
            bias = np.zeros(shape[0], np.float32)
        weights = rng.standard_normal(shape, np.float32)
        for density in DENSITIES:
            packed = pack(weights * _mask(shape, self.block, density, rng), self.block)
            if geometry:
                convolution = SparseConv2d(
                    packed, bias=bias, threads=self.threads, **geometry
                )
                calls[density] = partial(convolution, x if x.ndim == 4 else x[None])
            else:
                linear = SparseLinear(
                    packed, bias=bias, threads=self.threads, precision=self.dtype
                )
                tokens = narrow(x) if self.dtype == "bfloat16" else x
                calls[density] = partial(linear, tokens)
        return calls


def _geometry(module: Any) -> dict[str, Any] | None:
    """Return what a sparse convolution is told; empty if linear, None if there is none.

    Parameters
    ----------
    module : Module
        Of a prunable layer.
    """
    if not hasattr(module, "kernel_size"):
        return {}
    if len(module.kernel_size) != 2 or module.transposed or module.groups != 1:
        return None
    left, right, top, bottom = module._reversed_padding_repeated_twice
    if left != right or top != bottom or module.padding_mode != "zeros":
        return None
    return {
        "kernel": tuple(module.kernel_size),
        "stride": tuple(module.stride),
        "padding": (top, left),
        "dilation": tuple(module.dilation),
    }


def _mask(
    shape: tuple[int, int], block: Block, density: float, rng: Generator
) -> NDArray[np.bool_]:
    """Return a mask of whole blocks, as many as the density says, at random places."""
    down, across = (-(-n // size) for n, size in zip(shape, block, strict=True))
    stored = np.zeros(down * across, bool)
    kept = rng.choice(len(stored), round(density * len(stored)), replace=False)
    stored[kept] = True
    whole = stored.reshape(down, across)
    for axis, size in enumerate(block):
        whole = whole.repeat(size, axis)
    return whole[: shape[0], : shape[1]]


def _fitted(
    shape: tuple[int, int], inputs: Shape, least: Mapping[Hashable, float]
) -> dict[str, Any]:
    """Return times as a curve that never falls and never exceeds the dense one's."""
    dense = 1e6 * least[DENSE]
    sparse = [1e6 * least[density] for density in DENSITIES if density in least]
    costs = [min(dense, each) for each in sparse] or [dense] * len(DENSITIES)
    # a kernel for more weights can stand in for one for fewer
    costs = [min(costs[i:]) for i in range(len(costs))]
    return {
        "layers": [],
        "shape": shape,
        "inputs": inputs,
        "densities": list(DENSITIES),
        "microseconds": costs,
        "sparse": sparse or None,
        "dense": dense,
    }


def _undifferentiated(module: Any, x: Any) -> Any:
    import torch

    with torch.no_grad():
        return module(x)


def quickest(calls: Mapping[Key, Callable[[], Any]], threads: int) -> dict[Key, float]:
    """Measure calls in turns.

    Parameters
    ----------
    calls : mapping to callable
        What is measured, each by itself once before.
    threads : int
        Used by each: time of one is the processor's, of more the clock's.

    Returns
    -------
    dict
        The least seconds of each over the rounds.
    """
    # Windows counts the processor's time in steps of some milliseconds
    by_clock = threads > 1 or sys.platform == "win32"
    now = time.perf_counter if by_clock else time.process_time
    least: dict[Key, float] = {}
    repeats: dict[Key, int] = {}
    for name, call in calls.items():
        call()
        least[name] = _seconds(call, 1, now)
        repeats[name] = math.ceil(SECONDS / ROUNDS / max(least[name], 1e-7))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            least[name] = min(least[name], _seconds(call, repeats[name], now))
    return least


def _seconds(call: Callable[[], Any], times: int, now: Callable[[], float]) -> float:
    begun = now()
    for _ in range(times):
        call()
    return (now() - begun) / times
