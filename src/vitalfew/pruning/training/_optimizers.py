"""What pruning does to optimizers: parameters join, moments are forgotten."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitalfew.pruning.training._site import put, whole


class Optimizers:
    """The optimizers of a training.

    Parameters
    ----------
    given : Optimizer, sequence of Optimizer or None
        As the user has them.

    Raises
    ------
    TypeError
        If something else is given.
    """

    def __init__(self, given: Any) -> None:
        several = given if isinstance(given, Sequence) else (given,)
        self.all: list[Optimizer] = [each for each in several if each is not None]
        for each in self.all:
            if not isinstance(each, Optimizer):
                raise TypeError(
                    "optimizer must be a torch.optim.Optimizer or a sequence of them, "
                    f"got {type(each).__name__}"
                )

    def __bool__(self) -> bool:
        return bool(self.all)

    def rate(self, parameter: nn.Parameter) -> float:
        """Return the learning rate of a parameter, 0 where nobody trains it."""
        for each in self.all:
            for group in each.param_groups:
                if any(p is parameter for p in group["params"]):
                    return float(group["lr"])
        return 0.0

    def join(
        self,
        new: Sequence[nn.Parameter],
        beside: Sequence[nn.Parameter],
        options: dict[str, float],
    ) -> None:
        """Train new parameters beside others, in a group of their own.

        Raises
        ------
        ValueError
            If a learning-rate scheduler has counted the groups already.
        """
        known = {
            id(p) for o in self.all for group in o.param_groups for p in group["params"]
        }
        new = [p for p in new if id(p) not in known]
        if not new or not self.all:
            return
        near = {id(p) for p in beside}
        place, like = self.all[0], self.all[0].param_groups[0]
        for each in self.all:
            for group in each.param_groups:
                if any(id(p) in near for p in group["params"]):
                    place, like = each, group
                    break
            else:
                continue
            break
        if hasattr(place.step, "_wrapped_by_lr_sched"):
            raise ValueError(
                "the optimizer has a learning-rate scheduler already: make the Pruner "
                "after the optimizer and before the scheduler"
            )
        settings = {k: v for k, v in like.items() if k != "params"}
        place.add_param_group({**settings, **options, "params": list(new)})

    def leave(self, old: Iterable[nn.Parameter]) -> None:
        """Forget parameters, and groups that hold no others."""
        gone = {id(p) for p in old}
        for each in self.all:
            for group in each.param_groups:
                for p in group["params"]:
                    if id(p) in gone:
                        each.state.pop(p, None)
                group["params"] = [p for p in group["params"] if id(p) not in gone]
            each.param_groups[:] = [g for g in each.param_groups if g["params"]]

    @torch.no_grad()
    def reset(self) -> None:
        """Forget what all optimizers know, as if they had taken no step."""
        for each in self.all:
            for state in each.state.values():
                if all(isinstance(v, Tensor | int | float) for v in state.values()):
                    for name, value in state.items():
                        if isinstance(value, Tensor):
                            value.zero_()
                        else:
                            state[name] = type(value)(0)
                else:
                    state.clear()

    @torch.no_grad()
    def forget(self, parameter: nn.Parameter, where: Tensor) -> None:
        """Forget the moments of some entries, (shape of the parameter)."""
        for each in self.all:
            state = each.state.get(parameter)
            for value in (state or {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    full = whole(value)
                    put(value, full.masked_fill(where.to(full.device), 0))
