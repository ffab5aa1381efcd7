"""What a part of a network does, step by step, to values that are numbered."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from vitalfew.runtime._linear import Activation, SparseLinear

Kind = Literal["tokens", "images"]
Pair = tuple[int, int]
Size = tuple[int, int, int]  # channels, height and width


class Product(NamedTuple):
    """A matrix applied to a value; a convolution where the kernel is not 1x1.

    Attributes
    ----------
    matrix : int
        Which of the segment's.
    source, to : int
        Values that are read and made.
    residual : int or None
        Value that is added before the activation of the matrix.
    kernel, stride, padding, dilation : tuple of int
        Vertical and horizontal.
    """

    matrix: int
    source: int
    to: int
    residual: int | None = None
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


class Add(NamedTuple):
    """The sum of two values, or one value, and an activation.

    Attributes
    ----------
    a, b : int
        Values; `b` may be None.
    to : int
        Value that is made.
    activation : {"none", "relu", "gelu", "silu"}
        Applied last.
    """

    a: int
    b: int | None
    to: int
    activation: Activation = "none"


class Pool(NamedTuple):
    """Maxima or means of windows.

    Attributes
    ----------
    how : {"max", "mean"}
        What is taken of a window.
    source, to : int
        Values that are read and made.
    kernel, stride, padding : tuple of int
        Vertical and horizontal.
    whole : bool
        Whether a mean divides by the size of the window with its padding.
    """

    how: Literal["max", "mean"]
    source: int
    to: int
    kernel: Pair
    stride: Pair
    padding: Pair
    whole: bool


class Mean(NamedTuple):
    """The mean of each channel, as an image of one pixel.

    Attributes
    ----------
    source, to : int
        Values that are read and made.
    """

    source: int
    to: int


Step = Product | Add | Pool | Mean


def _reach(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def sizes(
    steps: Sequence[Step], matrices: Sequence[SparseLinear], inputs: Sequence[Any]
) -> list[Any]:
    """Return channels, height and width of each value of images.

    Parameters
    ----------
    steps : sequence of Step
        What is done.
    matrices : sequence of SparseLinear
        Of the products.
    inputs : sequence of (int, int, int)
        Sizes of the first values; symbols will do.
    """
    found = list(inputs)
    for step in steps:
        if isinstance(step, Add):
            found.append(found[step.a])
            continue
        c, *sides = found[step.source]
        if isinstance(step, Mean):
            sides = [1, 1]
        else:
            extra = [step.dilation] if isinstance(step, Product) else []
            geometry = zip(step.kernel, step.stride, step.padding, *extra, strict=True)
            sides = [_reach(n, *g) for n, g in zip(sides, geometry, strict=True)]
        if isinstance(step, Product):
            c = matrices[step.matrix].n_out
        found.append((c, *sides))
    return found


def reads(step: Step) -> list[int]:
    """Return the values that a step reads.

    Parameters
    ----------
    step : Step
        Of any kind.
    """
    if isinstance(step, Add):
        return [step.a] if step.b is None else [step.a, step.b]
    extra = step.residual if isinstance(step, Product) else None
    return [step.source] if extra is None else [step.source, extra]
