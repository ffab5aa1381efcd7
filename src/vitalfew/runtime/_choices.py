"""Which kernel computes a layer: measured on numbers of the example's shape."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from vitalfew.packed import best_block, pack
from vitalfew.runtime._latency import quickest
from vitalfew.runtime._linear import (
    Activation,
    Precision,
    SparseConv2d,
    SparseLinear,
)

# columns that a precision stores together
WIDTHS: dict[str, int] = {"float32": 1, "bfloat16": 2, "int8": 4}
Builder = Callable[[Activation], SparseLinear]
HEIGHTS = (16, 8, 4, 2, 1)
WORTH = 0.95  # of the entries: what lower runs must leave to be tried


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer or convolution with its weights.

    Attributes
    ----------
    name : str
        Of the module.
    weight : tensor of shape (n_out, n_in) or (n_out, channels, height, width)
        Of single precision.
    bias : tensor of shape (n_out,) or None
        What is added.
    geometry : dict or None
        Of a convolution: kernel, stride, padding, dilation.
    shape : tuple of int
        Of the example's input.
    """

    name: str
    weight: torch.Tensor
    bias: torch.Tensor | None
    geometry: dict[str, tuple[int, int]] | None
    shape: tuple[int, ...]

    @property
    def matrix(self) -> NDArray[np.float32]:
        """The weights as a matrix (n_out, n_in)."""
        array = self.weight.detach().numpy()
        return np.ascontiguousarray(array.reshape(len(array), prod(array.shape[1:])))

    def dense(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the layer as torch does.

        Parameters
        ----------
        x : tensor
            Of the example's shape.
        """
        if self.geometry is None:
            return functional.linear(x, self.weight, self.bias)
        g = self.geometry
        return functional.conv2d(
            x, self.weight, self.bias, g["stride"], g["padding"], g["dilation"]
        )


@dataclass(eq=False)
class Choice:
    """What computes a layer.

    Attributes
    ----------
    layer : Layer
        What is computed.
    pattern : tuple of int
        Blocks in which the zeros of the weights lie.
    density : float
        Part of the weights that is not zero.
    kernel : str
        ``"torch"``, or rows and precision of the runs that are stored.
    before, after : float
        Seconds of torch and of what was chosen, on the example's shape.
    seconds : dict of str to float
        Of every kernel that was tried.
    builders : dict of str to callable
        For each kernel but torch what makes its matrix, with an activation.
    matrix : callable or None
        The builder of the chosen kernel.
    """

    layer: Layer
    pattern: tuple[int, int]
    density: float
    kernel: str = "torch"
    before: float = 0.0
    after: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    builders: dict[str, Builder] = field(default_factory=dict)
    matrix: Builder | None = None

    def without_torch(self) -> "Choice":
        """Return the best of our own kernels, if there is one.

        A layer that is slower by itself may be quicker than what it costs to leave a
        segment and to come back.
        """
        own = {k: v for k, v in self.seconds.items() if k != "torch"}
        if self.kernel != "torch" or not own:
            return self
        kernel = min(own, key=own.__getitem__)
        return replace(
            self, kernel=kernel, after=own[kernel], matrix=self.builders[kernel]
        )

    def build(self, activation: Activation) -> SparseLinear:
        """Return the matrix of the chosen kernel.

        Parameters
        ----------
        activation : str
            What is applied after it.
        """
        assert self.matrix is not None
        return self.matrix(activation)


def choose(
    layer: Layer,
    precision: Precision,
    dense_below: float | str,
    threads: int,
) -> Choice:
    """Choose between torch and block-sparse kernels.

    Parameters
    ----------
    layer : Layer
        What is to be computed.
    precision : {"float32", "bfloat16", "int8"}
        Of linear layers; convolutions are always of single precision.
    dense_below : float or "auto"
        Layers with a smaller part of zeros are left to torch; "auto" measures.
    threads : int
        While measuring.

    Returns
    -------
    Choice
        The quickest.

    Notes
    -----
    Runs of fewer rows are tried where they store clearly fewer entries. Numbers are
    drawn from the normal distribution with a fixed seed.
    """
    matrix = layer.matrix
    pattern = best_block(matrix)
    density = float(np.count_nonzero(matrix)) / max(matrix.size, 1)
    choice = Choice(layer, pattern, density)
    if layer.geometry is not None:
        precision = "float32"
    if not matrix.size or 0 in layer.shape:
        return choice
    if dense_below != "auto" and 1 - density < float(dense_below):
        return choice
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(layer.shape, generator=generator, dtype=torch.float32)
    calls: dict[str, Callable[[], Any]] = {"torch": lambda: layer.dense(x)}
    for block in _blocks(matrix, WIDTHS[precision]):
        name = f"{block[0]}x{block[1]} {precision}"
        choice.builders[name] = partial(_matrix, layer, block, precision)
        calls[name] = _sparse(layer, matrix, block, precision, threads, x.numpy())
    choice.seconds = quickest(calls, max(threads, torch.get_num_threads()))
    choice.before = choice.after = choice.seconds["torch"]
    allowed = dict(choice.seconds)
    if dense_below != "auto":
        del allowed["torch"]
    choice.kernel = min(allowed, key=allowed.__getitem__)
    choice.after = choice.seconds[choice.kernel]
    choice.matrix = choice.builders.get(choice.kernel)
    return choice


def _matrix(
    layer: Layer, block: tuple[int, int], precision: Precision, activation: Activation
) -> SparseLinear:
    return SparseLinear(
        pack(layer.matrix, block),
        bias=None if layer.bias is None else layer.bias.detach().numpy(),
        activation=activation,
        precision=precision,
    )


def _blocks(matrix: NDArray[np.float32], width: int) -> list[tuple[int, int]]:
    """Return the blocks worth trying: runs of 16 and 8, and lower ones that save."""
    found: list[tuple[int, int]] = []
    fewest = np.inf
    nonzero = matrix != 0
    for height in HEIGHTS:
        rows, columns = (
            -n % s for n, s in zip(nonzero.shape, (height, width), strict=True)
        )
        whole = np.pad(nonzero, ((0, rows), (0, columns)))
        tiles = whole.reshape(len(whole) // height, height, -1, width)
        stored = int(tiles.any(axis=(1, 3)).sum()) * height * width
        if len(found) < 2 or stored < WORTH * fewest:
            found.append((height, width))
        fewest = min(fewest, stored)
    return found


def _sparse(
    layer: Layer,
    matrix: NDArray[np.float32],
    block: tuple[int, int],
    precision: Precision,
    threads: int,
    x: NDArray[np.float32],
) -> Callable[[], Any]:
    packed = pack(matrix, block)
    if layer.geometry is None:
        linear = SparseLinear(packed, threads=threads, precision=precision)
        return lambda: linear(x)
    geometry: dict[str, Any] = dict(layer.geometry)
    convolution = SparseConv2d(packed, **geometry, threads=threads)
    return lambda: convolution(x)
