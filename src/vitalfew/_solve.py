"""The front door: pairing, the loop, limits, checkpoints, and the best point so far."""

import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from vitalfew import _checkpoint, solvers
from vitalfew._arrays import as_array, namespace, to_host, zeros
from vitalfew._threads import one_thread_if_small
from vitalfew._validation import check_count, check_nonnegative, check_rng
from vitalfew.contracts import (
    Fit,
    HasBlocks,
    HasCurvature,
    HasRows,
    HasSwapGains,
    Objective,
    Penalty,
    Solver,
    Structure,
    follows,
)
from vitalfew.exceptions import IncompatibleError
from vitalfew.solution import Solution, Status
from vitalfew.solvers.omp import grow
from vitalfew.supports import Coordinates, Point, Whole

SECONDS_BETWEEN_CHECKPOINTS = 30.0
SHARE_MENDED = 0.25  # exchanges for each atom, up to which a start was a good one
ROWS_PER_COLUMN = 20  # from here on OMP fetches all products in a few passes


def solve(
    objective: Any,
    structure: Any,
    solver: Solver[Any] | str | None = None,
    *,
    start: Any = None,
    max_iter: int | None = None,
    max_seconds: float | None = None,
    callback: Callable[[int, Fit], Any] | None = None,
    checkpoint: str | Path | None = None,
    rng: Any = None,
) -> Solution:
    """Minimise an objective over a structure, or with a penalty.

    Parameters
    ----------
    objective : Objective
        What to minimise; see `vitalfew.objectives`.
    structure : Structure or Penalty
        What is allowed (`vitalfew.structures`) or what costs extra
        (`vitalfew.penalties`).
    solver : Solver or "best", optional
        One of `vitalfew.solvers`. By default `GraSP` and then `LocalSearch`, and where
        that needs many exchanges also `LocalSearch` from nothing, the lower of the two;
        `LocalSearch` alone where there are many more rows than columns; for a penalty
        `CoordinateDescent` where it fits and `ProximalGradient` elsewhere. "best" runs
        `LocalSearch` from `GraSP`, from `IHT` and from nothing, which is `OMP`, and
        keeps the lowest: two to three times the time.
    start : Fit, Solution or Solver, optional
        Where to begin; a solver is run first. The empty support by default.
    max_iter : int, optional
        Most steps of all solvers together; 1,000 and four for each entry of `x` by
        default, 10,000 for a penalty.
    max_seconds : float, optional
        Wall time after which the best point so far is returned; looked at between
        steps.
    callback : callable, optional
        Called after each step with its number and the fit; returning True stops.
    checkpoint : path, optional
        A ``.npz`` file in which the run is stored every 30 seconds and at its end. If
        it exists and is of this problem, the run goes on from it to the same answer.
    rng : numpy.random.Generator, int or None
        Randomness, for solvers that use any.

    Returns
    -------
    Solution
        Feasible, refitted on its support, with the reason for stopping. Ctrl-C returns
        the best point so far with `Status.INTERRUPTED`.

    Raises
    ------
    IncompatibleError
        If solver, objective and structure do not fit; the message names what would.
    ValueError
        If the budget, the start, a limit or the checkpoint cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> from vitalfew.objectives import LeastSquares
    >>> from vitalfew.structures import Cardinality
    >>> X = np.random.default_rng(0).standard_normal((50, 20))
    >>> y = 2 * X[:, 3] - X[:, 7]
    >>> solve(LeastSquares(X, y), Cardinality(2)).support
    array([3, 7])
    """
    check_problem(objective, structure)
    penalised = _is_penalty(structure)
    if max_iter is None:
        max_iter = 10_000 if penalised else 1_000 + 4 * math.prod(objective.shape)
    check_count("max_iter", max_iter, 0)
    if max_seconds is not None and max_seconds != math.inf:
        check_nonnegative("max_seconds", max_seconds)
    if not penalised:
        structure = structure.on(objective.shape)
    if solver is None:
        chains = _default(objective, structure, start)
    elif isinstance(solver, str) and solver == "best" and not penalised:
        chains = _portfolio(objective, structure, start)
    else:
        chains = [[start, solver] if isinstance(start, Solver) else [solver]]
    start = None if isinstance(start, Solver) else start
    for stage in itertools.chain.from_iterable(chains):
        check_pairing(stage, objective, structure)
    run = _Run(
        objective, structure, chains, max_iter, max_seconds, callback, checkpoint, rng
    )
    run.if_hard = solver is None
    with one_thread_if_small(objective):
        run.begin(start)
        return run.to_the_end()


