"""A structure whose coefficients lie within bounds."""

import math
import numbers
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import (
    as_array,
    is_array_api_obj,
    namespace,
    precision,
    take,
    to_host,
)
from vitalfew.contracts import (
    Array,
    Fit,
    HasCurvature,
    Ints,
    Objective,
    Shape,
    follows,
)
from vitalfew.structures._box_newton import Floats, minimise_within, shift_onto
from vitalfew.structures._index import IndexStructure
from vitalfew.supports import Coordinates


@dataclass(frozen=True, eq=False)
class Bounded:
    """A structure whose coefficients also lie within bounds and may have to sum up.

    With ``lower=0`` coefficients are not negative; with ``total=1`` besides they are
    the weights of an average, as of the donors of a synthetic control. Refits minimise
    within the bounds exactly, so every solver works on it.

    Parameters
    ----------
    structure : Cardinality, Groups or Rows
        Which coordinates may differ from zero.
    lower : float or array of the shape of `x`, default=0.0
        Least value of each coefficient; ``-inf`` for no bound. Positive only for atoms
        that the structure keeps.
    upper : float or array of the shape of `x`, default=inf
        Largest value of each coefficient. Negative only for atoms that are kept.
    total : float, optional
        What the coefficients must sum to.

    Notes
    -----
    The projection is exact under bounds alone, for the simplex (``lower=0`` with a
    total) and for a total without bounds, on single coordinates [1]_; elsewhere it is
    feasible and chosen by a Lagrangian. A refit solves one quadratic programme for
    least squares, a few for other losses; one without a Hessian gets that of BFGS.
    The atoms to start from hold the total, so they may be more than those kept.

    It has no `exchangeable`: solvers would take the objective's formula for exchanges,
    which knows of no bounds. They try exchanges by refits instead.

    References
    ----------
    .. [1] A. Kyrillidis, S. Becker, V. Cevher, C. Koch, "Sparse projections onto the
       simplex", ICML, 2013.
    .. [2] A. Abadie, A. Diamond, J. Hainmueller, "Synthetic control methods for
       comparative case studies", J. Amer. Statist. Assoc., 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from vitalfew.structures import Cardinality
    >>> Bounded(Cardinality(2)).project(np.array([1.0, -3.0, 0.5, 2.0]))
    array([1., 0., 0., 2.])
    >>> Bounded(Cardinality(2), total=1).project(np.array([1.0, -3.0, 0.5, 0.8]))
    array([0.6, 0. , 0. , 0.4])
    """

    structure: IndexStructure
    lower: Any = field(default=0.0)
    upper: Any = field(default=math.inf)
    total: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.structure, IndexStructure):
            raise ValueError(
                "structure must be Cardinality, Groups, Rows or another "
                f"IndexStructure, got {type(self.structure).__name__}"
            )
        for name in ("lower", "upper"):
            object.__setattr__(self, name, _bound(name, getattr(self, name)))
        if self.total is not None and not (
            isinstance(self.total, numbers.Real) and math.isfinite(float(self.total))
        ):
            raise ValueError(f"total must be a finite number, got {self.total!r}")

    # -- the shape and the budget ------------------------------------------------------

    def on(self, shape: Shape) -> Self:
        """Return this structure on arrays of one shape.

        Raises
        ------
        ValueError
            If the bounds do not fit the shape, shut out zero for an atom that is not
            kept, or cannot reach the total.
        """
        bound = replace(self, structure=self.structure.on(shape))
        bound._check_bounds()
        return bound

    def _check_bounds(self) -> None:
        low, high = self._low, self._high
        if np.any(low > high):
            i = int(np.argmax(low > high))
            raise ValueError(
                f"lower must not exceed upper, got {low[i]:g} above {high[i]:g} at "
                f"coefficient {i}"
            )
        kept = np.zeros(len(low), bool)
        kept[self.structure.support(self.keep).ids] = True
        outside = ~kept & ((low > 0) | (high < 0))
        if outside.any():
            i = int(np.argmax(outside))
            raise ValueError(
                "lower and upper must let coefficients be zero unless their atoms are "
                f"kept, got {low[i]:g} to {high[i]:g} at coefficient {i}; name its "
                "atom in keep="
            )
        if self.total is not None and not self._reaches(self._roomiest()):
            raise ValueError(
                f"total must be within reach of the bounds on a budget of "
                f"{self.budget:g}, got {self.total:g}"
            )

    def _spread(self, bound: Any) -> Floats:
        shape = self._shape()
        if np.ndim(bound) and np.shape(bound) != shape:
            raise ValueError(
                f"lower and upper must be numbers or have the shape of x, {shape}, "
                f"got {np.shape(bound)}"
            )
        return np.broadcast_to(np.asarray(bound, np.float64), shape).ravel()

    @cached_property
    def _low(self) -> Floats:
        return self._spread(self.lower)

    @cached_property
    def _high(self) -> Floats:
        return self._spread(self.upper)

    def _shape(self) -> Shape:
        return self.structure._shape()

    @property
    def shape(self) -> Shape | None:
        """Shape of `x`, once it is known."""
        return self.structure.shape

    @property
    def keep(self) -> tuple[int, ...]:
        """Atoms that are always in the support."""
        return self.structure.keep

    @property
    def budget(self) -> float:
        """How much is allowed, in atoms or in cost."""
        return self.structure.budget

    def with_budget(self, budget: float) -> Self:
        """Return this structure with another budget.

        Raises
        ------
        ValueError
            If the budget does not fit the atoms, or is too small for the total.
        """
        other = replace(self, structure=self.structure.with_budget(budget))
        if self.shape is not None:
            other._check_bounds()
        return other

    def widened(self, factor: float) -> Self:
        """Return this structure with `factor` budgets, as far as there are atoms."""
        return replace(self, structure=self.structure.widened(factor))

    # -- atoms, as in the structure within ---------------------------------------------

    @property
    def n_atoms(self) -> int:
        """Number of atoms there are to choose from."""
        return self.structure.n_atoms

    @property
    def table(self) -> Ints:
        """Coordinates of each atom, one row each, padded with -1 at the end."""
        return self.structure.table

    def support(self, atoms: Any) -> Coordinates:
        """Return the span of some atoms, in the order given."""
        return self.structure.support(atoms)

    def scores(self, v: Array) -> NDArray[np.float64]:
        """Squared length of `v` on each atom, on the host."""
        return self.structure.scores(v)

    @property
    def atom_costs(self) -> NDArray[np.float64]:
        """How much of the budget each atom takes, (n_atoms,)."""
        return self.structure.atom_costs

    def size_of(self, atoms: Ints) -> float:
        """How much of the budget some atoms take."""
        return self.structure.size_of(atoms)

    def members(self, atom: int) -> Ints:
        """Return the coordinates of an atom."""
        return self.structure.members(atom)

    def empty(self, like: Array) -> Coordinates:
        """Return the support of the atoms that are always kept."""
        return self.structure.empty(like)

    def join(self, support: Coordinates, new: Coordinates) -> Coordinates:
        """Return the union, old atoms first."""
        return self.structure.join(support, new)

    def without(self, support: Coordinates, z: Array, position: int) -> Coordinates:
        """Return the support less its atom number `position`, from the weakest up."""
        return self.structure.without(support, z, position)

    def drop(self, support: Coordinates, position: int) -> Coordinates:
        """Return the support less the atom at a position."""
        return self.structure.drop(support, position)

    def n_free(self, support: Coordinates) -> int:
        """Number of atoms of a support that may leave it."""
        return self.structure.n_free(support)

    def pick(self, support: Coordinates, position: int) -> Coordinates:
        """Return one atom of a support as a support."""
        return self.structure.pick(support, position)

    def exchange(self, support: Coordinates, out: int, into: int) -> Coordinates:
        """Return the support with the atom at position `out` replaced by `into`."""
        return self.structure.exchange(support, out, into)

    # -- what the bounds change --------------------------------------------------------

    def allows(self, support: Coordinates) -> bool:
        """Say whether a support is within the budget; a refit sees to the total."""
        return self.structure.allows(support)

    def _reaches(self, support: Coordinates) -> bool:
        """Whether coefficients of a support can sum to the total, but for rounding."""
        if self.total is None:
            return True
        low, high = self._low[support.ids].sum(), self._high[support.ids].sum()
        slack = 1e-12 * abs(self.total)
        return bool(low - slack <= self.total <= high + slack)

    def _roomiest(self) -> Coordinates:
        """Atoms within the budget whose bounds reach furthest towards the total."""
        total = self.total or 0.0
        room = np.clip(total, self._low, self._high) * math.copysign(1, total)
        return self.structure.largest(self._shaped(np.sqrt(np.maximum(room, 0))))

    def _shaped(self, flat: Floats) -> Floats:
        return flat.reshape(self._shape())

    def _saved(self, x: Floats) -> Floats:
        """Roots of the squared distances that coefficients save if they may be used.

        That is ``x^2 - (x - c)^2`` with c the nearest value within the bounds.
        """
        c = np.clip(x, self._low, self._high)
        return self._shaped(np.sqrt(np.maximum(c * (2 * x - c), 0)))

    def largest(self, x: Array) -> Coordinates:
        """Return the support of the projection of `x`."""
        return self._best(_flat(x), self.structure.largest)

    def trim(self, support: Coordinates, z: Array) -> Coordinates:
        """Return the feasible part of a support that carries most of `z`."""

        def within(v: Any) -> Coordinates:
            return self.structure.trim(support, take(v, support.ids))

        return self._best(_flat(support.embed(z)), within, support)

    def _best(
        self, x: Floats, choose: Any, wide: Coordinates | None = None
    ) -> Coordinates:
        """Choose the support nearest to `x`: among all atoms, or those of `wide`."""
        chosen: Coordinates
        if self.total is None:
            chosen = choose(self._saved(x))
            return chosen
        if wide is not None and self.allows(wide) and self._reaches(wide):
            return wide
        if self._free_singles:
            ids = np.arange(len(x)) if wide is None else wide.ids
            return self._ends(x, ids)
        return self._lagrangian(x, choose, wide)

    @cached_property
    def _free_singles(self) -> bool:
        """Whether atoms are single coordinates with a total and no bounds."""
        unbounded = np.all(np.isinf(self._low)) and np.all(np.isinf(self._high))
        return bool(unbounded) and self.n_atoms == math.prod(self._shape())

    def _ends(self, x: Floats, ids: Ints) -> Coordinates:
        """Best support for a total without bounds: the j largest and least others.

        The squared distance is a concave function of each entry chosen, so those chosen
        lie at the ends of the order; all divisions between the two ends are compared.
        """
        kept = self.structure.support(self.keep).ids
        others = np.setdiff1d(ids, kept)
        order = others[np.argsort(-x[others], kind="stable")]
        m = min(int(self.budget) - len(kept), len(order))
        top, bottom = x[order[:m]], x[order[::-1][:m]]
        j = np.arange(m + 1)

        def sums(a: Floats, b: Floats, c: Floats) -> Floats:
            ahead = np.concatenate(([0.0], np.cumsum(a)))[j]
            behind = np.concatenate(([0.0], np.cumsum(b)))[m - j]
            total: Floats = ahead + behind + c.sum()
            return total

        excess = sums(top, bottom, x[kept]) - (self.total or 0.0)
        squares = sums(top**2, bottom**2, x[kept] ** 2)
        best = int(np.argmin(excess**2 / max(len(kept) + m, 1) - squares))
        chosen = np.concatenate((kept, order[:best], order[len(order) - m + best :]))
        # coordinates are atoms, in this order
        return self.structure.support(chosen)

    def _lagrangian(
        self, x: Floats, choose: Any, wide: Coordinates | None
    ) -> Coordinates:
        """Choose by the price of a unit of the total at which the sum is right.

        For a price t the best support is that of ``x - t`` without a total; its sum
        falls as t rises. Where it jumps over the total, the nearer side is taken.
        """
        total = self.total or 0.0

        def at(t: float) -> tuple[Coordinates, float]:
            support: Coordinates = choose(self._saved(x - t))
            ids = support.ids
            z = np.clip(x[ids] - t, self._low[ids], self._high[ids])
            return support, float(z.sum())

        reach = 1.0 + abs(total) + float(np.abs(x).max(initial=0))
        below, above = -reach, reach
        (left, more), (right, less) = at(below), at(above)
        while more < total and below > -1e300:
            below *= 2
            left, more = at(below)
        while less > total and above < 1e300:
            above *= 2
            right, less = at(above)
        while not np.array_equal(np.sort(left.atoms), np.sort(right.atoms)):
            middle = (below + above) / 2
            if not below < middle < above:
                break
            support, z_sum = at(middle)
            if z_sum >= total:
                below, left = middle, support
            else:
                above, right = middle, support
        sides = (left, right)
        fitting = [s for s in sides if self._reaches(s) and self.structure.allows(s)]
        if not fitting:
            return self._roomiest() if wide is None else wide
        return min(fitting, key=lambda s: self._distance(x, s))

    def _distance(self, x: Floats, support: Coordinates) -> float:
        """Squared distance of `x` to the support, up to a constant."""
        inside = x[support.ids]
        z = self._nearest(inside, support)
        return float(np.sum((z - inside) ** 2) - np.sum(inside**2))

    def _nearest(self, v: Floats, support: Coordinates) -> Floats:
        """Project coordinates in a support onto the bounds and the total."""
        low, high = self._low[support.ids], self._high[support.ids]
        if self.total is None:
            return np.clip(v, low, high)
        return shift_onto(v, low, high, self.total)

    def strongest(
        self, gradient: Array, support: Coordinates, count: int
    ) -> Coordinates:
        """Return the atoms that may join, those the gradient favours first.

        Only the part of the gradient counts that lets a coefficient move within its
        bounds; with a total, what it earns over the worst use of the same in the
        support, which is exact where all coefficients there are inside their bounds.
        """
        g = _flat(gradient)
        up = down = 0.0
        if self.total is not None and len(support.ids):
            up, down = float(g[support.ids].max()), float(g[support.ids].min())
        rise = np.where(self._high > 0, np.maximum(up - g, 0), 0)
        fall = np.where(self._low < 0, np.maximum(g - down, 0), 0)
        inward = self._shaped(np.maximum(rise, fall))
        return self.structure.strongest(inward, support, count)

    # -- points ------------------------------------------------------------------------

    def step(self, fit: Fit, size: float) -> tuple[Coordinates, Array]:
        """Project ``x - size * gradient``: the support and the coordinates in it."""
        return self._projected(fit.x - size * fit.gradient)

    def _projected(self, x: Array) -> tuple[Coordinates, Array]:
        support = self.largest(x)
        z = self._nearest(_flat(x)[support.ids], support)
        return support, as_array(z, x)

    def project(self, x: Array) -> Array:
        """Return a feasible point, the nearest one where the notes say so."""
        here = self if self.shape is not None else self.on(tuple(x.shape))
        support, z = here._projected(x)
        return support.embed(z)

    def contains(self, x: Array) -> bool:
        """Say whether a point is feasible, but for rounding."""
        here = self if self.shape is not None else self.on(tuple(x.shape))
        flat = _flat(x)
        slack = 8 * precision(x)
        inside = np.all(flat >= here._low - slack * np.abs(here._low)) and np.all(
            flat <= here._high + slack * np.abs(here._high)
        )
        if inside and here.total is not None:
            off = abs(flat.sum() - here.total)
            size = abs(here.total) + np.abs(flat).sum()
            # a refit adds up many steps, each of which rounds the sum
            inside = off <= (100 + len(flat) ** 0.5) * precision(x) * size
        return bool(inside) and here.structure.contains(x)

    def refit(
        self,
        objective: Objective,
        support: Coordinates,
        start: Fit | None,
        likely: Coordinates | None = None,
    ) -> Fit:
        """Minimise on a support within the bounds.

        Where the total cannot be had on the support, atoms join it first.
        """
        if self.total is not None:
            support = self._completed(objective, support)
            x = np.zeros(math.prod(self._shape())) if start is None else _flat(start.x)
        else:
            free = objective.refit(support, start, likely)
            if self._settles(free):
                return free
            x = _flat(free.x if start is None else start.x)
        low, high = self._low[support.ids], self._high[support.ids]
        z = self._nearest(np.nan_to_num(x[support.ids]), support)
        return minimise_within(objective, support, z, low, high, self.total is not None)

    def _settles(self, free: Fit) -> bool:
        """Whether the minimiser without bounds answers the question with them too."""
        z, ids = _flat(free.z), free.support.ids
        low, high = self._low[ids], self._high[ids]
        if not np.all((z >= low) & (z <= high)):
            return False
        # one that was stopped on the way to infinity settles it where nothing bars it
        return free.status is None or bool(
            np.all(np.isinf(np.where(z > 0, high, low))[z != 0])
        )

    def _completed(self, objective: Objective, support: Coordinates) -> Coordinates:
        """Add the atoms of least cost until the total can be had on a support."""
        total = self.total or 0.0
        while not self._reaches(support):
            z = self._nearest(np.zeros(len(support.ids)), support)
            fit = objective.at(support, as_array(z, objective.like))
            missing = total - float(z.sum())
            t = np.clip(missing, self._low, self._high)
            cost = _flat(fit.gradient) * t
            if follows(objective, HasCurvature):
                cost += _flat(objective.curvature(fit)) * t * t / 2  # type: ignore[attr-defined]
            useful = t * missing > 0
            rate = np.where(useful, cost / np.where(useful, np.abs(t), 1), np.inf)
            worst = np.max(rate[useful], initial=-np.inf)
            width = max(worst - np.min(rate), abs(worst), 1e-300)
            appeal = np.where(useful, (worst - rate) / width + 1e-3, 0)
            best = self.structure.strongest(self._shaped(appeal), support, 1)
            if not np.any(useful[best.ids]):
                return self._roomiest()
            support = self.join(support, best)
        if total == 0 and not len(support.ids):
            return self._pair(objective, support)
        return support

    def _pair(self, objective: Objective, support: Coordinates) -> Coordinates:
        """Add the two atoms that gain most by moving against each other from zero."""
        none = np.zeros(len(support.ids))
        g = _flat(objective.at(support, as_array(none, objective.like)).gradient)
        rise = np.where(self._high > 0, g.max() - g, 0)
        fall = np.where(self._low < 0, g - g.min(), 0)
        joined = support
        for v in (rise, fall):
            new = self.structure.strongest(self._shaped(v), joined, 1)
            if not len(new):
                return support
            joined = self.join(joined, new)
        return joined


def _bound(name: str, bound: Any) -> Any:
    """Return a bound as a float or an array on the host."""
    given = np.asarray(to_host(bound) if is_array_api_obj(bound) else bound)
    if given.dtype.kind not in "iuf" or np.any(np.isnan(given)):
        raise ValueError(
            f"{name} must be a number or an array of numbers, got {bound!r}"
        )
    never = math.inf if name == "lower" else -math.inf
    if np.any(given == never):
        raise ValueError(f"{name} must not be {never}")
    return float(given) if given.ndim == 0 else given.astype(np.float64)


def _flat(x: Array) -> Floats:
    return np.asarray(to_host(namespace(x).reshape(x, (-1,))), np.float64)
