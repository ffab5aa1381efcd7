"""Allocations: one way to divide a budget among layers per file.

To add one: its file, and one line here. `prune`, the table of allocations and the
contract tests find it through `__all__`.
"""

from vitalfew.pruning.allocation.dynamic_programme import DynamicProgramme
from vitalfew.pruning.allocation.erk import ERK
from vitalfew.pruning.allocation.global_ import Global
from vitalfew.pruning.allocation.lamp import LAMP
from vitalfew.pruning.allocation.uniform import Uniform

__all__ = ["ERK", "LAMP", "DynamicProgramme", "Global", "Uniform"]
