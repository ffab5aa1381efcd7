"""What goes with an output channel: its bias, and the batch norm that follows it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitalfew.neural import Batches, Layer, evaluating, run
from vitalfew.neural.watching import watching


def output_layers(model: nn.Module, layers: Sequence[Layer], batch: Any) -> set[str]:
    """Names of the layers whose outputs are outputs of the model.

    Parameters
    ----------
    model : Module
        Run on the batch in evaluation mode.
    layers : sequence of Layer
        Among which to look.
    batch : object
        One batch.

    Returns
    -------
    set of str
        Where the memory of an output of the model is that of the layer's output.
    """
    made: dict[int, tuple[str, Any]] = {}  # the storage is held, or it would be reused

    def see(layer: Layer, y: Tensor) -> None:
        storage = y.untyped_storage()
        made[storage.data_ptr()] = layer.name, storage

    with watching(layers, outputs=see), evaluating(model), torch.no_grad():
        output = run(model, batch)
    return {
        made[t.untyped_storage().data_ptr()][0]
        for t in _tensors(output)
        if t.untyped_storage().data_ptr() in made
    }


def clear_biases(
    model: nn.Module, layers: Sequence[Layer], batches: Batches | None
) -> list[str]:
    """Clear the biases of output channels without weights, and the norms behind them.

    Parameters
    ----------
    model : Module
        Changed in place.
    layers : sequence of Layer
        That were pruned.
    batches : list or None
        The first tells which batch norm follows which layer.

    Returns
    -------
    list of str
        Notes for the report.
    """
    removed: dict[str, Tensor] = {}
    with torch.no_grad():
        for layer in layers:
            empty = ~(layer.weight != 0).any(dim=1)
            removed[layer.name] = empty
            for module in (layer.module, *layer.sharing):
                if module.bias is not None:
                    module.bias[empty] = 0
    norms = [m for m in model.modules() if isinstance(m, _NORMS)]
    if not norms:
        return []
    if batches is None:
        return [
            "which batch norm follows which layer is not known without calibration=: "
            "removed channels keep the constants that their norms add"
        ]
    made: dict[int, tuple[str, Any]] = {}
    found: list[tuple[Any, str]] = []

    def see(layer: Layer, y: Tensor) -> None:
        made[id(y)] = layer.name, y  # the tensor is held, or its number would return

    def before(norm: Any, args: Any) -> None:
        if id(args[0]) in made:
            found.append((norm, made[id(args[0])][0]))

    handles = [norm.register_forward_pre_hook(before) for norm in norms]
    try:
        with watching(layers, outputs=see), evaluating(model), torch.no_grad():
            run(model, batches[0])
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        for norm, name in found:
            if norm.weight is not None:
                norm.weight[removed[name]] = 0
                norm.bias[removed[name]] = 0
    return []


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output
    return [
        t
        for value in (values if isinstance(output, Mapping | tuple | list) else ())
        for t in _tensors(value)
    ]
