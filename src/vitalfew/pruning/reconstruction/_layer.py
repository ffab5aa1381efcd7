"""A layer's reconstruction as a well-posed quadratic, and what methods share.

Calibration data give the Hessian ``H = X^T X / n`` of a layer, which is singular when
there are few samples, and has zero rows for inputs that are never on. Everything that
is done about that is done here.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitalfew.contracts import HasAtoms, HasCosts, follows
from vitalfew.neural import Statistics
from vitalfew.objectives import Quadratic

LEAST_DAMPING = 1e-6  # of the mean of the diagonal, where none was asked for
MOST_DAMPING = 1e3  # a Hessian that needs more is no Hessian


@dataclass(frozen=True)
class Conditioning:
    """What was done to a Hessian before it was factorised.

    Parameters
    ----------
    damping : float
        Added to the diagonal, as a fraction of the mean of its positive entries.
    n_dead : int
        Number of inputs that were zero in all samples.
    """

    damping: float
    n_dead: int


def condition(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor, Conditioning]:
    """Damp a Hessian until its Cholesky factor exists.

    Parameters
    ----------
    hessian : tensor of shape (n_in, n_in)
        Mean of ``x x^T``, in float32 or float64.
    damping : float
        Fraction of the mean of the positive diagonal entries that is added to the
        diagonal; made ten times larger as often as it takes.

    Returns
    -------
    H : tensor of shape (n_in, n_in)
        The damped Hessian.
    R : tensor of shape (n_in, n_in)
        Upper triangular with ``R R^T = H``. Its inverse U is the upper Cholesky factor
        of the inverse: ``U^T U = H^{-1}``.
    Conditioning
        What was done.

    Raises
    ------
    ValueError
        If the Hessian is not finite or not positive semi-definite.

    Notes
    -----
    O(n_in^3); a float32 Hessian is tried in float64 before it is damped further. An
    input that is never on costs nothing but the damping, so that its weights are among
    the first to go. A Hessian of zeros becomes a multiple of the identity.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise ValueError("hessian must be finite, got NaN or infinity in it")
    diagonal = hessian.diagonal()
    alive = diagonal > 0
    n_dead = int((~alive).sum())
    unit = 1.0
    if n_dead < len(diagonal):
        unit = float(diagonal[alive].mean(dtype=torch.float64))
    damping = max(float(damping), LEAST_DAMPING if n_dead else 0.0)
    while damping <= MOST_DAMPING:
        H = hessian.clone()
        H.diagonal().add_(damping * unit)
        for dtype in {H.dtype: None, torch.float64: None}:
            # turned by 180 degrees, a lower factor becomes an upper one
            L, info = torch.linalg.cholesky_ex((H / unit).to(dtype).flip(0, 1))
            if int(info) == 0:
                R = (L * math.sqrt(unit)).flip(0, 1).to(H.dtype)
                return H, R, Conditioning(damping, n_dead)
        damping = max(10 * damping, LEAST_DAMPING)
    raise ValueError(
        "hessian must be symmetric and positive semi-definite, as X^T X is; "
        f"{MOST_DAMPING:g} times the mean of its diagonal did not make it so"
    )


def layer_hessian(
    weight: Tensor, statistics: Statistics, damping: float
) -> tuple[Tensor, Tensor]:
    """Return the damped Hessian of a layer and its factor, as `condition` does.

    Parameters
    ----------
    weight : tensor of shape (n_out, n_in)
        Trained weights, whose dtype and device the answer has.
    statistics : Statistics
        With the Hessian.
    damping : float
        As in `condition`.

    Returns
    -------
    H, R : tensor of shape (n_in, n_in)
        The damped Hessian and its upper factor.

    Raises
    ------
    ValueError
        If weight or Hessian are not finite, or do not fit each other.
    """
    n_in, hessian = weight.shape[1], statistics.get("hessian")
    if tuple(hessian.shape) != (n_in, n_in):
        raise ValueError(
            f"hessian must have shape {(n_in, n_in)} for a weight of {n_in} inputs, "
            f"got {tuple(hessian.shape)}"
        )
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight must be finite, got NaN or infinity in it")
    H, R, _ = condition(hessian.to(weight), damping)
    return H, R


def objective(
    weight: Tensor, statistics: Statistics, damping: float = 0.01
) -> Quadratic:
    """Return the reconstruction error of a layer, zero at its trained weights.

    Parameters
    ----------
    weight : tensor of shape (n_out, n_in)
        Trained weights W0.
    statistics : Statistics
        With the Hessian.
    damping : float, default=0.01
        As in `condition`.

    Returns
    -------
    Quadratic
        ``<W - W0, (W - W0) H> / 2`` with the damped Hessian.
    """
    return error_of(weight, layer_hessian(weight, statistics, damping)[0])


