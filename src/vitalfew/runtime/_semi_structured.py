"""Two of every four weights, for the sparse units of GPUs."""

import torch
from torch.sparse import to_sparse_semi_structured

from vitalfew.neural import Layer, prunable_layers

__all__ = ["to_semi_structured"]

TYPES = (torch.float16, torch.bfloat16)
LEAST = (8, 0)  # compute capability that has such units


def to_semi_structured(model: torch.nn.Module) -> tuple[list[str], dict[str, str]]:
    """Give linear layers whose weights are 2:4 to the sparse units of a GPU.

    The weights of each linear layer that keeps at most two of every four inputs that
    follow one another, as ``prune(model, NM(2, 4))`` leaves them, become torch's
    ``SparseSemiStructuredTensor``. All other layers stay as they are. Whether this is
    faster depends on the device, the shapes and the batch: measure it.

    Parameters
    ----------
    model : Module
        On a CUDA device of compute capability 8.0 or more, in half precision or
        bfloat16; changed in place. For inference: the new weights have no gradients.

    Returns
    -------
    converted : list of str
        Names of the layers that were converted.
    left : dict of str to str
        Modules with a weight matrix that stayed dense, each with the reason.

    Raises
    ------
    ValueError
        If no layer can be converted; then nothing was changed.
    """
    layers, left = prunable_layers(model)
    chosen: dict[Layer, torch.nn.Parameter] = {}
    for layer in layers:
        why = _why_not(layer)
        if not why:
            try:
                weight = to_sparse_semi_structured(layer.weight.contiguous())
                chosen[layer] = torch.nn.Parameter(weight, requires_grad=False)
            except RuntimeError as error:  # of shapes, or of what was not built in
                why = f"torch does not take it: {error}".splitlines()[0]
        if why:
            left[layer.name] = why
    if not chosen:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(left.items())[:3])
        raise ValueError(
            "model must have a linear layer with 2:4 weights that a GPU can take, got "
            f"none ({reasons or 'it has no linear layers'})"
        )
    for layer, parameter in chosen.items():
        for module in (layer.module, *layer.sharing):
            module.weight = parameter
    return [layer.name for layer in chosen], left


def _why_not(layer: Layer) -> str:
    """Say why a layer cannot be converted; empty if torch may be asked."""
    weight = layer.weight
    if not isinstance(layer.module, torch.nn.Linear):
        return f"{type(layer.module).__name__} has no such form, only Linear"
    if not _capable(weight.device):
        return (
            f"it is on {weight.device}, and this needs a CUDA device of compute "
            f"capability {LEAST[0]}.{LEAST[1]}; on the CPU use vitalfew.runtime.compile"
        )
    if weight.dtype not in TYPES:
        return f"it is of {weight.dtype}, and this needs float16 or bfloat16"
    n_out, n_in = weight.shape
    if n_in % 4:
        return f"its {n_in} inputs are no whole number of fours"
    fullest = int((weight.reshape(n_out, n_in // 4, 4) != 0).sum(-1).max())
    if fullest > 2:
        return f"it keeps {fullest} of some four inputs: prune it with NM(2, 4)"
    return ""


def _capable(device: torch.device) -> bool:
    """Whether a device has units for such weights."""
    if device.type != "cuda":
        return False
    return bool(torch.cuda.get_device_capability(device) >= LEAST)
