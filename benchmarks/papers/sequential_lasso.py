"""Sequential lasso against orthogonal matching pursuit.

``python -m benchmarks.papers.sequential_lasso`` checks that a lasso whose strength lies
just below the one at which anything enters picks what matching pursuit picks, step
after step, on columns and on groups, for least squares and the logistic loss; and how
far below that strength may be before it fails.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._runs import Row, arguments, conduct, parse
from benchmarks.papers import _sequential_lasso_report
from vitalfew import objectives, penalties, solve
from vitalfew.structures import Groups

SEEDS, TOY_SEEDS, STEPS = 50, 2, 5
SHARE = 0.02  # of the gap to the runner-up
BELOW = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.05, 0.1, 0.2, 0.3)  # of the strength itself
LOSSES = ("squares", "logistic")
GROUP_SIZES = (1, 3)
SHAPE = (120, 36)


def cells(seeds: int) -> Iterator[Row]:
    """Yield all runs, a seed of everything before the next."""
    for seed in range(seeds):
        for loss in LOSSES:
            for size in GROUP_SIZES:
                common = {"loss": loss, "group_size": size, "seed": seed}
                yield {"kind": "picks", **common}
                yield {"kind": "curve", **common}


def objective_of(loss: str, seed: int) -> Any:
    """Return an objective with correlated columns of unit variance."""
    rng = np.random.default_rng(seed)
    n, p = SHAPE
    mixed = rng.standard_normal((p, p)) / np.sqrt(p) + np.eye(p)
    X = rng.standard_normal((n, p)) @ mixed
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    w = np.where(rng.uniform(size=p) < 0.3, rng.standard_normal(p), 0.0)
    signal = X @ w
    if loss == "squares":
        return objectives.LeastSquares(X, signal + rng.standard_normal(n))
    share = 1 / (1 + np.exp(-signal))
    y = (rng.uniform(size=n) < share).astype(np.float64)
    return objectives.Logistic(X, y, l2=1e-2)  # strictly convex, as the theorem asks


def norms(gradient: Any, labels: NDArray[np.int64]) -> Any:
    """Return the norm of each group."""
    return np.sqrt(np.bincount(labels, gradient * gradient))


def entrants(
    objective: Any, labels: NDArray[np.int64], inside: list[int], alpha: float
) -> list[int]:
    """Return the groups that a lasso lets in where some go unpenalised.

    Parameters
    ----------
    objective : Objective
        What to minimise.
    labels : integer array of shape (p,)
        Group of each column.
    inside : list of int
        Groups without a penalty.
    alpha : float
        Strength.

    Returns
    -------
    list of int
        New groups of the minimiser.
    """
    weights = np.ones(labels.max() + 1)
    weights[inside] = 0.0
    x = solve(objective, penalties.GroupL2(labels, alpha, weights)).x
    found = np.flatnonzero(norms(x, labels))
    return [int(group) for group in found if group not in inside]


def run(cell: Row) -> Row:
    """Compare the picks of both methods, or find where they part.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.

    Returns
    -------
    dict
        ``equal``: for each step whether exactly the group of largest gradient entered;
        or for each strength in ``below`` the number that entered and whether that one
        is among them.
    """
    objective = objective_of(cell["loss"], cell["seed"])
    labels = np.arange(SHAPE[1]) // cell["group_size"]
    if cell["kind"] == "curve":
        return _curve(objective, labels)
    structure, inside, equal = Groups(labels, STEPS).on(objective.shape), [], []
    for _ in range(STEPS):
        fit = objective.refit(structure.support(inside))
        order, slopes = _ranked(fit.gradient, labels, inside)
        first, second = slopes[order[0]], slopes[order[1]]
        alpha = float(first - SHARE * (first - second))
        pick = int(order[0])  # of matching pursuit
        equal.append(entrants(objective, labels, inside, alpha) == [pick])
        inside.append(pick)
    return {"equal": equal}


def _ranked(gradient: Any, labels: Any, inside: list[int]) -> tuple[Any, Any]:
    slopes = norms(gradient, labels)
    slopes[inside] = -1.0
    return np.argsort(-slopes, kind="stable"), slopes


def _curve(objective: Any, labels: Any) -> Row:
    _, gradient = objective.value_and_gradient(np.zeros(objective.shape))
    order, slopes = _ranked(gradient, labels, [])
    first, second = slopes[order[0]], slopes[order[1]]
    counts, right = [], []
    for below in BELOW:
        entered = entrants(objective, labels, [], float((1 - below) * first))
        counts.append(len(entered))
        right.append(int(order[0]) in entered)
    return {
        "below": BELOW,
        "entered": counts,
        "right": right,
        "gap": float(1 - second / first),
    }


def main(given: list[str] | None = None) -> int:
    """Run the experiment and write its page.

    Parameters
    ----------
    given : list of str, optional
        The command line by default.

    Returns
    -------
    int
        0, or 1 when runs are left for another time.
    """
    options = parse(arguments(__doc__, "sequential_lasso.jsonl"), given)
    return conduct(
        options,
        cells(TOY_SEEDS if options.toy else SEEDS),
        run,
        _sequential_lasso_report.write,
    )


if __name__ == "__main__":
    sys.exit(main())
