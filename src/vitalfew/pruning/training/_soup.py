"""The mean of several networks that are pruned alike."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vitalfew.pruning.training._gate import Gate
from vitalfew.pruning.training._site import whole

State = Mapping[str, Tensor]


def soup(
    models: Sequence[nn.Module | State],
    *,
    masks: State | None = None,
    into: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Average pruned networks that keep the same weights.

    Networks that were trained on from one pruned network, with other orders of the
    data or other settings, have a mean that is as sparse and often better than each.

    Parameters
    ----------
    models : sequence of Module or state dict
        Of one architecture, pruned and finalized.
    masks : dict of str to bool tensor, optional
        Which entries are kept, by the name of the module: `PruneReport.masks`. By
        default every weight of two or more dimensions must be zero at the same entries
        in all models.
    into : Module, optional
        Gets the mean; may be one of the models.

    Returns
    -------
    dict of str to tensor
        State with the means of all parameters and buffers of real or complex numbers;
        others are those of the first model. On the devices of the first model.

    Raises
    ------
    ValueError
        If models differ in names, shapes, types or kept weights, are still being
        pruned, or have numbers that are not finite.

    Notes
    -----
    Sums in float32 at least. Running statistics of batch normalization are averaged
    too, which is only nearly right: show it some data afterwards
    (`torch.optim.swa_utils.update_bn`).

    References
    ----------
    .. [1] M. Zimmer, C. Spiegel, S. Pokutta, "Sparse model soups: a recipe for improved
       pruning via model averaging", ICLR, 2024.

    Examples
    --------
    >>> models = [nn.Linear(2, 1, bias=False) for _ in range(2)]
    >>> _ = models[0].weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    >>> _ = models[1].weight.data.copy_(torch.tensor([[3.0, 0.0]]))
    >>> soup(models)["weight"]
    tensor([[2., 0.]])
    """
    states = [_state(i, model) for i, model in enumerate(models)]
    if not states:
        raise ValueError("models must hold at least one model, got none")
    first = states[0]
    for i, state in enumerate(states[1:], 1):
        _check_alike(i, first, state)
    kept = _kept(first, masks)
    found = {}
    for name, tensor in first.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            found[name] = tensor.clone()
            continue
        wide = torch.promote_types(tensor.dtype, torch.float32)
        total = torch.zeros_like(tensor, dtype=wide)
        for i, state in enumerate(states):
            here = state[name].to(tensor.device)
            _check_entries(i, name, here, kept.get(name), exactly=masks is None)
            total += here.to(wide)
        found[name] = (total / len(states)).to(tensor.dtype)
    if into is not None:
        into.load_state_dict(found)
    return found


def _state(i: int, model: nn.Module | State) -> dict[str, Tensor]:
    if isinstance(model, nn.Module):
        if any(isinstance(module, Gate) for module in model.modules()):
            raise ValueError(
                f"model {i} is still being pruned: call Pruner.finalize first"
            )
        model = model.state_dict()
    if not isinstance(model, Mapping):
        raise ValueError(
            "models must be modules or their state dicts, got "
            f"{type(model).__name__} as number {i}"
        )
    return {name: whole(t) for name, t in model.items() if isinstance(t, Tensor)}


def _check_alike(i: int, first: State, other: State) -> None:
    """Raise unless two states have the same names, shapes and types."""
    names = sorted(first.keys() ^ other.keys())
    if names:
        raise ValueError(
            f"models must be of one architecture; models 0 and {i} do not both have "
            f"{', '.join(names[:3])}"
        )
    for name, tensor in first.items():
        same = other[name].shape == tensor.shape and other[name].dtype == tensor.dtype
        if not same:
            raise ValueError(
                f"models must be of one architecture; {name} is {_said(tensor)} in "
                f"model 0 and {_said(other[name])} in model {i}"
            )


def _said(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _kept(first: State, masks: State | None) -> dict[str, Tensor]:
    """Where each weight may differ from zero: as told, or as in the first model."""
    if masks is None:
        return {
            name: tensor != 0
            for name, tensor in first.items()
            if tensor.is_floating_point() and tensor.ndim > 1
        }
    found = {}
    for name, mask in masks.items():
        weight = f"{name}.weight" if name else "weight"
        if weight not in first or first[weight].shape != mask.shape:
            raise ValueError(
                "masks must be of weights of the models and have their shapes, got "
                f"one of {tuple(mask.shape)} for {weight!r}"
            )
        found[weight] = mask.to(first[weight].device).bool()
    return found


def _check_entries(
    i: int, name: str, tensor: Tensor, kept: Tensor | None, exactly: bool
) -> None:
    """Raise unless entries are finite, and zero where they were removed."""
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} of model {i} has entries that are not finite")
    if kept is None:
        return
    used = tensor != 0
    wrong = int(((used != kept) if exactly else (used & ~kept)).sum())
    if wrong and exactly:
        raise ValueError(
            f"models must keep the same weights; {name} of model {i} and of model 0 "
            f"are zero at {wrong} different entries: train them on from one pruned "
            "network, or give masks= if some kept weights happen to be zero"
        )
    if wrong:
        raise ValueError(
            f"models must be zero where masks are; {name} of model {i} is not at "
            f"{wrong} entries"
        )
