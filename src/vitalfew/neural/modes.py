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
    try:
        model.eval()
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextmanager
def same_random_state() -> Iterator[None]:
    """Leave torch's random numbers as they were, whatever a model draws."""
    n_devices = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    with torch.random.fork_rng(devices=range(n_devices)):
        yield


def device_of(model: torch.nn.Module) -> torch.device:
    """Device of the first parameter or buffer; the CPU where there is none."""
    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            return tensor.device
    return torch.device("cpu")
