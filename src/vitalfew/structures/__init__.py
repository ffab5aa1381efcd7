"""Feasible sets: which points are allowed, as unions of atoms under a budget.

`Cardinality` counts coordinates, `Groups` counts groups of them or adds up their costs,
`Rows` counts rows of a matrix; `Blocks`, `NM` and `Channels` are the patterns in which
weights of networks are pruned, and `Joint` puts several arrays under one budget.
`Bounded` keeps the coefficients of one of these within bounds. To add one, subclass
`IndexStructure` (say which coordinates each atom owns) or follow the `Structure`
protocol of `vitalfew.contracts`, and export it here: contract tests find it through
`__all__`.
"""

from vitalfew.structures._index import IndexStructure
from vitalfew.structures.blocks import Blocks
from vitalfew.structures.bounded import Bounded
from vitalfew.structures.cardinality import Cardinality
from vitalfew.structures.channels import Channels
from vitalfew.structures.groups import Groups
from vitalfew.structures.joint import Joint
from vitalfew.structures.nm import NM
from vitalfew.structures.rows import Rows

__all__ = [
    "NM",
    "Blocks",
    "Bounded",
    "Cardinality",
    "Channels",
    "Groups",
    "IndexStructure",
    "Joint",
    "Rows",
]
