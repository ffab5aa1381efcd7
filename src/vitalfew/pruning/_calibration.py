"""Arrays of a file as batches that a model takes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitalfew.neural import evaluating, loss_of, run
from vitalfew.neural.statistics import GRADIENTS
from vitalfew.pruning._contracts import NetworkMethod

AT_ONCE = 8  # samples in a batch


def batches_of(
    arrays: Mapping[str, Any], model: nn.Module, chosen: Any
) -> list[dict[str, Tensor]]:
    """Return samples as batches of the arguments of a model.

    Parameters
    ----------
    arrays : mapping of str to array
        By the names of arguments; samples lie along the first axis.
    model : Module
        Whose floating-point type the inputs get.
    chosen : array of int64
        Which samples.

    Returns
    -------
    list of dict of str to tensor
        At most eight samples each, in the order of `chosen`.
    """
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    tensors = {}
    for name, array in arrays.items():
        tensor = torch.as_tensor(array)[torch.as_tensor(chosen)]
        if tensor.is_floating_point():
            tensor = tensor.to(kind)
        elif tensor.dtype != torch.bool:
            tensor = tensor.to(torch.int64)
        tensors[name] = tensor
    return [
        {name: tensor[start : start + AT_ONCE] for name, tensor in tensors.items()}
        for start in range(0, len(chosen), AT_ONCE)
    ]


def uses_gradients(method: Any, allocation: Any) -> bool:
    """Say whether a method or an allocation needs the loss of the model."""
    if isinstance(method, NetworkMethod) or allocation.measures:
        return True
    return bool(GRADIENTS & method.needs)


def try_once(model: nn.Module, batch: Any, with_loss: bool) -> None:
    """Run a model on a batch, so that what does not fit is seen before the work.

    Parameters
    ----------
    model : Module
        Any.
    batch : mapping
        As `batches_of` makes it.
    with_loss : bool
        Whether the batch must give a loss.
    """
    with evaluating(model), torch.no_grad():
        if with_loss:
            loss_of(model, batch)
        else:
            run(model, batch)
