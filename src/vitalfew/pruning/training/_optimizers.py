"""What pruning does to optimizers: parameters join, moments are forgotten."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Adagrad, Optimizer

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
        self.all: list[Optimizer] = [
            _innermost(each) for each in several if each is not None
        ]

    def __bool__(self) -> bool:
        return bool(self.all)

    def rates(self, parameters: Iterable[nn.Parameter]) -> list[float]:
        """Return the learning rates of parameters, 0 where nobody trains them."""
        found: dict[int, float] = {}
        for each in self.all:
            for group in each.param_groups:
                rate = float(group["lr"])
                found |= {id(p): rate for p in group["params"]}
        return [found.get(id(p), 0.0) for p in parameters]

    def join(
        self,
        named: Mapping[str, nn.Parameter],
        beside: Sequence[nn.Parameter],
        options: dict[str, float],
    ) -> None:
        """Train new parameters beside others, in a group of their own.

        Parameters
        ----------
        named : mapping of str to Parameter
            By their full names; those that an optimizer has already stay where they
            are.
        beside : sequence of Parameter
            The weights that they belong to.
        options : dict of str to float
            Of their group.

        Raises
        ------
        ValueError
            If no optimizer has the weights, a learning-rate scheduler has counted the
            groups already, or the parameters are in the weights' group and need
            options of their own.
        """
        if not self.all:
            return
        groups = [(each, group) for each in self.all for group in each.param_groups]
        near = {id(p) for p in beside}
        found = [g for g in groups if any(id(p) in near for p in g[1]["params"])]
        if not found:
            raise ValueError(
                "the optimizer has none of the weights that are pruned: give the one "
                "that trains them"
            )
        known = {id(p): group for _, group in groups for p in group["params"]}
        together = [group for _, group in found]
        for name, parameter in named.items():
            group = known.get(id(parameter), options)
            if all(group is not each for each in together):
                continue  # in a group of their own
            wrong = [k for k, v in options.items() if group.get(k, v) != v]
            if wrong:
                raise ValueError(
                    f"the optimizer trains {name!r} with {wrong[0]}={group[wrong[0]]}, "
                    f"the score asks for {options[wrong[0]]}: give the optimizer to "
                    "Pruner(optimizer=...) before it has them, or put "
                    "Pruner.parameters() into a group with these options"
                )
        new = [(k, p) for k, p in named.items() if id(p) not in known]
        if not new:
            return
        place, like = found[0]
        if _is_scheduled(place):
            raise ValueError(
                "the optimizer has a learning-rate scheduler already: make the Pruner "
                "after the optimizer and before the scheduler"
            )
        if isinstance(place, LBFGS):
            raise ValueError(
                "LBFGS has one group of parameters only: make the Pruner without an "
                "optimizer, then LBFGS(model.parameters()), and Pruner.attach it"
            )
        names = "param_names" in like
        settings = {k: v for k, v in like.items() if k not in ("params", "param_names")}
        params = [pair if names else pair[1] for pair in new]
        place.add_param_group({**settings, **options, "params": params})

    def leave(self, old: Iterable[nn.Parameter]) -> None:
        """Forget parameters, and groups that held no others and nobody has counted."""
        gone = {id(p) for p in old}
        for each in self.all:
            for group in each.param_groups:
                for p in group["params"]:
                    if id(p) in gone:
                        each.state.pop(p, None)
                stay = [id(p) not in gone for p in group["params"]]
                for key in ("params", "param_names"):
                    if key in group:
                        group[key] = list(compress(group[key], stay))
            if not _is_scheduled(each):
                each.param_groups[:] = [g for g in each.param_groups if g["params"]]

    @torch.no_grad()
    def reset(self) -> None:
        """Forget what all optimizers know, as if they had taken no step."""
        for each in self.all:
            if not isinstance(each, Adagrad):
                each.state.clear()  # it is made at the next step
                continue
            for group in each.param_groups:  # the one that makes it when it is made
                for state in [each.state[p] for p in group["params"]]:
                    state["step"].zero_()
                    state["sum"].fill_(group["initial_accumulator_value"])

    @torch.no_grad()
    def forget(self, parameter: nn.Parameter, where: Tensor) -> None:
        """Forget the moments of some entries, (shape of the parameter)."""
        for each in self.all:
            state = each.state.get(parameter)
            for value in (state or {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    full = whole(value)
                    put(value, full.masked_fill(where.to(full.device), 0))


def _is_scheduled(optimizer: Optimizer) -> bool:
    """Whether a learning-rate scheduler has counted the groups."""
    return hasattr(optimizer.step, "_wrapped_by_lr_sched")


def _innermost(given: Any) -> Optimizer:
    """Return the optimizer itself where another one is wrapped around it.

    Raises
    ------
    TypeError
        If it is none.
    """
    if not isinstance(given, Optimizer):
        raise TypeError(
            "optimizer must be a torch.optim.Optimizer or a sequence of them, got "
            f"{type(given).__name__}"
        )
    inner = getattr(given, "optimizer", None)
    return _innermost(inner) if isinstance(inner, Optimizer) else given
