"""Where the values of a segment lie while it runs, and the steps of its program.

Images lie channel after channel in planes. A plane has zeros around the image, of
which those on the right of a row are those on the left of the next, so that a shift
of a kernel is a shift of the position. For a convolution with strides the image is
copied into one plane for each phase, in which neighbours are what the kernel meets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitalfew._native._program import (
    ACTIVATIONS,
    NONE,
    ImageProgram,
    Kind,
    Op,
    TokenProgram,
)
from vitalfew._native._program import Pool as PoolKind
from vitalfew.runtime._steps import (
    Add,
    Mean,
    Pair,
    Pool,
    Product,
    Size,
    Step,
    reads,
    sizes,
)

if TYPE_CHECKING:
    from vitalfew.runtime._segments import Segment

SLACK = 64  # floats that a vector may read behind the last position
LINE = 16  # floats of a cache line
POOLS = {"max": PoolKind.MOST, "mean": PoolKind.AVERAGE}
SET = 1024  # floats after which planes share their cache sets


@dataclass(frozen=True)
class Layout:
    """How an image lies in a buffer or an external array.

    Attributes
    ----------
    size : (int, int, int)
        Channels, height and width.
    margin : (int, int)
        Zeros above and to the left.
    stride : (int, int)
        Phases that have planes of their own.
    least : int
        Columns that the widest result of a convolution has.
    """

    size: Size
    margin: Pair = (0, 0)
    stride: Pair = (1, 1)
    least: int = 0

    @property
    def pitch(self) -> int:
        """Floats from row to row."""
        return max(-(-(self.size[2] + self.margin[1]) // self.stride[1]), self.least)

    @property
    def plane(self) -> int:
        """Floats from plane to plane."""
        _, height, width = self.size
        if not any(self.margin) and height * width == 1:
            return 1
        rows = -(-(height + 2 * self.margin[0]) // self.stride[0])
        over = -(-self.margin[1] // self.stride[1])
        size = -(-(rows * self.pitch + over) // LINE) * LINE
        return size if size % SET else size + LINE

    @property
    def planes(self) -> int:
        """Number of planes."""
        return self.size[0] * self.stride[0] * self.stride[1]

    @property
    def first(self) -> int:
        """Where the first pixel lies, without phases."""
        return self.margin[0] * self.pitch + self.margin[1]

    @property
    def place(self) -> tuple[int, int, int]:
        """First pixel, floats from plane to plane and from row to row."""
        return self.first, self.plane, self.pitch

    def offsets(self, kernel: Pair, padding: Pair, dilation: Pair) -> NDArray[np.int64]:
        """Return where the first position of a convolution reads each of its columns.

        Parameters
        ----------
        kernel, padding, dilation : tuple of int
            Of the convolution, whose strides the layout has.

        Returns
        -------
        int64 array of shape (channels * kernel[0] * kernel[1],)
            From the buffer's begin.
        """
        at = []
        for axis in (0, 1):
            i = np.arange(kernel[axis]) * dilation[axis]
            at.append(divmod(i + self.margin[axis] - padding[axis], self.stride[axis]))
        (row, low), (column, right) = at
        phase = low[:, None] * self.stride[1] + right
        inner = phase * self.plane + row[:, None] * self.pitch + column
        phases = self.stride[0] * self.stride[1]
        channels = np.arange(self.size[0]) * phases * self.plane
        return (channels[:, None] + inner.ravel()).ravel()


def _external(size: Size) -> tuple[int, int, int]:
    return 0, size[1] * size[2], size[2]


@dataclass
class _Buffers:
    """Buffers of floats; a free one is taken by a value of the same layout."""

    sizes: list[int] = field(default_factory=list)
    kinds: list[Any] = field(default_factory=list)
    free: list[int] = field(default_factory=list)

    def take(self, kind: Any, size: int) -> int:
        for number in self.free:
            if self.kinds[number] == kind:
                self.free.remove(number)
                return number
        self.sizes.append(size)
        self.kinds.append(kind)
        return len(self.sizes) - 1

    def reaches(self, number: int, last: int) -> None:
        """Make room for a read of the float before `last`."""
        self.sizes[number] = max(self.sizes[number], last)


def _lastreads(segment: "Segment") -> list[int]:
    """Return the step after which each value is no more needed."""
    n = len(segment.channels)
    last = [-1] * (n + len(segment.steps))
    for i, step in enumerate(segment.steps):
        for value in reads(step):
            last[value] = i
    return last


def image_program(segment: "Segment", given: Sequence[Size]) -> ImageProgram:
    """Plan a segment of images for inputs of some size.

    Parameters
    ----------
    segment : Segment
        What is computed.
    given : sequence of (int, int, int)
        Channels, height and width of each input.

    Returns
    -------
    ImageProgram
        That computes it.

    Raises
    ------
    ValueError
        If an image is smaller than a kernel.
    """
    return _Images(segment, given).program()


class _Images:
    def __init__(self, segment: "Segment", given: Sequence[Size]) -> None:
        self.segment = segment
        self.sizes = sizes(segment.steps, segment.matrices, given)
        for size in self.sizes:
            if min(size[1:]) < 1:
                raise ValueError(
                    "images must not be smaller than the kernels, got height and width "
                    f"{given[0][1:]}"
                )
        self.inputs = list(given)
        self.buffers = _Buffers()
        self._layouts = [
            self._layout_for(value, (1, 1)) for value in range(len(self.sizes))
        ]
        self.last = _lastreads(segment)
        self.at: dict[int, int] = {}  # buffers of values
        self.phases: dict[tuple[int, Any], tuple[int, Layout]] = {}
        self.steps: list[list[int]] = []
        self.tables: list[NDArray[np.int32]] = []

    def _layout_for(self, value: int, stride: Pair) -> Layout:
        """Return a layout for the convolutions of some stride that read a value."""
        readers = [
            step
            for step in self.segment.steps
            if isinstance(step, Product)
            and step.source == value
            and step.stride == stride
        ]
        down, across = (
            max((step.padding[i] for step in readers), default=0) for i in (0, 1)
        )
        least = max((self.sizes[step.to][2] for step in readers), default=0)
        return Layout(self.sizes[value], (down, across), stride, least)

    def layout(self, value: int) -> Layout:
        return self._layouts[value]

    def program(self) -> ImageProgram:
        n = len(self.inputs)
        for value in range(n):
            self._copy_in(value)
        for i, step in enumerate(self.segment.steps):
            target = self._target(step.to)
            size = self.sizes[step.to]
            if isinstance(step, Product):
                self._product(step, target)
            elif isinstance(step, Add):
                self.steps.append(
                    [
                        *(Op.ADD, ACTIVATIONS.index(step.activation), *size),
                        *(*self._read(step.a), *self._read(step.b), *target),
                    ]
                )
            elif isinstance(step, Pool):
                self.steps.append(
                    [
                        *(Op.POOL, POOLS[step.how], int(step.whole), size[0]),
                        *(
                            n
                            for i in (0, 1)
                            for n in (
                                *(step.kernel[i], step.stride[i], step.padding[i]),
                                *(self.sizes[step.source][1 + i], size[1 + i]),
                            )
                        ),
                        *(*self._read(step.source), *target),
                    ]
                )
            else:
                assert isinstance(step, Mean)
                self.steps.append(
                    [
                        *(Op.MEAN, *self.sizes[step.source]),
                        *(*self._read(step.source), *target),
                    ]
                )
            self._copy_out(step.to)
            self._release(i)
        return ImageProgram(
            [m.native for m in self.segment.matrices],
            self.tables,
            self.buffers.sizes,
            self.inputs,
            [self.sizes[o] for o in self.segment.outputs],
            self.steps,
        )

    def _buffer(self, value: int) -> int:
        layout = self.layout(value)
        self.at[value] = self.buffers.take(layout, layout.planes * layout.plane + SLACK)
        return self.at[value]

    def _read(self, value: int | None) -> tuple[int, ...]:
        if value is None:
            return NONE
        return Kind.BUFFER, self.at[value], *self.layout(value).place

    def _direct(self, value: int) -> bool:
        """Say whether a value goes to its output alone."""
        outputs = self.segment.outputs
        return outputs.count(value) == 1 and self.last[value] < 0

    def _target(self, value: int) -> tuple[int, ...]:
        if self._direct(value):
            output = self.segment.outputs.index(value)
            return Kind.OUTPUT, output, *_external(self.sizes[value])
        return Kind.BUFFER, self._buffer(value), *self.layout(value).place

    def _copy(
        self, size: Size, source: Sequence[int], step: int, target: Sequence[int]
    ) -> None:
        self.steps.append([Op.COPY, *size, *source, step, *target])

    def _copy_in(self, value: int) -> None:
        source = (Kind.INPUT, value, *_external(self.sizes[value]))
        self._copy(self.sizes[value], source, 1, self._target(value))
        self._copy_out(value)

    def _copy_out(self, value: int) -> None:
        if self._direct(value):
            return
        for i, output in enumerate(self.segment.outputs):
            if output == value:
                target = (Kind.OUTPUT, i, *_external(self.sizes[value]))
                self._copy(self.sizes[value], self._read(value), 1, target)

    def _product(self, step: Any, target: Sequence[int]) -> None:
        number, layout = self._source(step)
        matrix = self.segment.matrices[step.matrix]
        offsets = layout.offsets(step.kernel, step.padding, step.dilation)
        table = offsets[matrix.arrays()["columns"]].astype(np.int32)
        _, height, width = self.sizes[step.to]
        positions = (height - 1) * layout.pitch + width
        reach = int(table.max(initial=0)) + -(-positions // SLACK + 1) * SLACK
        self.buffers.reaches(number, reach)
        self.tables.append(table)
        self.steps.append(
            [
                *(Op.PRODUCT, step.matrix, len(self.tables) - 1, number),
                *(layout.pitch, height, width, *target, *self._read(step.residual)),
            ]
        )

    def _source(self, step: Any) -> tuple[int, Layout]:
        """Return the buffer that a convolution reads, with phases if it has strides."""
        value = step.source
        if step.stride == (1, 1):
            return self.at[value], self.layout(value)
        layout = self._layout_for(value, step.stride)
        key = value, layout
        if key not in self.phases:
            number = self.buffers.take(layout, layout.planes * layout.plane + SLACK)
            self.phases[key] = number, layout
            self._split(value, number, layout)
        return self.phases[key]

    def _split(self, value: int, number: int, layout: Layout) -> None:
        (down, across), (above, left) = layout.stride, layout.margin
        channels, height, width = self.sizes[value]
        kind, index, first, plane, pitch = self._read(value)
        for low in range(down):
            for right in range(across):
                i, j = (low - above) % down, (right - left) % across
                size = channels, -(-(height - i) // down), -(-(width - j) // across)
                if min(size) < 1:
                    continue
                at = (i + above) // down * layout.pitch + (j + left) // across
                at += (low * across + right) * layout.plane
                source = kind, index, first + i * pitch + j, plane, down * pitch
                phases = down * across * layout.plane
                self._copy(
                    size,
                    source,
                    across,
                    (Kind.BUFFER, number, at, phases, layout.pitch),
                )

    def _release(self, i: int) -> None:
        for value, number in list(self.at.items()):
            if self.last[value] == i:
                self.buffers.free.append(number)
                del self.at[value]
                for key in [k for k in self.phases if k[0] == value]:
                    self.buffers.free.append(self.phases.pop(key)[0])


def token_program(segment: "Segment") -> TokenProgram:
    """Plan a segment of tokens.

    Parameters
    ----------
    segment : Segment
        What is computed; its matrices are of single precision.

    Returns
    -------
    TokenProgram
        That computes it.
    """
    return _Tokens(segment).program()


class _Tokens:
    def __init__(self, segment: "Segment") -> None:
        self.segment = segment
        self.last = _lastreads(segment)
        self.features = list(segment.channels)
        self.buffers = _Buffers()
        self.at: dict[int, int] = {}
        self.steps: list[list[int]] = []

    def program(self) -> TokenProgram:
        segment = self.segment
        for step in segment.steps:
            if isinstance(step, Product):
                self.features.append(segment.matrices[step.matrix].n_out)
            else:
                assert isinstance(step, Add)
                self.features.append(self.features[step.a])
        for i, step in enumerate(segment.steps):
            for value in reads(step):
                if value not in self.at and not self._apart(step, value):
                    self._pack(value)
            if isinstance(step, Product):
                self._product(step)
            else:
                assert isinstance(step, Add)
                b = (Kind.NONE, 0) if step.b is None else (Kind.BUFFER, self.at[step.b])
                act = ACTIVATIONS.index(step.activation)
                self.steps.append(
                    [Op.ADD, act, self.at[step.a], *b, self._buffer(step.to)]
                )
            for j, output in enumerate(segment.outputs):
                if output == step.to and step.to in self.at:
                    self.steps.append([Op.UNPACK, self.at[step.to], j])
            for value, number in list(self.at.items()):
                if self.last[value] == i:
                    self.buffers.free.append(number)
                    del self.at[value]
        return TokenProgram(
            [m.native for m in segment.matrices],
            self.buffers.sizes,
            list(segment.channels),
            [self.features[o] for o in segment.outputs],
            self.steps,
        )

    def _direct(self, step: Any) -> bool:
        """Say whether a product can be written to its output, token after token."""
        alone = self.segment.outputs.count(step.to) == 1 and self.last[step.to] < 0
        residual = step.residual
        return alone and (residual is None or residual < len(self.segment.channels))

    def _apart(self, step: Step, value: int) -> bool:
        """Say whether a step reads an input as a residual beside its output."""
        residual = isinstance(step, Product) and value != step.source
        return residual and value < len(self.segment.channels) and self._direct(step)

    def _buffer(self, value: int) -> int:
        size = self.features[value]
        self.at[value] = self.buffers.take(size, size)
        return self.at[value]

    def _pack(self, value: int) -> None:
        self.steps.append([Op.PACK, value, self._buffer(value)])

    def _product(self, step: Any) -> None:
        source = self.at[step.source]
        if self._direct(step):
            target = Kind.OUTPUT, self.segment.outputs.index(step.to)
            residual = (
                (Kind.NONE, 0) if step.residual is None else (Kind.INPUT, step.residual)
            )
        else:
            target = Kind.BUFFER, self._buffer(step.to)
            residual = (
                (Kind.NONE, 0)
                if step.residual is None
                else (Kind.BUFFER, self.at[step.residual])
            )
        self.steps.append([Op.PRODUCT, step.matrix, source, *target, *residual])
