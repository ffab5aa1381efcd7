"""Sequential lasso: orthogonal matching pursuit by convex problems."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from vitalfew._arrays import as_array, namespace, precision, segment_sum, to_host
from vitalfew.contracts import Array, Fit, HasAtoms, Ints, Shape, Solver
from vitalfew.penalties import GroupL2
from vitalfew.solvers.proximal_gradient import ProximalGradient
from vitalfew.supports import Whole


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class SequentialLasso(Solver[_State]):
    r"""Sequential (group) lasso: let the lasso choose the next atom, refit, repeat.

    Solves :math:`\min f(x)` over a structure. From the support S with minimiser
    :math:`x_S` it minimises :math:`f(x) + \lambda \sum_{i \notin S} \|x_i\|`, where
    atoms of S go unpenalised, for a :math:`\lambda` just below the one at which the
    first atom enters, and adds that atom. For a strictly convex f this is
    :math:`\arg\max_i \|\nabla f(x_S)_i\|`: the picks of `OMP`, which finds them at the
    cost of a gradient. It shows that the two are one, and where they part.

    Parameters
    ----------
    share : float, default=0.02
        :math:`\lambda = \tau_1 - share (\tau_1 - \tau_2)` for the two largest gradients
        :math:`\tau` outside S, from 0 to 1. Relative to the gap, because a
        :math:`\lambda` below both may let several atoms in.
    max_inner : int, default=2000
        Most steps of the proximal gradient method for one atom.
    tol : float, default=1e-12
        Least relative decrease of f for an atom to be taken.

    Notes
    -----
    A step costs one convex problem and one refit; f never rises. If the lasso lets
    several atoms in, the longest is taken; if none, as where two gradients are equal,
    the one of largest gradient, to which lambda to tau leads. All atoms that still fit
    compete by their plain norm, whatever they cost.

    References
    ----------
    .. [1] K. Axiotis, T. Yasuda, "Performance of l1 regularization for sparse convex
       optimization", arXiv 2307.07405, 2023 (sequential group lasso and its equivalence
       to group orthogonal matching pursuit).
    """

    share: float = 0.02
    max_inner: int = 2_000
    tol: float = 1e-12

    needs: ClassVar[tuple[type, ...]] = (HasAtoms,)
    cost: ClassVar[str] = "1 group lasso, 1 refit"
    guarantee: ClassVar[str] = "that of OMP: it picks the same atoms"
    use: ClassVar[str] = "to see that the lasso and OMP choose alike; OMP is faster"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie between 0 and 1, got {self.share!r}")

    def init(
        self, objective: Any, structure: Any, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit."""
        return _State(fit=start)

    def step(self, objective: Any, structure: Any, state: _State) -> _State:
        """Add the atom that the lasso lets in first."""
        fit = state.fit
        rivals = structure.strongest(fit.gradient, fit.support, structure.n_atoms).atoms
        if not len(rivals):
            return _State(fit=fit, done=True)
        slopes = _norms(structure, fit.gradient)[rivals]
        first, second = np.sort(np.append(slopes, 0.0))[::-1][:2]
        alpha = float(first - self.share * (first - second))
        atom = rivals[int(np.argmax(slopes))]
        entering = lasso_entrants(objective, structure, fit, alpha, self.max_inner)
        if len(entering):
            atom = entering[0]
        joined = structure.join(fit.support, structure.support([atom]))
        new = structure.refit(objective, joined, fit)
        if new.value >= fit.value - self.tol * abs(fit.value):
            return _State(fit=fit, done=True)
        return _State(fit=new)

    def converged(self, state: _State) -> bool:
        """Whether no further atom fits or helps."""
        return state.done

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit


@dataclass(frozen=True, eq=False)
class _OutsideLasso:
    """Group lasso over a structure's atoms; what may not join stays at zero."""

    groups: GroupL2  # of the flattened x
    allowed: Array  # (size of x,): one or zero

    def _flat(self, x: Array) -> Array:
        return namespace(x).reshape(x, (-1,)) * self.allowed

    def value(self, x: Array) -> float:
        """Return the penalty at `x`."""
        return self.groups.value(self._flat(x))

    def prox(self, x: Array, step_size: float) -> Array:
        """Shrink the atoms outside the support."""
        shrunk = self.groups.prox(self._flat(x), step_size)
        return namespace(x).reshape(shrunk, x.shape)

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest distance of an atom of `-gradient` to the subdifferential."""
        return self.groups.subdifferential_distance(self._flat(x), self._flat(gradient))


@np.errstate(over="ignore", invalid="ignore")  # of an objective that breaks down
def lasso_entrants(
    objective: Any, structure: Any, fit: Fit, alpha: float, max_inner: int = 2_000
) -> Ints:
    """Return the atoms that a lasso with an unpenalised support lets in.

    Parameters
    ----------
    objective : Objective
        What is minimised, plus the penalty.
    structure : HasAtoms
        Only atoms that may join the support of `fit` can enter.
    fit : Fit
        The minimiser on its support, which goes unpenalised.
    alpha : float
        Strength.
    max_inner : int, default=2000
        Most steps of the proximal gradient method.

    Returns
    -------
    integer array
        Numbers of the atoms, the longest first.
    """
    rivals = structure.strongest(fit.gradient, fit.support, structure.n_atoms).atoms
    labels = _labels(structure, objective.shape)
    used = np.isin(labels, np.concatenate((rivals, fit.support.atoms)))
    weights = np.zeros(structure.n_atoms + 1)
    weights[rivals] = 1.0
    penalty = _OutsideLasso(
        GroupL2(labels, alpha, weights[: int(labels.max()) + 1]),
        as_array(used.astype(np.float64), objective.like),
    )
    whole = Whole(tuple(objective.shape))
    start = objective.at(whole, whole.restrict(fit.x))
    steepest = float(_norms(structure, fit.gradient)[rivals].max())
    inner = ProximalGradient(tol=100 * precision(objective.like))
    state = inner.init(objective, penalty, start, default_rng(0))
    # fine enough to tell what is just above alpha from what is just below
    enough = 1e-2 * (steepest - alpha)
    point = inner.point(state)
    for _ in range(max_inner):
        near = penalty.subdifferential_distance(point.x, point.gradient) <= enough
        if near or inner.converged(state) or not math.isfinite(point.value):
            break
        state = inner.step(objective, penalty, state)
        point = inner.point(state)
    sizes = _norms(structure, point.x)[rivals]
    order = np.argsort(-sizes, kind="stable")
    entrants: Ints = rivals[order[sizes[order] > 0]]
    return entrants


def _labels(structure: Any, shape: Shape) -> Ints:
    """Atom of each entry of the flattened `x`; one more for those that have none."""
    labels = np.full(math.prod(shape), structure.n_atoms)
    atoms, columns = np.nonzero(structure.table >= 0)
    labels[structure.table[atoms, columns]] = atoms
    return labels


def _norms(structure: Any, v: Array) -> NDArray[np.float64]:
    """Length of a vector on each atom."""
    flat = namespace(v).reshape(v, (-1,))
    labels = _labels(structure, v.shape)
    sums = segment_sum(flat * flat, labels, structure.n_atoms + 1)
    norms: NDArray[np.float64] = np.sqrt(to_host(sums).astype(np.float64))
    return norms[: structure.n_atoms]
