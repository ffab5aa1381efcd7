"""Penalties: a cost added to the objective, given by its prox operator.

`L1` and `GroupL2`. To add one, follow the `Penalty` protocol of `vitalfew.contracts`
and export it here: contract tests find it through `__all__`.
"""

from vitalfew.penalties.group_l2 import GroupL2
from vitalfew.penalties.l1 import L1

__all__ = ["L1", "GroupL2"]
