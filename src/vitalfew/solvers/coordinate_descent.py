"""Coordinate descent on working sets."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vitalfew._arrays import as_array, namespace, precision, to_host
from vitalfew._native import descend, descend_columns
from vitalfew._native._descent_twins import descend_with
from vitalfew.contracts import (
    Array,
    Fit,
    HasBlocks,
    HasCurvature,
    HasHessianRoot,
    HasKernel,
    Ints,
    Penalty,
    Solver,
    follows,
)
from vitalfew.supports import Coordinates, Point, Whole

MOST_COORDINATES = 3000  # of a working set, whose Hessian is held
FEWEST_NEW = 100  # blocks that may join a working set, however small it is
FEWEST_FOR_COLUMNS = 0.5  # coordinates for each row of data, from where no Gram pays
MOST_PASSES = 1000  # of the coordinate descent in one step
MOST_TRIALS = 25  # dampings of one step
MOST_STALE = 3  # steps without progress, which rounding ends


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    distance: float  # to the optimality condition
    least: float  # of all distances so far
    scale: float
    step_size: float  # of the prox that tells which blocks leave zero
    stale: int = 0


@dataclass(frozen=True, kw_only=True)
class CoordinateDescent(Solver[_State]):
    r"""Block coordinate descent on a working set, for a penalty that is a sum.

    Solves :math:`\min f(x) + \sum_b r_b(x_b)`. A step takes the blocks that are not
    zero and those that the strong rule lets in, minimises the quadratic model of f on
    them plus the penalty by compiled coordinate descent with extrapolation, and goes
    there (proximal Newton), damped if the sum rises. Then it looks at the optimality
    condition of every block, so what the rule left out wrongly comes in with the next
    step. The fastest for sparse answers; where most of many blocks stay,
    `ProximalGradient` needs less memory.

    Parameters
    ----------
    tol : float, default=1e-8
        Stop when the distance of minus the gradient to the penalty's subdifferential
        falls below this fraction of `scale`.
    scale : float, optional
        The largest entry of the gradient at zero by default. A path gives it, as one
        gradient for each of its points would be spent on it.

    Notes
    -----
    A step costs one gradient, the Hessian on the working set, which `LeastSquares`
    remembers, and passes of coordinate descent, each of the square of the working
    set's size at most. Where that is more than half the rows, `LeastSquares` gives its
    columns instead, and a pass costs two products with each. For a penalty that is not
    convex the answer is stationary, and no single coordinate can improve it.

    References
    ----------
    .. [1] J. Friedman, T. Hastie, R. Tibshirani, "Regularization paths for generalized
       linear models via coordinate descent", J. Stat. Softw., 2010.
    .. [2] R. Tibshirani, J. Bien, J. Friedman, T. Hastie, N. Simon, J. Taylor,
       R. J. Tibshirani, "Strong rules for discarding predictors in lasso-type
       problems", JRSS B, 2012, eq. (10).
    .. [3] J. D. Lee, Y. Sun, M. A. Saunders, "Proximal Newton-type methods for
       minimizing composite functions", SIAM J. Optim., 2014, Algorithm 1.
    .. [4] Q. Bertrand, M. Massias, "Anderson acceleration of coordinate descent",
       AISTATS, 2021, Algorithm 2.
    """

    tol: float = 1e-8
    scale: float | None = None

    accepts: ClassVar[type] = Penalty
    needs: ClassVar[tuple[type, ...]] = (HasCurvature, HasBlocks)
    cost: ClassVar[str] = "1 gradient, 1 Hessian on the working set"
    guarantee: ClassVar[str] = "the optimum, for a convex penalty"
    use: ClassVar[str] = "lasso, elastic net and group penalties with sparse answers"

    def init(
        self, objective: Any, structure: HasBlocks, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit."""
        xp, scale, g = namespace(start.x), self.scale, start.gradient
        if scale is None:
            if bool(xp.any(start.x != 0)):
                _, g = objective.value_and_gradient(xp.zeros_like(start.x))
            scale = float(xp.max(xp.abs(g)))
        steepest = np.array([np.argmax(np.abs(to_host(start.gradient)))])
        H = objective.hessian(_narrowed(start), _coordinates(steepest, start.x))
        curvature = float(H[0, 0])
        step_size = 1 / curvature if curvature > 0 else 1.0
        distance = _distance(structure, start, step_size)
        return _State(
            fit=start,
            distance=distance,
            least=distance,
            scale=scale,
            step_size=step_size,
        )

    def step(self, objective: Any, structure: HasBlocks, state: _State) -> _State:
        """Minimise the model on a working set and go there."""
        fit = state.fit
        blocks = _working_set(structure, fit, state.step_size)
        ids, starts = _members(structure.labels, blocks, fit.x)
        span = _coordinates(ids, fit.x)
        columns, H = _columns(objective, structure, fit, span), None
        if columns is None:
            H = np.ascontiguousarray(to_host(objective.hessian(_narrowed(fit), span)))
            diagonal = np.diagonal(H)
        else:
            diagonal = to_host(span.restrict(objective.curvature(fit)))
        top = float(diagonal.max(initial=0.0))
        model = _Model(
            penalty=structure,
            blocks=blocks,
            width=math.prod(fit.x.shape[1:]),
            starts=starts,
            H=H,
            columns=columns,
            top=top,
            g=to_host(span.restrict(fit.gradient)),
            z=to_host(span.restrict(fit.x)),
        )
        tol = max(0.3 * self.tol * state.scale, 1e-3 * state.distance)
        new, fell = _search(objective, structure, fit, span, model, tol)
        size = min(state.step_size, 1 / top) if top > 0 else state.step_size
        distance = _distance(structure, new, size)
        moves = fell or distance < 0.9 * state.least
        return _State(
            fit=new,
            distance=distance,
            least=min(distance, state.least),
            scale=state.scale,
            step_size=size,
            stale=0 if moves else state.stale + 1,
        )

    def converged(self, state: _State) -> bool:
        """Whether the optimality condition holds to `tol`, or rounding stops it."""
        return state.distance <= self.tol * state.scale or state.stale >= MOST_STALE

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit


