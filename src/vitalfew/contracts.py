"""What objectives, structures, penalties and solvers promise one another.

Everything in the library is written against these protocols and nothing else:

* an `Objective` says what is small when things are good;
* a `Structure` says which points are allowed, a `Penalty` what costs extra;
* a `Solver` is one published method; it never names a structure or an objective;
* a `Span` is a linear subspace ``x = embed(z)``, all an objective sees of a structure;
* a `Support` is a span of whole atoms, a `Fit` a point of one with its value.

Arrays stay in the library they came from (NumPy, torch, anything that follows the
array API standard); numbers of atoms and coordinates are NumPy integers on the host.
"""

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import (
    Any,
    ClassVar,
    Generic,
    NamedTuple,
    Protocol,
    Self,
    TypeVar,
)

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Exchanges",
    "Fit",
    "HasAlpha",
    "HasAtoms",
    "HasBlocks",
    "HasConvexity",
    "HasCosts",
    "HasCurvature",
    "HasHessianRoot",
    "HasKernel",
    "HasRidge",
    "HasRows",
    "HasSwapGains",
    "HasVertices",
    "Ints",
    "Objective",
    "Penalty",
    "Shape",
    "Solver",
    "Span",
    "State",
    "Structure",
    "Support",
    "follows",
]


def follows(thing: object, protocol: type) -> bool:
    """Say whether an object has all members of a protocol, without touching them.

    `isinstance` would compute the properties of a protocol on Python 3.11.

    Parameters
    ----------
    thing : object
        What to look at.
    protocol : type
        One of the protocols of this module.

    Returns
    -------
    bool
        Whether every public member is there.
    """
    missing = object()
    found = (type(thing), protocol) in _following or all(
        inspect.getattr_static(thing, name, missing) is not missing
        for name in _members(protocol)
    )
    if found and not isinstance(thing, type):
        _following.add((type(thing), protocol))
    return found


_following: set[tuple[type, type]] = set()  # looking is slow


@cache
def _members(protocol: type) -> tuple[str, ...]:
    return tuple(
        name
        for base in protocol.__mro__
        if getattr(base, "_is_protocol", False)
        for name in vars(base)
        if not name.startswith("_")
    )


Array = Any  # any array-API array; shapes are told in docstrings
Ints = NDArray[np.int64]
Shape = tuple[int, ...]


class Span(Protocol):
    """A linear subspace of points, with coordinates `z`."""

    def embed(self, z: Array) -> Array:
        """Return the point with coordinates `z`."""

    def restrict(self, g: Array) -> Array:
        """Return the gradient in `z` of a function whose gradient in `x` is `g`."""


class Support(Span, Protocol):
    """A span made of whole atoms; solvers pass it on and never look inside."""

    @property
    def atoms(self) -> Ints:
        """Numbers of the atoms, in the order of `z`."""

    def __len__(self) -> int:
        """Return the number of atoms."""


class Fit(Protocol):
    """A point of a span with what is known there; gradient and `x` come when asked."""

    @property
    def support(self) -> Any:
        """The span it lies in; a solver goes on from here."""

    @property
    def z(self) -> Array:
        """Coordinates in the support."""

    @property
    def value(self) -> float:
        """The objective there."""

    @property
    def intercept(self) -> Array | None:
        """The best intercept there, or None where the objective has none."""

    @property
    def status(self) -> Any | None:
        """A `Status` when the point is not the minimiser it should be."""

    @property
    def gradient(self) -> Array:
        """Gradient of the objective, of the shape of `x`."""

    @property
    def x(self) -> Array:
        """The point itself."""

    def detached(self) -> "Fit":
        """Return the fit without its way back to the data."""


class Exchanges(NamedTuple):
    """One-for-one exchanges, the most promising first; one for each entering atom."""

    out: Ints  # positions in the support
    into: Ints  # numbers of atoms
    gain: NDArray[np.float64]  # decrease of the objective


