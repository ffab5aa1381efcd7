"""Pruning while a network trains."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from vitalfew._validation import check_count
from vitalfew.neural import Layer, prunable_layers
from vitalfew.pruning._budgets import noun, targets_of, total_count
from vitalfew.pruning._contracts import Allocation
from vitalfew.pruning._methods import find_allocation
from vitalfew.pruning._report import PruneReport, layer_report, said
from vitalfew.pruning.training._contracts import Phase, Schedule, phases_of
from vitalfew.pruning.training._distributed import (
    check_not_wrapped,
    settle,
)
from vitalfew.pruning.training._gate import Gate, remove_gate
from vitalfew.pruning.training._history import Event, History
from vitalfew.pruning.training._inputs import WINDOW
from vitalfew.pruning.training._methods import find_pair
from vitalfew.pruning.training._optimizers import Optimizers
from vitalfew.pruning.training._selection import Selection
from vitalfew.pruning.training._site import Marks, Site, whole
from vitalfew.pruning.training._snapshots import Snapshots, copied
from vitalfew.pruning.training._state import check, check_state
from vitalfew.pruning.training._tiles import Tiles

FORMAT = 1  # of `state_dict`
MOST_EVENTS = 1000  # of steps in which nothing changed


class Pruner:
    """Prune a network while it trains, to an exact budget.

    Feels like a learning-rate scheduler: make it after the optimizer, call `step` after
    every step of the optimizer and `finalize` at the end. The model's code does not
    change: weights are parametrized, and stay the same parameters.

    Parameters
    ----------
    model : Module
        To be trained, not yet wrapped for several processes.
    structure : IndexStructure
        Which weights may stay in the end, as `prune` takes it.
    method : str, default="gradual-magnitude"
        A score and a schedule that belong together, one of `training_methods()`.
    score, schedule : Score, Criterion, Schedule or str, optional
        Replace either half of the method.
    total_steps : int
        Steps of the optimizer in the whole training.
    optimizer : Optimizer or sequence of Optimizer, optional
        Whose moments are forgotten where the schedule says so, and which trains the
        score's parameters in a group of their own. `attach` one that is made later;
        without any, give `parameters()` to yours.
    allocation : str or Allocation, default="uniform"
        How the budget is divided among layers, at each selection anew; see `prune`.
    include, exclude : str or sequence of str, optional
        Patterns (`fnmatch`) on full names of modules.
    min_blocks : int, default=100
        Layers with fewer atoms are left dense.
    rng : int, default=0
        Seed of what is random; the same in all processes.
    callback : callable, optional
        Told every `Event` as it is recorded.

    Attributes
    ----------
    history : History
        What has happened: sparsity, changes of masks, the loss; as a table or a plot.
    left : dict of str to str
        Modules with a weight matrix that stay dense, each with the reason.

    Raises
    ------
    ValueError
        If the arguments do not fit the model, or the model is wrapped already.
    TypeError
        If an argument is of another kind.

    Notes
    -----
    A step costs one product with each pruned weight and its backward pass; memory is
    one number for each atom, a copy of the model where it is rewound or averaged,
    and what the score remembers of gradients and inputs.

    Hidden weights stay in the optimizer. One that scales steps by past gradients turns
    a decay that is part of the gradient (``Adam(weight_decay=...)``) into whole steps
    towards zero there, for the decay is all the gradient they have; decay apart from it
    (`AdamW`) leaves them nearly as they were.

    Examples
    --------
    >>> from vitalfew.structures import Blocks
    >>> model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> pruner = Pruner(model, Blocks((4, 4), density=0.25), total_steps=50,
    ...                 optimizer=optimizer)
    >>> for _ in range(50):
    ...     x = torch.randn(16, 32)
    ...     loss = (model(x) - x).square().mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    ...     pruner.step()
    >>> report = pruner.finalize()
    >>> report.kept, report.n_atoms
    (64, 256)
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Any,
        *,
        method: str = "gradual-magnitude",
        score: Any = None,
        schedule: Schedule | str | None = None,
        total_steps: int,
        optimizer: Any = None,
        allocation: str | Allocation = "uniform",
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        min_blocks: int = 100,
        rng: int = 0,
        callback: Callable[[Event], None] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model must be a torch.nn.Module, got {type(model).__name__}"
            )
        check_not_wrapped(model)
        check_count("rng", rng, 0)
        check_count("min_blocks", min_blocks, 0)
        self.model, self.structure, self.seed = model, structure, rng
        self.score, self.schedule = find_pair(method, score, schedule)
        self.allocation = find_allocation(allocation)
        if self.allocation.measures:
            raise ValueError(
                f"allocation {self.allocation.name!r} measures losses, which training "
                "has no time for; use 'uniform', 'erk', 'lamp' or 'global'"
            )
        self.total_steps = total_steps
        self.phases = phases_of(self.schedule, total_steps)
        self.optimizers = Optimizers(optimizer)
        self.history = History(callback)
        self.n_steps = 0
        self.loss: float | None = None

        layers, self.left = prunable_layers(model, include, exclude)
        self.left |= {
            layer.name: why for layer in layers if (why := _reason_against(layer))
        }
        layers = [layer for layer in layers if layer.name not in self.left]
        if not layers:
            said_so = [f"{name!r}: {why}" for name, why in self.left.items()]
            raise ValueError(
                "no layer can be pruned: "
                + ("; ".join(said_so[:3]) or "the model has no weights to choose")
            )
        self.targets, unfit = targets_of(structure, layers, min_blocks)
        self.left |= unfit
        total = 0 if self._fixed else total_count(structure, self.targets)
        self.sites = [self._site(target, total) for target in self.targets]
        self._sizes = [site.tiles.sizes().numpy() for site in self.sites]
        self._n_weights = sum(int(sizes.sum()) for sizes in self._sizes)
        self._sparsity = 0.0
        self._every = max(1, total_steps // MOST_EVENTS)
        self._selection = Selection(
            model, self.targets, self.sites, self.score, self.allocation, total, rng
        )
        self._snapshots = Snapshots(model, self.sites)
        # what an optimizer is missing for, and whether there is no more to say of it
        self._lacking: dict[str, bool] = {}
        self._finished = False
        self._held: list[list[nn.Module]] = []  # modules, by the site of their weight
        self._phase = self.phases[0]
        self._join(self.optimizers)
        try:
            self._begin()
        except BaseException:  # leave the model as it was
            self._remove_gates()
            raise

    def _join(self, optimizers: Optimizers) -> None:
        """Let optimizers train the parameters of the score."""
        weights = [site.layer.parameter for site in self.sites]
        optimizers.join(self._named(), weights, self.score.options)

    def _begin(self) -> None:
        """Parametrize the weights, and those that share them; enter the first phase."""
        self._held = [self._holders(site) for site in self.sites]
        for site, modules in zip(self.sites, self._held, strict=True):
            for module in modules:
                parametrize.register_parametrization(module, "weight", site.gate)
            if site.gate.inputs is not None:
                site.gate.inputs.start()
        with torch.no_grad():
            for site in self.sites:
                self.score.begin(site)
        self._enter(self._phase, None)

    def _holders(self, site: Site) -> list[nn.Module]:
        """Return the modules whose weight a site is; embeddings may be among them."""
        known = [site.layer.module, *site.layer.sharing]
        weight = site.layer.parameter
        for module in self.model.modules():
            same = module._parameters.get("weight") is weight
            if same and all(module is not each for each in known):
                known.append(module)
        return known

    def _site(self, target: Any, total: int) -> Site:
        """Return a layer with its gate, which is not yet there."""
        layer, bound = target.layer, target.structure
        everything = sum(t.structure.n_atoms for t in self.targets)
        density = total / everything
        if target.fixed:
            density = bound.budget / float(bound.atom_costs.sum())
        gate = Gate(layer, Tiles(bound), self.score, min(1.0, density))
        gate.train(layer.module.training)
        return Site(layer, bound, target.fixed, gate, np.ones(bound.n_atoms, bool))

    # -- what the user sees ------------------------------------------------------------

    @property
    def phase(self) -> str:
        """Name of the present phase."""
        return self._phase.name

    @property
    def sparsity(self) -> float:
        """Fraction of the pruned layers' weights that the network does not see."""
        return self._sparsity

    @property
    def kept(self) -> dict[str, int]:
        """Atoms that are there now, by the name of the layer."""
        return {site.name: int(site.kept.sum()) for site in self.sites}

    @property
    def masks(self) -> dict[str, Tensor]:
        """Which entries of each weight belong to atoms that are there, in its shape."""
        return {
            site.name: site.layer.as_weight(
                site.entries(torch.from_numpy(site.kept))
            ).clone()
            for site in self.sites
        }

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the score, which train along."""
        return list(self._named().values())

    def _named(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the score by their full names."""
        return {
            f"{site.name}.parametrizations.weight.0.{name}": parameter
            for site in self.sites
            for name, parameter in site.gate.own().items()
        }

    def attach(self, optimizer: Any) -> None:
        """Take the optimizer that was made after the Pruner.

        Parameters
        ----------
        optimizer : Optimizer or sequence of Optimizer
            As of the Pruner itself. Made from ``model.parameters()`` it trains the
            score's parameters already; otherwise they join it.

        Raises
        ------
        ValueError
            If it has none of the weights that are pruned, or cannot take more
            parameters; then the one before stays.
        RuntimeError
            If a pruned layer is not as it was left, or after `finalize`.
        """
        self._check_gates()
        new = Optimizers(optimizer)
        self._join(new)
        self.optimizers = new

    def step(self, loss: Any = None) -> None:
        """Go on by one step; call it after the optimizer's, before `zero_grad`.

        Parameters
        ----------
        loss : float or tensor, optional
            Of this step, for the history; training is stopped where it is not finite.

        Raises
        ------
        FloatingPointError
            If the loss or what is scored is not finite; masks are the last good ones,
            and the step does not count.
        RuntimeError
            If a pruned layer is not as it was left, after `finalize`, or if gradients
            are needed and there are none.
        """
        self._check_gates()
        told = loss.detach() if isinstance(loss, Tensor) else loss
        self.loss = None if told is None else float(told)
        if self.loss is not None and not math.isfinite(self.loss):
            raise FloatingPointError(
                f"the loss is {self.loss} after {self.n_steps} steps: masks are those "
                "of the last selection; go back to a checkpoint, with a lower rate"
            )
        blind = all(site.layer.parameter.grad is None for site in self.sites)
        if self.score.needs - {"hessian"} and blind:
            raise RuntimeError(
                f"the score {self.score.name!r} needs gradients and there are none: "
                "call Pruner.step after the optimizer's step and before zero_grad"
            )
        with self._unless_it_fails():
            self.n_steps += 1
            self._take_note()
            self._go_on()
        self._warn()

    @contextmanager
    def _unless_it_fails(self) -> Iterator[None]:
        """Go back to the step and the phase there were where something is wrong.

        Otherwise the selection that failed would be taken for one that was made.
        """
        before = self.n_steps, self._phase
        try:
            yield
        except BaseException:
            self.n_steps, self._phase = before
            raise

    def _take_note(self) -> None:
        """Look at gradients and change weights, as score and phase ask in each step."""
        if self.score.needs_rate and not self.optimizers:
            self._miss("the score changes weights by the learning rate")
        for site in self.sites:
            site.observe(self.score.needs - {"hessian"})
        progress = min(1.0, self.n_steps / self.total_steps)
        with torch.no_grad():
            for site, rate in zip(self.sites, self._rates(), strict=True):
                self.score.regularize(site, rate, progress)
        phase = self._phase
        if phase.hidden_decay:
            self._decay_hidden(phase.hidden_decay)
        if phase.average and self.n_steps <= self.total_steps:
            self._snapshots.average(phase.progress(self.n_steps))

    def _go_on(self) -> None:
        """Enter the phase of this step, or do what the present one has in it."""
        old = self._phase
        self._phase = self._phase_at(self.n_steps)
        to_the_end = self._phase.removed[0] < 1 or self._phase.revive
        last = to_the_end and self.n_steps == self.total_steps
        if self._phase is not old:
            self._enter(self._phase, old)
        elif last or self._phase.selects_at(self.n_steps):
            self._select(again=True)
        elif self._phase.leak != (0.0, 0.0):
            self._show()
        if self.n_steps == self.total_steps and self._phase.average:
            self._snapshots.take_mean()
        if self.loss is not None and self.n_steps % self._every == 0:
            self._record()
        self._look_ahead()

    def finalize(self) -> PruneReport:
        """Fold everything into the weights; the function of the model stays the same.

        Before the last step of the schedule what is still to be removed is removed
        first, and a warning says so.

        Returns
        -------
        PruneReport
            Of what was kept, with the masks. Parametrizations are gone and weights are
            the parameters they were; the score's parameters have left the optimizer.

        Raises
        ------
        FloatingPointError
            If weights or scores are not finite; then nothing was changed.
        RuntimeError
            If a pruned layer is not as it was left, or `finalize` was called before.
        """
        self._check_gates()
        settle(self.model)
        self._selection.check_weights(self.n_steps)
        self._selection.check_finite(map(_seen, self.sites), "weights", self.n_steps)
        early = self.n_steps < self.total_steps
        if early:
            warnings.warn(
                f"finalized after {self.n_steps} of {self.total_steps} steps: what was "
                "still to be removed is removed now",
                stacklevel=2,
            )
        if self._phase.removed_at(self.n_steps) < 1:
            with self._unless_it_fails():
                self._phase = replace(self.phases[-1], alive=False)
                self.n_steps = self.total_steps
                self._select(again=False)
        self._warn()
        layers, masks = [], {}
        for site in self.sites:
            site.show(site.kept)
            seen = _seen(site).masked_fill(site.gone, 0)
            site.write(seen)
            masks[site.name] = site.layer.as_weight(~site.gone)
        self._remove_gates()
        self._finished = True
        for target, site in zip(self.targets, self.sites, strict=True):
            bound = target.with_count(int(site.kept.sum()))
            report, _ = layer_report(
                site.layer, bound, self.score.name, weight=site.matrix
            )
            layers.append(report)
        return PruneReport(
            method=f"{self.score.name}, {self.schedule.name}",
            structure=said(self.structure),
            allocation="fixed" if self._fixed else self.allocation.name,
            atoms=noun(self.structure),
            layers=tuple(layers),
            left=self.left,
            masks=masks,
        )

    def _remove_gates(self) -> None:
        """Let weights be plain parameters again, as far as they are not."""
        for site, modules in zip(self.sites, self._held, strict=False):
            if site.gate.inputs is not None:
                site.gate.inputs.stop()
            for module in modules:
                if _gate_of(module) is site.gate:
                    remove_gate(self.model, module)
        self.optimizers.leave(self.parameters())

    # -- checkpoints -------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all there is to go on from, besides the model's and optimizer's own.

        Returns
        -------
        dict
            Tensors and plain data: `torch.load(..., weights_only=True)` reads it.
        """
        return {
            "format": FORMAT,
            "said": self._said(),
            "n_steps": self.n_steps,
            "finished": self._finished,
            "kept": {s.name: torch.from_numpy(s.kept.copy()) for s in self.sites},
            "seen": {
                s.name: {k: v.clone() for k, v in s.seen.items()} for s in self.sites
            },
            "n_seen": {s.name: s.n_steps for s in self.sites},
            "inputs": {
                s.name: s.gate.inputs.sums() for s in self.sites if s.gate.inputs
            },
            "snapshots": self._snapshots.state(),
            "history": self.history.to_rows(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; load the model's and the optimizer's too.

        Raises
        ------
        ValueError
            If the state is of another pruning than this one, of one that is over, or
            damaged (a `DataError`); then nothing was changed.
        TypeError
            If it is no mapping.
        RuntimeError
            If a pruned layer is not as it was left, or after `finalize`.
        """
        self._check_gates()
        if not isinstance(state, Mapping):
            raise TypeError(
                "state must be what Pruner.state_dict returns, got "
                f"{type(state).__name__}"
            )
        made_with = state.get("format"), state.get("said")
        plain = all(isinstance(part, int | str) for part in made_with)
        if not plain or made_with != (FORMAT, self._said()):
            raise ValueError(
                "this state is of another pruning: make the Pruner with the same "
                f"arguments; it was made with {made_with[1]}, this one with "
                f"{self._said()}"
            )
        if state.get("finished") is True:
            raise ValueError(
                "this state is of a pruning that was finalized: its model has plain "
                "weights; load them without a Pruner"
            )
        known = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        check_state(state, self.sites, known, self.phases)
        phase = self._phase_at(state["n_steps"])
        kept = [state["kept"][site.name].cpu().numpy().copy() for site in self.sites]
        exact = self._selection.is_exact(phase, kept)
        check(exact, "it has not as many atoms as its phase")
        self.n_steps, self._phase = state["n_steps"], phase
        self._snapshots.load(state["snapshots"])
        self.history.from_rows(state["history"])
        for site, marks in zip(self.sites, kept, strict=True):
            site.seen = copied(state["seen"][site.name], site.gate.mask.device)
            site.n_steps = state["n_seen"][site.name]
            if site.gate.inputs is not None:
                site.gate.inputs.take(state["inputs"][site.name])
            site.kept = marks
        self._sparsity = self._hidden() / self._n_weights
        self._show()
        self._look_ahead()

    def _said(self) -> str:
        layers = ", ".join(f"{s.name} {s.tiles.shape}" for s in self.sites)
        return (
            f"{said(self.structure)}, {self.score}, {self.schedule}, "
            f"{self.allocation}, {self.total_steps} steps, rng {self.seed}, {layers}"
        )

    # -- phases ------------------------------------------------------------------------

    @property
    def _fixed(self) -> bool:
        return bool(self.targets[0].fixed)

    def _phase_at(self, n_steps: int) -> Phase:
        for phase in self.phases:
            if n_steps < phase.end:
                return phase
        return self.phases[-1]

    def _enter(self, phase: Phase, old: Phase | None) -> None:
        if old is not None and old.average:
            self._snapshots.take_mean()
        if phase.remember:
            self._snapshots.remember()
        if phase.reset:
            self._reset()
        if phase.removed == (0.0, 0.0):
            self._apply([np.ones(site.n_atoms, bool) for site in self.sites])
        else:
            self._select(again=False)
        if phase.rewind:
            self._snapshots.rewind(phase.zero)
        self._record()
        self._look_ahead()

    def _rates(self) -> list[float]:
        """Return the learning rate of the weight of every layer."""
        return self.optimizers.rates(site.layer.parameter for site in self.sites)

    def _reset(self) -> None:
        if self.optimizers:
            self.optimizers.reset()
        elif self.n_steps:
            self._miss("the schedule resets the optimizer here")

    def _check_trained(self) -> None:
        """Note if what the score learns is still what it was at first; look once."""
        why = "nobody has trained what the score learns"
        if self.optimizers or not self.n_steps or why in self._lacking:
            return
        pairs = [
            (value, first.to(value))
            for site in self.sites
            for value, first in zip(
                site.parameters.values(),
                self.score.parameters(site.tiles).values(),
                strict=True,
            )
        ]
        same = bool(pairs) and all(torch.equal(*pair) for pair in pairs)
        self._lacking[why] = not same

    def _miss(self, why: str) -> None:
        """Note what an optimizer is missing for."""
        self._lacking.setdefault(why, False)

    def _warn(self) -> None:
        """Say once for each reason that an optimizer is missing."""
        for why in [why for why, told in self._lacking.items() if not told]:
            self._lacking[why] = True
            warnings.warn(
                f"{why}, which needs Pruner(optimizer=...); going on without",
                stacklevel=3,
            )

    def _look_ahead(self) -> None:
        """Let gradients of hidden weights through in the step that needs them."""
        phase, ahead = self._phase, self.n_steps + 1
        for site in self.sites:
            site.gate.straight_through = phase.straight_through or (
                phase.grow == "gradient" and phase.selects_at(ahead)
            )
        looked_at = [site.gate.inputs for site in self.sites if site.gate.inputs]
        if looked_at:
            near = self._removes_within(WINDOW)
            for inputs in looked_at:
                inputs.watching = near

    def _removes_within(self, n_steps: int) -> bool:
        """Whether atoms may be removed in one of the next steps."""
        for step in range(self.n_steps + 1, self.n_steps + n_steps + 1):
            phase = self._phase_at(step)
            if phase.removed != (0.0, 0.0) and (
                step in (phase.start, phase.end) or phase.selects_at(step)
            ):
                return True
        return False

    # -- selections --------------------------------------------------------------------

    @torch.no_grad()
    def _select(self, again: bool) -> None:
        """Choose the atoms of every layer as the phase says."""
        phase = self._phase
        self._check_trained()
        chosen = self._selection.choose(phase, self.n_steps, again)
        if not (phase.grow and again):
            for site, marks in zip(self.sites, chosen, strict=True):
                if marks.sum() < site.n_atoms:
                    self.score.compensate(site, torch.from_numpy(marks))
        self._apply(chosen)

    # -- masks and weights -------------------------------------------------------------

    def _hidden(self) -> int:
        """How many weights the network does not see."""
        return sum(
            int(sizes[~site.kept].sum())
            for sizes, site in zip(self._sizes, self.sites, strict=True)
        )

    def _show(self) -> None:
        leak = self._phase.leak_at(self.n_steps)
        for site in self.sites:
            site.show(site.kept, leak)

    @torch.no_grad()
    def _apply(self, chosen: list[Marks]) -> None:
        """Change the masks, and the weights and moments of what they hide."""
        phase = self._phase
        changed = 0
        for site, marks in zip(self.sites, chosen, strict=True):
            moved = site.kept != marks
            changed += int(moved.sum())
            site.show(marks, phase.leak_at(self.n_steps))
            hidden = not marks.all()
            if hidden and phase.zero and (moved.any() or phase.grow):
                gone = ~site.entries(torch.from_numpy(marks).to(site.matrix.device))
                if phase.grow:  # what comes back begins at zero, without moments
                    fresh = torch.from_numpy(marks & moved).to(gone.device)
                    gone = gone | site.entries(fresh)
                site.write(site.matrix.masked_fill(gone, 0))
                self.optimizers.forget(site.layer.parameter, site.layer.as_weight(gone))
        self._sparsity = self._hidden() / self._n_weights
        self._record(changed)

    @torch.no_grad()
    def _decay_hidden(self, decay: float) -> None:
        """Take some of the weights that the network does not see away."""
        if not self.optimizers:
            self._miss("the schedule decays weights by the learning rate")
        for site, rate in zip(self.sites, self._rates(), strict=True):
            factor = 1 - decay * rate
            weight = site.matrix
            site.write(torch.where(site.gone, factor * weight, weight))

    # -- what else ---------------------------------------------------------------------

    def _record(self, changed: int = 0) -> None:
        self.history.add(
            Event(
                step=self.n_steps,
                phase=self._phase.name,
                sparsity=self._sparsity,
                kept=sum(self.kept.values()),
                changed=changed,
                loss=self.loss,
            )
        )

    def _check_gates(self) -> None:
        if self._finished:
            raise RuntimeError("this Pruner is finalized; make another to prune more")
        for site, modules in zip(self.sites, self._held, strict=True):
            gated = all(_gate_of(module) is site.gate for module in modules)
            if not gated or not _holds(self.model, site.name, modules[0]):
                raise RuntimeError(
                    f"layer {site.name!r} was changed after the Pruner was made: "
                    "change the model first, then make the Pruner; or finalize, change "
                    "it, and make another"
                )


def _reason_against(layer: Layer) -> str:
    """Why a layer cannot be trained; empty when it can."""
    weight = layer.parameter
    if not weight.requires_grad:
        return "it is frozen"
    if weight.is_meta:
        return "its weight is on the meta device; give it values first"
    if weight.itemsize < 2:
        return f"its weight is of type {weight.dtype}"
    return ""


@torch.no_grad()
def _seen(site: Site) -> Tensor:
    """Return what the network sees of a weight, (n_out, n_in), whole."""
    weight = whole(site.layer.parameter)
    seen: Tensor = functional_call(site.gate, site.parameters, (weight,))
    return site.layer.as_matrix(seen)


def _gate_of(module: nn.Module) -> nn.Module | None:
    """Return the parametrization of a weight, if there is one and no other."""
    if not parametrize.is_parametrized(module, "weight"):
        return None
    found = module.parametrizations["weight"]
    return found[0] if len(found) == 1 else None


def _holds(model: nn.Module, name: str, module: nn.Module) -> bool:
    """Whether a module is still where it was."""
    try:
        return model.get_submodule(name) is module
    except AttributeError:
        return False