def check_problem(objective: Any, structure: Any) -> None:
    """Raise `IncompatibleError` unless the two are what `solve` takes.

    Parameters
    ----------
    objective : Objective
        What to minimise.
    structure : Structure or Penalty
        On what.
    """
    if not follows(objective, Objective):
        raise IncompatibleError(
            f"objective must be one of vitalfew.objectives or follow "
            f"vitalfew.contracts.Objective, got {type(objective).__name__}"
        )
    if not _is_penalty(structure) and not follows(structure, Structure):
        raise IncompatibleError(
            f"structure must be one of vitalfew.structures or vitalfew.penalties, "
            f"got {type(structure).__name__}"
        )


def solve_on(
    objective: Any,
    penalty: Any,
    solver: Solver[Any],
    fit: Fit,
    max_seconds: float | None = None,
) -> Solution:
    """Go on with a penalty from a fit of this very objective, not evaluated again.

    Parameters
    ----------
    objective : Objective
        What to minimise.
    penalty : Penalty
        What costs extra.
    solver : Solver
        One that fits the two.
    fit : Fit
        Where to begin; its value and gradient are taken as they are.
    max_seconds : float, optional
        As in `solve`.

    Returns
    -------
    Solution
        As from `solve`.
    """
    run = _Run(objective, penalty, [[solver]], 10_000, max_seconds, None, None, None)
    with one_thread_if_small(objective):
        run.begin(_over(Whole(tuple(objective.shape)), fit), known=True)
        return run.to_the_end()


def _over(span: Any, fit: Fit) -> Fit:
    """Return the same point as one of another span that holds it."""
    return Point(
        span,
        span.restrict(fit.x),
        fit.value,
        lambda _: fit.gradient,
        fit.intercept,
        fit.status,
    )


def _is_penalty(structure: Any) -> bool:
    return follows(structure, Penalty) and not follows(structure, Structure)


def default_for(objective: Any, penalty: Any) -> Solver[Any]:
    """Return the solver a penalty gets by default.

    Parameters
    ----------
    objective : Objective
        What to minimise.
    penalty : Penalty
        What costs extra.

    Returns
    -------
    Solver
        `CoordinateDescent` where it fits, else `ProximalGradient`.
    """
    if follows(objective, HasCurvature) and follows(penalty, HasBlocks):
        return solvers.CoordinateDescent()
    return solvers.ProximalGradient()


def _default(objective: Any, structure: Any, start: Any) -> list[list[Any]]:
    """Chains of solvers, of which the second is for problems that prove hard."""
    if _is_penalty(structure):
        first = [start] if isinstance(start, Solver) else []
        return [[*first, default_for(objective, structure)]]
    search = solvers.LocalSearch()
    if start is not None:
        return [[start, search] if isinstance(start, Solver) else [search]]
    if follows(objective, HasRows):
        few_rows = objective.n_samples < ROWS_PER_COLUMN * objective.shape[0]
    else:
        few_rows = not follows(objective, HasSwapGains)
    return [[solvers.GraSP(), search], [search]] if few_rows else [[search]]


def _portfolio(objective: Any, structure: Any, start: Any) -> list[list[Any]]:
    """Chains of solvers that fail on different problems, those that fit this one."""
    first = [start] if isinstance(start, Solver) else []
    chains: list[list[Any]] = [
        [*first, solvers.LocalSearch()],
        [solvers.GraSP(), solvers.LocalSearch()],
        [solvers.IHT(), solvers.LocalSearch()],
    ]
    fitting = [
        chain
        for chain in chains
        if not any(_mismatch(s, objective, structure) for s in chain)
    ]
    return fitting or chains


