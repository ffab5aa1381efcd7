"""Keeping zeros zero, and counting them."""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitalfew.neural import prunable_layers
from vitalfew.neural.statistics import multiplications
from vitalfew.pruning._latency import Times, times_of
from vitalfew.pruning._report import OverLayers, PruneReport, Sparse
from vitalfew.pruning.files import bytes_in_a_file


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the pruned weights to zero again; call it after every step of fine-tuning.

    Parameters
    ----------
    model : Module
        The model that was pruned, or another of the same layers.
    masks : mapping of str to bool tensor
        By full names of modules, in the shapes of their weights: `PruneReport.masks`.

    Raises
    ------
    ValueError
        If a name or a shape does not fit the model; then nothing was changed.
    """
    modules = dict(model.named_modules())
    weights: list[tuple[Tensor, Tensor]] = []
    for name, mask in masks.items():
        weight = getattr(modules.get(name), "weight", None)
        if not isinstance(weight, Tensor):
            raise ValueError(f"masks name {name!r}, which has no weight in this model")
        if weight.shape != mask.shape:
            raise ValueError(
                f"the mask of {name!r} has shape {tuple(mask.shape)}, its weight "
                f"{tuple(weight.shape)}"
            )
        weights.append((weight, mask))
    with torch.no_grad():
        for weight, mask in weights:
            # a product would keep NaN
            weight.masked_fill_(~mask.to(weight.device, torch.bool), 0)


@dataclass(frozen=True)
class LayerSparsity(Sparse):
    """What is zero in one layer.

    Attributes
    ----------
    name : str
        Full name of the module.
    shape : tuple of two ints
        Of the weight as a matrix.
    n_weights, n_nonzero : int
        Weights there are, and those that differ from zero.
    asked : float or None
        Fraction of weights that the structure allowed, where a report was given.
    macs, macs_nonzero : int or None
        Multiplications of one example, dense and without those by zero; None without
        example inputs, or where they do not reach the layer.
    bytes_dense, bytes_packed : int
        What the weight takes in memory, and in a file written by `save`.
    latency_before, latency_after : float or None
        Microseconds of the layer by itself on the example inputs, by torch and by what
        `vitalfew.runtime.compile` chose; None where it was not measured, or is left to
        torch with what is around it.
    kernel : str or None
        What was chosen.
    """

    name: str
    shape: tuple[int, int]
    n_weights: int
    n_nonzero: int
    asked: float | None
    macs: int | None
    macs_nonzero: int | None
    bytes_dense: int
    bytes_packed: int
    latency_before: float | None = None
    latency_after: float | None = None
    kernel: str | None = None


@dataclass(frozen=True)
class SparsityReport(OverLayers):
    """What is zero in a model, counted over the weights of its prunable layers.

    Attributes
    ----------
    layers : tuple of LayerSparsity
        Every linear layer and convolution, pruned or not.
    n_other : int
        Parameters that are not counted: biases, norms, embeddings.
    bytes_other : int
        What they take.
    latency_before, latency_after : float or None
        Microseconds of a call with the example inputs, by torch and compiled by
        `vitalfew.runtime.compile`; None where they were not measured.
    threads : int or None
        While they were.
    notes : tuple of str
        What else is to be known of the measurement.
    """

    layers: tuple[LayerSparsity, ...]
    n_other: int
    bytes_other: int
    latency_before: float | None = None
    latency_after: float | None = None
    threads: int | None = None
    notes: tuple[str, ...] = ()

    def _sum(self, name: str) -> int | None:
        values = [getattr(layer, name) for layer in self.layers]
        return sum(values) if values and None not in values else None

    @property
    def macs(self) -> int | None:
        """Multiplications of one example, dense; None where they are not known."""
        return self._sum("macs")

    @property
    def macs_nonzero(self) -> int | None:
        """Multiplications of one example without those by zero."""
        return self._sum("macs_nonzero")

    @property
    def bytes_dense(self) -> int:
        """Bytes of all parameters as they are."""
        return sum(layer.bytes_dense for layer in self.layers) + self.bytes_other

    @property
    def bytes_packed(self) -> int:
        """Bytes of all parameters in a file written by `save`."""
        return sum(layer.bytes_packed for layer in self.layers) + self.bytes_other

    def to_record(self) -> dict[str, Any]:
        """Return plain data, totals and layers."""
        names = ("n_weights", "n_nonzero", "density", "macs", "macs_nonzero")
        sizes = ("bytes_dense", "bytes_packed", "n_other", "bytes_other")
        times = ("latency_before", "latency_after", "threads")
        record: dict[str, Any] = {n: getattr(self, n) for n in (*names, *sizes, *times)}
        record["notes"] = list(self.notes)
        record["layers"] = [
            {**vars(layer), "shape": list(layer.shape), "density": layer.density}
            for layer in self.layers
        ]
        return record

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=5)
        lines = [
            f"{'layer':<{width}}  {'shape':>15}  {'weights':>10}  {'kept':>8}  "
            f"{'asked':>8}  {'MACs':>12}  {'nonzero':>12}  {'bytes':>11}  "
            f"{'packed':>11}"
        ]
        total = (
            "total",
            "",
            self.n_weights,
            self.density,
            None,
            self.macs,
            self.macs_nonzero,
            self.bytes_dense - self.bytes_other,
            self.bytes_packed - self.bytes_other,
        )
        rows = [
            (
                layer.name,
                f"{layer.shape[0]} x {layer.shape[1]}",
                layer.n_weights,
                layer.density,
                layer.asked,
                layer.macs,
                layer.macs_nonzero,
                layer.bytes_dense,
                layer.bytes_packed,
            )
            for layer in self.layers
        ]
        for name, shape, n, density, asked, macs, nonzero, dense, packed in (
            *rows,
            total,
        ):
            said = "" if asked is None else f"{100 * asked:.2f} %"
            lines.append(
                f"{name:<{width}}  {shape:>15}  {n:>10}  {100 * density:>6.2f} %  "
                f"{said:>8}  {_or_blank(macs):>12}  {_or_blank(nonzero):>12}  "
                f"{dense:>11}  {packed:>11}"
            )
        lines.append(
            f"counted over the weights of {len(self.layers)} layers; {self.n_other} "
            f"other parameters ({self.bytes_other} bytes) are not"
        )
        if self.latency_before is not None and self.latency_after is not None:
            lines += self._latencies(width)
        return "\n".join([*lines, *self.notes])

    def _latencies(self, width: int) -> list[str]:
        """Lines on the time that zeros save."""
        lines = [f"{'layer':<{width}}  {'us':>10}  {'us now':>10}  kernel"]
        lines += [
            f"{layer.name:<{width}}  {layer.latency_before:>10.1f}  "
            f"{layer.latency_after:>10.1f}  {layer.kernel}"
            for layer in self.layers
            if layer.latency_before is not None
        ]
        lines.append(
            f"a call takes {self.latency_before:.1f} us by torch, "
            f"{self.latency_after:.1f} us compiled by vitalfew.runtime, "
            f"threads: {self.threads}"
        )
        return lines


def _or_blank(number: int | None) -> str:
    return "" if number is None else str(number)


def sparsity_report(
    model: nn.Module,
    *,
    example_inputs: Any = None,
    report: PruneReport | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    latency: bool = False,
) -> SparsityReport:
    """Count what is zero in a model, and what that saves.

    Parameters
    ----------
    model : Module
        Any.
    example_inputs : tensor, pair or mapping, optional
        A batch, to count multiplications; they are given for one example.
    report : PruneReport, optional
        Of the pruning, to tell what was asked for; its layers are counted too where
        `include` says nothing.
    include, exclude : str or sequence of str, optional
        As in `prune`: which layers are counted.
    latency : bool, default=False
        Whether to compile the model by `vitalfew.runtime.compile` and to measure how
        long a call with the example inputs takes by torch and compiled, on the CPU.
        Takes seconds.

    Returns
    -------
    SparsityReport
        For each layer and in total; `print` it.

    Raises
    ------
    ValueError
        If latency is asked for without example inputs, or a pattern matches nothing.
    """
    if latency and example_inputs is None:
        raise ValueError("latency=True needs example_inputs: it is measured on them")
    if report is not None and include is None:
        # some are prunable for those who name them only
        there = dict(model.named_modules())
        pruned = [layer.name for layer in report.layers if layer.name in there]
        include = ["*", *map(glob.escape, pruned)]
    layers, _ = prunable_layers(model, include, exclude)
    places: dict[str, float] = {}
    if example_inputs is not None:
        places = multiplications(model, layers, example_inputs)
    times: Times | None = None
    if latency:
        times = times_of(model, example_inputs)
    asked = {}
    if report is not None:
        asked = {layer.name: layer.asked / layer.n_atoms for layer in report.layers}
    counted: list[LayerSparsity] = []
    for layer in layers:
        matrix = layer.weight
        n, nonzero = matrix.numel(), int(torch.count_nonzero(matrix))
        uses = places.get(layer.name)
        own = times.layers.get(layer.name) if times is not None else None
        counted.append(
            LayerSparsity(
                name=layer.name,
                shape=layer.shape,
                n_weights=n,
                n_nonzero=nonzero,
                asked=asked.get(layer.name),
                macs=None if uses is None else round(uses * n),
                macs_nonzero=None if uses is None else round(uses * nonzero),
                bytes_dense=n * matrix.element_size(),
                bytes_packed=bytes_in_a_file(matrix),
                latency_before=None if own is None else own.before,
                latency_after=None if own is None else own.after,
                kernel=None if own is None else own.kernel,
            )
        )
    weights = {id(layer.parameter) for layer in layers}
    others = [p for p in model.parameters() if id(p) not in weights]
    return SparsityReport(
        layers=tuple(counted),
        n_other=sum(p.numel() for p in others),
        bytes_other=sum(p.numel() * p.element_size() for p in others),
        latency_before=None if times is None else times.before,
        latency_after=None if times is None else times.after,
        threads=None if times is None else times.threads,
        notes=() if times is None else times.notes,
    )
