"""Looking at a network without leaving a trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode and every module back into its own after it.

    Parameters
    ----------
    model : Module
        Any.
    """
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def device_of(model: torch.nn.Module) -> torch.device:
    """Device of the first parameter or buffer; the CPU where there is none."""
    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            return tensor.device
    return torch.device("cpu")
