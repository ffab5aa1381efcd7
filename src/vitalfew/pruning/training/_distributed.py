"""Several processes: the same scores, hence the same masks, everywhere."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


def check_not_wrapped(model: nn.Module) -> None:
    """Raise unless parameters can still be added to a model.

    Raises
    ------
    ValueError
        If it is wrapped for several processes already.
    """
    wrapped = any(isinstance(m, DistributedDataParallel) for m in model.modules())
    if wrapped or any(hasattr(p, "full_tensor") for p in model.parameters()):
        raise ValueError(
            "the model is wrapped for several processes already: make the Pruner "
            "first, then wrap the model by DistributedDataParallel or fully_shard"
        )


def agreed(scores: Sequence[Tensor]) -> list[Tensor]:
    """Return the means over all processes of what each scored; one exchange.

    Parameters
    ----------
    scores : sequence of tensors of shape (n,)
        Of every layer, in the same order in all processes.

    Returns
    -------
    list of tensors
        The same numbers in every process.
    """
    found = list(scores)
    world = n_processes()
    if world == 1:
        return found
    together = torch.cat([s.to(found[0].device) for s in found]) / world
    _exchanged(distributed.all_reduce, together)
    return list(together.split([len(s) for s in found]))


def of_the_first(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors of the first process in all of them."""
    found = [tensor.contiguous() for tensor in tensors]
    if n_processes() > 1:
        for tensor in found:
            _exchanged(distributed.broadcast, tensor, 0)
    return found


def n_processes() -> int:
    """Return how many processes train together."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return int(distributed.get_world_size())


def _exchanged(operation: Any, *args: Any) -> None:
    try:
        operation(*args)
    except RuntimeError as error:
        raise RuntimeError(
            "another process has gone, so that scores cannot be exchanged: masks are "
            "those of the last selection; start all processes from a checkpoint"
        ) from error


# -- fully_shard -----------------------------------------------------------------------


def _sharded(model: nn.Module) -> Iterator[Any]:
    """Yield the modules that `fully_shard` was called on."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # imported by who called it
    kind = getattr(fsdp, "FSDPModule", None)
    if kind is not None:
        yield from (m for m in model.modules() if isinstance(m, kind))


def settle(model: nn.Module) -> None:
    """Let weights that were gathered for a forward pass be in parts again."""
    for module in _sharded(model):
        module.reshard()


def moved(model: nn.Module, old: nn.Module, module: nn.Module) -> None:
    """Tell `fully_shard` that ``old.original`` is ``module.weight`` from now on."""
    for each in _sharded(model):
        state = each._get_fsdp_state()
        groups = getattr(state, "_fsdp_param_groups", None)
        for group in [state._fsdp_param_group] if groups is None else groups:
            for info in [p._module_info for p in group.fsdp_params] if group else []:
                if info.module is old:
                    info.module, info.param_name = module, "weight"
                for n, shared in enumerate(info.shared_modules):
                    if shared is old:
                        info.shared_modules[n] = module
                        info.shared_param_names[n] = "weight"
