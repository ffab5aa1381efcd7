"""All weights of a network as one vector, and the gradients of samples there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from vitalfew._validation import check_count
from vitalfew.neural.batches import Batches, LossFunction, loss_of, n_samples
from vitalfew.neural.gradients import SampleGradients, float_type, picked
from vitalfew.neural.layers import Layer
from vitalfew.neural.modes import evaluating


class FlatNetwork:
    """A network seen as a function of one vector: its layers' matrices end to end.

    Parameters
    ----------
    model : Module
        Run in evaluation mode; its modes are left as they were.
    layers : sequence of Layer
        Whose weights make the vector, each matrix row by row.
    batches : list
        As `as_batches` returns them, with targets.
    loss : callable, optional
        As in `loss_of`.

    Attributes
    ----------
    shapes : list of (int, int)
        Of the layers' matrices.
    size : int
        Number of weights.
    n_samples : int
        Number of samples in the batches.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        batches: Batches,
        loss: LossFunction | None = None,
    ) -> None:
        self.model, self.layers, self.batches = model, list(layers), batches
        self.loss_function = loss
        self.shapes = [layer.shape for layer in self.layers]
        self.size = sum(n_out * n_in for n_out, n_in in self.shapes)
        self.counts = [n_samples(batch) for batch in batches]
        self.n_samples = sum(self.counts)
        if not self.layers:
            raise ValueError("layers must hold at least one layer, got none")
        if self.n_samples == 0:
            raise ValueError("calibration must hold at least one sample, got none")
        self.dtype = float_type(self.layers)
        self.device = self.layers[0].parameter.device

    def weights(self) -> Tensor:
        """Return the weights as they are now, (p,), in float32 at least."""
        parts = [
            layer.weight.reshape(-1).to(self.device, self.dtype)
            for layer in self.layers
        ]
        return torch.cat(parts)

    def split(self, w: Tensor) -> dict[str, Tensor]:
        """Return a vector as the matrix of each layer, by its name.

        Parameters
        ----------
        w : tensor of shape (p,)
            Weights, or anything of their shape.

        Returns
        -------
        dict of str to tensor of shape (n_out, n_in)
            Views.
        """
        if tuple(w.shape) != (self.size,):
            raise ValueError(f"w must have shape ({self.size},), got {tuple(w.shape)}")
        sizes = [n_out * n_in for n_out, n_in in self.shapes]
        return {
            layer.name: part.reshape(shape)
            for layer, part, shape in zip(
                self.layers, torch.split(w, sizes), self.shapes, strict=True
            )
        }

    def write(self, w: Tensor) -> None:
        """Put a vector in place of the weights, rounded to the type of each layer.

        Parameters
        ----------
        w : tensor of shape (p,)
            New weights.
        """
        for layer, matrix in zip(self.layers, self.split(w).values(), strict=True):
            layer.write(matrix)

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Put the weights back as they were, to the bit, at the end or on an error."""
        before = [layer.parameter.detach().clone() for layer in self.layers]
        try:
            yield
        finally:
            with torch.no_grad():
                for layer, weight in zip(self.layers, before, strict=True):
                    layer.parameter.copy_(weight)

    def gradients(
        self, n_rows: int, rng: Generator, per_row: int = 1
    ) -> tuple[Tensor, float]:
        """Return gradients of samples at the weights as they are now.

        Parameters
        ----------
        n_rows : int
            How many; fewer where there are not so many samples.
        rng : Generator
            For the choice of samples, without replacement.
        per_row : int, default=1
            Samples whose mean gradient makes one row.

        Returns
        -------
        tensor of shape (n, p)
            Gradients, one row each.
        float
            Mean loss of these samples.

        Notes
        -----
        n p numbers, and the chunk of `per_sample_gradients`: 1.1 GB in float32 for
        1,000 gradients of 270,000 weights.
        """
        check_count("n_rows", n_rows, 1)
        check_count("per_row", per_row, 1)
        per_row = min(per_row, self.n_samples)
        n_rows = min(n_rows, self.n_samples // per_row)
        drawn = rng.permutation(self.n_samples)[: n_rows * per_row]
        order = np.argsort(drawn)
        drawn, row = drawn[order], np.arange(len(drawn))[order] // per_row
        A = torch.zeros((n_rows, self.size), dtype=self.dtype, device=self.device)
        total, seen = 0.0, 0
        with SampleGradients(self.model, self.layers, self.loss_function) as gradients:
            for batch in self._picked(drawn):
                for chunk, losses in gradients.of(batch):
                    here = torch.from_numpy(row[seen : seen + len(losses)])
                    g = gradients.flat(chunk, self.dtype).to(self.device)
                    A.index_add_(0, here.to(self.device), g / per_row)
                    total, seen = total + float(losses.double().sum()), seen + len(g)
        return A, total / seen

    def loss(self, n_rows: int, rng: Generator) -> float:
        """Return the mean loss of some samples at the weights as they are now.

        Parameters
        ----------
        n_rows : int
            How many samples; all where there are not so many.
        rng : Generator
            For their choice, the same that `gradients` would make.

        Returns
        -------
        float
            Mean loss; NaN or infinity where the network overflows.
        """
        drawn = np.sort(rng.permutation(self.n_samples)[:n_rows])
        total = 0.0
        with evaluating(self.model), torch.no_grad():
            for batch in self._picked(drawn):
                value = float(loss_of(self.model, batch, self.loss_function))
                total += value * n_samples(batch)
        return total / len(drawn)

    def _picked(self, drawn: np.ndarray) -> Iterator[object]:
        """Yield the parts of the batches that hold some samples, in their order."""
        ends = np.cumsum(self.counts)
        bounds = np.searchsorted(drawn, np.concatenate(([0], ends)))
        for number, batch in enumerate(self.batches):
            mine = drawn[bounds[number] : bounds[number + 1]]
            if len(mine):
                inside = torch.from_numpy(mine - (ends[number] - self.counts[number]))
                yield picked(batch, self.counts[number], inside)
