"""Parts of a network that run in one call: what they do, on NumPy arrays.

A segment is a list of steps over values. The first values are its inputs; each step
makes one more. A segment of tokens maps arrays (n, features), one of images maps
arrays (n, channels, height, width).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew._native._blocksparse_twins import activate
from vitalfew.runtime._linear import SparseLinear
from vitalfew.runtime._plans import image_program, token_program
from vitalfew.runtime._steps import Add, Kind, Product, Size, Step, reads, sizes

Floats = NDArray[np.float32]
MOST_PIXELS = 2**15  # that a kernel reaches or steps over
MOST_PROGRAMS = 8  # sizes of images that a segment is ready for


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of a network.

    Parameters
    ----------
    kind : {"tokens", "images"}
        What it maps.
    channels : tuple of int
        Features or channels of each input.
    matrices : tuple of SparseLinear
        Of the products.
    steps : tuple of Step
        The step that makes value ``len(channels) + i`` is ``steps[i]``.
    outputs : tuple of int
        Values that are returned.
    flat : tuple of bool
        Which outputs are images of one pixel that are returned as (n, channels).
    """

    kind: Kind
    channels: tuple[int, ...]
    matrices: tuple[SparseLinear, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    flat: tuple[bool, ...]

    _programs: dict[tuple[Size, ...], Any] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        """Refuse steps that do not fit, as a damaged file may have them."""
        if self.kind not in ("tokens", "images"):
            raise ValueError(f"kind must be 'tokens' or 'images', got {self.kind!r}")
        found = list(self.channels)
        for i, step in enumerate(self.steps):
            for value in reads(step):
                if not 0 <= value < len(found):
                    raise ValueError(f"step {i} must read an earlier value, got {step}")
            first = found[reads(step)[0]]
            if self.kind == "tokens" and not isinstance(step, (Product, Add)):
                raise ValueError(f"step {i} must be one of tokens, got {step}")
            if isinstance(step, Product):
                matrix = self.matrices[step.matrix]
                inner = matrix.n_in == first * prod(step.kernel)
                added = step.residual is None or found[step.residual] == matrix.n_out
                if not inner or not added or step.matrix < 0:
                    raise ValueError(f"step {i} must fit its matrix, got {step}")
                first = matrix.n_out
            elif (
                isinstance(step, Add) and step.b is not None and found[step.b] != first
            ):
                raise ValueError(f"step {i} must add equal values, got {step}")
            for name in ("kernel", "stride", "dilation", "padding"):
                least = int(name != "padding")
                pair = getattr(step, name, (1, 1))
                if len(pair) != 2 or not all(least <= n < MOST_PIXELS for n in pair):
                    raise ValueError(f"step {i} must have a {name}, got {step}")
            if step.to != len(found):
                raise ValueError(f"step {i} must make the next value, got {step}")
            found.append(first)
        if not all(0 <= o < len(found) for o in self.outputs) or not self.channels:
            raise ValueError(f"outputs must be values, got {self.outputs}")
        made = {o for o in self.outputs if o >= len(self.channels)}
        if not self.outputs or (
            self.kind == "tokens" and len(made) != len(self.outputs)
        ):
            raise ValueError(f"outputs must be made, each once, got {self.outputs}")

    def shapes(self, inputs: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """Return the shapes of the results.

        Parameters
        ----------
        inputs : sequence of tuple of int
            Shapes of what is given; symbols will do.

        Raises
        ------
        ValueError
            If they do not fit the segment.
        """
        if self.kind == "tokens":
            leading, features = inputs[0][:-1], list(self.channels)
            for x, n in zip(inputs, self.channels, strict=True):
                if not len(x) or x[-1] != n or tuple(x[:-1]) != tuple(leading):
                    raise ValueError(f"inputs must have {n} features, got shape {x}")
            for step in self.steps:
                if isinstance(step, Product):
                    features.append(self.matrices[step.matrix].n_out)
                else:
                    features.append(features[reads(step)[0]])
            return [(*leading, features[o]) for o in self.outputs]
        for x, n in zip(inputs, self.channels, strict=True):
            if len(x) != 4 or x[1] != n or x[0] != inputs[0][0]:
                raise ValueError(f"inputs must have {n} channels, got shape {x}")
        found = sizes(self.steps, self.matrices, [tuple(x[1:]) for x in inputs])
        for size in found:
            if any(isinstance(n, int) and n < 1 for n in size):
                raise ValueError(
                    f"images must not be smaller than the kernel, got {inputs[0]}"
                )
        return [
            (inputs[0][0], found[o][0]) if flat else (inputs[0][0], *found[o])
            for o, flat in zip(self.outputs, self.flat, strict=True)
        ]

    def run(
        self, inputs: Sequence[Floats], outputs: Sequence[Floats], threads: int
    ) -> None:
        """Write the results.

        Parameters
        ----------
        inputs : sequence of float32 array
            In C order, of shapes that fit.
        outputs : sequence of float32 array
            In C order, of the shapes that `shapes` tells.
        threads : int
            How many are used at most.
        """
        if not outputs[0].size:
            return
        if self.kind == "images":
            program = self._images(tuple(x.shape[1:] for x in inputs))
            n = len(inputs[0])
            whole = [y.reshape(n, -1, 1, 1) if y.ndim == 2 else y for y in outputs]
            program.run(list(inputs), whole, threads)
            return
        flat = [x.reshape(-1, x.shape[-1]) for x in inputs]
        results = [y.reshape(-1, y.shape[-1]) for y in outputs]
        if self._tokens is not None:
            self._tokens.run(flat, results, threads)
        else:
            self._one_by_one(flat, results, threads)

    def _images(self, given: tuple[Size, ...]) -> Any:
        with self._lock:
            if given not in self._programs:
                if len(self._programs) >= MOST_PROGRAMS:
                    self._programs.pop(next(iter(self._programs)))
                self._programs[given] = image_program(self, given)
            return self._programs[given]

    @cached_property
    def _tokens(self) -> Any:
        if any(m.precision != "float32" for m in self.matrices):
            return None
        return token_program(self)

    def _one_by_one(
        self, inputs: list[Floats], outputs: list[Floats], threads: int
    ) -> None:
        """Run step by step, as matrices of other precisions do."""
        values = list(inputs)
        for step in self.steps:
            out = None
            if step.to in self.outputs:
                out = outputs[self.outputs.index(step.to)]
            if isinstance(step, Product):
                matrix = self.matrices[step.matrix]
                residual = None if step.residual is None else values[step.residual]
                x = values[step.source]
                values.append(matrix(x, residual, out=out, threads=threads))
            else:
                assert isinstance(step, Add)
                values.append(_add(values, step, out))


def _add(values: Sequence[Floats], step: Add, out: Floats | None) -> Floats:
    total = values[step.a] if step.b is None else values[step.a] + values[step.b]
    found = np.asarray(activate(step.activation, total), np.float32)
    if out is None:
        return found
    out[...] = found
    return out
