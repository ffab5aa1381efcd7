"""Weights to go back to, and means of weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitalfew.pruning.training._distributed import of_the_first
from vitalfew.pruning.training._site import Site, put, whole


class Snapshots:
    """What a model was at some step, and its mean over several.

    Of all that training changes: parameters and buffers, by name, less those of gates.

    Parameters
    ----------
    model : Module
        In training.
    sites : sequence of Site
        Its layers that are pruned.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        self.model, self.sites = model, sites
        self.remembered: dict[str, Tensor] = {}
        self.means: dict[str, Tensor] = {}
        self.n_means = 0

    def _changing(self) -> dict[str, Tensor]:
        own = {id(b) for site in self.sites for b in site.gate.buffers()}
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        rest = [(n, b) for n, b in self.model.named_buffers() if id(b) not in own]
        return dict(trained + rest)

    def remember(self) -> None:
        """Take note of the model as it is."""
        now = self._changing()
        self.remembered = {name: whole(t).clone() for name, t in now.items()}

    def rewind(self, zero: bool) -> None:
        """Go back to what is remembered, if anything, hidden weights at zero or not."""
        now = self._changing()
        then = of_the_first(list(self.remembered.values()))
        for name, tensor in zip(self.remembered, then, strict=True):
            if name in now:  # or it was frozen since
                put(now[name], tensor)
        for site in self.sites if zero and then else ():
            site.write(site.matrix.masked_fill(site.gone, 0))

    @torch.no_grad()
    def average(self, progress: float) -> None:
        """Add what there is to the mean, of the second half of a phase."""
        if progress < 0.5:
            self.means, self.n_means = {}, 0
            return
        self.n_means += 1
        for name, tensor in self._changing().items():
            if tensor.is_floating_point():
                now = whole(tensor)
                now = now.to(torch.promote_types(now.dtype, torch.float32))
                mean = self.means.setdefault(name, now).to(now.device)
                # what is the same stays, infinities too, as masks of attention have
                moved = mean + (now - mean) / self.n_means
                self.means[name] = torch.where(now == mean, mean, moved)

    def take_mean(self) -> None:
        """Let the model be the mean, if there is one, and begin anew."""
        now = self._changing()
        for name, mean in self.means.items():
            if name in now:  # or it was frozen since
                put(now[name], mean)
        self.means, self.n_means = {}, 0

    def state(self) -> dict[str, Any]:
        """Return tensors and numbers to go on from."""
        return {
            "remembered": dict(self.remembered),
            "means": dict(self.means),
            "n_means": self.n_means,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        device = self.sites[0].layer.parameter.device
        self.remembered = copied(state["remembered"], device)
        self.means = copied(state["means"], device)
        self.n_means = int(state["n_means"])


def copied(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return copies of tensors on a device.

    Parameters
    ----------
    tensors : mapping of str to tensor
        Anywhere.
    device : torch.device
        Where the copies shall be.

    Returns
    -------
    dict of str to tensor
        Without graphs.
    """
    return {k: v.detach().to(device, copy=True) for k, v in tensors.items()}