def check_pairing(solver: Solver[Any], objective: Any, structure: Any) -> None:
    """Raise `IncompatibleError` if a solver cannot work on this pair.

    Parameters
    ----------
    solver : Solver
        The solver.
    objective : Objective
        What it would minimise.
    structure : Structure or Penalty
        On what.
    """
    if not isinstance(solver, Solver):
        raise IncompatibleError(
            "solver must be an instance of a class in vitalfew.solvers, as in "
            f'{solvers.__all__[0]}(), or "best" for a structure, got {solver!r}'
        )
    problem = _mismatch(solver, objective, structure)
    if problem is None:
        return
    known = [getattr(solvers, name) for name in solvers.__all__]
    fitting = [c.__name__ for c in known if not _mismatch(c(), objective, structure)]
    raise IncompatibleError(
        f"{type(solver).__name__} {problem}; these solvers fit "
        f"{type(objective).__name__} with {type(structure).__name__}: "
        f"{', '.join(fitting) or 'none'}"
    )


def _mismatch(solver: Solver[Any], objective: Any, structure: Any) -> str | None:
    if _is_penalty(structure) != (solver.accepts is Penalty):
        wanted = "a penalty" if solver.accepts is Penalty else "a structure"
        return f"needs {wanted}, not {type(structure).__name__}"
    for need in solver.needs:
        on_what = structure if {Penalty, Structure} & {*need.__mro__} else objective
        if not follows(on_what, need):
            return f"needs {need.__name__}, which {type(on_what).__name__} lacks"
    return None


