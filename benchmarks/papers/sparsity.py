"""Loss against sparsity: ARHT, regularised IHT and their rivals.

``python -m benchmarks.papers.sparsity`` repeats the experiments that compare hard
thresholding, local search and the lasso at every number of columns: on planted
regressions whose neighbouring columns correlate 0.6, 0.85 or 0.95, and on real tables.
Every answer is refitted on its support. Each method gets one run at its defaults, and
those with a setting to tune as many settings as any other, of which the lowest training
loss counts.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks._runs import Clock, Row, arguments, conduct, parse
from benchmarks.papers import _sparsity_report, _tables
from vitalfew import objectives, path, penalties, solve, solvers
from vitalfew.datasets import make_sparse_regression
from vitalfew.structures import Cardinality

RHOS = (0.6, 0.85, 0.95)
PLANTED = {"n_samples": 120, "n_features": 300, "n_nonzero": 10, "snr": 400.0}
TOY = {"n_samples": 40, "n_features": 30, "n_nonzero": 3, "snr": 400.0}
SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)
TABLE_SIZES = {
    "riboflavin": (1, 2, 3, 5, 7, 10, 15, 20),
    "communities_crime": (1, 2, 3, 5, 7, 10, 15, 20, 30),
    "prostate_ge": (1, 2, 3, 5, 7, 10),
    "hiva": (1, 2, 3, 5, 10, 15, 20, 30),
    "adult": (1, 2, 3, 5, 10, 20, 30),
}
LONG = ("hiva", "adult")
SEEDS, TABLE_SEEDS = 20, 10
L2 = 1e-3  # ridge of the logistic tables, where few columns can separate the classes
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "ARHT": [{"beta": 0.1}, {"beta": 0.3}, {"beta": 1.0}, {"beta": 3.0}],
    "RegularizedIHT": [{"decay": 2.0}, {"decay": 4.0}, {"decay": 8.0}, {"decay": 16.0}],
    "GraSP": [{"widen": 1.0}, {"widen": 2.0}, {"widen": 3.0}, {"widen": 4.0}],
    "Splicing": [{"most": 1}, {"most": 2}, {"most": 5}, {"most": None}],
}
METHODS = (
    "vitalfew",
    "LocalSearch",
    "ARHT",
    "OMPR",
    "OMP",
    "Splicing",
    "GraSP",
    "HTP",
    "IHT",
    "RegularizedIHT",
    "AcceleratedIHT",
    "CoSaMP",
    "FoBa",
    "lasso",
)


def cells(seeds: int, table_seeds: int, tables: tuple[str, ...]) -> Iterator[Row]:
    """Yield all runs: planted problems, small tables, then the two that take long."""
    for seed in range(seeds):
        for rho in RHOS:
            for method in METHODS:
                yield {"data": "planted", "rho": rho, "seed": seed, "method": method}
    small = [name for name in tables if name not in LONG]
    for part in (small, [name for name in tables if name in LONG]):
        for seed in range(table_seeds):
            for name in part:
                for method in METHODS:
                    yield {"data": name, "seed": seed, "method": method}


@dataclass(frozen=True, eq=False)
class Answer:
    """A refitted point.

    Attributes
    ----------
    value : float
        The objective.
    x : array of shape (p,)
        Coefficients.
    intercept : float or None
        None where there is none.
    support : integer array
        The columns chosen.
    """

    value: float
    x: Any
    intercept: Any
    support: Any


class Problem:
    """Data of one cell, with what its answers are judged by.

    Parameters
    ----------
    cell : dict
        As `cells` yields it.
    toy : bool
        Take the tiny planted problem.
    """

    def __init__(self, cell: Row, toy: bool) -> None:
        self.planted = cell["data"] == "planted"
        if self.planted:
            size = TOY if toy else PLANTED
            rho, seed = cell["rho"], cell["seed"]
            data = make_sparse_regression(**size, correlation=rho, rng=seed)
            self.X, self.y, self.true = data.X, data.y, data.support
            self.test: tuple[Any, Any] | None = None
            self.sizes = SIZES[:4] if toy else SIZES
            self.classes = False
        else:
            part = _tables.split(cell["data"], cell["seed"])
            self.X, self.y, self.test = part.X, part.y, (part.X_test, part.y_test)
            self.sizes = TABLE_SIZES[cell["data"]]
            self.classes = cell["data"] in _tables.CLASSES

    def objective(self) -> Any:
        """Return the objective, with nothing remembered yet."""
        if self.classes:
            return objectives.Logistic(self.X, self.y, l2=L2, fit_intercept=True)
        return objectives.LeastSquares(
            self.X, self.y, fit_intercept=not self.planted, l2=0.0
        )

    def judged(self, fits: list[Answer]) -> Row:
        """Return losses over that of no columns, by number of columns."""
        null = self.objective()
        none = solve(null, Cardinality(0))
        found: Row = {"train": [fit.value / none.value for fit in fits]}
        if self.planted:
            true = set(self.true.tolist())
            found["hits"] = [len(true & set(fit.support.tolist())) for fit in fits]
            refit = null.refit(Cardinality(0).on(null.shape).support(self.true))
            found["truth"] = refit.value / none.value
        else:
            found["test"] = [self._test_loss(fit) for fit in fits]
        return found

    def _test_loss(self, fit: Answer) -> float:
        assert self.test is not None
        X, y = self.test
        prediction = X @ fit.x + fit.intercept
        if self.classes:
            share = y.mean()
            null = -share * np.log(share) - (1 - share) * np.log(1 - share)
            loss = np.mean(np.logaddexp(0, prediction) - y * prediction)
        else:
            null = np.mean((y - self.y.mean()) ** 2)
            loss = np.mean((y - prediction) ** 2)
        return float(loss / null)


def run(cell: Row, toy: bool = False) -> Row:
    """Solve at every number of columns, at the defaults and at each setting.

    Parameters
    ----------
    cell : dict
        Data, seed and method.
    toy : bool, default=False
        Take the tiny planted problem.

    Returns
    -------
    dict
        Numbers of columns, losses, CPU seconds; ``tuned`` holds the lowest losses over
        the settings.
    """
    problem, method = Problem(cell, toy), cell["method"]
    with Clock() as clock:
        fits = _fits(problem, method, {})
    found = {"sizes": problem.sizes, "cpu": clock.cpu, **problem.judged(fits)}
    if method in SETTINGS:
        tried = [
            problem.judged(_fits(problem, method, setting))["train"]
            for setting in SETTINGS[method]
        ]
        found["tuned"] = np.min(tried, axis=0).tolist()
    return found


def _fits(problem: Problem, method: str, setting: dict[str, Any]) -> list[Answer]:
    objective = problem.objective()
    if method == "lasso":
        return _lasso(objective, problem.sizes)
    solver = None if method == "vitalfew" else getattr(solvers, method)(**setting)
    found = [solve(objective, Cardinality(k), solver) for k in problem.sizes]
    return [Answer(s.value, s.x, s.intercept, s.support) for s in found]


def _lasso(objective: Any, sizes: tuple[int, ...]) -> list[Answer]:
    """Refit on the k largest coefficients of the first strength with k nonzeros."""
    points = [s.x for s in path(objective, penalties.L1(1.0), choose=None).solutions]
    points.sort(key=np.count_nonzero)
    answers = []
    for k in sizes:
        enough = (x for x in points if np.count_nonzero(x) >= k)
        chosen = Cardinality(k).on(objective.shape).largest(next(enough, points[-1]))
        fit = objective.refit(chosen)
        answers.append(Answer(fit.value, fit.x, fit.intercept, chosen.atoms))
    return answers


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
    options = parse(arguments(__doc__, "sparsity.jsonl"), given)
    wanted = (
        cells(2, 0, ()) if options.toy else cells(SEEDS, TABLE_SEEDS, _tables.NAMES)
    )
    return conduct(
        options, wanted, lambda cell: run(cell, options.toy), _sparsity_report.write
    )


if __name__ == "__main__":
    sys.exit(main())
