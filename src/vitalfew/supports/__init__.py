"""Spans of atoms, and points in them.

`Coordinates` is the span of chosen coordinates of `x`, `Whole` of all; `Point` is a
point of any span with its value, its gradient and `x` computed only when asked for. To
add a kind of support, write a frozen record with `atoms`, `embed`, `restrict` and
``len``.
"""

from vitalfew.supports.coordinates import Coordinates
from vitalfew.supports.fit import Point
from vitalfew.supports.whole import Whole

__all__ = ["Coordinates", "Point", "Whole"]