def _coordinates(ids: Ints, x: Array) -> Coordinates:
    return Coordinates(ids, ids, np.ones(len(ids), np.int64), tuple(x.shape))


def _rows(x: Array) -> Ints | None:
    """Coordinates of the rows of `x` that are not zero; None if they are most."""
    host = to_host(x)
    flat = host.reshape(len(host), -1)
    kept = np.flatnonzero((flat != 0).any(axis=1))
    if 2 * len(kept) > len(host):
        return None
    width = flat.shape[1]
    return (kept[:, None] * width + np.arange(width)).ravel()


def _narrowed(fit: Fit) -> Fit:
    """The same point on its own rows, where its predictions cost less."""
    ids = _rows(fit.x)
    if ids is None:
        return fit
    span = _coordinates(ids, fit.x)
    z = span.restrict(fit.x)
    return Point(span, z, fit.value, lambda _: fit.gradient, fit.intercept)


def _at(objective: Any, x: Array) -> Fit:
    """Evaluate a point where it costs least, as a point of the whole space."""
    whole, ids = Whole(tuple(x.shape)), _rows(x)
    if ids is None:
        fit: Fit = objective.at(whole, whole.restrict(x))
        return fit
    span = _coordinates(ids, x)
    at = objective.at(span, span.restrict(x))
    return Point(
        whole, whole.restrict(x), at.value, lambda _: at.gradient, at.intercept
    )


def _distance(penalty: Penalty, fit: Fit, step_size: float) -> float:
    """Distance to the optimality condition; to a fixed point of the prox if further.

    For a convex penalty the former is never less. For others the latter tells whether
    a stationary coordinate is a minimiser.
    """
    xp = namespace(fit.x)
    moved = fit.x - penalty.prox(fit.x - step_size * fit.gradient, step_size)
    fixed = float(xp.max(xp.abs(moved))) / step_size
    return max(fixed, penalty.subdifferential_distance(fit.x, fit.gradient))


