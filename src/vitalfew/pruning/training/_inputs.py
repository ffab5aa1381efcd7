"""What goes into a layer while it trains."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitalfew.neural import Layer

MEMORY = 0.9  # of the running mean
WINDOW = 20  # steps before a selection in which inputs are looked at
MOST_TOKENS = 2048  # of a step
SUMS = "square", "mean", "seen"


class Inputs(nn.Module):
    """Running means of ``x`` and ``x x^T`` over the inputs of a layer in training.

    A module, so that its sums move with the model. They are no buffers, which several
    processes would take from the first one in every step. Only steps shortly before a
    selection count, of long batches only some samples, and nothing of an input that is
    not finite, as a step that loss scaling skips may have.

    Parameters
    ----------
    layer : Layer
        Whose inputs these are.

    Attributes
    ----------
    watching : bool
        Whether the next steps count.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        n_in, device = layer.shape[1], layer.parameter.device
        self.layer, self.watching = layer, False
        self.square = torch.zeros(n_in, n_in, device=device)
        self.mean = torch.zeros(n_in, device=device)
        self.seen = torch.zeros((), device=device)
        self.handles: list[Any] = []

    def start(self) -> None:
        """Look from now on."""
        modules = (self.layer.module, *self.layer.sharing)
        self.handles = [
            m.register_forward_pre_hook(self.look, with_kwargs=True) for m in modules
        ]

    def sums(self) -> dict[str, Tensor]:
        """Return what was seen so far, copied."""
        return {name: getattr(self, name).clone() for name in SUMS}

    def take(self, sums: Mapping[str, Tensor]) -> None:
        """Go on from what `sums` returned."""
        for name in SUMS:
            getattr(self, name).copy_(sums[name])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        for name in SUMS:
            new = fn(getattr(self, name))
            wide = torch.promote_types(new.dtype, torch.float32)
            setattr(self, name, new.to(wide))
        return super()._apply(fn, recurse)

    def look(
        self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        """Take note of the inputs of a step of training."""
        if not (self.watching and module.training and torch.is_grad_enabled()):
            return
        x = (*args, *named.values())[0].detach()
        if not x.numel():
            return
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            x = self._some(x).to(self.mean.dtype)
            finite = x.isfinite().all()
            x = torch.where(finite, x, 0)
            share = (1 - MEMORY) * finite.to(self.mean.dtype)
            self.square.lerp_(x.T @ x / len(x), share)
            self.mean.lerp_(x.mean(0), share)
            self.seen.lerp_(torch.ones_like(self.seen), share)

    def _some(self, x: Tensor) -> Tensor:
        """Return the tokens of every so many-th sample, of a bounded number."""
        if self.layer.parameter.ndim == 2:  # a token is a sample
            x = x.reshape(-1, x.shape[-1])
        elif x.ndim < self.layer.parameter.ndim:
            x = x[None]
        n_tokens = len(x) * len(self.layer.tokens(x[:1]))
        return self.layer.tokens(x[:: -(-n_tokens // MOST_TOKENS)])

    def stop(self) -> None:
        """Look no more."""
        for handle in self.handles:
            handle.remove()
