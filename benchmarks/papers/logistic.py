"""Gradient descent on separable data: rates of five step rules, and sparse descent.

``python -m benchmarks.papers.logistic`` repeats what is known of the logistic loss on
data that can be separated, and on the same data with 5 % of the classes flipped. Dense:
gradient descent with a constant step, the safe variable step 1/(B f), a step from the
Hessian, normalised steps, and Armijo's line search. Sparse: greedy coordinate descent
with three of these steps, and the library's solvers, as loss against the number of
nonzeros.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._runs import Row, arguments, conduct, parse
from benchmarks.papers import _logistic_report
from vitalfew import objectives, solve, solvers
from vitalfew.structures import Cardinality

Floats = NDArray[np.float64]

FLIPPED = (0.0, 0.05)
SEEDS, STEPS, TOY_STEPS = 20, 3_000, 60
DENSE = {"n": 180, "p": 20, "margin": 0.1}
SPARSE = {"n": 2_000, "p": 500, "active": 5}
TOY_SPARSE = {"n": 100, "p": 30, "active": 3}
RULES = ("constant", "safe", "hessian", "normalised", "armijo")
DESCENTS = ("constant", "safe", "hessian")
SOLVERS = ("VariableStepGradient", "OMP", "vitalfew")
SIZES = (1, 2, 3, 5, 8, 12, 20, 30)
TINY = 1e-30  # of the loss at zero: below, steps that divide by f mean nothing


def cells(seeds: int) -> Iterator[Row]:
    """Yield all runs, a seed of everything before the next."""
    for seed in range(seeds):
        for flipped in FLIPPED:
            common = {"flipped": flipped, "seed": seed}
            for rule in RULES:
                yield {"kind": "dense", **common, "method": rule}
            for rule in DESCENTS:
                yield {"kind": "descent", **common, "method": rule}
            for name in SOLVERS:
                yield {"kind": "solver", **common, "method": name}


def dense_data(flipped: float, seed: int) -> Floats:
    """Return rows ``y_i a_i`` of normal data with a margin, some signs turned.

    Parameters
    ----------
    flipped : float
        Share of the rows whose class is turned.
    seed : int
        Randomness.

    Returns
    -------
    array of shape (about n, p)
        Rows whose product with a unit vector exceeds the margin, before turning.
    """
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((DENSE["n"] + 20, int(DENSE["p"])))
    w = rng.standard_normal(A.shape[1])
    score = A @ w / np.linalg.norm(w)
    far = np.abs(score) > DENSE["margin"]
    return _turned(rng, A[far] * np.sign(score[far])[:, None], flipped)


def sparse_data(flipped: float, seed: int, toy: bool) -> Floats:
    """Return rows ``y_i a_i`` with entries from -1 to 1 and a sparse separator."""
    size = TOY_SPARSE if toy else SPARSE
    rng = np.random.default_rng(seed)
    A = rng.uniform(-1, 1, (size["n"], size["p"]))
    w = np.zeros(size["p"])
    w[rng.choice(size["p"], size["active"], replace=False)] = rng.choice(
        [-1.0, 1.0], size["active"]
    )
    return _turned(rng, A * np.sign(A @ w)[:, None], flipped)


def _turned(rng: np.random.Generator, Z: Floats, share: float) -> Floats:
    turned = rng.choice(len(Z), round(share * len(Z)), replace=False)
    Z[turned] *= -1
    return Z


def loss_and_slopes(margins: Floats) -> tuple[float, Floats, Floats]:
    """Return the sum of log(1 + exp(-m)), and its derivatives by each margin.

    Parameters
    ----------
    margins : array of shape (n,)
        Products of the rows with the point.

    Returns
    -------
    tuple of (float, array of shape (n,), array of shape (n,))
        The loss, minus its first derivatives, its second ones; exact where margins are
        large.
    """
    e = np.exp(-np.abs(margins))
    value = float(np.sum(np.maximum(-margins, 0) + np.log1p(e)))
    share = np.where(margins > 0, e, 1.0) / (1 + e)  # 1 / (1 + exp(m))
    return value, share, e / (1 + e) ** 2


def descend(Z: Floats, rule: str, steps: int) -> tuple[list[float], list[float]]:
    """Run gradient descent from zero.

    Parameters
    ----------
    Z : array of shape (n, p)
        Rows times their classes.
    rule : str
        One of `RULES`.
    steps : int
        How many.

    Returns
    -------
    tuple of (list of float, list of float)
        Loss and norm of the point, before the first step and after each.
    """
    x, values, norms = np.zeros(Z.shape[1]), [], []
    bound = float(np.max(np.sum(Z * Z, axis=1)))
    size = 4 / float(np.linalg.eigvalsh(Z.T @ Z)[-1])  # 1 / L
    for _ in range(steps + 1):
        value, share, second = loss_and_slopes(Z @ x)
        values.append(value)
        norms.append(float(np.linalg.norm(x)))
        if value < TINY * values[0]:
            break
        g = -(Z.T @ share)
        if rule == "constant":
            x = x - size * g
        elif rule == "safe":
            x = x - g / (bound * value)
        elif rule == "hessian":
            x = x - g / (2 * float(np.linalg.eigvalsh((Z.T * second) @ Z)[-1]))
        elif rule == "normalised":
            x = x - 0.1 * g / float(np.linalg.norm(g))
        else:
            x, size = _armijo(Z, x, value, g, size)
    return values, norms


def _armijo(
    Z: Floats, x: Floats, value: float, g: Floats, size: float
) -> tuple[Floats, float]:
    """Double the last step and halve it until f falls by a half of what g promises."""
    size *= 2
    square = float(g @ g)
    for _ in range(80):
        new = x - size * g
        if loss_and_slopes(Z @ new)[0] <= value - 0.5 * size * square:
            return new, size
        size /= 2
    return x, size


def greedy_descent(Z: Floats, rule: str, steps: int) -> tuple[list[float], list[int]]:
    """Run greedy coordinate descent from zero.

    Parameters
    ----------
    Z : array of shape (n, p)
        Rows times their classes.
    rule : {"constant", "safe", "hessian"}
        Steps of ``4 / max_j |Z_j|^2``; of 1/(B f), B the largest squared entry; of half
        of one over the second derivative along the coordinate.
    steps : int
        How many.

    Returns
    -------
    tuple of (list of float, list of int)
        Loss and nonzeros, before the first step and after each.
    """
    x, margins, values, counts = np.zeros(Z.shape[1]), np.zeros(len(Z)), [], []
    bound = float(np.max(Z * Z))
    constant = 4 / float(np.max(np.sum(Z * Z, axis=0)))
    for _ in range(steps + 1):
        value, share, second = loss_and_slopes(margins)
        values.append(value)
        counts.append(int(np.count_nonzero(x)))
        if value < TINY * values[0]:
            break
        g = -(Z.T @ share)
        i = int(np.argmax(np.abs(g)))
        if rule == "constant":
            step = constant
        elif rule == "safe":
            step = 1 / (bound * value)
        else:
            step = 0.5 / float(second @ (Z[:, i] * Z[:, i]))
        x[i] -= step * g[i]
        margins -= step * g[i] * Z[:, i]
    return values, counts


def least(Z: Floats) -> float:
    """Return the least loss, by Newton's method; 0 where there is no minimiser."""
    x, value = np.zeros(Z.shape[1]), np.inf
    for _ in range(200):
        new, share, second = loss_and_slopes(Z @ x)
        if value - new < 1e-14 * new:
            return new if new > 1e-6 * len(Z) else 0.0
        value = new
        H = (Z.T * second) @ Z
        d = np.linalg.solve(H + 1e-12 * np.trace(H) * np.eye(len(x)), Z.T @ share)
        t = 1.0
        while t > 1e-12 and loss_and_slopes(Z @ (x + t * d))[0] > new:
            t /= 2
        x = x + t * d
    return value if value > 1e-6 * len(Z) else 0.0


