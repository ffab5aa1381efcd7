"""Pruning trained PyTorch networks: any structure, exact budgets, smaller files.

`prune` is the one call. A *criterion* scores weights, a *reconstruction* re-fits a
layer so that its outputs change least, a *network method* works on all layers at once;
an *allocation* divides the budget among layers. Each is one file and one export line in
its folder, and is found by its name.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    from vitalfew.exceptions import MissingDependencyError

    raise MissingDependencyError(
        "pruning networks needs PyTorch: pip install 'vitalfew[torch]'"
    ) from error

from vitalfew.neural import MovementSums
from vitalfew.pruning._compact import CompactReport, compact
from vitalfew.pruning._contracts import (
    Allocation,
    Criterion,
    NetworkMethod,
    Reconstruction,
)
from vitalfew.pruning._masks import SparsityReport, apply_masks, sparsity_report
from vitalfew.pruning._methods import allocations, methods
from vitalfew.pruning._prune import prune
from vitalfew.pruning._report import LayerReport, PruneReport
from vitalfew.pruning.files import load, save
from vitalfew.pruning.training import Pruner, soup, training_methods

__all__ = [
    "Allocation",
    "CompactReport",
    "Criterion",
    "LayerReport",
    "MovementSums",
    "NetworkMethod",
    "PruneReport",
    "Pruner",
    "Reconstruction",
    "SparsityReport",
    "allocations",
    "apply_masks",
    "compact",
    "load",
    "methods",
    "prune",
    "save",
    "soup",
    "sparsity_report",
    "training_methods",
]
