"""Iterative hard thresholding with adaptive regularisation."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from numpy.random import Generator

from vitalfew._arrays import namespace, precision
from vitalfew._validation import check_count, check_nonnegative
from vitalfew.contracts import Array, Fit, Objective, Solver, Structure
from vitalfew.solvers.iht import IHT
from vitalfew.solvers.omp import grow


@dataclass(frozen=True, kw_only=True)
class _State:
    plain: Any  # the state of IHT
    best: Fit
    fit: Fit
    weights: Array
    beta: float
    count: int = -1  # regularised steps made; -1 while IHT runs
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class RegularizedIHT(Solver[_State]):
    r"""Iterative hard thresholding with adaptive regularisation.

    Solves :math:`\min f(x)` over a structure. Runs `IHT` to its end and refits; then
    adds a ridge :math:`\tfrac{\beta}{2} \sum_i w_i x_i^2`, with all :math:`w_i = 1`,
    makes steps

    .. math::

       x \leftarrow P((1 - w / 2) x - \nabla f(x) / 2 \beta), \qquad
       w_i \leftarrow w_i (1 - c\, w_i x_i^2 / \textstyle\sum_j w_j x_j^2)

    that lower the weights where the ridge is paid for, and sets weights of at most one
    half to zero. The ridge shakes the atoms; those that stay get rid of it. Where IHT
    stops at a poor support this often finds a better one; `GraSP` and `LocalSearch`
    find better ones still, at the price of refits.

    Parameters
    ----------
    n_steps : int, default=300
        Regularised steps after those of `IHT`.
    decay : float, default=8.0
        Multiple of the decay ``c = k / (4 n_steps)`` of the paper, for k entries of x
        inside. At 1 and with the energy spread evenly no weight ever reaches one half,
        and the answer stays shrunken: a fast decay is needed at a tight budget.
    tol : float, default=1e-6
        `IHT` stops when f falls by less than this, relatively; so does this once no
        weight is left inside.

    Raises
    ------
    ValueError
        If `n_steps` or `decay` is negative.

    Notes
    -----
    A step costs about two gradients and no refit. 1/:math:`\beta` is a step size found
    by backtracking, as in `IHT`, so that f cannot blow up and no run is started anew.
    f never rises, as the best point is told.

    It is never worse than `IHT` with the same `tol`, at any number of gradients: its
    first steps are those of `IHT`, bit for bit, and what comes after them replaces the
    refitted and filled answer of `IHT` only by a point of lower f.

    References
    ----------
    .. [1] K. Axiotis, M. Sviridenko, "Iterative hard thresholding with adaptive
       regularization: sparser solutions without sacrificing runtime", ICML, 2022
       (regularised IHT).
    """

    n_steps: int = 300
    decay: float = 8.0
    tol: float = 1e-6

    cost: ClassVar[str] = "about 2 gradients"
    guarantee: ClassVar[str] = "the optimum of k atoms at O(k κ) atoms; never above IHT"
    use: ClassVar[str] = "steps must be cheap and columns are correlated"

    def __post_init__(self) -> None:
        check_count("n_steps", self.n_steps, 0)
        check_nonnegative("decay", self.decay)

    def init(
        self, objective: Objective, structure: Structure, start: Fit, rng: Generator
    ) -> _State:
        """Start `IHT` from a fit."""
        plain = IHT(tol=self.tol).init(objective, structure, start, rng)
        ones = namespace(start.x).ones_like(start.x)
        return _State(plain=plain, best=start, fit=start, weights=ones, beta=1.0)

    def step(self, objective: Objective, structure: Structure, state: _State) -> _State:
        """Make a step of `IHT` until it ends, then a regularised one."""
        if state.count < 0:
            return self._plain(objective, structure, state)
        fit, beta = _searched(objective, structure, state)
        weights = self._decayed(state.weights, fit)
        fell = state.fit.value - fit.value
        free = not _energy(weights, fit.x) and fell <= self.tol * abs(state.fit.value)
        best = _lower(fit, state.best)
        count = state.count + 1
        # an infinite value is left when no step is short enough
        done = free or count >= self.n_steps or math.isinf(fit.value)
        if done:
            best = _lower(_finished(objective, structure, fit), best)
        return replace(
            state,
            best=best,
            fit=fit,
            weights=weights,
            beta=beta,
            count=count,
            done=done,
        )

    def _plain(self, objective: Any, structure: Any, state: _State) -> _State:
        solver = IHT(tol=self.tol)
        plain = solver.step(objective, structure, state.plain)
        best = solver.point(plain)
        if not solver.converged(plain):
            return replace(state, plain=plain, best=best)
        best = _finished(objective, structure, best)
        beta, done = 1 / plain.step_size, self.n_steps < 1
        return replace(
            state, plain=plain, best=best, fit=best, beta=beta, count=0, done=done
        )

    def _decayed(self, weights: Array, fit: Fit) -> Array:
        total = _energy(weights, fit.x)
        if total == 0:
            return weights
        rate = self.decay * fit.z.shape[0] / (4 * max(self.n_steps, 1))
        lower = weights * (1 - rate * (weights * fit.x * fit.x / total))
        xp = namespace(lower)
        return xp.where(lower > 0.5, lower, xp.zeros_like(lower))

    def converged(self, state: _State) -> bool:
        """Whether all regularised steps are made, or further ones change nothing."""
        return state.done

    def point(self, state: _State) -> Fit:
        """Return the best point so far."""
        return state.best


def regularized_step(
    objective: Any, structure: Any, fit: Fit, weights: Array, beta: float
) -> Fit:
    """Make one step; with weights of zero it is that of IHT of size 1 / (2 beta)."""
    moved = (1 - weights / 2) * fit.x - 1 / (2 * beta) * fit.gradient
    support = structure.largest(moved)
    new: Fit = objective.at(support, support.restrict(structure.project(moved)))
    return new


def _searched(objective: Any, structure: Any, state: _State) -> tuple[Fit, float]:
    """Make a step with the least beta that bounds f's curvature on it; also that."""
    fit, beta = state.fit, state.beta / 1.5
    xp, slack = namespace(fit.x), max(1e-12, 4 * precision(fit.x))
    for _ in range(60):
        new = regularized_step(objective, structure, fit, state.weights, beta)
        d = new.x - fit.x
        bound = float(xp.sum(fit.gradient * d)) + beta / 2 * float(xp.sum(d * d))
        if new.value <= fit.value + bound + slack * abs(fit.value):
            break
        beta *= 2
    return new, beta


def _finished(objective: Any, structure: Any, fit: Fit) -> Fit:
    """Refit and use what room is left, so that answers can be compared."""
    fit = _lower(structure.refit(objective, fit.support, fit), fit)
    grown = grow(objective, structure, fit)
    while grown is not None:
        fit, grown = grown, grow(objective, structure, grown)
    return fit


def _lower(new: Fit, old: Fit) -> Fit:
    """Return the lower of two points, the new one if it is not a number."""
    return old if new.value >= old.value else new


def _energy(weights: Array, x: Array) -> float:
    return float(namespace(x).sum(weights * x * x))