def run(cell: Row, toy: bool = False) -> Row:
    """Make one run.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool, default=False
        Few steps, few columns.

    Returns
    -------
    dict
        Losses over that at zero, by step or by number of columns.
    """
    steps = TOY_STEPS if toy else STEPS
    flipped, seed, method = cell["flipped"], cell["seed"], cell["method"]
    if cell["kind"] == "dense":
        Z = dense_data(flipped, seed)
        values, norms = descend(Z, method, steps)
        at = _kept(len(values))
        zero = values[0]
        return {
            "steps": at,
            "loss": [_short(values[i] / zero) for i in at],
            "norm": [_short(norms[i]) for i in at],
            "least": least(Z) / zero,
        }
    Z = sparse_data(flipped, seed, toy)
    if cell["kind"] == "descent":
        values, counts = greedy_descent(Z, method, steps)
        at = _kept(len(values))
        return {
            "steps": at,
            "loss": [_short(values[i] / values[0]) for i in at],
            "nonzeros": [counts[i] for i in at],
        }
    return _by_solver(Z, method, SIZES[:4] if toy else SIZES, steps)


def _short(value: float) -> float:
    """Return four digits of a number: as many as a figure shows."""
    return float(f"{value:.4g}")


def _kept(count: int) -> list[int]:
    """Return the steps to record: all at first, then ever fewer, and the last."""
    last = max(count - 1, 1)
    grid = [np.geomspace(1, last, 30), np.linspace(1, last, 40)]
    steps = np.unique(np.concatenate(grid).astype(int))
    return [0, *(int(i) for i in steps if i < count)]


def _by_solver(Z: Floats, name: str, sizes: tuple[int, ...], steps: int) -> Row:
    # rows are y_i a_i: turning every other one back gives two classes
    signs = np.where(np.arange(len(Z)) % 2, 1.0, -1.0)
    X, y = Z * signs[:, None], (signs > 0).astype(np.float64)
    losses = []
    for k in sizes:
        solver: Any = None if name == "vitalfew" else getattr(solvers, name)()
        objective = objectives.Logistic(X, y)
        found = solve(objective, Cardinality(k), solver, max_iter=steps)
        losses.append(found.value / float(np.log(2)))
    return {"nonzeros": list(sizes), "loss": losses}


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
    options = parse(arguments(__doc__, "logistic.jsonl"), given)
    return conduct(
        options,
        cells(2 if options.toy else SEEDS),
        lambda cell: run(cell, options.toy),
        _logistic_report.write,
    )


if __name__ == "__main__":
    sys.exit(main())
