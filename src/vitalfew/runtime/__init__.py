"""Pruned matrices and networks that run as fast as their zeros allow.

`SparseLinear` and `SparseConv2d` apply a matrix to NumPy arrays. `compile` takes a
network of torch, and `load` reads one that was compiled; torch is imported with them.
`Latency` is what layers cost in time, for allocations of `vitalfew.pruning`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vitalfew.runtime._latency import Latency
from vitalfew.runtime._linear import SparseConv2d, SparseLinear

if TYPE_CHECKING:
    from vitalfew.runtime._bench import BenchReport, EngineTimes, bench
    from vitalfew.runtime._files import load
    from vitalfew.runtime._model import CompiledModel, Explanation, LayerChoice, compile
    from vitalfew.runtime._semi_structured import to_semi_structured

__all__ = [
    "BenchReport",
    "CompiledModel",
    "EngineTimes",
    "Explanation",
    "Latency",
    "LayerChoice",
    "SparseConv2d",
    "SparseLinear",
    "bench",
    "compile",
    "load",
    "to_semi_structured",
]


_LAZY = {
    **dict.fromkeys(("BenchReport", "EngineTimes", "bench"), "_bench"),
    **dict.fromkeys(
        ("CompiledModel", "Explanation", "LayerChoice", "compile"), "_model"
    ),
    "load": "_files",
    "to_semi_structured": "_semi_structured",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"vitalfew.runtime.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
