"""The front door: pairing, the loop, limits, checkpoints, and the best point so far."""

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
from vitalfew.supports import Coordinates, Whole

SECONDS_BETWEEN_CHECKPOINTS = 30.0
ROWS_PER_COLUMN = 20  # from here on OMP fetches all products in a few passes


def solve(
    objective: Any,
    structure: Any,
    solver: Solver[Any] | None = None,
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
    solver : Solver, optional
        One of `vitalfew.solvers`. By default `GraSP` and then `LocalSearch`, or
        `LocalSearch` alone where there are many more rows than columns; for a penalty
        `ProximalGradient`.
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
    penalised = _is_penalty(structure)
    if not follows(objective, Objective):
        raise IncompatibleError(
            f"objective must be one of vitalfew.objectives or follow "
            f"vitalfew.contracts.Objective, got {type(objective).__name__}"
        )
    if not penalised and not follows(structure, Structure):
        raise IncompatibleError(
            f"structure must be one of vitalfew.structures or vitalfew.penalties, "
            f"got {type(structure).__name__}"
        )
    if max_iter is None:
        max_iter = 10_000 if penalised else 1_000 + 4 * math.prod(objective.shape)
    check_count("max_iter", max_iter, 0)
    if max_seconds is not None and max_seconds != math.inf:
        check_nonnegative("max_seconds", max_seconds)
    if not penalised:
        structure = structure.on(objective.shape)
    if solver is None:
        solver, start = _default(objective, structure, start)
    stages = [solver]
    if isinstance(start, Solver):
        stages, start = [start, solver], None
    for stage in stages:
        check_pairing(stage, objective, structure)
    run = _Run(
        objective, structure, stages, max_iter, max_seconds, callback, checkpoint, rng
    )
    with one_thread_if_small(objective):
        run.begin(start)
        return run.to_the_end()


def _is_penalty(structure: Any) -> bool:
    return follows(structure, Penalty) and not follows(structure, Structure)


def _default(objective: Any, structure: Any, start: Any) -> tuple[Solver[Any], Any]:
    if _is_penalty(structure):
        return solvers.ProximalGradient(), start
    if follows(objective, HasRows):
        few_rows = objective.n_samples < ROWS_PER_COLUMN * objective.shape[0]
    else:
        few_rows = not follows(objective, HasSwapGains)
    if start is None and few_rows:
        start = solvers.GraSP()
    return solvers.LocalSearch(), start


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
            f"{solvers.__all__[0]}(), got {solver!r}"
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
        if not follows(objective, need) and not follows(structure, need):
            return f"needs {need.__name__}, which {type(objective).__name__} lacks"
    return None


class _Run:
    """One call of `solve`: stages one after the other under common limits."""

    def __init__(
        self,
        objective: Any,
        structure: Any,
        stages: list[Solver[Any]],
        max_iter: int,
        max_seconds: float | None,
        callback: Callable[[int, Fit], Any] | None,
        checkpoint: str | Path | None,
        rng: Any,
    ) -> None:
        self.objective, self.structure, self.stages = objective, structure, stages
        self.max_iter, self.max_seconds, self.callback = max_iter, max_seconds, callback
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.rng = check_rng(rng)
        self.penalised = _is_penalty(structure)
        self.begun = self.stored = time.perf_counter()
        self.n_iter, self.stage = 0, 0
        self.history: list[float] = []
        self.best: Any = None  # a Fit from the start on
        self.best_value = math.inf
        self.state: Any = None

    # -- the start ---------------------------------------------------------------------

    def begin(self, start: Any) -> None:
        """Make the first state: from the checkpoint, the start given, or nothing."""
        if self.checkpoint is not None:
            self.mark = _checkpoint.fingerprint(
                self.objective, self.structure, self.stages
            )
            if self.checkpoint.exists():
                self._resume()
                return
            if not self.checkpoint.parent.is_dir():
                raise ValueError(
                    f"checkpoint must lie in an existing folder, got {self.checkpoint}"
                )
        fit = self._start_fit(start)
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
                solver = self.stages[self.stage + 1]
                state = solver.init(self.objective, self.structure, self.best, self.rng)
                self.state, self.stage = state, self.stage + 1
            self._store()
            fit, status = self._polished(status)
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
            self._store()
            fit = self.best
        if self.penalised:
            fit = self._nonzero_part(fit)
        return Solution(
            x=fit.x,
            value=self._total(fit),
            status=status,
            n_iter=self.n_iter,
            seconds=time.perf_counter() - self.begun,
            solver=", then ".join(describe(s) for s in self.stages),
            fit=fit,
            history=self.history,
        )

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
        value = self._total(fit)
        self.history.append(value)
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
        kept: Fit = self.objective.at(support, support.restrict(fit.x))
        return kept

    # -- checkpoints -------------------------------------------------------------------

    def _store(self) -> None:
        self.stored = time.perf_counter()
        if self.checkpoint is None:
            return
        extra = {
            "stage": self.stage,
            "n_iter": self.n_iter,
            "history": [float(v).hex() for v in self.history],
            # some generators keep arrays in their state
            "rng": json.dumps(self.rng.bit_generator.state, default=np.ndarray.tolist),
        }
        _checkpoint.save(self.checkpoint, self.mark, (self.state, self.best), extra)

    def _resume(self) -> None:
        assert self.checkpoint is not None
        extra, rebuild = _checkpoint.load(self.checkpoint, self.mark)
        begun = self._start_fit(None)
        try:
            self.stage, self.n_iter = int(extra["stage"]), int(extra["n_iter"])
            self.history = [float.fromhex(v) for v in extra["history"]]
            solver = self.stages[self.stage]
            template = solver.init(self.objective, self.structure, begun, self.rng)
            self.rng.bit_generator.state = json.loads(extra["rng"])
            known = (template, begun)
            self.state, best = rebuild(known, self.objective, self.structure)
            if best is not None and not self._allowed(best):
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
