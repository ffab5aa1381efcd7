"""The gradient of every sample's own loss, laid out as the layers' matrices.

Row i of the per-sample gradients is the gradient of the loss on sample i alone, a batch
of one, in evaluation mode. Matrices follow one another in the order of the layers, each
row by row.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from vitalfew.neural.batches import (
    Batches,
    LossFunction,
    loss_of,
    moved,
    n_samples,
)
from vitalfew.neural.layers import Layer
from vitalfew.neural.modes import device_of, evaluating
from vitalfew.neural.statistics import differentiable

CHUNK_BYTES = 1 << 26  # of the gradients of the samples that are run together
MOST_TOGETHER = 64  # samples: their activations are in memory too


def per_sample_gradients(
    model: nn.Module,
    layers: Sequence[Layer],
    batch: Any,
    loss: LossFunction | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the gradient of every sample of a batch.

    Parameters
    ----------
    model : Module
        Run in evaluation mode; left as it was.
    layers : sequence of Layer
        Whose weights the gradients are of; they may be frozen.
    batch : pair or mapping
        As in `loss_of`. Tensors whose first dimension is the number of samples are cut
        along it, others are given to every sample as they are.
    loss : callable, optional
        As in `loss_of`; called on one sample at a time.
    dtype : torch dtype, optional
        Of the answer; that of the weights, but float32 at least, by default.

    Returns
    -------
    tensor of shape (n, p)
        Matrices end to end, on the device of the model.

    Raises
    ------
    ValueError
        If a gradient is not finite, or the batch has no targets.

    Notes
    -----
    Samples are run together in chunks by `torch.func.vmap`, which holds 64 MB of
    gradients beside the answer, or one sample's if that is more.
    """
    dtype = float_type(layers) if dtype is None else dtype
    with SampleGradients(model, layers, loss) as gradients:
        parts = [gradients.flat(g, dtype) for g, _ in gradients.of(batch)]
    if parts:
        return torch.cat(parts)
    return torch.zeros(0, sum(x.parameter.numel() for x in layers), dtype=dtype)


def mean_squares(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Batches,
    loss: LossFunction | None = None,
) -> tuple[dict[str, Tensor], int]:
    """Return the mean square of the samples' gradients: the diagonal Fisher matrix.

    Parameters
    ----------
    model : Module
        Run in evaluation mode; left as it was.
    layers : sequence of Layer
        Whose weights the gradients are of.
    batches : list
        As `as_batches` returns them.
    loss : callable, optional
        As in `loss_of`; called on one sample at a time.

    Returns
    -------
    dict of str to tensor of shape (n_out, n_in)
        By the name of the layer, in float32 at least.
    int
        Number of samples.

    Raises
    ------
    ValueError
        If a gradient is not finite, or batches have no targets.

    Notes
    -----
    Two numbers of memory for each weight, and the chunk of `per_sample_gradients`.
    """
    total = [
        torch.zeros_like(layer.parameter.detach(), dtype=float_type([layer]))
        for layer in layers
    ]
    n = 0
    with SampleGradients(model, layers, loss) as gradients:
        for batch in batches:
            for chunk, losses in gradients.of(batch):
                n += len(losses)
                for sum_, g in zip(total, chunk, strict=True):
                    g = g.to(sum_.dtype)
                    sum_ += torch.sum(g * g, dim=0)
    means = {
        layer.name: layer.as_matrix(sum_ / max(n, 1))
        for layer, sum_ in zip(layers, total, strict=True)
    }
    return means, n


