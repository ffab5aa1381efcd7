"""Penalties: a cost added to the objective, given by its prox operator.

Convex: `L1`, `ElasticNet`, `GroupL2`, `SparseGroup`, `SLOPE` and `GroupSLOPE`; not
convex: `MCP`, `SCAD`, `Lq` and `LogSum`; and the constraints `L1Ball`, `Simplex` and
`Box`, whose cost is zero inside and infinite outside. To add one, follow the `Penalty`
protocol of `vitalfew.contracts` and export it here: contract tests find it through
`__all__`.
"""

from vitalfew.penalties.box import Box
from vitalfew.penalties.elastic_net import ElasticNet
from vitalfew.penalties.group_l2 import GroupL2
from vitalfew.penalties.group_slope import GroupSLOPE
from vitalfew.penalties.l1 import L1
from vitalfew.penalties.l1_ball import L1Ball
from vitalfew.penalties.log_sum import LogSum
from vitalfew.penalties.lq import Lq
from vitalfew.penalties.mcp import MCP
from vitalfew.penalties.scad import SCAD
from vitalfew.penalties.simplex import Simplex
from vitalfew.penalties.slope import SLOPE
from vitalfew.penalties.sparse_group import SparseGroup

__all__ = [
    "L1",
    "MCP",
    "SCAD",
    "SLOPE",
    "Box",
    "ElasticNet",
    "GroupL2",
    "GroupSLOPE",
    "L1Ball",
    "LogSum",
    "Lq",
    "Simplex",
    "SparseGroup",
]
