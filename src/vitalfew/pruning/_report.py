"""What pruning did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from vitalfew.neural import Layer
from vitalfew.solution import new_axes

PICTURE = 64  # most rows and columns of a picture of a mask


class Sparse:
    """What has weights, some of them zero."""

    @property
    def density(self) -> float:
        """Fraction of the weights that differ from zero."""
        here: Any = self
        return here.n_nonzero / here.n_weights if here.n_weights else 1.0

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are zero."""
        return 1 - self.density


class OverLayers(Sparse):
    """Counts over layers; a density is over their weights and no others."""

    @property
    def n_weights(self) -> int:
        """Number of weights of the layers."""
        here: Any = self
        return sum(layer.n_weights for layer in here.layers)

    @property
    def n_nonzero(self) -> int:
        """Weights of the layers that differ from zero."""
        here: Any = self
        return sum(layer.n_nonzero for layer in here.layers)


@dataclass(frozen=True)
class LayerReport(Sparse):
    """What happened to one layer.

    Attributes
    ----------
    name : str
        Full name of the module.
    shape : tuple of two ints
        Shape of the weight as a matrix (n_out, n_in).
    method : str
        Name of the method that pruned it.
    n_atoms : int
        Number of atoms: weights, blocks, channels or groups.
    asked : int
        Most atoms that may stay.
    kept : int
        Atoms that stay.
    n_nonzero : int
        Weights that differ from zero.
    error : float or None
        ``|X W^T - X V^T|^2 / |X W^T|^2`` for old weights W, new ones V and the inputs X
        that the already pruned layers give; None where they were not looked at.
    n_tokens : int
        How many inputs were seen.
    notes : tuple of str
        What else is to be known.
    picture : tuple of tuples of int
        Percentages of the weights kept in the cells of a grid of at most 64 x 64.
    """

    name: str
    shape: tuple[int, int]
    method: str
    n_atoms: int
    asked: int
    kept: int
    n_nonzero: int
    error: float | None = None
    n_tokens: int = 0
    notes: tuple[str, ...] = ()
    picture: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class PruneReport(OverLayers):
    """What `prune` did to a model.

    Attributes
    ----------
    method, structure, allocation : str
        What was used; the method that ``"auto"`` chose.
    atoms : str
        What is counted: weights, blocks, channels, groups.
    layers : tuple of LayerReport
        The pruned layers, in the order of the model.
    left : dict of str to str
        Modules with a weight matrix that stayed dense, each with the reason.
    masks : dict of str to bool tensor
        Of each pruned layer's weight, in the shape of the weight: which entries may
        differ from zero. For `apply_masks`.
    recalibrated : tuple of str
        Batch-norm layers whose statistics were estimated again.
    notes : tuple of str
        What else is to be known.
    seconds : float
        How long it took.
    """

    method: str
    structure: str
    allocation: str
    atoms: str
    layers: tuple[LayerReport, ...]
    left: Mapping[str, str]
    masks: Mapping[str, Tensor] = field(repr=False)
    recalibrated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def asked(self) -> int:
        """Most atoms that may stay, in all pruned layers together."""
        return sum(layer.asked for layer in self.layers)

    @property
    def kept(self) -> int:
        """Atoms that stay."""
        return sum(layer.kept for layer in self.layers)

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the pruned layers."""
        return sum(layer.n_atoms for layer in self.layers)

    def to_record(self) -> dict[str, Any]:
        """Return plain data: for JSON, and for the report of the command line.

        Returns
        -------
        dict
            Fields as above, less the masks.
        """
        return {
            "method": self.method,
            "structure": self.structure,
            "allocation": self.allocation,
            "atoms": self.atoms,
            "asked": self.asked,
            "kept": self.kept,
            "n_atoms": self.n_atoms,
            "n_weights": self.n_weights,
            "n_nonzero": self.n_nonzero,
            "density": self.density,
            "layers": [
                {
                    "name": layer.name,
                    "shape": list(layer.shape),
                    "method": layer.method,
                    "n_atoms": layer.n_atoms,
                    "asked": layer.asked,
                    "kept": layer.kept,
                    "n_nonzero": layer.n_nonzero,
                    "density": layer.density,
                    "error": layer.error,
                    "n_tokens": layer.n_tokens,
                    "notes": list(layer.notes),
                    "picture": [list(row) for row in layer.picture],
                }
                for layer in self.layers
            ],
            "left": dict(self.left),
            "recalibrated": list(self.recalibrated),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [
            f"pruned by {self.method} to {self.structure}, allocation "
            f"{self.allocation}: {self.kept} of {self.n_atoms} {self.atoms} kept "
            f"({self.asked} asked), {self.n_nonzero} of {self.n_weights} weights "
            f"({100 * self.density:.2f} %)"
        ]
        for layer in self.layers:
            error = "" if layer.error is None else f"  error {layer.error:.4f}"
            lines.append(
                f"  {layer.name:<{width}}  {layer.shape[0]:>6} x {layer.shape[1]:<6}"
                f" kept {layer.kept:>8} of {layer.n_atoms:<8}"
                f" {100 * layer.density:6.2f} %{error}"
            )
        lines += [f"  {name}: left dense, {why}" for name, why in self.left.items()]
        if self.recalibrated:
            lines.append(
                f"  batch-norm statistics of {len(self.recalibrated)} layers estimated "
                "again"
            )
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draw the density of each layer, and its error where it is known.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        Axes
            With one bar for each layer.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        ax = new_axes() if ax is None else ax
        names = [layer.name for layer in self.layers]
        places = range(len(names))
        ax.barh(places, [100 * layer.density for layer in self.layers])
        for place, layer in zip(places, self.layers, strict=True):
            if layer.error is not None:
                ax.annotate(
                    f" error {layer.error:.3g}",
                    (100 * layer.density, place),
                    va="center",
                )
        ax.set_yticks(places, names)
        ax.invert_yaxis()
        ax.set_xlabel("weights kept (%)")
        ax.set_title(f"{self.method}, {self.structure}")
        return ax


def picture(mask: Tensor) -> tuple[tuple[int, ...], ...]:
    """Percentages of entries of a matrix kept in the cells of a small grid."""
    rows, cols = min(PICTURE, mask.shape[0]), min(PICTURE, mask.shape[1])
    cells = adaptive_avg_pool2d(mask.to(torch.float32)[None], (rows, cols))[0]
    return tuple(tuple(round(100 * float(v)) for v in row) for row in cells.cpu())


def layer_report(
    layer: Layer,
    bound: Any,
    method: str,
    error: float | None = None,
    n_tokens: int = 0,
    notes: Sequence[str] = (),
    weight: Tensor | None = None,
) -> tuple[LayerReport, Tensor]:
    """Tell what has become of a layer, from its weight as it is.

    Parameters
    ----------
    layer : Layer
        Pruned.
    bound : IndexStructure
        On the shape of its matrix, with the budget that was asked for.
    method, error, n_tokens, notes
        As `LayerReport` has them.
    weight : tensor of shape (n_out, n_in), optional
        The whole weight, where the layer holds a part of it.

    Returns
    -------
    tuple of (LayerReport, bool tensor)
        The report, and which entries of the weight belong to atoms that stay.
    """
    used = (layer.weight if weight is None else weight) != 0
    atoms = np.flatnonzero(bound.scores(used.to(torch.float32)))
    support = bound.support(atoms)
    ones = torch.ones(len(support.ids), device=used.device)
    mask = support.embed(ones) != 0
    report = LayerReport(
        name=layer.name,
        shape=layer.shape,
        method=method,
        n_atoms=bound.n_atoms,
        asked=int(bound.budget),
        kept=len(atoms),
        n_nonzero=int(used.sum()),
        error=error,
        n_tokens=n_tokens,
        notes=tuple(notes),
        picture=picture(mask),
    )
    return report, layer.as_weight(mask).clone()


def said(structure: Any) -> str:
    """Return a structure as it was asked for, in words."""
    shown = {
        name: value
        for name, value in vars(structure).items()
        if value is not None and name not in ("shape", "labels", "costs")
        if not (name == "keep" and not value)
    }
    inner = ", ".join(f"{name}={value}" for name, value in shown.items())
    return f"{type(structure).__name__}({inner})"
