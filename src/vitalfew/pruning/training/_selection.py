"""Which atoms stay: exact counts from scores, layer by layer."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitalfew.pruning._budgets import Target
from vitalfew.pruning._contracts import Allocation, Part
from vitalfew.pruning.training._contracts import Phase, Score
from vitalfew.pruning.training._distributed import agreed, settle
from vitalfew.pruning.training._site import Marks, Site


class Selection:
    """The choice of atoms at a step, the same in all processes.

    Parameters
    ----------
    model : Module
        In training.
    targets, sites : sequences of Target and Site
        Its layers that are pruned, in the same order.
    score : Score
        How much atoms matter.
    allocation : Allocation
        How layers share the budget.
    total : int
        Atoms of all layers that stay in the end; without effect on fixed structures.
    seed : int
        Of what is random.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[Target],
        sites: Sequence[Site],
        score: Score,
        allocation: Allocation,
        total: int,
        seed: int,
    ) -> None:
        self.model, self.targets, self.sites = model, targets, sites
        self.score, self.allocation = score, allocation
        self.total, self.seed = total, seed

    def choose(self, phase: Phase, n_steps: int, again: bool) -> list[Marks]:
        """Mark the atoms of every layer that stay after a number of steps.

        Parameters
        ----------
        phase : Phase
            Which says how many stay, and who competes.
        n_steps : int
            Steps of the optimizer so far.
        again : bool
            Whether it is a later selection of the phase than that at its beginning.

        Returns
        -------
        list of bool arrays of shape (n_atoms,)
            As many as there may be.

        Raises
        ------
        FloatingPointError
            If weights or scores are not finite.
        """
        if phase.grow and again:
            return self._regrown(phase, n_steps)
        if phase.random and not again:
            scores = [self._random(site, n_steps).numpy() for site in self.sites]
        else:
            scores = self._saliencies(n_steps)
        stay = not phase.revive if again else phase.alive
        alive = [
            site.kept if stay else np.ones(site.n_atoms, bool) for site in self.sites
        ]
        removed = [phase.removed_at(n_steps, site.gate.density) for site in self.sites]
        counts = self._counts(scores, alive, removed[0])
        each = zip(self.targets, scores, alive, counts, removed, strict=True)
        return [_chosen(*one) for one in each]

    def is_exact(self, phase: Phase, kept: Sequence[Marks]) -> bool:
        """Say whether there are just as many atoms as a phase tells, where it does."""
        if phase.removed == (0.0, 0.0):
            return all(marks.all() for marks in kept)
        if phase.removed != (1.0, 1.0):
            return True
        if not self.targets[0].fixed:
            return sum(int(marks.sum()) for marks in kept) == self.total
        return all(
            bool(s.allows(s.support(np.flatnonzero(marks))))
            for s, marks in zip((t.structure for t in self.targets), kept, strict=True)
        )

    def check_weights(self, n_steps: int) -> None:
        """Raise unless all weights are finite."""
        weights = [site.matrix for site in self.sites]
        self.check_finite(weights, "weights", n_steps)

    def check_finite(self, tensors: Iterable[Tensor], what: str, n_steps: int) -> None:
        """Raise unless what there is of each layer is finite."""
        for site, tensor in zip(self.sites, tensors, strict=True):
            if not bool(torch.isfinite(tensor).all()):
                raise FloatingPointError(
                    f"the {what} of layer {site.name!r} are not finite after "
                    f"{n_steps} steps, the training has diverged: masks are those of "
                    "the last selection; go back to a checkpoint, with a lower rate"
                )

    def _saliencies(self, n_steps: int) -> list[Any]:
        """What each atom of each layer scores, not negative, on the host."""
        settle(self.model)
        self.check_weights(n_steps)
        found = [
            self.score.saliency(site).to(torch.float64).reshape(-1)
            for site in self.sites
        ]
        found = agreed(found)
        self.check_finite(found, "scores", n_steps)
        least = min(0.0, *(float(s.min()) for s in found))  # one for all: they compare
        return [(s - least).cpu().numpy() for s in found]

    def _counts(
        self, scores: Sequence[Any], alive: Sequence[Marks], removed: float
    ) -> list[int]:
        """How many atoms each layer keeps when some of what shall go is removed."""
        sizes = [site.n_atoms for site in self.sites]
        if self.targets[0].fixed:
            return sizes
        everything = sum(sizes)
        total = everything - math.floor(removed * (everything - self.total) + 1e-9)
        parts = [
            Part(site.layer, site.structure, np.where(here, score, 0.0))
            for site, here, score in zip(self.sites, alive, scores, strict=True)
        ]
        counts = self.allocation.counts(parts, max(total, self.total))
        return _limited(counts, [int(here.sum()) for here in alive])

    def _regrown(self, phase: Phase, n_steps: int) -> list[Marks]:
        """Exchange some of the atoms: the weakest leave, others come back as zeros."""
        share = phase.exchanged / 2
        share *= 1 + math.cos(math.pi * phase.progress(n_steps))
        strength = self._saliencies(n_steps)
        if phase.grow == "random":
            gains = [self._random(site, n_steps) for site in self.sites]
        else:
            gains = agreed([self._gain(site) for site in self.sites])
        found = []
        for target, site, strong, gain in zip(
            self.targets, self.sites, strength, gains, strict=True
        ):
            if not bool(torch.isfinite(gain).all()):  # as loss scaling lets happen
                found.append(site.kept)
                continue
            n_leaving = int(share * site.kept.sum())
            inside = np.flatnonzero(site.kept)
            order = inside[np.argsort(strong[inside], kind="stable")]
            staying = np.zeros(site.n_atoms, bool)
            staying[order[n_leaving:]] = True
            count = int(site.kept.sum())
            found.append(
                _chosen(target, gain.cpu().numpy(), staying, count, 1.0, others=True)
            )
        return found

    def _gain(self, site: Site) -> Tensor:
        """What speaks for atoms that are not there; NaN where nothing is known."""
        gradient = site.gradient
        if gradient is not None:
            return site.tiles.sums(gradient.to(torch.float64).square())
        if all(other.gradient is None for other in self.sites):
            raise RuntimeError(
                "there are no gradients: call Pruner.step before zero_grad"
            )
        device = site.layer.parameter.device
        return torch.full((site.n_atoms,), math.nan, device=device).double()

    def _random(self, site: Site, n_steps: int) -> Tensor:
        """Draw a number for each atom; the same in all processes and after resuming."""
        rng = np.random.default_rng((self.seed, n_steps, self.sites.index(site)))
        return torch.from_numpy(rng.random(site.n_atoms))