class SampleGradients:
    """The gradients of samples, some at a time; a context that leaves no trace.

    Parameters
    ----------
    model : Module
        In evaluation mode within the context.
    layers : sequence of Layer
        Whose weights the gradients are of.
    loss : callable, optional
        As in `loss_of`.

    Notes
    -----
    `torch.func.vmap` runs many samples together. It cannot run models that look at the
    numbers they compute (``.item()``, ``if x.sum() > 0``, masks built from the data),
    that write into tensors they did not make, that draw random numbers in evaluation
    mode, or whose operations lack a rule for it (custom autograd functions, the masks
    of Hugging Face transformers); these are run sample by sample from the first failure
    on, with the same answer.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        loss: LossFunction | None = None,
    ) -> None:
        self.layers = list(layers)
        self.lossy = _Loss(model, loss)
        self.device = device_of(model)
        name_of = {id(p): name for name, p in self.lossy.named_parameters()}
        self.names = [name_of[id(layer.parameter)] for layer in self.layers]
        self.together = True  # until vmap fails on this model
        size = sum(layer.parameter.nbytes for layer in self.layers)
        self.height = max(1, min(CHUNK_BYTES // max(size, 1), MOST_TOGETHER))

    def __enter__(self) -> "SampleGradients":
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.lossy))
            stack.enter_context(differentiable([x.parameter for x in self.layers]))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.close()

    def of(self, batch: Any) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yield gradients and losses of the samples of a batch, a chunk at a time.

        Parameters
        ----------
        batch : pair or mapping
            Its samples.

        Yields
        ------
        list of tensor of shape (m, *shape of the weight)
            One for each layer.
        tensor of shape (m,)
            Losses.
        """
        n = n_samples(batch)
        # copied once, not for every sample
        batch = moved(batch, self.device)
        for start in range(0, n, self.height):
            some = slice(start, min(start + self.height, n))
            gradients, losses = self._chunk(batch, n, some)
            for layer, g in zip(self.layers, gradients, strict=True):
                if not bool(torch.isfinite(g).all()):
                    raise ValueError(
                        f"the gradient of a sample's loss in layer {layer.name!r} is "
                        "not finite on the calibration data"
                    )
            yield gradients, losses

    def flat(self, gradients: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Return gradients as the matrices of the layers end to end, (m, p)."""
        parts = [
            torch.vmap(layer.as_matrix)(g).reshape(len(g), -1).to(dtype)
            for layer, g in zip(self.layers, gradients, strict=True)
        ]
        return torch.cat([part.to(parts[0].device) for part in parts], dim=1)

    def _chunk(self, batch: Any, n: int, some: slice) -> tuple[list[Tensor], Tensor]:
        if self.together:
            try:
                return self._vectorised(batch, n, some)
            except (RuntimeError, NotImplementedError, TypeError, ValueError):
                self.together = False  # a fault of the model's own comes again below
        rows = [
            self._single(picked(batch, n, slice(i, i + 1)))
            for i in range(some.start, some.stop)
        ]
        gradients = [torch.stack(g) for g in zip(*(r[0] for r in rows), strict=True)]
        return gradients, torch.stack([r[1] for r in rows])

    def _vectorised(
        self, batch: Any, n: int, some: slice
    ) -> tuple[list[Tensor], Tensor]:
        leaves = tensors_of(batch)
        cut = [leaf.ndim > 0 and len(leaf) == n for leaf in leaves]
        given = [
            leaf[some, None] if each else leaf
            for leaf, each in zip(leaves, cut, strict=True)
        ]

        def loss(parameters: dict[str, Tensor], *sample: Tensor) -> Tensor:
            one = replaced(batch, iter(sample))
            found: Tensor = torch.func.functional_call(self.lossy, parameters, (one,))
            return found

        weights = {
            name: layer.parameter.detach()
            for name, layer in zip(self.names, self.layers, strict=True)
        }
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that vmap runs one by one
            found, losses = torch.vmap(
                torch.func.grad_and_value(loss),
                in_dims=(None, *(0 if each else None for each in cut)),
            )(weights, *given)
        return [found[name].detach() for name in self.names], losses.detach()

    def _single(self, sample: Any) -> tuple[list[Tensor], Tensor]:
        parameters = [layer.parameter for layer in self.layers]
        with torch.enable_grad():
            loss = self.lossy(sample)
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = [
            torch.zeros_like(p, requires_grad=False) if g is None else g.detach()
            for p, g in zip(parameters, found, strict=True)
        ]
        return gradients, loss.detach()


class _Loss(nn.Module):
    """A model followed by its loss on a batch."""

    def __init__(self, model: nn.Module, loss: LossFunction | None) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.training = model.training

    def forward(self, batch: Any) -> Tensor:
        return loss_of(self.model, batch, self.loss)


def float_type(layers: Sequence[Layer]) -> torch.dtype:
    """Widest floating-point type among weights, float32 at least."""
    widest = torch.float32
    for layer in layers:
        widest = torch.promote_types(widest, layer.parameter.dtype)
    return widest


def picked(batch: Any, n: int, rows: Any) -> Any:
    """Return some samples of a batch of n: a batch of the same form."""

    def pick(tensor: Tensor) -> Tensor:
        return tensor[rows] if tensor.ndim and len(tensor) == n else tensor

    return replaced(batch, map(pick, tensors_of(batch)))


def tensors_of(batch: Any) -> list[Tensor]:
    """List the tensors of a batch, in the order in which `replaced` puts them back."""
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        return [t for value in batch.values() for t in tensors_of(value)]
    if isinstance(batch, tuple | list):
        return [t for value in batch for t in tensors_of(value)]
    return []


def replaced(batch: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a batch with other tensors in the places of its own."""
    if isinstance(batch, Tensor):
        return next(tensors)
    if isinstance(batch, Mapping):
        return {name: replaced(value, tensors) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(replaced(value, tensors) for value in batch)
    return batch
