"""Paths over the budget, and the choice of a budget."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import to_host, zeros
from vitalfew._solve import check_pairing, check_problem, default_for, solve, solve_on
from vitalfew._threads import one_thread_if_small
from vitalfew._validation import check_nonnegative, check_rng
from vitalfew.contracts import Fit, HasAlpha, HasRows, Ints, Solver, Structure, follows
from vitalfew.exceptions import IncompatibleError
from vitalfew.solution import Solution, Status, new_axes
from vitalfew.solvers import CoordinateDescent, LocalSearch, ProximalGradient
from vitalfew.solvers.omp import grow
from vitalfew.supports import Whole

CRITERIA = ("cv", "cv-1se", "bic", "ebic", "gic")
N_STRENGTHS, LEAST = 100, 0.01  # of a penalty: how many, and the weakest's share
LOOSE = 2.5e-4  # tolerance along strengths, in units of the largest slope at zero


@dataclass(frozen=True, eq=False, repr=False)
class Path:
    """Solutions over the budget, with the score that chooses among them.

    Attributes
    ----------
    budgets : list of float
        Ascending; for a penalty its strengths, descending, so that the sparsest
        solution comes first either way.
    solutions : list of Solution
        One for each budget; the objective never rises along it.
    scores : array of shape (n_budgets,) or None
        What was minimised to choose: mean held-out loss or an information criterion.
    spread : array of shape (n_budgets,) or None
        Standard error of the scores over the folds.
    fold_scores : array of shape (n_folds, n_budgets) or None
        Held-out loss of each fold.
    choose : str
        How the budget was chosen.
    best_index : int
        Which one was chosen.
    interrupted : bool
        Whether Ctrl-C or a limit cut the path short; the choice then rests on what
        there was.
    varied : {"budget", "alpha"}
        What `budgets` holds.
    """

    budgets: list[float]
    solutions: list[Solution]
    scores: NDArray[np.float64] | None
    spread: NDArray[np.float64] | None
    fold_scores: NDArray[np.float64] | None
    choose: str
    best_index: int
    interrupted: bool = False
    varied: str = "budget"

    def __repr__(self) -> str:
        first, last = self.budgets[0], self.budgets[-1]
        return (
            f"Path({len(self.budgets)} {self.varied}s from {first:.6g} to {last:.6g}, "
            f"choose={self.choose!r} took {self.best_budget:.6g}: {self.best})"
        )

    @property
    def best(self) -> Solution:
        """The chosen solution."""
        return self.solutions[self.best_index]

    @property
    def best_budget(self) -> float:
        """The chosen budget."""
        return self.budgets[self.best_index]

    def plot(self, ax: Any = None) -> Any:
        """Draw the score, or the objective, against the budget.

        Parameters
        ----------
        ax : matplotlib axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib axes
            The axes drawn on.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        ax = new_axes() if ax is None else ax
        scores = self.scores
        if scores is None:
            scores = np.array([s.value for s in self.solutions])
        ax.errorbar(self.budgets, scores, yerr=self.spread, marker=".", capsize=2)
        ax.axvline(self.best_budget, linestyle=":")
        ax.set_xlabel(self.varied)
        if self.varied == "alpha" and min(self.budgets) > 0:
            ax.set_xscale("log")
        ax.set_ylabel("objective" if self.scores is None else self.choose)
        return ax


