"""The search for a card: which items, and how many points each."""

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew._solve import solve
from vitalfew._validation import check_rng
from vitalfew.contracts import Fit
from vitalfew.estimators._points import TOLERANCE, Card, Patterns, best_points, rounded
from vitalfew.objectives import Logistic
from vitalfew.solution import Status
from vitalfew.solvers import LocalSearch
from vitalfew.structures import Cardinality

Floats = NDArray[np.float64]

POOL = 20  # choices of items that get points
EXPANSIONS = 8  # choices around which others are sought
ENTRANTS = 6  # items tried in the place of each one chosen
MOST_SUPPORTS = 20_000  # choices of items up to which all are looked at


class Search:
    """The best card so far, and what is proved of it.

    Parameters
    ----------
    items : array of shape (n, m)
        Zeros and ones.
    codes : array of shape (n,)
        Classes, 0 or 1, both present.
    w : array of shape (n,)
        Positive weights that sum to one.
    l2 : float
        Ridge.
    most : int
        Largest number of points.
    deadline : float
        Of `time.perf_counter`.
    """

    def __init__(
        self,
        items: Floats,
        codes: Floats,
        w: Floats,
        l2: float,
        most: int,
        deadline: float,
    ) -> None:
        self.items, self.codes, self.w, self.l2 = items, codes, w, l2
        self.most, self.deadline = most, deadline
        self.atoms = np.empty(0, np.int64)
        self.card = self._patterns(self.atoms).best_of(np.zeros((1, 0), np.int64))
        self.lower: dict[tuple[int, ...], float] = {(): self.card.value}
        self.proved = not items.shape[1]

    @property
    def gap(self) -> float:
        """Share of the loss that other points on the same items could at most save."""
        lower = self.lower[tuple(self.atoms.tolist())]
        return max(0.0, 1 - lower / self.card.value)

    @property
    def _cutoff(self) -> float:
        return self.card.value * (1 - TOLERANCE)

    @property
    def _late(self) -> bool:
        return time.perf_counter() > self.deadline

    def run(self, n_nonzero: int, solver: Any, random_state: Any) -> bool:
        """Search until there is a proof, or no time; say whether Ctrl-C ended it."""
        m = self.items.shape[1]
        k = min(n_nonzero, m)
        if not k:
            self.proved = True
            return False
        objective: Any = Logistic(
            self.items,
            self.codes,
            sample_weight=self.w,
            l2=self.l2,
            fit_intercept=True,
        )
        structure = Cardinality(k).on((m,))
        try:
            first = solve(
                objective,
                structure,
                LocalSearch() if solver is None else solver,
                max_seconds=max(0.0, self.deadline - time.perf_counter()),
                rng=check_rng(random_state),
            )
            self._round(first.fit)
            if first.status is Status.INTERRUPTED:
                return True
            pool = self._pool(objective, structure, first.fit)
            for fit in pool:
                self._round(fit)
            for fit in pool:
                self._search_points(fit)
            if math.comb(m, k) <= MOST_SUPPORTS:
                for fit in self._promising(objective, structure, k):
                    self._search_points(fit)
                self.proved = not self._late
        except KeyboardInterrupt:
            return True
        return False

    # -- points on given items ---------------------------------------------------------

    def _patterns(self, atoms: Any) -> Patterns:
        return Patterns.of(self.items[:, atoms], self.codes, self.w, self.l2)

    def _round(self, fit: Fit) -> None:
        """Look at the points that rounding the coefficients gives."""
        order = np.argsort(fit.support.atoms)
        atoms = fit.support.atoms[order]
        # no points can have a lower loss than the best coefficients
        self.lower.setdefault(tuple(atoms.tolist()), fit.value)
        self._offer(
            atoms, rounded(self._patterns(atoms), np.asarray(fit.z)[order], self.most)
        )

    def _search_points(self, fit: Fit) -> None:
        """Find the best points on the items of a fit, if they can beat the card."""
        atoms = np.sort(fit.support.atoms)
        key = tuple(atoms.tolist())
        if self.lower.setdefault(key, fit.value) >= self._cutoff or self._late:
            return
        lower = best_points(
            self._patterns(atoms),
            self.most,
            self.card,
            self.deadline,
            lambda card: self._offer(atoms, card),
        )
        self.lower[key] = max(lower, self.lower[key])

    def _offer(self, atoms: Any, card: Card) -> None:
        if card.value < self.card.value:
            self.atoms, self.card = atoms, card

    # -- items -------------------------------------------------------------------------

    def _pool(self, objective: Any, structure: Any, first: Fit) -> list[Fit]:
        """Gather good choices of items by exchanges around the best ones."""
        seen = {frozenset(first.support.atoms.tolist()): first}
        expanded: set[frozenset[int]] = set()
        for _ in range(EXPANSIONS):
            ranked = sorted(seen.items(), key=lambda pair: pair[1].value)[:POOL]
            fresh = [pair for pair in ranked if pair[0] not in expanded]
            if not fresh or self._late:
                break
            key, fit = fresh[0]
            expanded.add(key)
            for support in self._exchanges(objective, structure, fit):
                new = frozenset(support.atoms.tolist())
                if new not in seen and not self._late:
                    seen[new] = objective.refit(support, fit)
        return sorted(seen.values(), key=lambda fit: fit.value)[:POOL]

    def _exchanges(self, objective: Any, structure: Any, fit: Fit) -> Iterator[Any]:
        """Supports with one item replaced, by what a Newton step for it would gain."""
        for out in range(len(fit.support)):
            kept = structure.drop(fit.support, out)
            without = objective.refit(kept, fit)
            root = np.sqrt(objective.curvature(without))
            ranked = structure.strongest(without.gradient / root, kept, ENTRANTS)
            for position in range(len(ranked)):
                yield structure.join(kept, structure.pick(ranked, position))

    def _promising(self, objective: Any, structure: Any, k: int) -> Iterator[Fit]:
        """Fits on all choices of k items that may beat the card, by branch and bound.

        A choice cannot have a lower loss than all items that are still open to it.
        """
        everything = np.arange(self.items.shape[1])
        root = objective.refit(structure.support(everything))
        stack = [(everything[:0], everything, root)]
        while stack and not self._late:
            inside, open_, fit = stack.pop()
            if fit.value >= self._cutoff:
                continue
            if len(inside) + len(open_) <= k:
                yield fit
            elif len(inside) == k:
                yield objective.refit(structure.support(inside), fit)
            else:
                x = np.abs(np.asarray(fit.x))
                j = open_[np.argmax(x[open_])]
                rest = open_[open_ != j]
                left = structure.support(np.concatenate((inside, rest)))
                stack.append((inside, rest, objective.refit(left, fit)))
                stack.append((np.append(inside, j), rest, fit))