class Objective(Protocol):
    """A function to minimise.

    The value of a data objective is ``sum_i w_i l_i / sum_i w_i + l2/2 |x|^2``. An
    intercept is minimised out: it is not part of `x`, not counted, not penalised.
    """

    @property
    def shape(self) -> Shape:
        """Shape of `x`."""

    @property
    def like(self) -> Array:
        """A small array of the library, dtype and device that `x` must have."""

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Value and gradient at `x`; costs one pass over the data and back."""

    def at(self, span: Any, z: Array) -> Fit:
        """Return the point `z` of a span, not minimised."""

    def refit(self, span: Any, start: Fit | None = None, likely: Any = None) -> Fit:
        """Minimise over a span.

        `start` is a warm start; `likely` a support of the atoms that may follow,
        for which the objective may prepare while it reads the data anyway.
        """


class HasSwapGains(Protocol):
    """An objective that knows what every exchange of two atoms would bring."""

    def swap_gains(self, structure: Any, fit: Fit, count: int) -> Exchanges | None:
        """Return the `count` best entering atoms, or None without a formula."""


class HasRidge(Protocol):
    """An objective to which a ridge can be added."""

    def with_ridge(self, weights: Array) -> Any:
        """Return the objective plus ``sum_i weights_i x_i^2 / 2``.

        `weights` has the shape of `x`. What was remembered of the data is shared.
        """


class HasCurvature(Protocol):
    """An objective with second derivatives, taken with the intercept minimised out."""

    def curvature(self, fit: Fit) -> Array:
        """Return the diagonal of the Hessian, of the shape of `x`."""

    def hessian(self, fit: Fit, span: Any) -> Array:
        """Return the Hessian in the coordinates of a span, (m, m)."""


class HasConvexity(Protocol):
    """A convex objective that knows how strongly convex it is."""

    def convexity(self, span: Any) -> float:
        """Return a mu such that ``f - mu/2 |x|^2`` is still convex on a span.

        The largest that is cheap to know, or zero.
        """


class HasHessianRoot(HasCurvature, Protocol):
    """An objective over rows that can give a factor of its Hessian."""

    @property
    def n_samples(self) -> int:
        """Number of rows."""

    def hessian_root(self, fit: Fit, span: Any) -> tuple[Array, Ints, Array] | None:
        """Return A (K, n), slots and r; None where H is the cheaper.

        The Hessian in the coordinates of the span is ``A[slots] A[slots]' + diag(r)``.
        """


class HasRows(Protocol):
    """An objective that is a mean over samples, as cross-validation needs."""

    @property
    def n_samples(self) -> int:
        """Number of rows."""

    @property
    def strata(self) -> Ints | None:
        """Classes that folds should hold in equal shares, or None."""

    @property
    def free_share(self) -> float:
        """Share of the coefficients that is free: below one if some are redundant."""

    def rows(self, indices: Ints) -> Self:
        """Return the same objective on some of the rows."""

    def loss_at(self, x: Array, intercept: Array | None = None) -> float:
        """Weighted mean loss of a given model, without any penalty."""

    def deviance(self, x: Array, intercept: Array | None = None) -> float:
        """Minus twice the log-likelihood, up to a constant of the data."""


class Structure(Protocol):
    """A feasible set: which points are allowed, as unions of atoms.

    Made without knowing the shape of `x`; `on` gives the structure that solvers use.
    """

    @property
    def budget(self) -> float:
        """How much is allowed, in atoms or in cost."""

    def on(self, shape: Shape) -> Self:
        """Return this structure on arrays of one shape, its budget checked."""

    def with_budget(self, budget: float) -> Self:
        """Return this structure with another budget."""

    def widened(self, factor: float) -> Self:
        """Return this structure with `factor` budgets, as far as there are atoms."""

    def empty(self, like: Array) -> Any:
        """Return the support to start from: the atoms that are always kept."""

    def allows(self, support: Any) -> bool:
        """Say whether a support is within the budget."""

    def largest(self, x: Array) -> Any:
        """Return the support of the projection of `x`."""

    def strongest(self, gradient: Array, support: Any, count: int) -> Any:
        """Return the atoms that may join, those the gradient favours first."""

    def join(self, support: Any, new: Any) -> Any:
        """Return the union, old atoms first."""

    def trim(self, support: Any, z: Array) -> Any:
        """Return the feasible part of a support that carries most of `z`."""

    def without(self, support: Any, z: Array, position: int) -> Any:
        """Return the support less one atom, counted from the weakest."""

    def n_free(self, support: Any) -> int:
        """Return how many atoms of a support may leave it."""

    def pick(self, support: Any, position: int) -> Any:
        """Return one atom of a support as a support."""

    def step(self, fit: Fit, size: float) -> tuple[Any, Array]:
        """Project ``x - size * gradient``: the support and the coordinates in it."""

    def refit(
        self, objective: Objective, support: Any, start: Fit | None, likely: Any = None
    ) -> Fit:
        """Minimise on a support; go on with the support of the answer."""

    def project(self, x: Array) -> Array:
        """Return the nearest feasible point."""

    def contains(self, x: Array) -> bool:
        """Say whether a point is feasible."""


class HasAtoms(Structure, Protocol):
    """A structure whose atoms can be numbered: each owns coordinates of `x`."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms there are to choose from."""

    @property
    def table(self) -> Ints:
        """Coordinates of each atom, one row each, padded with -1 at the end."""

    def support(self, atoms: Any) -> Any:
        """Return the span of some atoms, in the order given."""

    def exchange(self, support: Any, out: int, into: int) -> Any:
        """Return the support with the atom at a position replaced by another."""

    def exchangeable(self, support: Any) -> Any:
        """Which exchanges are allowed, (k, n_atoms), or None when all are."""


