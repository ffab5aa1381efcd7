"""Pruned matrices and networks that run as fast as their zeros allow.

`SparseLinear` and `SparseConv2d` apply a matrix to NumPy arrays. `compile` takes a
network of torch, and `load` reads one that was compiled; torch is imported with them.
`Latency` is what layers cost in time, for allocations of `vitalfew.pruning`.
"""

from typing import TYPE_CHECKING, Any

from vitalfew.runtime._latency import Latency
from vitalfew.runtime._linear import SparseConv2d, SparseLinear

if TYPE_CHECKING:
    from vitalfew.runtime._bench import BenchReport, bench
    from vitalfew.runtime._files import load
    from vitalfew.runtime._model import CompiledModel, Explanation, LayerChoice, compile
    from vitalfew.runtime._semi_structured import to_semi_structured

__all__ = [
    "BenchReport",
    "CompiledModel",
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


def __getattr__(name: str) -> Any:
    if name in ("BenchReport", "bench"):
        from vitalfew.runtime import _bench

        return getattr(_bench, name)
    if name == "load":
        from vitalfew.runtime import _files

        return _files.load
    if name == "to_semi_structured":
        from vitalfew.runtime import _semi_structured

        return _semi_structured.to_semi_structured
    if name in __all__:
        from vitalfew.runtime import _model

        return getattr(_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