def _block_of_each(labels: Ints | None, x: NDArray[Any]) -> Ints:
    """Block of each coordinate of the flattened `x`."""
    if labels is None:
        return np.arange(x.size)
    return np.repeat(labels, x.size // len(x))


def _working_set(penalty: HasBlocks, fit: Fit, step_size: float) -> Ints:
    """Blocks to minimise over: those not zero, and those likely to leave zero.

    The strong rule keeps block b out at strength alpha if the gradient at the optimum
    for alpha' has ``|g_b| < 2 alpha - alpha'``, that is, if the prox at this strength
    leaves it at zero. The gradient tells alpha' itself: the largest block at zero has
    just this size. At the optimum for alpha, blocks that violate the condition come in.
    """
    x, g = to_host(fit.x), to_host(fit.gradient)
    block = _block_of_each(penalty.labels, x)

    def norms(values: NDArray[Any]) -> NDArray[Any]:
        flat = values.ravel()
        alone: NDArray[Any] = np.abs(flat)
        if penalty.labels is None:
            return alone
        return np.sqrt(np.bincount(block, weights=flat * flat))

    inside = norms(x) > 0
    outer = np.where(inside[block], 0.0, g.ravel()).reshape(g.shape).astype(g.dtype)
    alpha = penalty.alpha
    strength = min(max(2 * alpha - penalty.critical_alpha(outer), 0.0), alpha)
    pull = norms(penalty.with_alpha(strength).prox(-step_size * outer, step_size))
    new = np.flatnonzero(pull)
    room = max(FEWEST_NEW, 2 * int(inside.sum()))
    if len(new) > room:
        new = new[np.argpartition(-pull[new], room)[:room]]
    blocks = np.sort(np.concatenate((np.flatnonzero(inside), new)))
    sizes = np.bincount(block)
    if sizes[blocks].sum() <= MOST_COORDINATES:
        return blocks
    far = norms(x - penalty.prox(x - step_size * g, step_size))[blocks]
    order = blocks[np.argsort(-far, kind="stable")]
    count = int(np.searchsorted(np.cumsum(sizes[order]), MOST_COORDINATES, "right"))
    return np.sort(order[: max(count, 1)])


def _members(labels: Ints | None, blocks: Ints, x: Array) -> tuple[Ints, Ints]:
    """Coordinates of some blocks, block after block, and where each block begins."""
    if labels is None:
        return blocks, np.arange(len(blocks) + 1)
    block = _block_of_each(labels, to_host(x))
    place = np.full(block.max() + 1, -1)
    place[blocks] = np.arange(len(blocks))
    ids = np.flatnonzero(place[block] >= 0)
    ids = ids[np.argsort(place[block[ids]], kind="stable")]
    sizes = np.bincount(place[block[ids]], minlength=len(blocks))
    return ids, np.concatenate(([0], np.cumsum(sizes)))


def _columns(objective: Any, penalty: HasBlocks, fit: Fit, span: Coordinates) -> Any:
    """Return the Hessian's factor where descent on it is cheaper, else None."""
    if not (follows(objective, HasHessianRoot) and follows(penalty, HasKernel)):
        return None
    if len(span) < FEWEST_FOR_COLUMNS * objective.n_samples:
        return None
    return objective.hessian_root(fit, span)


@dataclass(frozen=True, kw_only=True)
class _Model:
    """The quadratic model of f around a point, on the blocks of a working set.

    Its Hessian is H or, where there are more coordinates than rows of data,
    ``A[slots] A[slots]' + diag(ridge)`` with the three in `columns`.
    """

    penalty: HasBlocks
    blocks: Ints
    width: int  # entries of a row of x
    starts: Ints
    H: NDArray[Any] | None
    columns: tuple[NDArray[Any], Ints, NDArray[Any]] | None
    top: float  # the largest entry of the Hessian's diagonal
    g: NDArray[Any]
    z: NDArray[Any]

    def minimiser(self, damping: float, tol: float) -> NDArray[Any]:
        """Minimise the model plus ``damping |u - z|^2 / 2`` plus the penalty over u."""
        g, z, starts = self.g, self.z, self.starts
        u: NDArray[Any]
        tol = max(tol, 16 * precision(g) * float(np.abs(g).max(initial=0.0)))
        alone = self.penalty.labels is None
        owners = self.blocks // self.width if alone else self.blocks
        if follows(self.penalty, HasKernel):
            kind, parameters = self.penalty.kernel(owners)  # type: ignore[attr-defined]
            parameters = np.ascontiguousarray(parameters, z.dtype)
            last = (g, z, starts, kind, parameters, tol, MOST_PASSES)
            if self.columns is not None:
                A, slots, ridge = self.columns
                ridge = ridge + np.asarray(damping, ridge.dtype)
                u, _ = descend_columns(A, slots, ridge, *last)
            else:
                u, _ = descend(self._damped(damping), *last)
            return u
        parts = [self.penalty.on_blocks(np.array([owner])) for owner in owners]
        shape = (-1,) if alone or self.width == 1 else (-1, self.width)

        def prox(block: int, v: NDArray[Any], step_size: float) -> NDArray[Any]:
            moved: NDArray[Any] = parts[block].prox(v.reshape(shape), step_size)
            return moved.ravel()

        def cost(block: int, v: NDArray[Any]) -> float:
            return parts[block].value(v.reshape(shape))

        H = self._damped(damping)
        u, _ = descend_with(H, g, z, starts, prox, cost, tol, MOST_PASSES)
        return u

    def _damped(self, damping: float) -> NDArray[Any]:
        assert self.H is not None
        if damping == 0:
            return self.H
        ridge: NDArray[Any] = (damping * np.eye(len(self.z))).astype(self.z.dtype)
        return np.asarray(self.H + ridge)


def _search(
    objective: Any,
    penalty: Penalty,
    fit: Fit,
    span: Coordinates,
    model: _Model,
    tol: float,
) -> tuple[Fit, bool]:
    """Go to the model's minimiser, damped until the sum falls as it should.

    Returns the point and whether the sum fell by more than rounding. Strongly damped,
    the step is one of the proximal gradient, which lowers any smooth f with any r.
    """
    cost = penalty.value(fit.x)
    before = fit.value + cost
    slack = max(1e-14, 4 * precision(fit.x)) * abs(before)
    damping = 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # of trial points, refused
        for trial in range(MOST_TRIALS):
            step = model.minimiser(damping, tol) - model.z
            x = fit.x + span.embed(as_array(step, fit.x))
            new = _at(objective, x)
            change = penalty.value(x) - cost
            promised = float(model.g @ step) + change
            after = new.value + cost + change
            if after <= before + 1e-4 * min(promised, 0.0) + slack:
                return new, after < before - slack
            # where f curves far more elsewhere, as exponentials do, faster and faster
            factor = 4 if trial < MOST_TRIALS / 2 else 100
            damping = factor * damping if damping else 0.1 * (model.top or 1.0)
    return fit, False
