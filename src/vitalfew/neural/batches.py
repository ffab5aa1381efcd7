"""Calibration data: batches in any of the usual forms, and the loss on one."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn import functional

from vitalfew.neural.modes import device_of

Batches = list[Any]
LossFunction = Callable[[Any, Any], torch.Tensor]


def as_batches(calibration: Iterable[Any]) -> Batches:
    """Hold the batches of a calibration set, checked.

    Parameters
    ----------
    calibration : iterable
        Of batches: a tensor of inputs; a pair of inputs and targets; or a mapping of
        the names of arguments to tensors, as Hugging Face models take it. A single
        tensor or mapping is refused: wrap it in a list.

    Returns
    -------
    list
        The batches; a generator is used up.

    Raises
    ------
    TypeError
        If it is a tensor or a mapping rather than an iterable of them.
    ValueError
        If it is empty, or a floating-point tensor in it is not finite.
    """
    if isinstance(calibration, torch.Tensor | Mapping):
        raise TypeError(
            "calibration must be an iterable of batches; for a single batch write "
            "calibration=[batch]"
        )
    batches = list(calibration)
    if not batches:
        raise ValueError("calibration must hold at least one batch, got none")
    for number, batch in enumerate(batches):
        for tensor in _tensors(batch):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    f"calibration must be finite, but batch {number} has NaN or "
                    "infinite entries"
                )
    return batches


def run(model: torch.nn.Module, batch: Any) -> Any:
    """Return what a model makes of the inputs of a batch, on the model's device.

    The model gets copies: some write into their inputs, and batches are used again.

    Parameters
    ----------
    model : Module
        In any mode.
    batch : tensor, pair or mapping
        One of `as_batches`.

    Returns
    -------
    object
        Whatever the model returns.
    """
    inputs, _ = split(batch)
    inputs = moved(inputs, device_of(model), copy=True)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def loss_of(
    model: torch.nn.Module, batch: Any, loss: LossFunction | None = None
) -> torch.Tensor:
    """Return the mean loss of a model on a batch.

    Parameters
    ----------
    model : Module
        Called on the inputs.
    batch : pair or mapping
        With targets, or with what makes the model return a loss of its own.
    loss : callable, optional
        Of outputs and targets. By default the model's own `.loss` if it returns one,
        else the cross-entropy for integer targets and the mean squared error for
        others.

    Returns
    -------
    scalar tensor
        The loss.

    Raises
    ------
    ValueError
        If there is neither a loss of the model's own nor a target.
    """
    output = run(model, batch)
    _, targets = split(batch)
    own = output.get("loss") if isinstance(output, Mapping) else None
    own = getattr(output, "loss", None) if own is None else own
    if loss is None and own is not None:
        return torch.as_tensor(own).mean()
    if targets is None:
        raise ValueError(
            "a loss needs targets: give batches as pairs (inputs, targets), or as "
            "mappings with which the model returns a loss of its own"
        )
    logits = _logits(output)
    targets = moved(targets, logits.device)
    if loss is not None:
        return loss(output, targets).mean()
    if targets.is_floating_point():
        if targets.shape != logits.shape:  # (n,) and (n, 1) would make n x n
            long = [[n for n in x.shape if n != 1] for x in (logits, targets)]
            if long[0] != long[1]:
                raise ValueError(
                    f"targets must have the shape of the outputs {tuple(logits.shape)}"
                    f", got {tuple(targets.shape)}; or give a loss=..."
                )
            targets = targets.reshape(logits.shape)
        return functional.mse_loss(logits, targets)
    targets = targets.long()
    if logits.ndim > 2 and logits.shape[:-1] == targets.shape:  # classes are last
        logits, targets = logits.flatten(0, -2), targets.flatten()
    return functional.cross_entropy(logits, targets)


def split(batch: Any) -> tuple[Any, Any]:
    """Split a batch into its inputs and its targets, which may be None."""
    if isinstance(batch, tuple | list):
        if len(batch) == 2:
            return batch[0], batch[1]
        if len(batch) == 1:
            return batch[0], None
        raise ValueError(
            "a batch must be inputs, a pair (inputs, targets) or a mapping, got "
            f"{len(batch)} items; give several inputs as ((a, b), targets)"
        )
    return batch, None


def moved(thing: Any, device: torch.device, copy: bool = False) -> Any:
    """Return tensors, or what holds them, on a device."""
    if isinstance(thing, torch.Tensor):
        return thing.to(device, copy=copy)
    if isinstance(thing, Mapping):
        return {name: moved(value, device, copy) for name, value in thing.items()}
    if isinstance(thing, tuple | list):
        return type(thing)(moved(value, device, copy) for value in thing)
    return thing


def token_mask(batch: Any) -> torch.Tensor | None:
    """Which tokens of a batch are none of the padding, where the batch says so."""
    inputs, _ = split(batch)
    if isinstance(inputs, Mapping):
        mask = inputs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            return mask != 0
    return None


def n_samples(batch: Any) -> int:
    """How many samples a batch holds."""
    for tensor in _tensors(split(batch)[0]):
        return int(tensor.shape[0]) if tensor.ndim else 1
    return 0


def _tensors(thing: Any) -> Iterable[torch.Tensor]:
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from _tensors(value)
    elif isinstance(thing, tuple | list):
        for value in thing:
            yield from _tensors(value)


def _logits(output: Any) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        found = output["logits"]
    else:
        found = getattr(output, "logits", None)
        if found is None and isinstance(output, tuple | list) and output:
            found = output[0]
    if not isinstance(found, torch.Tensor):
        raise ValueError(
            f"the model returned {type(output).__name__}, in which no logits were "
            "found: give a loss=... of its outputs and the targets"
        )
    return found