class _Run:
    """One call of `solve`: stages one after the other under common limits.

    The stages are those of one chain after the other; each chain begins where the first
    began, and the best of their answers is the answer.
    """

    def __init__(
        self,
        objective: Any,
        structure: Any,
        chains: list[list[Solver[Any]]],
        max_iter: int,
        max_seconds: float | None,
        callback: Callable[[int, Fit], Any] | None,
        checkpoint: str | Path | None,
        rng: Any,
    ) -> None:
        self.objective, self.structure, self.chains = objective, structure, chains
        self.stages = list(itertools.chain.from_iterable(chains))
        self.first_stages = set(itertools.accumulate(map(len, chains)))
        self.if_hard = False  # whether later chains wait for a problem that needs them
        self.max_iter, self.max_seconds, self.callback = max_iter, max_seconds, callback
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.rng = check_rng(rng)
        self.penalised = _is_penalty(structure)
        self.begun = self.stored = time.perf_counter()
        self.n_iter, self.stage, self.stage_began = 0, 0, 0
        self.history: list[float] = []
        self.best: Any = None  # a Fit from the start on
        self.best_value = math.inf
        self.champion: Any = None  # the best of the chains that are over
        self.state: Any = None

    # -- the start ---------------------------------------------------------------------

    def begin(self, start: Any, known: bool = False) -> None:
        """Make the first state: from the checkpoint, the start given, or nothing.

        `known` says that the start is a fit of this very objective.
        """
        if self.checkpoint is not None:
            self.mark = _checkpoint.fingerprint(
                self.objective, self.structure, self.stages
            )
            if self.checkpoint.exists():
                self._resume(start)
                return
            if not self.checkpoint.parent.is_dir():
                raise ValueError(
                    f"checkpoint must lie in an existing folder, got {self.checkpoint}"
                )
        self.begin_at = fit = start if known else self._start_fit(start)
        self.state = self.stages[0].init(self.objective, self.structure, fit, self.rng)
        self._note(self.stages[0].point(self.state))
        if not math.isfinite(self.history[0]):
            raise ValueError(
                f"the objective must be finite at the start, got {self.history[0]}"
            )

    def _start_fit(self, start: Any) -> Fit:
        fit = getattr(start, "fit", start)
        if fit is not None:
            self._check_start(fit, start)
        like = self.objective.like
        if self.penalised:
            span = Whole(self.objective.shape)
            x = zeros(self.objective.shape, like) if fit is None else fit.x
            x = as_array(x, like)
            if not math.isfinite(self.structure.value(x)):
                x = self.structure.prox(x, 1.0)  # into the set it is the indicator of
            at_start: Fit = self.objective.at(span, span.restrict(x))
            return at_start
        if fit is None:
            return self._refit(self.structure.empty(like), None)
        support = self.structure.largest(fit.x)
        if namespace(fit.x) is not namespace(like) or fit.x.dtype != like.dtype:
            # from a run on another array library or in another precision
            x = as_array(fit.x, like)
            fit = self.objective.at(support, support.restrict(x))
        return self._refit(support, fit)

    def _refit(self, support: Any, start: Fit | None) -> Fit:
        fit: Fit = self.structure.refit(self.objective, support, start)
        return fit

    def _check_start(self, fit: Any, start: Any) -> None:
        if not hasattr(fit, "support") or not hasattr(fit, "z"):
            raise ValueError(
                "start must be a Fit, a Solution or a Solver, "
                f"got {type(start).__name__}"
            )
        if getattr(fit.support, "shape", None) != tuple(self.objective.shape):
            raise ValueError(
                f"start must have the objective's shape {tuple(self.objective.shape)}, "
                f"got {getattr(fit.support, 'shape', None)}"
            )

    # -- the loop ----------------------------------------------------------------------

    def to_the_end(self) -> Solution:
        """Run all stages and return the best point, refitted."""
        try:
            while True:
                status = self._one_stage(self.stages[self.stage])
                last = self.stage + 1 == len(self.stages)
                if last or status is not Status.CONVERGED or self.best is None:
                    break
                if self.if_hard and self._was_easy():
                    break
                self._next_stage()
            self._crown()
            self._store()
            fit, status = self._polished(status)
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
            self._crown()
            self._store()
            fit = self.best
        if self.penalised:
            fit = self._nonzero_part(fit)
        lower = self.stages[self.stage].lower_bound(self.state)
        return Solution(
            x=fit.x,
            value=self._total(fit),
            status=status,
            n_iter=self.n_iter,
            seconds=time.perf_counter() - self.begun,
            solver=self._description(),
            fit=fit,
            history=self.history,
            lower_bound=None if lower is None else min(lower, self._total(fit)),
        )

    def _next_stage(self) -> None:
        """Go on from the best so far, or begin another chain where it all began."""
        begin = self.best
        if self.stage + 1 in self.first_stages:
            begin, champion = self.begin_at, self.champion
            if champion is None or self._rank(self.best) < self._rank(champion):
                self.champion = self.best
            self.best, self.best_value = None, math.inf
        solver = self.stages[self.stage + 1]
        self.state = solver.init(self.objective, self.structure, begin, self.rng)
        self.stage, self.stage_began = self.stage + 1, self.n_iter
        if self.best is None:
            self._keep_if_best(solver.point(self.state))

    def _was_easy(self) -> bool:
        """Whether a chain is over and its last stage had little to mend."""
        if self.stage + 1 not in self.first_stages:
            return False
        steps = self.n_iter - self.stage_began
        return steps <= 1 + len(self.best.support) * SHARE_MENDED

    def _crown(self) -> None:
        """Let the best of all chains be the answer."""
        champion = self.champion
        if champion is None:
            return
        if self.best is None or self._rank(champion) < self._rank(self.best):
            self.best, self.best_value = champion, self._total(champion)

    def _rank(self, fit: Fit) -> float:
        return self._total(fit) if self._allowed(fit) else math.inf

    def _description(self) -> str:
        begun = 1 + sum(first <= self.stage for first in self.first_stages)
        chains = [", then ".join(map(describe, chain)) for chain in self.chains[:begun]]
        return chains[0] if len(chains) == 1 else "the best of " + "; ".join(chains)

    def _one_stage(self, solver: Solver[Any]) -> Status:
        while True:
            if solver.point(self.state).status is Status.SEPARATED:
                return Status.SEPARATED
            if solver.converged(self.state):
                return Status.CONVERGED
            if self.n_iter >= self.max_iter:
                return Status.MAX_ITER
            now = time.perf_counter()
            if self.max_seconds is not None and now - self.begun >= self.max_seconds:
                return Status.MAX_SECONDS
            if now - self.stored >= SECONDS_BETWEEN_CHECKPOINTS:
                self._store()
            new = solver.step(self.objective, self.structure, self.state)
            point = solver.point(new)
            if not math.isfinite(point.value):
                return Status.NOT_FINITE
            # kept here, so that an interrupted run stores what it has reached
            self.state, self.n_iter = new, self.n_iter + 1
            self._note(point)
            if self.callback is not None and self.callback(self.n_iter, point) is True:
                return Status.STOPPED

    def _total(self, fit: Fit) -> float:
        if not self.penalised:
            return fit.value
        return fit.value + float(self.structure.value(fit.x))

    def _note(self, fit: Fit) -> None:
        self.history.append(self._total(fit))
        self._keep_if_best(fit)

    def _keep_if_best(self, fit: Fit) -> None:
        value = self._total(fit)
        allowed = self._allowed(fit)
        if self.best is None or (allowed and value < self.best_value):
            self.best, self.best_value = fit, value if allowed else math.inf

    def _allowed(self, fit: Fit) -> bool:
        return self.penalised or self.structure.allows(fit.support)

    # -- the end -----------------------------------------------------------------------

    def _polished(self, status: Status) -> tuple[Fit, Status]:
        """Refit the best point, use what room is left, and say why it ends there."""
        best = self.best
        if self.penalised:
            last = self.stages[self.stage].point(self.state)
            level = self.best_value + 1e-12 * abs(self.best_value)
            if status is Status.CONVERGED and self._total(last) <= level:
                best = last  # it met the criterion; the lowest differs by rounding
            return best, status
        fit = self._refit(best.support, best)
        fit = fit if fit.value <= best.value else best
        if status is Status.CONVERGED:
            grown = grow(self.objective, self.structure, fit)
            while grown is not None and math.isfinite(grown.value):
                fit, grown = grown, grow(self.objective, self.structure, grown)
        if fit.status is Status.SEPARATED:
            status = Status.SEPARATED
        elif status is Status.CONVERGED:
            more = self.structure.strongest(fit.gradient, fit.support, 1)
            status = Status.FEWER if len(more) else status
        return fit, status

    def _nonzero_part(self, fit: Fit) -> Fit:
        """Return the same point, on the support of what is not zero."""
        ids = np.flatnonzero(to_host(fit.x).ravel())
        ones = np.ones(len(ids), np.int64)
        support = Coordinates(ids, ids, ones, tuple(self.objective.shape))
        return _over(support, fit)

    # -- checkpoints -------------------------------------------------------------------

    def _store(self) -> None:
        self.stored = time.perf_counter()
        if self.checkpoint is None:
            return
        extra = {
            "stage": self.stage,
            "n_iter": self.n_iter,
            "stage_began": self.stage_began,
            "history": [float(v).hex() for v in self.history],
            # some generators keep arrays in their state
            "rng": json.dumps(self.rng.bit_generator.state, default=np.ndarray.tolist),
        }
        kept = (self.state, self.best, self.champion)
        _checkpoint.save(self.checkpoint, self.mark, kept, extra)

    def _resume(self, start: Any) -> None:
        assert self.checkpoint is not None
        extra, rebuild = _checkpoint.load(self.checkpoint, self.mark)
        self.begin_at = begun = self._start_fit(start)
        try:
            self.stage, self.n_iter = int(extra["stage"]), int(extra["n_iter"])
            self.stage_began = int(extra["stage_began"])
            self.history = [float.fromhex(v) for v in extra["history"]]
            solver = self.stages[self.stage]
            template = solver.init(self.objective, self.structure, begun, self.rng)
            self.rng.bit_generator.state = json.loads(extra["rng"])
            known = (template, begun, None)
            kept = rebuild(known, self.objective, self.structure)
            self.state, best, self.champion = kept
            for fit in (best, self.champion):
                if fit is not None and not self._allowed(fit):
                    raise ValueError("the point is not feasible")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(
                f"checkpoint {str(self.checkpoint)!r} is damaged; remove it to start "
                "afresh"
            ) from error
        if best is not None:
            self.best, self.best_value = best, self._total(best)


def describe(solver: Solver[Any]) -> str:
    """Return a solver's name with the settings that are not the default.

    Parameters
    ----------
    solver : Solver
        The solver.

    Returns
    -------
    str
        As in ``GraSP(widen=3.0)``.
    """
    changed = [
        f"{f.name}={getattr(solver, f.name)!r}"
        for f in fields(solver)
        if getattr(solver, f.name) != f.default
    ]
    return type(solver).__name__ + (f"({', '.join(changed)})" if changed else "")
