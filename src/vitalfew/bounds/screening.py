"""Which atoms every better choice holds, or cannot hold."""

import numpy as np

from vitalfew.bounds._problem import Node, Problem
from vitalfew.bounds.relaxation import Relaxation


def screened(problem: Problem, node: Node, found: Relaxation, value: float) -> Node:
    r"""Decide the atoms of a node that a bound decides.

    Forcing an atom against the bound raises it by at least the difference of the
    atom's gain and the price of its place. Where that reaches a known value, no better
    choice goes against it.

    Parameters
    ----------
    problem : Problem
        The objective and the budget.
    node : Node
        The choices that the bound is of.
    found : Relaxation
        The bound.
    value : float
        A value that is known to be reached.

    Returns
    -------
    Node
        It holds every choice of the node with a smaller value.

    References
    ----------
    .. [1] A. Atamtürk, A. Gómez, "Safe screening rules for l0-regression from
       perspective relaxations", ICML, 2020, Theorem 1.
    """
    if problem.whole(node):
        return node
    room = max(value - found.bound, 0.0)
    gains, costs = found.gains[node.free], problem.costs[node.free]
    out = costs * found.high - gains > room
    into = gains - costs * found.low > room
    inside = np.concatenate((node.inside, node.free[into]))
    return problem.fitting(Node(inside, node.free[~out & ~into]))
