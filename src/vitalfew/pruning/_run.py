"""One run of `prune`: statistics, budgets, and the three kinds of methods."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from vitalfew.neural import (
    Batches,
    LossFunction,
    Statistics,
    collect,
    evaluating,
    loss_of,
)
from vitalfew.neural.batches import n_samples
from vitalfew.neural.flat import FlatNetwork
from vitalfew.neural.propagation import propagate
from vitalfew.neural.statistics import multiplications
from vitalfew.pruning._budgets import Target, total_count
from vitalfew.pruning._contracts import (
    Allocation,
    Criterion,
    NetworkMethod,
    Part,
    Reconstruction,
)
from vitalfew.pruning._progress import Finished
from vitalfew.pruning._report import LayerReport, layer_report
from vitalfew.pruning.allocation import LAMP, Global
from vitalfew.pruning.criteria import Magnitude, Wanda
from vitalfew.pruning.reconstruction._layer import relative_error
from vitalfew.structures import Cardinality, Joint

Progress = Callable[[str, int, int], None]


@dataclass
class Run:
    """One run of `prune`."""

    model: nn.Module
    structure: Any
    targets: list[Target]
    method: Any
    allocation: Allocation
    batches: Batches | None
    loss: LossFunction | None
    rng: Generator
    known: Mapping[str, Statistics]
    progress: Progress
    left: dict[str, str]
    finished: Finished | None = None
    notes: list[str] = field(default_factory=list)
    masks: dict[str, Tensor] = field(default_factory=dict)

    @property
    def removes(self) -> bool:
        """Whether what was asked for leaves anything to remove."""
        return not all(each.keeps_everything(self.structure) for each in self.targets)

    def run(self) -> list[LayerReport]:
        """Prune, by whichever kind of method it is."""
        if not self.removes:
            self.notes.append("nothing was to be removed, and nothing was changed")
            return [
                self._report(target, target.structure, self.method.name, None, 0)
                for target in self.targets
            ]
        if isinstance(self.method, Criterion):
            return self._by_criterion(self.method)
        if isinstance(self.method, Reconstruction):
            return self._by_reconstruction(self.method)
        return self._by_network(self.method)

    # -- criteria ----------------------------------------------------------------------

    def _by_criterion(self, method: Criterion) -> list[LayerReport]:
        statistics = self._collected(method.needs)
        scores = {}
        for n, target in enumerate(self.targets):
            self.progress("scoring", n + 1, len(self.targets))
            scores[target.layer.name] = self._scores(method, target, statistics)
        scores = _without_ties_at_zero(scores, self.targets)
        for target in self.targets:
            if method.within_outputs and isinstance(target.structure, Cardinality):
                # compare weights with those of the same output only: by their rank
                found = scores[target.layer.name]
                order = found.argsort(dim=1, stable=True).argsort(dim=1)
                rank = (order + 1).to(found.dtype) / found.shape[1]
                scores[target.layer.name] = torch.where(found > 0, rank, 0)
        counts = self._counts(scores, partial(self._masked, scores))
        done = []
        for target, count in zip(self.targets, counts, strict=True):
            name = target.layer.name
            bound = target.with_count(count)
            target.layer.write(self._masked(scores, target, count))
            seen = statistics[name].n_tokens
            done.append(self._report(target, bound, method.name, None, seen))
        return done

    def _scores(
        self, method: Criterion, target: Target, statistics: dict[str, Statistics]
    ) -> Tensor:
        """Root of the saliency, whose squared length an atom's score is."""
        weight = _floating(target.layer.weight)
        found = method.score(weight, statistics[target.layer.name], self.rng)
        if not bool(torch.isfinite(found).all()):
            raise ValueError(
                f"the scores of layer {target.layer.name!r} by {method.name!r} are not "
                "finite"
            )
        return found.sqrt()

    @staticmethod
    def _masked(scores: dict[str, Tensor], target: Target, count: int) -> Tensor:
        """Return the weight with only the atoms of largest score."""
        weight = _floating(target.layer.weight)
        support = target.with_count(count).largest(scores[target.layer.name])
        return support.embed(support.restrict(weight))

    # -- layer by layer ----------------------------------------------------------------

    def _by_reconstruction(self, method: Reconstruction) -> list[LayerReport]:
        assert self.batches is not None
        guide = self._guide(method)
        scores = {
            target.layer.name: self._scores(Wanda(), target, guide)
            for target in self.targets
        }
        scores = _without_ties_at_zero(scores, self.targets)

        def alone(target: Target, count: int) -> Tensor:
            """Return a layer pruned on the inputs that the dense model gives."""
            return self._rebuilt(method, guide[target.layer.name], target, count)

        # outputs of different layers have no unit in common: compare what is lost with
        # what its layer still has
        rule = LAMP() if isinstance(self.allocation, Global) else self.allocation
        counts = self._counts(scores, alone, rule)
        count_of = {
            target.layer.name: (target, count)
            for target, count in zip(self.targets, counts, strict=True)
        }
        needs = set(method.needs) | {"hessian", "input_square"}
        layers = [target.layer for target in self.targets]
        done: dict[str, LayerReport] = {}
        for group, statistics in propagate(self.model, layers, self.batches, needs):
            for layer in group:
                self.progress(f"pruning {layer.name}", len(done) + 1, len(layers))
                target, count = count_of[layer.name]
                done[layer.name] = self._reconstruct(method, target, count, statistics)
        for target, count in count_of.values():  # transposed convolutions
            if target.layer.name not in done:
                target.layer.write(self._masked(scores, target, count))
                done[target.layer.name] = self._report(
                    target, target.with_count(count), "wanda", None, 0
                )
        return [done[target.layer.name] for target in self.targets]

    def _guide(self, method: Reconstruction) -> dict[str, Statistics]:
        """Statistics of the dense model by which to allocate: squares of inputs."""
        needs = {"input_square"}
        if self.allocation.measures:
            needs |= set(method.needs)
        return self._collected(needs)

    def _reconstruct(
        self,
        method: Reconstruction,
        target: Target,
        count: int,
        statistics: Statistics,
    ) -> LayerReport:
        layer, bound = target.layer, target.with_count(count)
        weight = _floating(layer.weight)
        stored = self.finished.load(layer, count) if self.finished else None
        if stored is None:
            new = self._rebuilt(method, statistics, target, count)
            new = new.to(layer.parameter.dtype).to(weight)  # as it will be stored
        else:
            new = stored.to(weight)
        if not bool(torch.isfinite(new).all()) or not bound.contains(new):
            raise ValueError(
                f"method {method.name!r} failed on layer {layer.name!r}: its answer is "
                "not finite or not within the structure"
            )
        if self.finished is not None and stored is None:
            self.finished.save(layer.name, count, new)
        notes: list[str] = []
        error, name = None, method.name
        if statistics.hessian is None:
            name = Wanda.name
            notes.append("each group of outputs has inputs of its own: pruned by Wanda")
        else:
            error = relative_error(weight, new, statistics.hessian)
            dead = int(torch.sum(statistics.hessian.diagonal() == 0))
            if dead:
                notes.append(f"{dead} of {layer.shape[1]} inputs are never on")
            if statistics.n_tokens < layer.shape[1]:
                notes.append(
                    f"{statistics.n_tokens} tokens for {layer.shape[1]} inputs: the "
                    "damping decides what they leave open"
                )
        layer.write(new)
        return self._report(target, bound, name, error, statistics.n_tokens, notes)

    def _rebuilt(
        self, method: Reconstruction, statistics: Statistics, target: Target, count: int
    ) -> Tensor:
        """Return the pruned matrix of a layer; by Wanda where there is no Hessian."""
        bound = target.with_count(count)
        weight = _floating(target.layer.weight)
        if statistics.hessian is None:
            square = statistics.get("input_square")
            scores = {target.layer.name: (square * weight * weight).sqrt()}
            scores = _without_ties_at_zero(scores, [target])
            return self._masked(scores, target, count)
        bias = target.layer.module.bias
        if bias is not None:
            statistics = replace(statistics, bias=_floating(bias.detach()))
        return method.reconstruct(weight, statistics, bound, self.rng)

    # -- the whole network -------------------------------------------------------------

    def _by_network(self, method: NetworkMethod) -> list[LayerReport]:
        assert self.batches is not None
        layers = [target.layer for target in self.targets]
        none = Statistics()
        scores = {
            target.layer.name: self._scores(
                Magnitude(), target, {target.layer.name: none}
            )
            for target in self.targets
        }
        together = self.allocation.name == "global" and not self.targets[0].fixed
        if together:
            counts = [target.structure.n_atoms for target in self.targets]
            total = total_count(self.structure, self.targets)
        else:
            counts = self._counts(scores, partial(self._masked, scores))
            total = 0

        def structure_at(t: float) -> Joint:
            """Return what may stay when a fraction t of the rest has been removed."""
            parts = tuple(
                target.loosened(count, t)
                for target, count in zip(self.targets, counts, strict=True)
            )
            if not together:
                return Joint(parts).on((n_flat,))
            everything = sum(part.n_atoms for part in parts)
            allowed = everything - int(t * (everything - total) + 1e-9)
            return Joint(parts, allowed if t < 1 else total, at_least=1).on((n_flat,))

        n_flat = sum(layer.shape[0] * layer.shape[1] for layer in layers)
        network = FlatNetwork(self.model, layers, self.batches, self.loss)
        w = method.prune_network(network, structure_at, self.rng, self.progress)
        last = structure_at(1.0)
        if not bool(torch.isfinite(w).all()) or not last.contains(w):
            raise ValueError(
                f"method {method.name!r} failed: its answer is not finite or not "
                "within the structure"
            )
        network.write(w)
        done = []
        for target, support in zip(
            self.targets, last.split(last.largest(w)), strict=True
        ):
            count = len(support)
            asked = target.with_count(max(1, count))
            done.append(self._report(target, asked, method.name, None, 0))
        return done

    # -- what all share ----------------------------------------------------------------

    def _collected(self, needs: Iterable[str]) -> dict[str, Statistics]:
        """Statistics of the model as it is; layers that no batch reaches are left."""
        needs = set(needs)
        layers = [target.layer for target in self.targets]
        known = {
            layer.name: self.known[layer.name]
            for layer in layers
            if layer.name in self.known
            and all(getattr(self.known[layer.name], n) is not None for n in needs)
        }
        if not needs:
            return {layer.name: Statistics() for layer in layers}
        if self.batches is None:
            found = known
        else:
            unknown = [layer for layer in layers if layer.name not in known]
            self.progress("collecting statistics", 0, 1)
            found = known | collect(
                self.model, unknown, self.batches, needs - {"movement"}, self.loss
            )
        for layer in layers:
            if layer.name not in found:
                self.left[layer.name] = (
                    "its inputs are not seen as tokens; use a method without them"
                    if not layer.has_tokens
                    else "no data reach it"
                )
        self.targets = [t for t in self.targets if t.layer.name in found]
        if not self.targets:
            raise ValueError("no layer can be pruned: no data reach any of them")
        return found

    def _counts(
        self,
        scores: dict[str, Tensor],
        pruned: Callable[[Target, int], Tensor],
        allocation: Allocation | None = None,
    ) -> list[int]:
        """How many atoms each layer keeps."""
        if self.targets[0].fixed:
            return [0] * len(self.targets)
        total = total_count(self.structure, self.targets)
        before = self._loss() if self.allocation.measures else 0.0
        layers = [target.layer for target in self.targets]
        times: dict[str, float] = {}
        if self.allocation.measures and self.batches is not None:
            times = multiplications(self.model, layers, self.batches[0])
        parts = [
            Part(
                layer=target.layer,
                structure=target.structure,
                saliency=target.structure.scores(scores[target.layer.name]),
                loss_increase=partial(self._increase, target, pruned, before),
                macs_per_weight=times.get(target.layer.name, 1.0),
            )
            for target in self.targets
        ]
        counts = (allocation or self.allocation).counts(parts, total)
        return _with_room([int(n) for n in counts], [t.least for t in self.targets])

    def _increase(
        self,
        target: Target,
        pruned: Callable[[Target, int], Tensor],
        before: float,
        count: int,
    ) -> float:
        """Increase of the calibration loss when one layer alone is pruned."""
        self.progress(f"measuring {target.layer.name}", count, target.structure.n_atoms)
        old = target.layer.weight.clone()
        try:
            target.layer.write(pruned(target, max(count, target.least)))
            return self._loss() - before
        finally:
            target.layer.write(old)

    def _loss(self) -> float:
        if self.batches is None:
            raise ValueError(
                f"allocation {self.allocation.name!r} measures losses: give "
                "calibration= with targets"
            )
        total, n = 0.0, 0
        with evaluating(self.model), torch.no_grad():
            for batch in self.batches:
                count = n_samples(batch)
                if count:
                    loss = float(loss_of(self.model, batch, self.loss))
                    total, n = total + count * loss, n + count
        if not n:
            raise ValueError("calibration must hold at least one sample, got none")
        return total / n

    def _report(
        self,
        target: Target,
        bound: Any,
        method: str,
        error: float | None,
        n_tokens: int,
        notes: Sequence[str] = (),
    ) -> LayerReport:
        report, mask = layer_report(target.layer, bound, method, error, n_tokens, notes)
        self.masks[report.name] = mask
        return report


