"""Segments as an operator of torch, eager and under torch.compile, on the CPU."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch

from vitalfew.runtime._segments import Segment

LIBRARY = torch.library.Library("vitalfew", "DEF")
LIBRARY.define("segment(Tensor[] inputs, int handle) -> Tensor[]")
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
        self.handle = next(_handles)
        _held[self.handle] = self

    def __reduce__(self) -> Any:
        return SegmentModule, (self.segment, self.threads)

    def __deepcopy__(self, memo: Any) -> "SegmentModule":
        return SegmentModule(self.segment, self.threads)  # which nothing changes

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the results of the segment.

        Parameters
        ----------
        *inputs : tensor
            As many as the segment reads.
        """
        return torch.ops.vitalfew.segment(inputs, self.handle)


@torch.library.impl(LIBRARY, "segment", "CPU")
def _run(inputs: Sequence[torch.Tensor], handle: int) -> list[torch.Tensor]:
    module = _find(handle)
    for x in inputs:
        if x.dtype != torch.float32:
            raise ValueError(f"inputs must be of float32, got {x.dtype}")
    shapes = module.segment.shapes([tuple(x.shape) for x in inputs])
    outputs = [torch.empty(shape) for shape in shapes]
    module.segment.run(
        [x.detach().contiguous().numpy() for x in inputs],
        [y.numpy() for y in outputs],
        module.threads(),
    )
    return outputs


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
