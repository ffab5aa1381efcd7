"""Measured losses, divided exactly."""

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vitalfew._validation import check_count
from vitalfew.contracts import Ints
from vitalfew.neural import Layer
from vitalfew.pruning._contracts import Allocation, Part
from vitalfew.pruning.allocation._shares import sizes_of

Cost = str | Callable[[Layer, float], float]
Table = NDArray[np.float64]

GRID = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)


@dataclass(frozen=True, kw_only=True)
class DynamicProgramme(Allocation):
    r"""Least total of measured loss increases that a cost allows.

    Each layer alone is pruned to every density of a grid and the increase of the loss
    is measured; a dynamic programme picks one density for each layer so that the sum of
    the increases is least and the cost is within its budget. The budget is the same
    fraction of the dense network's cost that `total` is of its atoms. What the grid
    leaves over is handed out, atom after atom, where the measured loss falls fastest.

    Parameters
    ----------
    cost : {"parameters", "macs"} or callable, default="parameters"
        What is limited besides the number of atoms. "parameters": nothing, each atom
        counts as one, as in every other allocation, and the total is exact. "macs":
        multiplications, by `Part.macs_per_weight`. A function of a layer and its
        density: a measured latency, say; it should not fall as the density grows.
    densities : sequence of float
        The grid, fractions of a layer's atoms in (0, 1]; one atom and all atoms are
        always tried as well.
    resolution : int, default=10000
        Into how many units the budget is divided. Costs are rounded up, so that the
        budget is kept; the hand-out makes up for it.

    Notes
    -----
    One measurement for each layer and density, of which those out of reach of the total
    are left out; the programme itself takes n_layers * n_densities * resolution
    operations. That losses of layers add up is an assumption. Increases that are not
    finite count as worse than all that are.

    References
    ----------
    .. [1] E. Frantar, D. Alistarh, "SPDY: accurate pruning with speedup guarantees",
       ICML, 2022, section 3 (the programme; with measured instead of learned
       sensitivities).
    """

    cost: Cost = "parameters"
    densities: Sequence[float] = GRID
    resolution: int = 10_000

    name: ClassVar[str] = "dynamic-programme"
    measures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(self.cost) and self.cost not in ("parameters", "macs"):
            raise ValueError(
                "cost must be 'parameters', 'macs' or a function of a layer and its "
                f"density, got {self.cost!r}"
            )
        given = tuple(self.densities)
        if not all(isinstance(d, numbers.Real) and 0 < d <= 1 for d in given):
            raise ValueError(f"densities must lie in (0, 1], got {given}")
        check_count("resolution", self.resolution, 1)

    def counts(self, parts: Sequence[Part], total: int) -> list[int]:
        """Pick the densities of least total loss, then hand out what is left."""
        sizes = sizes_of(parts, total)
        levels = [self._levels(int(n), total - len(parts) + 1) for n in sizes]
        pairs = list(zip(parts, levels, strict=True))
        losses = _finite([_measured(part, at) for part, at in pairs])
        costs = [
            np.array([self._cost_of(part, int(n)) for n in at]) for part, at in pairs
        ]
        dense = [self._cost_of(part, part.structure.n_atoms) for part in parts]
        budget = math.fsum(dense) * total / int(sizes.sum())
        _check_reach(costs, budget)
        chosen = self._choose(levels, losses, costs, budget, total)
        return self._hand_out(parts, levels, losses, chosen, budget, total)

    def _levels(self, size: int, most: int) -> Ints:
        """Numbers of atoms to try, the fewest first."""
        grid = [round(density * size) for density in self.densities]
        tried = {1, size, *grid}
        # the most that others leave is a level too, or the grid might be all too low
        return np.array(
            sorted({min(max(1, n), size, most) for n in tried}), dtype=np.int64
        )

    def _cost_of(self, part: Part, count: int) -> float:
        """What a layer costs with a number of atoms."""
        size = part.structure.n_atoms
        if self.cost == "parameters":
            return float(count)
        if not callable(self.cost):
            n_weights = math.prod(part.layer.shape)
            return part.macs_per_weight * n_weights * count / size
        cost = float(self.cost(part.layer, count / size))
        if not (math.isfinite(cost) and cost >= 0):
            raise ValueError(
                f"cost must be finite and not negative, got {cost} for layer "
                f"{part.layer.name!r} at density {count / size:g}"
            )
        return cost

    # -- the programme -----------------------------------------------------------------

    def _choose(
        self,
        levels: list[Ints],
        losses: list[Table],
        costs: list[Table],
        budget: float,
        total: int,
    ) -> list[int]:
        """Best level of each layer within the budget and the total.

        The number of atoms is limited besides the cost by a price on atoms, raised
        until they fit.
        """

        def priced(price: float) -> list[int]:
            with_price = [
                loss + price * at for loss, at in zip(losses, levels, strict=True)
            ]
            return _programme(with_price, costs, budget, self.resolution)

        def n_atoms(chosen: list[int]) -> int:
            return sum(int(at[i]) for at, i in zip(levels, chosen, strict=True))

        chosen = priced(0.0)
        if n_atoms(chosen) <= total:
            return chosen
        low, high = 0.0, (max(float(np.ptp(loss)) for loss in losses) or 1.0) / total
        chosen = priced(high)
        for _ in range(60):
            if n_atoms(chosen) <= total:
                break
            low, high = high, 4 * high
            chosen = priced(high)
        else:
            raise ValueError(
                "cost must not fall as the density grows: no choice of densities keeps "
                f"both the cost and the total of {total} atoms"
            )
        for _ in range(30):
            middle = (low + high) / 2
            tried = priced(middle)
            if n_atoms(tried) <= total:
                high, chosen = middle, tried
            else:
                low = middle
        return chosen

    def _hand_out(
        self,
        parts: Sequence[Part],
        levels: list[Ints],
        losses: list[Table],
        chosen: list[int],
        budget: float,
        total: int,
    ) -> list[int]:
        """Raise layers towards their next levels, steepest fall of the loss first."""
        counts = [int(at[i]) for at, i in zip(levels, chosen, strict=True)]
        spent = [self._cost_of(p, n) for p, n in zip(parts, counts, strict=True)]
        open_ = set(range(len(parts)))
        while open_ and sum(counts) < total:
            steepest, target, best = -1, 0, -math.inf
            for i in sorted(open_):
                following = levels[i][levels[i] > counts[i]]
                if not len(following):
                    open_.discard(i)
                    continue
                slope = _fall(levels[i], losses[i], counts[i])
                if slope > best:
                    steepest, target, best = i, int(following[0]), slope
            if steepest < 0:
                break
            target = min(target, counts[steepest] + total - sum(counts))
            room = budget - sum(spent) + spent[steepest]
            reached = self._most_within(parts[steepest], counts[steepest], target, room)
            if reached < target:
                open_.discard(steepest)
            counts[steepest] = reached
            spent[steepest] = self._cost_of(parts[steepest], reached)
        return counts

    def _most_within(self, part: Part, low: int, high: int, room: float) -> int:
        """Most atoms between two numbers whose cost there is room for."""
        room *= 1 + 1e-12
        if self._cost_of(part, high) <= room:
            return high
        while high - low > 1:
            middle = (low + high) // 2
            if self._cost_of(part, middle) <= room:
                low = middle
            else:
                high = middle
        return low