def path(
    objective: Any,
    structure: Any,
    budgets: Iterable[float] | None = None,
    solver: Solver[Any] | None = None,
    *,
    choose: Any = "cv",
    cv: Any = 5,
    max_seconds: float | None = None,
    callback: Callable[[int, int], Any] | None = None,
    rng: Any = None,
) -> Path:
    """Solve for every budget, or every strength of a penalty, and choose one.

    Each budget starts from the answer of the one before, and without `solver` also
    afresh; the better is kept. All share the objective's caches. Strengths of a penalty
    are solved from the strongest down, each from the answer of the one before.

    Parameters
    ----------
    objective : Objective
        What to minimise; for cross-validation one over rows.
    structure : Structure or Penalty
        Its budget, or strength, is replaced by those of `budgets`.
    budgets : iterable of numbers, optional
        Budgets to try, or strengths of the penalty, in any order. Of a penalty by
        default 100 on a log scale, from the least that leaves all coefficients at zero
        to a hundredth of it.
    solver : Solver, optional
        As in `solve`. By default strengths of a penalty are solved to a tolerance of
        2.5e-4, as choosing among them asks for no more digits.
    choose : {"cv", "cv-1se", "bic", "ebic", "gic"}, objective or None, default="cv"
        Cross-validated loss; the smallest budget within one standard error of its
        least; an information criterion; the loss on another objective that holds
        validation rows; or no choice (the largest budget).
    cv : int, splitter or iterable of (train, test), default=5
        Folds. An integer means shuffled folds, stratified for classes and events.
    max_seconds : float, optional
        Wall time after which what there is gets returned.
    callback : callable, optional
        Called with the number of solves done and their total.
    rng : numpy.random.Generator, int or None
        Shuffles the folds.

    Returns
    -------
    Path
        Solutions, scores and the choice.

    Raises
    ------
    ValueError
        If there are no budgets, or `choose` or `cv` cannot be used.
    IncompatibleError
        If `structure` has neither budget nor strength, or the objective has no rows to
        choose by.

    Notes
    -----
    With k nonzeros of p, ``bic`` adds ``k log n`` to the deviance, ``ebic`` also
    ``2 log C(p, k)``, ``gic`` ``k log p log log n`` instead.

    References
    ----------
    .. [1] J. Chen, Z. Chen, "Extended Bayesian information criteria for model selection
       with large model spaces", Biometrika, 2008 (gamma = 1).
    .. [2] Y. Fan, C. Y. Tang, "Tuning parameter selection in high dimensional penalized
       likelihood", JRSS B, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from vitalfew.objectives import LeastSquares
    >>> from vitalfew.structures import Cardinality
    >>> rng = np.random.default_rng(1)
    >>> X = rng.standard_normal((80, 20))
    >>> y = X[:, 3] - X[:, 7] + 0.1 * rng.standard_normal(80)
    >>> path(LeastSquares(X, y), Cardinality(1), range(6), choose="ebic").best.support
    array([3, 7])
    """
    rng = check_rng(rng)
    if max_seconds is not None and max_seconds != math.inf:
        check_nonnegative("max_seconds", max_seconds)
    validation = follows(choose, HasRows)
    penalised = follows(structure, HasAlpha) and not follows(structure, Structure)
    if not penalised and not follows(structure, Structure):
        raise IncompatibleError(
            "structure must be one of vitalfew.structures, with a budget to vary, or "
            "of vitalfew.penalties, with a strength, "
            f"got {type(structure).__name__}"
        )
    check_problem(objective, structure)
    if penalised and solver is not None:
        check_pairing(solver, objective, structure)
    if not (choose is None or validation or choose in CRITERIA):
        raise ValueError(
            f"choose must be one of {', '.join(CRITERIA)}, an objective that holds "
            f"validation rows, or None, got {choose!r}"
        )
    if choose is not None and not follows(objective, HasRows):
        raise IncompatibleError(
            f"choosing a budget needs an objective over rows, and "
            f"{type(objective).__name__} is none; pass choose=None"
        )
    by_folds = not validation and choose in ("cv", "cv-1se")
    folds = _folds(cv, objective, rng) if by_folds else []
    with one_thread_if_small(objective):
        kind = _WalkDown if penalised else _Walk
        if budgets is None:
            budgets = kind.grid(objective, structure)
        wanted = _sorted(budgets)
        walk = kind(structure, wanted, solver, max_seconds, callback, 1 + len(folds))
        solutions = walk.along(objective)
        if not solutions:
            raise KeyboardInterrupt  # there is no answer to keep yet
        try:
            scored = _score(choose, objective, walk, folds, solutions)
        except KeyboardInterrupt:
            walk.interrupted, scored = True, (None, None, None)
    scores, spread, per_fold = scored
    name = "validation" if validation else str(choose or "none")
    return Path(
        budgets=list(walk.budgets[: len(solutions)]),
        solutions=solutions,
        scores=scores,
        spread=spread,
        fold_scores=per_fold,
        choose=name,
        best_index=_choice(name, scores, spread, len(solutions)),
        interrupted=walk.interrupted,
        varied=walk.varied,
    )


def _sorted(budgets: Iterable[float]) -> list[float]:
    """Return the budgets in ascending order, each once."""
    try:
        wanted = sorted(set(budgets))
    except TypeError as error:
        raise ValueError(
            f"budgets must be numbers, as in range(1, 11), got {budgets!r}"
        ) from error
    if not wanted:
        raise ValueError("budgets must not be empty")
    return wanted