class HasCosts(Structure, Protocol):
    """A structure whose supports all fit into a budget of costs.

    It may allow fewer supports than fit, but with one all that hold less of it. Atoms
    own disjoint coordinates; what `empty` holds is always kept.
    """

    @property
    def n_atoms(self) -> int:
        """Number of atoms there are to choose from."""

    @property
    def table(self) -> Ints:
        """Coordinates of each atom, one row each, padded with -1 at the end."""

    @property
    def atom_costs(self) -> NDArray[np.float64]:
        """What each atom takes of the budget, (n_atoms,)."""

    def support(self, atoms: Any) -> Any:
        """Return the span of some atoms, in the order given."""


class Penalty(Protocol):
    """A cost added to the objective."""

    def value(self, x: Array) -> float:
        """Return the penalty at `x`."""

    def prox(self, x: Array, step_size: float) -> Array:
        """Return argmin_u ``|u - x|^2 / (2 step_size) + value(u)``."""

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest distance, over its atoms, of `-gradient` to the subdifferential."""


class HasAlpha(Penalty, Protocol):
    """A penalty with a strength, along which a path may run."""

    @property
    def alpha(self) -> float:
        """Strength."""

    def with_alpha(self, alpha: float) -> Self:
        """Return this penalty with another strength."""

    def critical_alpha(self, gradient: Array) -> float:
        """Return the least strength at which zero is stationary.

        `gradient` is that of the objective at zero.
        """


class HasBlocks(HasAlpha, Protocol):
    """A penalty that is a sum over blocks of rows of `x`."""

    @property
    def labels(self) -> Ints | None:
        """Block of each row of `x`; None when every coordinate is its own."""

    def on_blocks(self, blocks: Ints) -> Self:
        """Return the penalty on some blocks alone, renumbered in this order."""


class HasKernel(HasBlocks, Protocol):
    """A penalty whose prox the compiled coordinate descent knows."""

    def kernel(self, blocks: Ints) -> tuple[str, NDArray[np.float64]]:
        """Return the name of its form and the parameters of some blocks, (k, 3)."""


class HasVertices(Penalty, Protocol):
    """The indicator of a bounded convex set: 0 inside, infinite outside."""

    def vertex(self, gradient: Array) -> Array:
        """Return a point of the set that minimises ``<gradient, x>``."""


State = TypeVar("State")


@dataclass(frozen=True, kw_only=True)
class Solver(ABC, Generic[State]):
    """One published method; its fields are its settings and all have defaults.

    A solver never loops, prints or times: `vitalfew.solve` does. Its state is a frozen
    record of arrays, numbers, strings, fits and tuples of these, so that a run can be
    stored and taken up again; a random solver draws a seed from `rng` in `init`, keeps
    it with a count of its steps, and makes each step's generator from the two.
    """

    needs: ClassVar[tuple[type, ...]] = ()  # protocols the objective must follow
    accepts: ClassVar[type] = Structure  # the second argument: Structure or Penalty
    cost: ClassVar[str]  # of a step, in gradients and refits
    guarantee: ClassVar[str]  # what is proved about it
    use: ClassVar[str]  # when to take it

    @abstractmethod
    def init(
        self, objective: Any, structure: Any, start: Fit, rng: np.random.Generator
    ) -> State:
        """Return the state before the first step."""

    @abstractmethod
    def step(self, objective: Any, structure: Any, state: State) -> State:
        """Return the state after one more step."""

    @abstractmethod
    def converged(self, state: State) -> bool:
        """Say whether further steps would change nothing."""

    @abstractmethod
    def point(self, state: State) -> Fit:
        """Return the point the state stands for."""

    def lower_bound(self, state: State) -> float | None:
        """Return a proved lower bound of the optimum, where the solver has one."""
        del state
        return None