def _without_ties_at_zero(
    scores: Mapping[str, Tensor], targets: Sequence[Target]
) -> dict[str, Tensor]:
    """Let weights decide between atoms that score nothing, below all that score.

    Otherwise atoms behind an input or a gradient that is never on would leave even
    where the budget has room for them.
    """
    own = {t.layer.name: t.structure.scores(scores[t.layer.name]) for t in targets}
    if all(atoms.all() for atoms in own.values()):
        return dict(scores)
    least = min((float(a[a > 0].min()) for a in own.values() if a.any()), default=2.0)
    worth = {
        t.layer.name: t.structure.scores(t.layer.weight) * (own[t.layer.name] == 0)
        for t in targets
    }
    most = max(float(w.max()) for w in worth.values())
    if not most > 0:
        return dict(scores)
    found = {}
    for target in targets:
        name = target.layer.name
        support = target.structure.support(np.flatnonzero(worth[name]))
        weight = _floating(target.layer.weight).abs()
        little = support.embed(support.restrict(weight)) * (least / 2 / most) ** 0.5
        found[name] = scores[name] + little.to(scores[name])
    return found


def _with_room(counts: list[int], least: Sequence[int]) -> list[int]:
    """Raise counts to what layers must keep; those with most to spare give it."""
    spare = np.array(counts) - np.array(least)
    for i in np.flatnonzero(spare < 0):
        while spare[i] < 0:
            spare[np.argmax(spare)] -= 1
            spare[i] += 1
    return [int(n) for n in spare + np.array(least)]


def _floating(weight: Tensor) -> Tensor:
    """Return a weight in single precision at least."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))
