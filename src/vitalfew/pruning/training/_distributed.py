"""Several processes: the same scores, hence the same masks, everywhere."""

from collections.abc import Sequence

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
    if not (distributed.is_available() and distributed.is_initialized()):
        return found
    world = distributed.get_world_size()
    if world == 1:
        return found
    together = torch.cat([s.to(found[0].device) for s in found]) / world
    distributed.all_reduce(together)
    return list(together.split([len(s) for s in found]))