def error_of(weight: Tensor, H: Tensor) -> Quadratic:
    """Return ``<W - W0, (W - W0) H> / 2`` for weights W0 and a Hessian."""
    B = weight @ H
    return Quadratic(H, B, 0.5 * float(torch.sum(weight * B, dtype=torch.float64)))


def refit(error: Quadratic, structure: Any, weight: Tensor) -> Tensor:
    """Minimise an error over the support of a feasible matrix.

    Parameters
    ----------
    error : Quadratic
        From `objective`.
    structure : Structure
        On the shape of the matrix.
    weight : tensor of shape (n_out, n_in)
        Its support is taken, and the minimiser sought from it.

    Returns
    -------
    tensor of shape (n_out, n_in)
        Of lower error than `weight`, or `weight` itself.
    """
    support = structure.largest(weight)
    start = error.at(support, support.restrict(weight))
    fit = structure.refit(error, support, start)
    best: Tensor = fit.x if fit.value <= start.value else start.x
    return best


def relative_error(weight: Tensor, new: Tensor, hessian: Tensor) -> float:
    """Return ``|X W0^T - X W^T|^2 / |X W0^T|^2``; zero where the output is zero.

    Parameters
    ----------
    weight, new : tensor of shape (n_out, n_in)
        Weights before and after.
    hessian : tensor of shape (n_in, n_in)
        Mean of ``x x^T``, not damped.

    Returns
    -------
    float
        The share of the output that is lost.
    """
    W, H = weight.double(), hessian.double().to(weight.device)
    D = W - new.double()
    all_of_it = float(torch.sum((W @ H) * W))
    lost = float(torch.sum((D @ H) * D))
    return max(lost, 0.0) / all_of_it if all_of_it > 0 else 0.0


class Chooser:
    """The feasible support of largest saliency as a mask, where the weights are.

    As many atoms of largest saliency as the budget is, found by a threshold, are the
    answer if the structure allows them; else it is asked, and sorts on the host.

    Parameters
    ----------
    structure : HasAtoms
        On the shape of the weights.
    like : tensor of shape (n_out, n_in)
        The weights.
    """

    def __init__(self, structure: Any, like: Tensor) -> None:
        self.structure, self.shape, self.device = structure, like.shape, like.device
        self.threshold_may_do = has_unit_costs(structure)

    @cached_property
    def table(self) -> Tensor | None:
        """Coordinates of each atom, padded with one past the last; None if one each."""
        table, size = self.structure.table, math.prod(self.shape)
        if table.shape == (size, 1) and np.array_equal(table[:, 0], np.arange(size)):
            return None
        return torch.as_tensor(np.where(table < 0, size, table), device=self.device)

    def __call__(self, saliency: Tensor) -> Tensor:
        """Return a mask of feasible atoms of positive saliency, (n_out, n_in)."""
        if self.threshold_may_do:
            atoms = largest(self.scores(saliency), int(self.structure.budget))
            chosen = np.flatnonzero(atoms.cpu().numpy())
            if self.structure.allows(self.structure.support(chosen)):
                if self.table is None:
                    return atoms.reshape(self.shape)
                return self._mask_of(self.table[atoms].reshape(-1))
            self.threshold_may_do = False
        support = self.structure.largest(torch.sqrt(saliency))
        return self._mask_of(torch.as_tensor(support.ids, device=self.device))

    def scores(self, saliency: Tensor) -> Tensor:
        """Return the sum of a saliency over each atom, (n_atoms,)."""
        flat = saliency.reshape(-1)
        if self.table is None:
            return flat
        return torch.cat((flat, flat.new_zeros(1)))[self.table].sum(dim=1)

    def _mask_of(self, ids: Tensor) -> Tensor:
        size = math.prod(self.shape)
        mask = torch.zeros(size + 1, dtype=torch.bool, device=self.device)
        mask[ids] = True
        return mask[:size].reshape(self.shape)


def has_unit_costs(structure: Any) -> bool:
    """Whether atoms take one each of the budget, so that no more can be kept."""
    return follows(structure, HasCosts) and bool(np.all(structure.atom_costs == 1))


def has_free_values(structure: Any) -> bool:
    """Whether a structure restricts which weights differ from zero and nothing else."""
    return follows(structure, HasAtoms)


def largest(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` largest positive numbers, the first among equals.

    Parameters
    ----------
    scores : tensor of shape (n,)
        Not negative.
    count : int
        At most n.

    Returns
    -------
    bool tensor of shape (n,)
        At most `count` marks.
    """
    n = len(scores)
    if count >= n:
        return scores > 0
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if scores.is_cpu:  # ten times faster than torch's
        least = np.partition(scores.numpy(), n - count)[n - count]
        border = torch.as_tensor(least)
    else:
        border = torch.kthvalue(scores, n - count + 1).values
    marks = scores >= border
    too_many = int(marks.sum()) - count
    if too_many > 0:
        tied = torch.nonzero(scores == border)[:, 0]
        marks[tied[len(tied) - too_many :]] = False
    return marks if float(border) > 0 else marks & (scores > 0)