def _chosen(
    target: Target,
    scores: Any,
    alive: Marks,
    count: int,
    removed: float,
    others: bool = False,
) -> Marks:
    """Mark the atoms of a layer that stay: exactly as many as there may be.

    Those that are not alive come last; with `others` those that are stay in any case,
    and what they leave over of the budget is for the others.
    """
    bound = target.with_count(count)
    if target.fixed:
        bound = target.loosened(0, removed)
    least = np.finfo(float).tiny
    only_order = not target.fixed or hasattr(bound, "m")  # not sums of scores
    if others and only_order:
        share = scores / max(float(scores.max()), least)
        scores = np.where(alive, 2.0, np.maximum(share, least))
    elif others:
        keep = {*bound.keep, *np.flatnonzero(alive).tolist()}
        bound = replace(bound, keep=tuple(sorted(keep)))
        scores = scores + least
    else:
        scores = np.where(alive, scores + least, least / 2 if only_order else 0.0)
    marks = np.zeros(len(scores), bool)
    marks[bound.choose(scores)] = True
    return marks


def _limited(counts: Sequence[int], room: Sequence[int]) -> list[int]:
    """Shift counts that are more than there is room for to the first layers with some.

    Shares that are rounded do not all fall when their sum does.
    """
    if sum(counts) > sum(room):
        return list(counts)
    found = [min(pair) for pair in zip(counts, room, strict=True)]
    left = sum(counts) - sum(found)
    for i, (count, most) in enumerate(zip(found, room, strict=True)):
        found[i] += min(left, most - count)
        left -= found[i] - count
    return found
