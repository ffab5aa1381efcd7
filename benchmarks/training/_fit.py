"""The loop that trains a network, pruned on the way or dense."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks._runs import Row
from benchmarks.training._arms import DENSE
from vitalfew.pruning import PruneReport
from vitalfew.pruning.training import Pruner

Tensor = torch.Tensor
Batch = tuple[Tensor, Tensor]


def fit(
    model: nn.Module,
    batches: Iterator[Batch],
    optimizer: torch.optim.Optimizer,
    height: Callable[[int], float],
    loss: Callable[[Tensor, Tensor], Tensor],
    arm: str,
    structure: Any,
    n_steps: int,
    **options: Any,
) -> PruneReport | None:
    """Train a network with one arm.

    Parameters
    ----------
    model : Module
        Changed; left in evaluation mode.
    batches : iterator of (tensor, tensor)
        One for each step.
    optimizer : torch.optim.Optimizer
        Of all its parameters, at the highest rate.
    height : callable
        From a step to the fraction of the highest rate.
    loss : callable
        Of outputs and targets.
    arm : str
        One of `ARMS`, or `DENSE`.
    structure : IndexStructure
        What may stay in the end.
    n_steps : int
        Number of batches.
    **options
        Of `Pruner`.

    Returns
    -------
    PruneReport or None
        None where nothing was pruned.

    Raises
    ------
    FloatingPointError
        If the training diverged.
    """
    pruner = None
    if arm != DENSE:
        pruner = Pruner(
            model,
            structure,
            method=arm,
            total_steps=n_steps,
            optimizer=optimizer,
            **options,
        )
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, height)
    model.train()
    for x, y in batches:
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        if pruner is not None:
            pruner.step(value.detach())
        rates.step()
    model.eval()
    return None if pruner is None else pruner.finalize()


def shuffled(
    x: Tensor, y: Tensor, size: int, n_steps: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Yield batches of one size; every pass over the rows has an order of its own.

    Parameters
    ----------
    x, y : tensors of n rows
        Inputs and targets.
    size : int
        Rows of a batch, at most n.
    n_steps : int
        How many batches.
    generator : torch.Generator
        Randomness of the order.

    Yields
    ------
    (tensor, tensor)
        Inputs and targets; what does not fill a batch at the end of a pass waits.
    """
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(n_steps):
        if len(order) < size:
            order = torch.randperm(len(x), generator=generator)
        rows, order = order[:size], order[size:]
        yield x[rows], y[rows]


def facts(model: nn.Module, report: PruneReport | None) -> Row:
    """Return what was kept, by the report and counted in the model itself.

    Parameters
    ----------
    model : Module
        After training.
    report : PruneReport or None
        Of `fit`.

    Returns
    -------
    dict
        Numbers to record; of a dense network only how many weights its layers have.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    every = {"all_weights": sum(layer.weight.numel() for layer in layers)}
    if report is None:
        return every
    names = [layer.name for layer in report.layers]
    own = [model.get_submodule(name).weight for name in names]
    return {
        **every,
        "asked": report.asked,
        "kept": report.kept,
        "atoms": report.n_atoms,
        "weights": sum(weight.numel() for weight in own),
        "nonzero": sum(int(torch.count_nonzero(weight)) for weight in own),
        "layers": {layer.name: layer.kept for layer in report.layers},
    }
