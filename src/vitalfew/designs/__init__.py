"""Designs: what X is. A linear map with rows, whatever holds its numbers.

`Dense` wraps an array of any library, `Sparse` a SciPy sparse matrix, `Scaled` is a
view with its columns brought to other units; `as_design` picks. `CrossRows` remembers
the products of columns that quadratic solvers ask for again and again, `Grams` those
among the columns of a working set. To add a kind of storage, subclass `Design` and
teach `as_design` to recognise it.
"""

from vitalfew.designs._base import Design
from vitalfew.designs._cross_rows import CrossRows
from vitalfew.designs._grams import Grams
from vitalfew.designs.dense import Dense
from vitalfew.designs.factory import as_design
from vitalfew.designs.scaled import Scaled
from vitalfew.designs.sparse import Sparse

__all__ = ["CrossRows", "Dense", "Design", "Grams", "Scaled", "Sparse", "as_design"]
