"""Proximal gradient: accelerated, or with conjugate directions."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from numpy.random import Generator

from vitalfew._arrays import namespace, precision
from vitalfew.contracts import Array, Fit, Objective, Penalty, Solver

SUFFICIENT = 0.01  # share of the decrease that a step's own model leaves over
SHORT = 16  # a step this much shorter measures the penalty's slope
MOST_STALE = 50  # steps that bring nothing, where `tol` is below the precision
FORMS = ("accelerated", "conjugate")


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    total: float  # with the penalty
    before: Fit
    momentum: float
    conjugate: bool  # whether the last step was to the minimum over a plane
    step_size: float
    distance: float
    scale: float
    least: float  # of all distances so far
    lowest: float  # total of the last step that brought something
    stale: int = 0  # steps since then


@dataclass(frozen=True, kw_only=True)
class ProximalGradient(Solver[_State]):
    r"""Proximal gradient with momentum or conjugate directions, for any penalty.

    Solves :math:`\min f(x) + r(x)` for a smooth f and a penalty r with a prox operator,
    convex or not. A step is

    - "accelerated": a proximal step from a point extrapolated beyond x, as in FISTA. It
      is taken if it lowers the sum enough; otherwise a proximal step from x itself is.
      The momentum is forgotten then, and whenever it points uphill.
    - "conjugate": the same until the zeros of x stay. Then, after a proximal step from
      x, the quadratic model of the sum is minimised over the plane of that step and the
      one before: on a quadratic the method of conjugate gradients. Taken, or taken up
      to the first change of a sign, if it lowers the sum more. It saves up to half of
      the gradients where few entries of strongly correlated columns are not zero.

    For a convex penalty it converges to the optimum, otherwise to a point that is
    stationary and that a proximal step leaves where it is.

    Parameters
    ----------
    form : {"accelerated", "conjugate"}, default="accelerated"
        Which steps.
    tol : float, default=1e-8
        Stop when the distance of minus the gradient to the penalty's subdifferential
        falls below this fraction of the largest entry of the gradient at zero, and a
        proximal step moves x by no more than that times the step size. In single
        precision, which this default is below, also when steps bring nothing more.

    Notes
    -----
    A step costs some two gradients and one prox, a conjugate one four proxes. The sum
    never rises, but for rounding. Each step lowers it in proportion to the square of
    its length, or of a proximal step's from x, so that every limit is stationary.

    References
    ----------
    .. [1] A. Beck, M. Teboulle, "A fast iterative shrinkage-thresholding algorithm for
       linear inverse problems", SIAM J. Imaging Sci., 2009, section 4 (backtracking).
    .. [2] B. O'Donoghue, E. Candès, "Adaptive restart for accelerated gradient
       schemes", Found. Comput. Math., 2015 (the gradient scheme).
    .. [3] H. Li, Z. Lin, "Accelerated proximal gradient methods for nonconvex
       programming", NeurIPS, 2015, Algorithm 2 (with eta = 0: monotone).
    .. [4] A. Miele, J. W. Cantrell, "Study on a memory gradient method for the
       minimization of functions", J. Optim. Theory Appl., 1969 (minimising over the
       plane); with proximal steps in the place of gradients.
    """

    form: str = "accelerated"
    tol: float = 1e-8

    accepts: ClassVar[type] = Penalty
    cost: ClassVar[str] = "about 2 gradients, 1 prox"
    guarantee: ClassVar[str] = "the optimum, for a convex penalty; else stationary"
    use: ClassVar[str] = "penalties with a prox operator"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {FORMS}, got {self.form!r}")

    def init(
        self, objective: Objective, structure: Penalty, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit, with a guess of the step size."""
        xp, g = namespace(start.gradient), start.gradient
        largest = float(xp.max(xp.abs(g)))
        _, g0 = objective.value_and_gradient(xp.zeros_like(start.x))
        scale = float(xp.max(xp.abs(g0)))
        step_size = 1.0
        if largest > 0:
            t = 1e-2 * (1 + float(xp.max(xp.abs(start.x)))) / largest
            _, moved = objective.value_and_gradient(start.x - t * g)
            curvature = float(xp.sum((g - moved) * g)) / (t * float(xp.sum(g * g)))
            step_size = 1 / curvature if curvature > 0 else 1.0
        total = start.value + structure.value(start.x)
        distance = self._distance(structure, start, step_size, scale)
        return _State(
            fit=start,
            total=total,
            before=start,
            momentum=1.0,
            conjugate=False,
            step_size=step_size,
            distance=distance,
            scale=scale,
            least=distance,
            lowest=total,
        )

    def _distance(
        self, penalty: Penalty, fit: Fit, step_size: float, scale: float
    ) -> float:
        """How far a point is from stationary, relative to `scale`.

        A penalty with an infinite slope at zero has stationary points that a proximal
        step leaves; they do not count.
        """
        xp, scale = namespace(fit.x), max(scale, 1e-300)
        distance = penalty.subdifferential_distance(fit.x, fit.gradient) / scale
        if distance > self.tol:
            return distance
        moved = penalty.prox(fit.x - step_size * fit.gradient, step_size) - fit.x
        length = float(xp.max(xp.abs(moved)))
        if length <= 8 * precision(fit.x) * float(xp.max(xp.abs(fit.x))):
            return distance
        return max(distance, length / (step_size * scale))

    def step(self, objective: Any, structure: Penalty, state: _State) -> _State:
        """Make one step."""
        new = None
        if self.form == "conjugate":
            new = _conjugate(objective, structure, state)
        if new is None:
            new = _accelerated(objective, structure, state)
        distance = self._distance(structure, new.fit, new.step_size, state.scale)
        new = replace(new, before=state.fit, distance=distance)
        slack = _rounding(new.fit.x, state.lowest)
        if distance < 0.9 * state.least or new.total < state.lowest - slack:
            least = min(distance, state.least)
            return replace(new, least=least, lowest=new.total, stale=0)
        return replace(new, stale=state.stale + 1)

    def converged(self, state: _State) -> bool:
        """Whether the optimality condition holds to `tol`, or rounding stops it."""
        if self.tol < precision(state.fit.x) and state.stale >= MOST_STALE:
            return True
        return state.distance <= self.tol

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit


def _rounding(x: Array, value: float) -> float:
    return max(1e-14, 4 * precision(x)) * abs(value)


def _proximal_step(
    objective: Any, penalty: Penalty, state: _State, x: Array, value: float, g: Array
) -> _State:
    """Make a proximal step that f's quadratic upper bound covers.

    Starts from a tenth more than the last size and halves it.
    """
    xp, span, size = namespace(x), state.fit.support, state.step_size * 1.1
    slack = _rounding(x, value)
    for _ in range(60):
        new = penalty.prox(x - size * g, size)
        fit = objective.at(span, span.restrict(new))
        d = new - x
        square = float(xp.sum(d * d)) / (2 * size)
        bound = value + float(xp.sum(g * d)) + (1 - SUFFICIENT) * square
        if fit.value <= bound + slack:
            break
        size /= 2
    total = fit.value + penalty.value(new)
    return replace(
        state, fit=fit, total=total, step_size=size, momentum=1.0, conjugate=False
    )


def _from_x(objective: Any, penalty: Penalty, state: _State) -> _State:
    fit = state.fit
    return _proximal_step(objective, penalty, state, fit.x, fit.value, fit.gradient)


def _accelerated(objective: Any, penalty: Penalty, state: _State) -> _State:
    """Make a proximal step from beyond x; if that is no good, from x."""
    xp, x, momentum = namespace(state.fit.x), state.fit.x, state.momentum
    further = (1 + (1 + 4 * momentum * momentum) ** 0.5) / 2
    if momentum > 1:
        ahead = x + ((momentum - 1) / further) * (x - state.before.x)
        value, g = objective.value_and_gradient(ahead)
        new = _proximal_step(objective, penalty, state, ahead, value, g)
        d = new.fit.x - x
        least = SUFFICIENT * float(xp.sum(d * d)) / (2 * new.step_size)
        if new.total <= state.total - least + _rounding(x, state.total):
            uphill = float(xp.sum((ahead - new.fit.x) * d)) > 0
            return replace(new, momentum=1.0 if uphill else further)
    new = _from_x(objective, penalty, state)
    return replace(new, momentum=(1 + 5**0.5) / 2)  # what follows a momentum of one