class _Walk:
    """Solving along the budgets, over all data and over folds, under common limits."""

    varied: ClassVar[str] = "budget"

    def __init__(
        self,
        structure: Any,
        budgets: Sequence[float],
        solver: Solver[Any] | None,
        max_seconds: float | None,
        callback: Callable[[int, int], Any] | None,
        n_walks: int,
    ) -> None:
        self.structure, self.budgets, self.solver = structure, budgets, solver
        self.max_seconds, self.callback = max_seconds, callback
        self.seconds, self.done, self.total = 0.0, 0, n_walks * len(budgets)
        self.interrupted = False

    @classmethod
    def grid(cls, objective: Any, structure: Any) -> list[float]:
        """Return the budgets to try where none are given."""
        raise ValueError(
            f"budgets must be given for {type(structure).__name__}, as in range(1, 11)"
        )

    def _settings(self, objective: Any) -> Iterator[Any]:
        """Structures to solve on, one for each budget."""
        bound = self.structure.on(objective.shape)
        return (bound.with_budget(budget) for budget in self.budgets)

    def n_atoms(self, objective: Any) -> int:
        """Return how many atoms there are to choose from."""
        return int(self.structure.on(objective.shape).n_atoms)

    def along(self, objective: Any) -> list[Solution]:
        """Return a solution for each budget, or for the first ones if cut short."""
        found: list[Solution] = []
        try:
            for at in self._settings(objective):
                new = self._next(objective, at, found)
                if new is None:
                    break
                found.append(new)
                self.done += 1
                if self.callback is not None:
                    self.callback(self.done, self.total)
                if self.interrupted:
                    break
        except KeyboardInterrupt:
            self.interrupted = True
        return found

    def _next(self, objective: Any, at: Any, found: list[Solution]) -> Solution | None:
        last = found[-1] if found else None
        if last is not None and (
            last.status is Status.SEPARATED
            or (last.status is Status.FEWER and grow(objective, at, last.fit) is None)
        ):
            return last  # a larger budget changes nothing
        return self._solve(objective, at, last)

    def _solve(self, objective: Any, at: Any, last: Solution | None) -> Solution | None:
        """Solve from the last answer, and afresh; None if there is no time left."""
        runs: list[tuple[Solver[Any] | None, Any]] = [(self.solver, last)]
        if self.solver is None and last is not None:
            runs = [(LocalSearch(), last), (None, None)]
        best: Solution | None = None
        for solver, start in runs:
            left = None
            if self.max_seconds is not None:
                left = max(0.0, self.max_seconds - self.seconds)
                if left == 0 and last is not None:
                    self.interrupted = True
                    return best
            new = solve(objective, at, solver, start=start, max_seconds=left)
            self.seconds += new.seconds
            if new.status in (Status.INTERRUPTED, Status.MAX_SECONDS):
                self.interrupted = True
            if best is None or new.value < best.value:
                best = new
            if self.interrupted:
                break
        return best


class _WalkDown(_Walk):
    """Solving along the strengths of a penalty, from the strongest down."""

    varied: ClassVar[str] = "alpha"

    def __init__(
        self,
        structure: Any,
        budgets: Sequence[float],
        solver: Solver[Any] | None,
        max_seconds: float | None,
        callback: Callable[[int, int], Any] | None,
        n_walks: int,
    ) -> None:
        strengths = budgets[::-1]
        super().__init__(structure, strengths, solver, max_seconds, callback, n_walks)

    @classmethod
    def grid(cls, objective: Any, structure: Any) -> list[float]:
        """Return the strengths to try where none are given."""
        most = _least_that_leaves_none(objective, structure)
        if not 0 < most < math.inf:
            raise ValueError(
                f"budgets must be given for this {type(structure).__name__}: the least "
                f"strength that leaves all coefficients at zero is {most:g}"
            )
        return [float(alpha) for alpha in most * np.geomspace(1, LEAST, N_STRENGTHS)]

    def n_atoms(self, objective: Any) -> int:
        """Return how many coefficients there are to choose from."""
        return math.prod(objective.shape)

    def _settings(self, objective: Any) -> Iterator[Any]:
        return (self.structure.with_alpha(alpha) for alpha in self.budgets)

    def _solve(self, objective: Any, at: Any, last: Solution | None) -> Solution | None:
        left = None
        if self.max_seconds is not None:
            left = max(0.0, self.max_seconds - self.seconds)
            if left == 0 and last is not None:
                self.interrupted = True
                return None
        if last is None:
            start = _zero(objective)
            self.used = self.solver or _loose(objective, at, start)
        else:
            start = last.fit
        new = solve_on(objective, at, self.used, start, left)
        self.seconds += new.seconds
        if new.status in (Status.INTERRUPTED, Status.MAX_SECONDS):
            self.interrupted = True
        return new


def _zero(objective: Any) -> Fit:
    span = Whole(tuple(objective.shape))
    fit: Fit = objective.at(span, zeros(len(span), objective.like))
    return fit


def _loose(objective: Any, penalty: Any, zero: Fit) -> Solver[Any]:
    """Return the default solver of a penalty, as exact as a choice of it needs."""
    if isinstance(default_for(objective, penalty), ProximalGradient):
        return ProximalGradient(tol=LOOSE)
    scale = float(np.abs(to_host(zero.gradient)).max())
    return CoordinateDescent(tol=LOOSE, scale=scale)


