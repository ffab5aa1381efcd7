"""What goes with an output channel: its bias, and the batch norm that follows it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitalfew.neural import Batches, Layer, evaluating, run
from vitalfew.neural.layers import LinearLayer
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
    made: dict[int, tuple[Tensor, Any, int]] = {}
    constant: dict[Any, Tensor] = {}  # channels that no call of a norm needs

    def see(layer: Layer, y: Tensor) -> None:
        if isinstance(layer, LinearLayer) and y.ndim != 2:
            return  # a norm would not take its outputs for channels
        # the tensor is held, or its number would return
        made[id(y)] = removed[layer.name], y, y._version

    def before(norm: Any, args: Any, named: Any) -> None:
        x = args[0] if args else next(iter(named.values()))
        empty, _, version = made.get(id(x), (None, None, None))
        if empty is None or version != x._version:  # another input, or added to since
            empty = torch.zeros(norm.num_features, dtype=torch.bool, device=x.device)
        constant[norm] = constant[norm] & empty if norm in constant else empty

    handles: list[Any] = []
    try:
        for norm in norms:
            handles.append(norm.register_forward_pre_hook(before, with_kwargs=True))
        with watching(layers, outputs=see), evaluating(model), torch.no_grad():
            run(model, batches[0])
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        for norm, empty in constant.items():
            if norm.weight is not None:
                norm.weight[empty] = 0
                norm.bias[empty] = 0
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
