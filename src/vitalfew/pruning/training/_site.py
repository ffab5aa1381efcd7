"""One layer in training: its weight, its atoms, and what its gradients have said."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitalfew.neural import Layer, Statistics
from vitalfew.pruning.training._distributed import agreed
from vitalfew.pruning.training._gate import Gate
from vitalfew.pruning.training._tiles import Tiles

MEMORY = 0.99  # of running means of gradients and their squares

Marks = NDArray[np.bool_]


@dataclass(eq=False)
class Site:
    """A layer that is pruned while it trains.

    Attributes
    ----------
    layer : Layer
        The layer; its `parameter` is the trained weight.
    structure : IndexStructure
        On the shape of its matrix.
    fixed : bool
        Whether the structure itself says how much of the layer may stay.
    gate : Gate
        What makes the weight that the network sees.
    kept : bool array of shape (n_atoms,)
        Atoms that are there now.
    seen : dict of str to tensor
        Running statistics of gradients, (n_out, n_in).
    n_steps : int
        How many gradients they come from.
    """

    layer: Layer
    structure: Any
    fixed: bool
    gate: Gate
    kept: Marks
    seen: dict[str, Tensor] = field(default_factory=dict)
    n_steps: int = 0

    @property
    def name(self) -> str:
        """Full name of the module."""
        return self.layer.name

    @property
    def tiles(self) -> Tiles:
        """How the atoms lie in the matrix."""
        return self.gate.tiles

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.tiles.n_atoms

    @property
    def matrix(self) -> Tensor:
        """The trained weight as a matrix (n_out, n_in), whole, without a graph."""
        return self.layer.as_matrix(whole(self.layer.parameter))

    @property
    def gradient(self) -> Tensor | None:
        """Gradient of the loss by the trained weight, (n_out, n_in)."""
        found = self.layer.parameter.grad
        return None if found is None else self.layer.as_matrix(whole(found))

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Parameters of the score, whole, without a graph."""
        return {name: whole(value) for name, value in self.gate.own().items()}

    @property
    def statistics(self) -> Statistics:
        """What gradients have said so far."""
        return Statistics(n_samples=self.n_steps, **self.seen)

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Return the means of ``x`` and ``x x^T`` over recent inputs of all processes.

        Returns
        -------
        tuple of tensors of shapes (n_in,) and (n_in, n_in), or None
            None where inputs are not looked at, or none were seen.
        """
        inputs = self.gate.inputs
        if inputs is None:
            return None
        # a process may have seen none, and exchanges them all the same
        sums = (inputs.mean, inputs.square, inputs.seen)
        mean, square, seen = agreed([part.reshape(-1) for part in sums])
        if not float(seen) > 0:
            return None
        return mean / seen, (square / seen).reshape(len(mean), len(mean))

    def write(self, matrix: Tensor) -> None:
        """Put a matrix in place of the trained weight."""
        put(self.layer.parameter, self.layer.as_weight(matrix))

    def entries(self, marks: Tensor) -> Tensor:
        """Which entries (n_out, n_in) belong to marked atoms."""
        return self.tiles.spread(marks.to(self.gate.mask.dtype)) > 0

    @property
    def gone(self) -> Tensor:
        """Which entries (n_out, n_in) belong to atoms that are not there."""
        return ~self.entries(torch.from_numpy(self.kept).to(self.gate.mask.device))

    def show(self, kept: Marks, leak: float = 0.0) -> None:
        """Let the network see some atoms, and a little of the others."""
        self.kept = kept
        mask = torch.from_numpy(np.where(kept, 1.0, leak).astype(np.float32))
        self.gate.mask.copy_(mask)

    @torch.no_grad()
    def observe(self, needs: frozenset[str]) -> None:
        """Take note of the present gradient, if there is one and it is finite.

        Movement is that of weights after the step, which differs from those before by
        terms of the square of the step; hidden weights have none.
        """
        g = self.gradient if needs else None
        if g is None:
            return
        g = g.to(torch.float32)
        if not bool(torch.isfinite(g.square().sum())):  # means would stay infinite
            return
        self.n_steps += 1
        warm = min(MEMORY, 1 - 1 / self.n_steps)  # a plain mean at first
        for name in needs:
            if name == "movement":
                before = self.seen.get(name, torch.zeros_like(g))
                self.seen[name] = before - self.matrix.to(torch.float32) * g
            else:
                new = g * g if name == "fisher" else g
                if name not in self.seen:
                    self.seen[name] = torch.zeros_like(g)
                self.seen[name].lerp_(new, 1 - warm)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor without a graph, gathered if it is spread over processes."""
    found = tensor.detach()
    gather = getattr(found, "full_tensor", None)
    return found if gather is None else gather()


@torch.no_grad()
def put(parameter: Tensor, values: Tensor) -> None:
    """Write whole values into a tensor, or this process's part of them."""
    target: Any = parameter.detach()
    values = values.to(device=target.device, dtype=target.dtype)
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        values = distribute_tensor(values, target.device_mesh, target.placements)
    target.copy_(values)
