"""The perspective relaxation of a small quadratic."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import solve_posdef
from vitalfew.bounds._shares import Floats, most, shares
from vitalfew.contracts import Ints

MOST_STEPS = 300
BETWEEN_NEWTON = 8
MOST_STALE = 10  # Newton steps in a row that find value and gap as they were
HALVINGS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Perspective:
    r"""The perspective of a ridge over some atoms.

    It is :math:`\mu/2 \min_s \sum_g |x_g|^2 / s_g` over shares s that fit into the
    capacity; atoms that are inside have the share 1 and take nothing of it.

    Attributes
    ----------
    mu : float
        Ridge, positive.
    owner : integer array of shape (m,)
        Atom of each coordinate, from 0.
    costs : array of shape (n,)
        Cost of each atom.
    inside : boolean array of shape (n,)
        Which atoms are inside.
    capacity : float
        What the others may take.
    """

    mu: float
    owner: Ints
    costs: Floats
    inside: NDArray[np.bool_]
    capacity: float

    def squares(self, x: Floats) -> Floats:
        """Return the squared length of `x` on each atom, (n,)."""
        sums = np.bincount(self.owner, x * x, len(self.costs))
        return sums.astype(np.float64, copy=False)  # integers where there are none

    def shares(self, x: Floats, shift: float = 0.0) -> Floats:
        """Return the shares that minimise ``sum |x_g|^2 / (s_g + shift)``, (n,)."""
        answer, free = np.ones(len(self.costs)), ~self.inside
        sizes = np.sqrt(self.squares(x)[free])
        answer[free] = shares(sizes, self.costs[free], self.capacity, shift)
        return answer

    def value(self, x: Floats) -> float:
        """Return its value."""
        squares, share = self.squares(x), self.shares(x)
        used = squares > 0
        if np.any(share[used] == 0):
            return math.inf
        return self.mu / 2 * float((squares[used] / share[used]).sum())

    def price(self, x: Floats) -> float:
        """Return the gain for cost that an atom must have to deserve a share."""
        share, free = self.shares(x), ~self.inside
        used = free & (share > 0)
        if self.costs[free] @ share[free] < self.capacity * (1 - 1e-9):
            return 0.0
        slopes = self.squares(x)[used] / (share[used] ** 2 * self.costs[used])
        return self.mu / 2 * float(slopes.min(initial=math.inf))

    def prox(self, x: Floats, step_size: float) -> tuple[Floats, Floats]:
        """Return its prox at `x`, and the shares there."""
        shift = self.mu * step_size
        share = self.shares(x, shift)
        return x * (share / (share + shift))[self.owner], share


@dataclass(frozen=True, eq=False)
class Model:
    """``<b, x> + <x, H x> / 2`` plus the perspective of a ridge.

    Attributes
    ----------
    H : array of shape (m, m)
        Positive semi-definite.
    b : array of shape (m,)
        Linear term.
    over : Perspective
        The ridge.
    """

    H: Floats
    b: Floats
    over: Perspective

    def value(self, x: Floats) -> float:
        """Return the quadratic plus the perspective."""
        return float(self.b @ x + 0.5 * x @ (self.H @ x)) + self.over.value(x)

    @cached_property
    def _lipschitz(self) -> float:
        largest = np.abs(self.H).sum(axis=1).max(initial=0.0)
        return float(min(largest, np.linalg.norm(self.H))) + 1e-3 * self.over.mu

    def bound(self, x: Floats) -> float:
        """Return a lower bound of all values, close to them where `x` is."""
        Hx = self.H @ x
        gains = self.over.squares(Hx + self.b) / (2 * self.over.mu)
        inside = self.over.inside
        free = most(gains[~inside], self.over.costs[~inside], self.over.capacity)
        return -0.5 * float(x @ Hx) - free.total - float(gains[inside].sum())

    def minimised(self, x: Floats, tol: float) -> Floats:
        """Minimise from a point by accelerated proximal gradient with Newton steps.

        The proximal steps find which atoms have no share, a part or a whole one; for a
        given answer to that the rest is smooth, and quadratic where atoms are single
        coordinates.

        Parameters
        ----------
        x : array of shape (m,)
            Where to begin.
        tol : float
            Duality gap at which to stop.

        Returns
        -------
        array of shape (m,)
            A minimiser, nearly.
        """
        size = 1 / self._lipschitz
        ahead, momentum, wait = x, 1.0, 0
        lowest, least, stale = math.inf, math.inf, 0
        for _ in range(MOST_STEPS):
            near, share = self.over.prox(ahead - size * (self.H @ ahead + self.b), size)
            if not wait:
                new, value = self._towards(self._newton(near, share), near)
                gap = value - self.bound(new)
                falls = value < lowest - 1e-15 * abs(lowest) or gap < 0.9 * least
                stale = 0 if falls else stale + 1
                if gap <= tol or stale == MOST_STALE:
                    return new
                lowest, least = min(value, lowest), min(gap, least)
                if new is not near:
                    x, ahead, momentum = new, new, 1.0
                    continue
                wait = BETWEEN_NEWTON
            wait -= 1
            if (ahead - near) @ (near - x) > 0:
                momentum = 1.0
            after = (1 + math.sqrt(1 + 4 * momentum * momentum)) / 2
            ahead = near + (momentum - 1) / after * (near - x)
            x, momentum = near, after
        return x

    def _towards(self, target: Floats, x: Floats) -> tuple[Floats, float]:
        """Return a better point on the way to another, or `x`, with its value.

        Atoms that turn round on the way stop at zero, where their costs bend.
        """
        value, step = self.value(x), target - x
        for _ in range(HALVINGS):
            there = x + step
            same = np.bincount(self.over.owner, there * x, len(self.over.costs)) > 0
            there = there * same[self.over.owner]
            new = self.value(there)
            if new < value:
                return there, new
            step = step / 2
        return x, value

    def _newton(self, x: Floats, share: Floats) -> Floats:
        """Return the minimiser of the quadratic that fits around `x`.

        Atoms with a part of a share together cost ``mu (sum sqrt(c) |x|)^2 / (2 R)``,
        R being what whole ones leave of the capacity.
        """
        norms = np.sqrt(self.over.squares(x))
        whole = (share >= 1) & (norms > 0)
        part = (share > 0) & ~whole & (norms > 0)
        ids = np.flatnonzero((whole | part)[self.over.owner])
        atom = self.over.owner[ids]
        K = self.H[np.ix_(ids, ids)]
        K[np.arange(len(ids)), np.arange(len(ids))] += self.over.mu * whole[atom]
        left = self.over.capacity - self.over.costs[whole & ~self.over.inside].sum()
        if part.any() and left > 0:
            root = np.sqrt(self.over.costs)
            u = np.where(part[atom], x[ids] / np.where(part, norms, 1.0)[atom], 0.0)
            a = root[atom] * u
            K += (self.over.mu / left) * np.outer(a, a)
            price = self.over.mu / left * float((root * norms)[part].sum())
            same = (atom[:, None] == atom[None, :]) & part[atom][:, None]
            bend = np.where(part, price * root / np.where(part, norms, 1.0), 0.0)[atom]
            K += bend[:, None] * (same * (np.eye(len(ids)) - np.outer(u, u)))
        answer = np.zeros_like(x)
        answer[ids] = solve_posdef(K, -self.b[ids])
        return answer