def _conjugate(objective: Any, penalty: Penalty, state: _State) -> _State | None:
    """Minimise over a plane, or make a proximal step; None while zeros change."""
    fit, before, size = state.fit, state.before, state.step_size
    x, xp = fit.x, namespace(fit.x)
    zero = x == 0
    if not bool(xp.all(zero == (before.x == 0))):
        return None
    slope = _slope(penalty, fit, size)
    slope_before = _slope(penalty, before, size) if state.conjugate else slope
    if slope is None or slope_before is None:
        return None
    new = _from_x(objective, penalty, state)
    if not bool(xp.all(zero == (new.fit.x == 0))):
        return new
    # the proximal step and the step before, and how the slope changes along each
    p, m = new.fit.x - x, x - before.x
    at_end = -p / new.step_size - fit.gradient
    Hp = new.fit.gradient - fit.gradient + at_end - slope
    Hm = fit.gradient - before.gradient + slope - slope_before
    if not state.conjugate:  # a fresh start: along the proximal step alone
        m, Hm = 0 * m, 0 * m
    to_p, to_m = _minimum(fit.gradient + slope, p, m, Hp, Hm)
    whole = x + to_p * p + to_m * m
    for y in (whole, _until_zero(x, whole)):
        other = objective.at(fit.support, fit.support.restrict(y))
        total = other.value + penalty.value(y)
        if total <= new.total + _rounding(y, new.total):
            return replace(new, fit=other, total=total, conjugate=y is whole)
    return new


def _until_zero(x: Array, y: Array) -> Array:
    """Go from x towards y until the first entry reaches zero."""
    xp = namespace(x)
    crosses, d, one = x * y < 0, y - x, xp.ones_like(x)
    way = xp.where(crosses, -x / xp.where(crosses, d, one), one)
    share = float(xp.min(way))
    return xp.where(crosses & (way <= share), xp.zeros_like(x), x + share * d)


def _slope(penalty: Penalty, fit: Fit, size: float) -> Array | None:
    """Return the penalty's gradient in the entries that are not zero.

    A proximal step tells it where it ends; from a short and a shorter step one goes
    back to the point. None if one of them changes which entries are zero.
    """
    x, g, xp = fit.x, fit.gradient, namespace(fit.x)
    t = size / SHORT
    short, shorter = penalty.prox(x - t * g, t), penalty.prox(x - (t / 2) * g, t / 2)
    zero = x == 0
    if not bool(xp.all((zero == (short == 0)) & (zero == (shorter == 0)))):
        return None
    slope = (4 * (x - shorter) - (x - short)) / t - g
    return xp.where(zero, xp.zeros_like(x), slope)


def _minimum(
    slope: Array, p: Array, m: Array, Hp: Array, Hm: Array
) -> tuple[float, float]:
    """Return the shares of p and m at the minimum of a quadratic model, or (1, 0)."""
    xp = namespace(p)
    on_p, on_m = -float(xp.sum(slope * p)), -float(xp.sum(slope * m))
    a, c = float(xp.sum(p * Hp)), float(xp.sum(m * Hm))
    b = (float(xp.sum(p * Hm)) + float(xp.sum(m * Hp))) / 2
    det = a * c - b * b
    if a > 0 and det > 1e-10 * a * c:
        return (c * on_p - b * on_m) / det, (a * on_m - b * on_p) / det
    return (on_p / a, 0.0) if a > 0 else (1.0, 0.0)
