"""Norms of atoms, and which of them are above the cut."""

import numpy as np
import torch
from torch import Tensor

from vitalfew.pruning.training._site import Site
from vitalfew.pruning.training._tiles import Tiles

LEAST = 1e-20  # added to squared norms: the root has a slope at zero, in float32 too


def squares(tiles: Tiles, matrix: Tensor) -> Tensor:
    """Return the squared norm of each atom, (n_atoms,), in float32 at least."""
    matrix = matrix.float() if matrix.dtype.itemsize < 4 else matrix
    return tiles.sums(matrix.square())


def norms(tiles: Tiles, matrix: Tensor) -> Tensor:
    """Return the norm of each atom, (n_atoms,), differentiable and never zero."""
    return (squares(tiles, matrix) + LEAST).sqrt()


def n_staying(site: Site) -> int:
    """Return how many atoms of a layer stay in the end, if all layers share alike."""
    share = round(site.gate.density * site.n_atoms)
    return max(1, len(site.structure.keep), share)


def above_cut(site: Site, strength: Tensor) -> Tensor:
    """Mark the atoms that would stay if all that shall go went now.

    Those that are gone already do not stay. Every layer has its share of the budget
    here: what an allocation would say is known at selections only.

    Parameters
    ----------
    site : Site
        The layer in training.
    strength : tensor of shape (n_atoms,)
        Not negative; the largest stay.

    Returns
    -------
    bool tensor of shape (n_atoms,)
        On the device of `strength`.
    """
    bound = site.structure
    if not site.fixed:
        bound = bound.with_budget(n_staying(site))
    values = strength.detach().to("cpu", torch.float64).numpy()
    values = np.where(site.kept, values + np.finfo(float).tiny, 0.0)
    marks = np.zeros(site.n_atoms, bool)
    marks[bound.choose(values)] = True
    return torch.from_numpy(marks).to(strength.device)


def shorten(site: Site, lengths: Tensor, by: Tensor) -> None:
    """Take some off the norm of each atom, to zero where it is no longer than that.

    Parameters
    ----------
    site : Site
        The layer in training.
    lengths, by : tensors of shape (n_atoms,)
        The norms of its atoms, and what to take off.
    """
    scale = (1 - by / lengths).clamp(min=0)
    site.write(site.tiles.times(site.matrix, scale))
