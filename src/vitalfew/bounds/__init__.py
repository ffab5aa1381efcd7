"""Lower bounds that are proved: what no choice under a budget can beat.

`Problem` pairs a convex objective with a budget of atoms, `Node` says which atoms are
decided, `relaxations` sharpens a bound of all choices that are left, and `screened`
tells which atoms every better choice must, or cannot, hold. Nothing here has to
converge for a bound to hold.
"""

from vitalfew.bounds._problem import Node, Problem
from vitalfew.bounds.relaxation import Relaxation, relaxations, relaxed
from vitalfew.bounds.screening import screened

__all__ = ["Node", "Problem", "Relaxation", "relaxations", "relaxed", "screened"]
