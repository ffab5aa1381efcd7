"""Segments as an operator of torch, eager and under torch.compile, on the CPU."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch

from vitalfew.runtime._segments import Segment

LIBRARY = torch.library.Library("vitalfew", "DEF")
LIBRARY.define("segment(Tensor[] inputs, int handle) -> Tensor[]")
MOST_SHAPES = 64  # of inputs whose results' shapes are remembered
_handles = count(1)
_held: "WeakValueDictionary[int, SegmentModule]" = WeakValueDictionary()


class SegmentModule(torch.nn.Module):
    """A segment that is called with tensors.

    Parameters
    ----------
    segment : Segment
        What is computed.
    threads : callable
        Number of threads for a call.
    """

    def __init__(self, segment: Segment, threads: Callable[[], int]) -> None:
        super().__init__()
        self.segment, self.threads = segment, threads
        self._shapes: dict[Any, list[tuple[Any, ...]]] = {}
        self.handle = next(_handles)
        _held[self.handle] = self

    def __reduce__(self) -> Any:
        """Refuse pickle."""
        raise TypeError(
            "a compiled network cannot be pickled: write it with save(folder) and read "
            "it with vitalfew.runtime.load(folder)"
        )

    def __deepcopy__(self, memo: Any) -> "SegmentModule":
        return SegmentModule(self.segment, self.threads)  # which nothing changes

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the results of the segment.

        Parameters
        ----------
        *inputs : tensor
            As many as the segment reads.
        """
        plain = all(type(x) is torch.Tensor for x in inputs)
        if not plain or torch.compiler.is_compiling():
            return torch.ops.vitalfew.segment(inputs, self.handle)
        return self.run(inputs)  # the dispatcher alone takes half of a small network

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Compute the results without torch's dispatcher.

        Parameters
        ----------
        inputs : sequence of tensor
            On the CPU.

        Returns
        -------
        list of tensor
            New ones.
        """
        for x in inputs:
            if x.dtype != torch.float32:
                raise ValueError(f"inputs must be of float32, got {x.dtype}")
        given = tuple(x.shape for x in inputs)
        shapes = self._shapes.get(given)
        if shapes is None:
            shapes = self.segment.shapes(given)
            if len(self._shapes) >= MOST_SHAPES:
                self._shapes = {}
            self._shapes[given] = shapes
        outputs = [torch.empty(s, dtype=torch.float32, device="cpu") for s in shapes]
        self.segment.run(
            [x.detach().contiguous().numpy() for x in inputs],
            [y.numpy() for y in outputs],
            self.threads(),
        )
        return outputs


@torch.library.impl(LIBRARY, "segment", "CPU")
def _run(inputs: Sequence[torch.Tensor], handle: int) -> list[torch.Tensor]:
    return _find(handle).run(inputs)


@torch.library.register_fake("vitalfew::segment", lib=LIBRARY)
def _shape(inputs: Sequence[torch.Tensor], handle: int) -> list[torch.Tensor]:
    segment = _find(handle).segment
    shapes = segment.shapes([tuple(x.shape) for x in inputs])
    return [inputs[0].new_empty(shape, dtype=torch.float32) for shape in shapes]


def _find(handle: int) -> SegmentModule:
    module = _held.get(handle)
    if module is None:
        raise ValueError(f"handle must be of a segment that is alive, got {handle}")
    return module