def _least_that_leaves_none(objective: Any, penalty: Any) -> float:
    """Return the least strength at which all that is penalised is zero."""
    fit = _zero(objective)
    most: float = penalty.critical_alpha(fit.gradient)
    if not math.isfinite(most):
        return most
    strong = penalty.with_alpha(1e3 * most)
    if strong.subdifferential_distance(fit.x, fit.gradient) > 0:
        # some coefficients are free: the others are judged by what these leave
        fit = solve_on(objective, strong, default_for(objective, strong), fit).fit
        most = penalty.critical_alpha(fit.gradient)
    return most


def _folds(
    cv: Any, objective: Any, rng: np.random.Generator
) -> list[tuple[Ints, Ints]]:
    from sklearn.model_selection import KFold, StratifiedKFold

    n = objective.n_samples
    strata = objective.strata
    if isinstance(cv, (int, np.integer)):
        if not 2 <= cv <= n:
            raise ValueError(f"cv must lie between 2 and the {n} rows, got {cv}")
        seed = int(rng.integers(2**31))
        if strata is not None and np.unique(strata, return_counts=True)[1].min() >= cv:
            splitter: Any = StratifiedKFold(cv, shuffle=True, random_state=seed)
        else:
            splitter = KFold(cv, shuffle=True, random_state=seed)
        pairs = splitter.split(np.zeros(n), strata)
    elif hasattr(cv, "split"):
        pairs = cv.split(np.zeros(n), strata)
    else:
        pairs = cv
    try:
        folds = [(np.asarray(a), np.asarray(b)) for a, b in pairs]
    except (TypeError, ValueError) as error:
        raise ValueError(
            "cv must be an integer, a splitter or pairs of (train, test) rows, "
            f"got {cv!r}"
        ) from error
    if not folds:
        raise ValueError("cv must give at least one split")
    for rows in itertools.chain.from_iterable(folds):
        if rows.ndim != 1 or not len(rows) or rows.dtype.kind not in "iu":
            raise ValueError(
                "cv must give the numbers of at least one row to train on and one to "
                f"test on, got an array of shape {rows.shape} and dtype {rows.dtype}"
            )
        if rows.min() < 0 or rows.max() >= n:
            raise ValueError(
                f"cv must give rows from 0 to {n - 1}, got {rows.min()} to {rows.max()}"
            )
    return folds


def _held_out(
    walk: _Walk, objective: Any, folds: list[tuple[Ints, Ints]], n_budgets: int
) -> NDArray[np.float64]:
    """Loss on the rows left out, (folds that were finished, n_budgets)."""
    scores = []
    for train, test in folds:
        if walk.interrupted:
            break
        solutions = walk.along(objective.rows(train))
        if len(solutions) >= n_budgets:
            held = objective.rows(test)
            scores.append(
                [held.loss_at(s.x, s.intercept) for s in solutions[:n_budgets]]
            )
    return np.array(scores)


def _score(
    choose: Any,
    objective: Any,
    walk: "_Walk",
    folds: list[tuple[Ints, Ints]],
    solutions: list[Solution],
) -> tuple[Any, Any, Any]:
    """Score of each solution, its standard error, and the scores of the folds."""
    if choose is None:
        return None, None, None
    if follows(choose, HasRows):
        held = [choose.loss_at(s.x, s.intercept) for s in solutions]
        return np.array(held), None, None
    if not folds:
        n_atoms = walk.n_atoms(objective)
        found = [_criterion(choose, objective, n_atoms, s) for s in solutions]
        return np.array(found), None, None
    per_fold = _held_out(walk, objective, folds, len(solutions))
    if not len(per_fold):
        return None, None, None
    spread = per_fold.std(axis=0, ddof=1 if len(per_fold) > 1 else 0)
    return per_fold.mean(axis=0), spread / math.sqrt(len(per_fold)), per_fold


def _criterion(name: str, objective: Any, n_atoms: int, solution: Solution) -> float:
    """Information criterion of one solution; see the notes of `path`."""
    n, atoms = objective.n_samples, len(solution.support)
    used = int(np.count_nonzero(to_host(solution.x)))
    free: float = used * objective.free_share
    deviance: float = objective.deviance(solution.x, solution.intercept)
    if name == "gic":
        rate = math.log(max(n_atoms, 2)) * math.log(max(math.log(n), 1.0))
        return deviance + free * rate
    score = deviance + free * math.log(n)
    if name == "ebic":
        score += 2 * _log_choose(n_atoms, atoms)
    return score


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _choice(
    name: str,
    scores: NDArray[np.float64] | None,
    spread: NDArray[np.float64] | None,
    count: int,
) -> int:
    if scores is None or not np.isfinite(scores).any():
        return count - 1
    usable = np.where(np.isfinite(scores), scores, np.inf)
    index = int(np.argmin(usable))
    if name == "cv-1se" and spread is not None:
        index = int(np.flatnonzero(usable <= usable[index] + spread[index])[0])
    return index
