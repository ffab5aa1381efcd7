"""A small network in training, for the tests of the Pruner."""

import torch
from torch import nn
from torch.nn import functional

from tests.pruning.networks import mlp, pairs
from vitalfew.pruning import Pruner
from vitalfew.structures import Blocks

BATCHES = pairs()


class Training:
    """Model, optimizer and Pruner; the data depend on the step alone."""

    def __init__(
        self,
        method="sequential-attention++",
        structure=None,
        total_steps=40,
        *,
        model=None,
        optimizer=torch.optim.Adam,
        settings=None,
        dtype=torch.float32,
        seed=0,
        **options,
    ):
        self.model = (mlp(seed) if model is None else model).to(dtype)
        self.dtype = dtype
        settings = {"lr": 0.01} if settings is None else settings
        self.optimizer = optimizer(self.model.parameters(), **settings)
        options = {"min_blocks": 1, "exclude": "4"} | options
        self.pruner = Pruner(
            self.model,
            Blocks((4, 4), density=0.25) if structure is None else structure,
            method=method,
            total_steps=total_steps,
            optimizer=self.optimizer,
            **options,
        )

    def loss(self, n):
        x, y = BATCHES[n % len(BATCHES)]
        return functional.cross_entropy(self.model(x.to(self.dtype)), y)

    def train(self):
        """Take one step of the optimizer."""
        self.optimizer.zero_grad()
        loss = self.loss(self.pruner.n_steps)
        loss.backward()
        self.optimizer.step()
        return loss

    def step(self):
        self.pruner.step(self.train())

    def steps(self, n):
        for _ in range(n):
            self.step()
        return self

    def finish(self):
        self.steps(self.pruner.total_steps - self.pruner.n_steps)
        return self.pruner.finalize()

    def state(self):
        """All there is to go on from."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": self.pruner.state_dict(),
        }

    def load(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pruner.load_state_dict(state["pruner"])
        return self


def outputs(model: nn.Module, dtype=torch.float32):
    """What a model says of all the data."""
    with torch.no_grad():
        return torch.cat([model(x.to(dtype)) for x, _ in BATCHES])


def weights(model: nn.Module):
    """Copies of all parameters and buffers, by name."""
    return {name: t.clone() for name, t in model.state_dict().items()}


def same(one, other):
    """Whether two dictionaries of tensors agree in every bit."""
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) for name, tensor in one.items()
    )
