"""vitalfew chooses the few that matter under a budget.

Three nouns and a verb: an objective (`vitalfew.objectives`), a structure
(`vitalfew.structures`) or penalty (`vitalfew.penalties`), a solver
(`vitalfew.solvers`), and `solve`. `path` runs over the budget and chooses it;
`certify` proves how far a solution can be from the best;
`vitalfew.estimators` are scikit-learn classes; ``vitalfew select`` is the command.

Importing this module loads NumPy and nothing heavier; parts load on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from vitalfew import (
        datasets,
        designs,
        estimators,
        objectives,
        penalties,
        pruning,  # noqa: F401 - not in __all__, as importing it needs torch
        report,
        solvers,
        structures,
        study,
        supports,
    )
    from vitalfew._certify import certify
    from vitalfew._path import Path, path
    from vitalfew._solve import solve
    from vitalfew.solution import Solution, Status

_NAMES = {
    "Path": "vitalfew._path",
    "Solution": "vitalfew.solution",
    "Status": "vitalfew.solution",
    "certify": "vitalfew._certify",
    "path": "vitalfew._path",
    "solve": "vitalfew._solve",
}
_PARTS = {
    "contracts",
    "datasets",
    "designs",
    "estimators",
    "exceptions",
    "objectives",
    "penalties",
    "pruning",
    "report",
    "solvers",
    "structures",
    "study",
    "supports",
}

__all__ = [
    "Path",
    "Solution",
    "Status",
    "__version__",
    "certify",
    "datasets",
    "designs",
    "estimators",
    "objectives",
    "path",
    "penalties",
    "report",
    "solve",
    "solvers",
    "structures",
    "study",
    "supports",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _PARTS:
        return importlib.import_module(f"vitalfew.{name}")
    raise AttributeError(f"module 'vitalfew' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(__all__) | _PARTS)
