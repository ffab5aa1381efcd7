"""Pruning in stages, the quadratic renewed at each and damped by what the loss says."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from vitalfew.neural.flat import FlatNetwork
from vitalfew.objectives import Fisher

MOST_CHECKED = 2000  # samples on which the loss of a proposal is measured
FACTOR = 4.0  # between dampings, which are powers of it times the trace
LEAST, MOST = -10, 1  # powers; in single precision less would be lost in rounding
FLATTEST = 1e-24  # trace for which there is a quadratic
LONGEST = 1024.0  # step, in those that the quadratic proposes
FIRST = (-7, -4, -1)

Propose = Callable[[Fisher, Any], Tensor]


class Stages:
    """A descent from dense to pruned on one network.

    In each stage a quadratic model of the loss is made from gradients at the weights as
    they are then, weights are proposed for several dampings of it, and those of the
    least measured loss are taken: the projection of the weights is always among them.
    Dampings are powers of 4 times the trace of the Fisher matrix; from that of the
    stage before, the search goes on as long as the loss falls.

    Parameters
    ----------
    network : FlatNetwork
        The network.
    propose : callable
        From a quadratic model and a structure to a point of the structure.
    slope : float
        How much of the mean gradient the model has, see `Fisher`.
    n_samples, per_row : int
        As `FlatNetwork.gradients` takes them.
    rng : Generator
        For the choice of samples.
    """

    def __init__(
        self,
        network: FlatNetwork,
        propose: Propose,
        slope: float,
        n_samples: int,
        per_row: int,
        rng: Generator,
    ) -> None:
        self.network, self.propose, self.slope = network, propose, slope
        self.n_samples, self.per_row, self.rng = n_samples, per_row, rng
        self.check_seed = int(rng.integers(2**63))  # the same samples in all stages
        self.power: int | None = None  # of the damping that was best

    def run(
        self,
        structure_at: Callable[[float], Any],
        n_stages: int,
        n_refits: int,
        report: Callable[[int, int], None],
    ) -> Tensor:
        """Go down in stages, renew the quadratic at the end, return the best point.

        Parameters
        ----------
        structure_at : callable
            As `NetworkMethod.prune_network` takes it.
        n_stages : int
            In which atoms are removed.
        n_refits : int
            Further stages on the last structure.
        report : callable
            Told the number of the stage and of all.

        Returns
        -------
        tensor of shape (p,)
            A point of ``structure_at(1.0)``, of no greater measured loss than the
            projection of the weights at the start.
        """
        last = structure_at(1.0)
        with self.network.restoring():
            w = self.network.weights()
            plain = last.project(w)
            plain_loss, loss = self._loss(plain), 0.0
            ways = [*fractions(structure_at, n_stages), *([1.0] * n_refits)]
            for number, t in enumerate(ways):
                report(number, len(ways))
                structure = last if t == 1 else structure_at(t)
                if math.isinf(loss):  # there are no gradients
                    w = structure.project(w)
                else:
                    w, loss = self._stage(w, structure)
        return w if loss <= plain_loss else plain

    def _stage(self, w: Tensor, structure: Any) -> tuple[Tensor, float]:
        self.network.write(w)
        A, value = self.network.gradients(self.n_samples, self.rng, self.per_row)
        best = structure.project(w)
        least = self._loss(best)
        trace = float(torch.linalg.vector_norm(A)) ** 2 / len(A)
        if not FLATTEST < trace < 1 / FLATTEST:  # products would leave the range
            return best, least
        model = Fisher(A, w, value, slope=self.slope)
        losses: dict[int, float] = {}
        wanted = list(FIRST if self.power is None else self._beside(self.power))
        while wanted:
            for power in wanted:
                new = self.propose(model.damped(trace * FACTOR**power), structure)
                losses[power] = self._loss(new)
                if losses[power] < least:
                    best, least = new, losses[power]
            self.power = min(losses, key=lambda power: (losses[power], -power))
            wanted = [p for p in self._beside(self.power) if p not in losses]
        return self._stretched(w * (best != 0), best, least)

    def _stretched(
        self, begin: Tensor, end: Tensor, loss: float
    ) -> tuple[Tensor, float]:
        """Go on from one point beyond another, twice as far while the loss falls.

        Squares of gradients exceed the curvature where losses are large.
        """
        move, length = end - begin, 2.0
        while length <= LONGEST and bool(torch.any(move != 0)):
            new = begin + length * move
            new_loss = self._loss(new)
            if new_loss >= loss:
                break
            end, loss, length = new, new_loss, 2 * length
        return end, loss

    def _beside(self, power: int) -> range:
        """Powers within one of another, and within bounds."""
        return range(max(power - 1, LEAST), min(power + 1, MOST) + 1)

    def _loss(self, w: Tensor) -> float:
        self.network.write(w)
        rng = np.random.default_rng(self.check_seed)
        loss = self.network.loss(MOST_CHECKED, rng)
        return loss if math.isfinite(loss) else math.inf


def fractions(structure_at: Callable[[float], Any], n_stages: int) -> Iterator[float]:
    """Yield how much has been removed after each stage; each keeps an equal share.

    Parameters
    ----------
    structure_at : callable
        As `NetworkMethod.prune_network` takes it.
    n_stages : int
        How many.

    Yields
    ------
    float
        Ascending, the last one 1.
    """
    everything, few = structure_at(0.0).budget, structure_at(1.0).budget
    for stage in range(1, n_stages):
        t = stage / n_stages
        if everything > few > 0:
            kept = everything ** (1 - t) * few**t
            t = (everything - kept) / (everything - few)
        yield t
    yield 1.0
