"""The front door: prune a model in place, exactly, or leave it as it was."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import nn

from vitalfew.neural import (
    Batches,
    Layer,
    LossFunction,
    Statistics,
    as_batches,
    prunable_layers,
    same_random_state,
)
from vitalfew.neural.batch_norm import recalibrate as recalibrate_norms
from vitalfew.pruning._budgets import noun, targets_of
from vitalfew.pruning._channels import clear_biases, output_layers
from vitalfew.pruning._contracts import Allocation, Method
from vitalfew.pruning._methods import find_allocation, find_method
from vitalfew.pruning._progress import Finished, fingerprint
from vitalfew.pruning._report import PruneReport, said
from vitalfew.pruning._run import Progress, Run
from vitalfew.structures import Channels


def prune(
    model: nn.Module,
    structure: Any,
    *,
    method: str | Method = "auto",
    calibration: Iterable[Any] | None = None,
    allocation: str | Allocation = "global",
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    recalibrate: bool = True,
    min_blocks: int = 1,
    loss: LossFunction | None = None,
    rng: int | Generator | None = None,
    statistics: Mapping[str, Statistics] | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> PruneReport:
    """Prune a trained model in place to an exact budget.

    Sets weights of linear layers and convolutions to zero, in whole atoms of a
    structure, and with most methods re-fits those that stay. Parameters stay the same
    objects of the same shapes; `compact` and `save` make the model smaller.

    Parameters
    ----------
    model : Module
        Trained. Changed only when everything has succeeded.
    structure : IndexStructure
        Which weights may stay: `Cardinality`, `Blocks`, `NM`, `Channels` or `Groups`.
        A convolution's kernel is seen as (out) x (in * kh * kw). A density or count is
        one budget for all layers; with `Channels`, biases of removed outputs and the
        batch norms that follow them are cleared too.
    method : str or Method, default="auto"
        A name of `methods()` or an object. ``"auto"`` is magnitude without calibration,
        otherwise the best reconstruction that can keep to the structure; the report
        says which.
    calibration : iterable, optional
        Batches: tensors of inputs, pairs of inputs and targets, or mappings of
        arguments. Methods that use gradients need targets. A few hundred samples do.
    allocation : str or Allocation, default="global"
        How the budget is divided among layers: ``"uniform"``, ``"global"`` (by score;
        reconstructions compare what is lost with what its layer keeps, as ``"lamp"``
        does), ``"erk"``, ``"lamp"`` or ``"dynamic-programme"``. Without effect on `NM`.
        In transformers ``"uniform"`` and ``"erk"`` are the better ones.
    include, exclude : str or sequence of str, optional
        Patterns (`fnmatch`) on full names of modules.
    recalibrate : bool, default=True
        Estimate batch-norm statistics again on the calibration data at the end.
    min_blocks : int, default=1
        Layers with fewer atoms are left dense. No layer is ever emptied.
    loss : callable, optional
        Of outputs and targets. By default the model's own loss, else cross-entropy for
        integer targets and mean squared error for others.
    rng : int or Generator, optional
        Seed of what is random.
    statistics : mapping of str to Statistics, optional
        What is known of layers already, by name: `MovementSums.statistics`, say.
    checkpoint : str or Path, optional
        Folder for finished layers of a reconstruction: an interrupted run called again
        with the same arguments goes on after them. Removed at the end.
    progress : callable, optional
        Called with what is being done, the number of the step and of steps.

    Returns
    -------
    PruneReport
        What was asked and achieved, layer by layer, with the masks.

    Raises
    ------
    ValueError
        If the arguments or the data do not fit; the model is as it was.
    IncompatibleError
        If the method cannot keep to the structure.

    Notes
    -----
    Holds a copy of the weights until the end. A reconstruction holds the Hessian of one
    layer at a time, n_in^2 numbers.

    Examples
    --------
    >>> import torch
    >>> from vitalfew.structures import Blocks
    >>> model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Linear(64, 32))
    >>> report = prune(model, Blocks((16, 1), density=0.25))
    >>> report.kept, report.n_atoms, report.density
    (64, 256, 0.25)
    """
    start = time.perf_counter()
    layers, left = prunable_layers(model, include, exclude)
    _check_weights(layers)
    batches = None if calibration is None else as_batches(calibration)
    norms: list[str] = []
    with same_random_state(), _undone_on_failure(model):
        if isinstance(structure, Channels) and structure.axis == 0 and batches:
            layers, left = _without_outputs(model, layers, left, batches, include)
        targets, unfit = targets_of(structure, layers, min_blocks)
        chosen = find_method(
            method,
            [target.structure for target in targets],
            batches is not None,
            statistics is not None,
        )
        work = Run(
            model=model,
            structure=structure,
            targets=targets,
            method=chosen,
            allocation=find_allocation(allocation),
            batches=batches,
            loss=loss,
            rng=np.random.default_rng(rng),
            known=statistics or {},
            progress=progress or _silent,
            left={**left, **unfit},
        )
        if checkpoint is not None:
            print_ = fingerprint(
                model, targets, chosen, work.allocation, structure, batches
            )
            work.finished = Finished(Path(checkpoint), print_)
        done = work.run()
        pruned = [target.layer for target in work.targets] if work.removes else []
        if pruned and isinstance(structure, Channels) and structure.axis == 0:
            work.notes += clear_biases(model, pruned, batches)
        if pruned and recalibrate:
            norms = _recalibrated(model, batches, work.notes)
        report = PruneReport(
            method=chosen.name,
            structure=said(structure),
            allocation="fixed" if targets[0].fixed else work.allocation.name,
            atoms=noun(structure),
            layers=tuple(done),
            left=work.left,
            masks=work.masks,
            recalibrated=tuple(norms),
            notes=tuple(work.notes),
            seconds=time.perf_counter() - start,
        )
    if work.finished is not None:
        work.finished.remove()
    return report


def _silent(what: str, step: int, steps: int) -> None:
    del what, step, steps


def _check_weights(layers: Sequence[Layer]) -> None:
    for layer in layers:
        if not bool(torch.isfinite(layer.weight).all()):
            raise ValueError(
                f"the weight of layer {layer.name!r} has NaN or infinite entries"
            )


def _without_outputs(
    model: nn.Module,
    layers: list[Layer],
    left: dict[str, str],
    batches: Batches,
    include: Any,
) -> tuple[list[Layer], dict[str, str]]:
    """Leave out layers whose outputs are the model's, unless they are named."""
    ends = output_layers(model, layers, batches[0]) if include is None else set()
    reasons = dict.fromkeys(ends, "its outputs are the model's")
    return [layer for layer in layers if layer.name not in ends], {**left, **reasons}


@contextmanager
def _undone_on_failure(model: nn.Module) -> Iterator[None]:
    """Give a model its parameters, buffers and modes back when anything is raised."""
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    modes = [(module, module.training) for module in model.modules()]
    differentiates = torch.is_grad_enabled()
    try:
        yield
    except BaseException:  # an interrupt, too, must not leave half a model
        with torch.no_grad():
            for tensor, old in zip(tensors, before, strict=True):
                tensor.detach().copy_(old)
        for module, training in modes:
            module.training = training
        torch.set_grad_enabled(differentiates)  # an interrupt may hit a clean-up
        raise


def _recalibrated(
    model: nn.Module, batches: Batches | None, notes: list[str]
) -> list[str]:
    norms = [
        name
        for name, module in model.named_modules()
        if getattr(module, "running_mean", None) is not None
    ]
    if not norms:
        return []
    if batches is None:
        notes.append(
            f"the statistics of {len(norms)} batch norms are those of the dense model: "
            "give calibration= to estimate them again"
        )
        return []
    return recalibrate_norms(model, batches)
