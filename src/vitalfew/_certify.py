"""How far a solution can be from the best there is."""

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np

from vitalfew._arrays import to_host
from vitalfew._solve import solve
from vitalfew._threads import one_thread_if_small
from vitalfew._validation import check_nonnegative
from vitalfew.bounds import Node, Problem, relaxations
from vitalfew.contracts import HasConvexity, HasCosts, Penalty, Structure, follows
from vitalfew.exceptions import IncompatibleError
from vitalfew.solution import Solution
from vitalfew.solvers import BranchAndBound


def certify(
    objective: Any,
    structure: Any,
    solution: Solution,
    *,
    tol: float = 1e-3,
    max_seconds: float | None = 10.0,
) -> Solution:
    """Prove how far a solution can be from the best there is.

    Bounds the objective on the whole structure from below by the perspective
    relaxation, and then, where that is not close enough, by `BranchAndBound` until the
    time is up. The bound holds whatever it took; a large gap says nothing against the
    solution, only that the bound is no better.

    Parameters
    ----------
    objective : Objective
        What was minimised, convex. A bound needs `l2` above zero, or, for least squares
        on up to 1,000 columns, columns that are independent; the larger the ridge, the
        closer the bound.
    structure : Structure
        On what: a number of coordinates, rows or groups, or a cost of groups.
    solution : Solution
        What to judge. It may come from any solver.
    tol : float, default=1e-3
        Gap, relative to the value, that is close enough.
    max_seconds : float or None, default=10.0
        Wall time after which the best bound so far is given; looked at between steps.

    Returns
    -------
    Solution
        The same with its `lower_bound`; see `Solution.gap`. If the search for a bound
        comes upon a better point, that point.

    Raises
    ------
    IncompatibleError
        If there is no bound for this objective or structure; the message says what
        would help.
    ValueError
        If the solution is not one of this problem.

    Notes
    -----
    The relaxation costs about ten gradients, and Hessians on the columns that have a
    share in it, often a few times the budget. Ctrl-C gives the best bound so far.

    Examples
    --------
    >>> import numpy as np
    >>> from vitalfew import solve
    >>> from vitalfew.objectives import LeastSquares
    >>> from vitalfew.structures import Cardinality
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 50))
    >>> y = X[:, 3] - X[:, 7] + 0.5 * rng.standard_normal(200)
    >>> f = LeastSquares(X, y, l2=0.1)
    >>> certify(f, Cardinality(2), solve(f, Cardinality(2))).gap < 1e-3
    True
    """
    begun = time.perf_counter()
    check_nonnegative("tol", tol)
    if max_seconds is not None and max_seconds != math.inf:
        check_nonnegative("max_seconds", max_seconds)
    mu = check_certifiable(objective, structure)
    structure = structure.on(objective.shape)
    _check_solution(objective, structure, solution)
    problem, value = Problem(objective, structure), solution.value
    lower = -math.inf if solution.lower_bound is None else solution.lower_bound

    def left() -> float | None:
        if max_seconds is None:
            return None
        return max(0.0, max_seconds - (time.perf_counter() - begun))

    support = structure.largest(solution.x)
    z = to_host(support.restrict(solution.x)).astype(np.float64)
    try:
        with one_thread_if_small(objective):
            for found in relaxations(
                problem, problem.root, mu, (support.atoms, z), tol=tol / 10
            ):
                lower = max(lower, found.bound)
                if left() == 0:
                    break
    except KeyboardInterrupt:
        if lower == -math.inf:
            raise
        return _bounded(solution, lower)
    if value - lower > tol * abs(value) and left() != 0:
        best = solve(
            objective,
            structure,
            BranchAndBound(tol=tol),
            start=solution,
            max_iter=2**62,
            max_seconds=left(),
        )
        if best.lower_bound is not None:
            lower = max(lower, best.lower_bound)
        if best.value < value - 1e-9 * abs(value):
            solution = best
    return _bounded(solution, lower)


def _bounded(solution: Solution, lower: float) -> Solution:
    return replace(solution, lower_bound=min(lower, solution.value))


def check_certifiable(objective: Any, structure: Any) -> float:
    """Return the strong convexity that bounds rest on.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    structure : Structure
        On what.

    Returns
    -------
    float
        Positive.

    Raises
    ------
    IncompatibleError
        If there is none, or no bound for this kind of objective or structure.
    """
    if not follows(structure, HasCosts):
        kind = type(structure).__name__
        penalised = follows(structure, Penalty) and not follows(structure, Structure)
        why = "is a penalty" if penalised else "has no budget of separate atoms"
        raise IncompatibleError(
            f"certify needs Cardinality, Rows or Groups, and {kind} {why}"
        )
    if not follows(objective, HasConvexity):
        raise IncompatibleError(
            "certify needs an objective that is known to be convex, and "
            f"{type(objective).__name__} does not say so"
        )
    problem = Problem(objective, structure.on(objective.shape))
    every = np.arange(problem.structure.n_atoms)
    mu = problem.convexity(Node(every[:0], every))
    if not mu > 0:
        raise IncompatibleError(
            f"certify needs a {type(objective).__name__} with l2 > 0: without a ridge "
            "the relaxation of a budget bounds nothing; give it one, as in l2=0.01 for "
            "columns of unit standard deviation"
        )
    return mu


def _check_solution(objective: Any, structure: Any, solution: Any) -> None:
    if not isinstance(solution, Solution):
        raise ValueError(
            f"solution must be a Solution of solve, got {type(solution).__name__}"
        )
    shape, wanted = tuple(solution.x.shape), tuple(objective.shape)
    if shape != wanted:
        raise ValueError(
            f"solution must be of the objective's shape {wanted}, got {shape}"
        )
    if not structure.contains(solution.x):
        raise ValueError(
            "solution must lie on the structure: give the structure it was found on"
        )
    value, _ = objective.value_and_gradient(solution.x)
    if not abs(value - solution.value) <= 1e-3 * max(abs(value), abs(solution.value)):
        raise ValueError(
            f"solution must be one of this objective, which is {value:g} there and not "
            f"{solution.value:g}"
        )
