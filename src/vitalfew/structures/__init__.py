"""Feasible sets: which points are allowed, as unions of atoms under a budget.

`Cardinality` counts coordinates, `Groups` counts groups of them or adds up their costs,
`Rows` counts rows of a matrix; `Bounded` keeps the coefficients of one of these within
bounds. To add one, subclass `IndexStructure` (say which coordinates each atom owns) or
follow the `Structure` protocol of `vitalfew.contracts`, and export it here: contract
tests find it through `__all__`.
"""

from vitalfew.structures._index import IndexStructure
from vitalfew.structures.bounded import Bounded
from vitalfew.structures.cardinality import Cardinality
from vitalfew.structures.groups import Groups
from vitalfew.structures.rows import Rows

__all__ = ["Bounded", "Cardinality", "Groups", "IndexStructure", "Rows"]