def _measured(part: Part, levels: Ints) -> Table:
    """Loss increase at each level; none where all atoms stay."""
    if part.loss_increase is None:
        raise ValueError(
            "allocation 'dynamic-programme' measures losses: give calibration=batches "
            "with targets, or use another allocation"
        )
    size = part.structure.n_atoms
    return np.array(
        [0.0 if n == size else float(part.loss_increase(int(n))) for n in levels]
    )


def _finite(losses: list[Table]) -> list[Table]:
    """Put what is not finite above everything that is."""
    finite = np.concatenate(losses)
    finite = finite[np.isfinite(finite)]
    worst = 1.0 + 10 * float(np.max(np.abs(finite), initial=0.0))
    return [np.where(np.isfinite(loss), loss, worst) for loss in losses]


def _check_reach(costs: list[Table], budget: float) -> None:
    least = sum(float(cost.min()) for cost in costs)
    if least > budget * (1 + 1e-12):
        raise ValueError(
            f"cost must be able to fall to the budget of {budget:g}, but it is "
            f"{least:g} with the fewest atoms tried; keep more"
        )


def _fall(levels: Ints, losses: Table, count: int) -> float:
    """How fast the loss falls for each atom above a count."""
    i = int(np.searchsorted(levels, count, side="right"))
    step = int(levels[i] - levels[i - 1])
    return float(losses[i - 1] - losses[i]) / step


def _programme(
    losses: list[Table], costs: list[Table], budget: float, resolution: int
) -> list[int]:
    """Choose one level for each layer: least total loss with the cost in its budget.

    Costs count above each layer's least one, so that rounding never takes away the
    last feasible choice.
    """
    least = [float(cost.min()) for cost in costs]
    room = max(0.0, budget - sum(least))
    extra = [cost - low for cost, low in zip(costs, least, strict=True)]
    largest = sum(float(e.max()) for e in extra)
    if largest <= room:
        return [int(np.argmin(loss)) for loss in losses]
    # whole numbers of atoms need no rounding while there are few of them
    whole = all(bool(np.all(e == np.round(e))) for e in extra)
    unit = 1.0 if whole and room <= resolution else room / resolution
    if unit == 0:
        return [
            int(np.argmin(np.where(e == 0, loss, np.inf)))
            for e, loss in zip(extra, losses, strict=True)
        ]
    n_units = int(room / unit + 1e-9)
    best = np.zeros(n_units + 1)
    picks = []
    for e, loss in zip(extra, losses, strict=True):
        units = np.ceil(e / unit - 1e-9).astype(np.int64)
        tried = np.full((len(units), n_units + 1), np.inf)
        for i, u in enumerate(units):
            if u <= n_units:
                tried[i, u:] = best[: n_units + 1 - u] + loss[i]
        pick = np.argmin(tried, axis=0)
        picks.append((pick, units))
        best = np.take_along_axis(tried, pick[None], axis=0)[0]
    chosen = []
    at = n_units
    for pick, units in reversed(picks):
        i = int(pick[at])
        chosen.append(i)
        at -= int(units[i])
    return chosen[::-1]
