"""A sweep over the columns that makes up for each weight removed."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from vitalfew._validation import check_count, check_nonnegative
from vitalfew.neural import Statistics
from vitalfew.pruning._contracts import Reconstruction
from vitalfew.pruning.reconstruction._layer import (
    Chooser,
    error_of,
    has_free_values,
    layer_hessian,
    refit,
)


@dataclass(frozen=True, kw_only=True)
class OBS(Reconstruction):
    r"""Optimal brain surgeon in one sweep: removed weights are made up for at once.

    Goes through the inputs in order. Of each block of columns the weights that cost
    least are removed, those of a row by
    :math:`w_j^2 / [H_F^{-1}]_{jj}` with F the columns not yet passed, and the columns
    to the right change as is best. An atom that fills its columns, such as a block of
    several columns or a whole output, costs what removing all of it costs.

    Parameters
    ----------
    damping : float, default=0.01
        Share of the mean of the Hessian's diagonal added to it.
    block_size : int, default=128
        Columns for which the choice is made together and whose updates are applied
        together; more where atoms are wider.
    refit : bool, default=True
        Whether the weights kept are fitted on their support at the end.

    Notes
    -----
    The factorisation takes O(n_in^3), the sweep n_out n_in^2 multiplications, one
    choice for each block of columns O(n_out n_in), and the refit most of the time.

    Departures from the paper [1]_: the budget is that of the whole matrix, and columns
    not yet passed compete for what is left of it, instead of equal shares of each
    block; the error before the refit is lower for it. Columns that end up in one atom
    are chosen together. Atoms that are scattered over their columns count the sum of
    what their weights cost one by one.

    References
    ----------
    .. [1] E. Frantar, D. Alistarh, "SparseGPT: massive language models can be
       accurately pruned in one-shot", ICML, 2023, Algorithm 1.
    .. [2] E. Frantar, S. P. Singh, D. Alistarh, "Optimal brain compression", NeurIPS,
       2022, eq. (3) and (5).
    .. [3] B. Hassibi, D. G. Stork, "Second order derivatives for network pruning:
       optimal brain surgeon", NIPS, 1992.
    """

    damping: float = 0.01
    block_size: int = 128
    refit: bool = True

    name: ClassVar[str] = "obs"
    cost: ClassVar[str] = "n_in³ + n_out n_in², and the refit"
    use: ClassVar[str] = "large layers, when the cheapest second-order answer must do"

    def __post_init__(self) -> None:
        check_nonnegative("damping", self.damping)
        check_count("block_size", self.block_size, 1)

    def supports(self, structure: Any) -> bool:
        """Whether the structure is one of atoms."""
        return has_free_values(structure)

    def reconstruct(
        self, weight: Tensor, statistics: Statistics, structure: Any, rng: Generator
    ) -> Tensor:
        """Choose and update the columns from left to right."""
        del rng
        H, R = layer_hessian(weight, statistics, self.damping)
        unit = torch.eye(len(R), dtype=R.dtype, device=R.device)
        U = torch.linalg.solve_triangular(R, unit, upper=True)
        columns = _Columns(structure, weight.shape)
        choose = Chooser(structure, weight)
        W = weight.clone(memory_format=torch.contiguous_format)
        mask = torch.zeros_like(W, dtype=torch.bool)
        for first, last in columns.blocks(self.block_size):
            cost = columns.removal_costs(W, R, U, first)
            # what stays of the columns passed outweighs all that may still come
            outweighs = 2 * float(cost.sum()) or 1.0
            mask = choose(torch.cat((mask[:, :first] * outweighs, cost), dim=1))
            for a in range(first, last, self.block_size):
                _sweep(W, mask, U, a, min(a + self.block_size, last))
        W *= mask
        return refit(error_of(weight, H), structure, W) if self.refit else W


def _sweep(W: Tensor, mask: Tensor, U: Tensor, first: int, last: int) -> None:
    """Remove what the mask lacks in some columns; those to the right make up for it."""
    errors = W.new_zeros((len(W), last - first))
    for j in range(first, last):
        errors[:, j - first] = torch.where(mask[:, j], 0, W[:, j]) / U[j, j]
        W[:, j:last] -= errors[:, j - first, None] * U[j, j:last]
    W[:, last:] -= errors @ U[first:last, last:]


class _Columns:
    """Runs of columns that no atom crosses, and what removals cost in them."""

    def __init__(self, structure: Any, shape: tuple[int, ...]) -> None:
        n_out, n_in = shape
        self.n_in, table = n_in, structure.table
        if table.shape[1] == 1:
            self.bounds, self.filled = np.arange(n_in + 1), True
            return
        column = table % n_in
        first = np.where(table < 0, n_in, column).min(axis=1)
        last = np.where(table < 0, -1, column).max(axis=1)
        opened = np.bincount(first, minlength=n_in) - np.bincount(last, minlength=n_in)
        crossed = np.cumsum(opened)[:-1] > 0
        self.bounds = np.concatenate(([0], np.flatnonzero(~crossed) + 1, [n_in]))
        owner = np.full(n_out * n_in, -1)
        owner[table[table >= 0]] = np.repeat(
            np.arange(len(table)), (table >= 0).sum(axis=1)
        )
        by_row = owner.reshape(n_out, n_in)
        alike = np.all(by_row[:, 1:] == by_row[:, :-1], axis=0)
        self.filled = bool(np.all(alike[crossed]))

    def blocks(self, size: int) -> list[tuple[int, int]]:
        """Return runs side by side, together as wide as the size or just wider."""
        edges = [0]
        for bound in self.bounds[1:]:
            if bound - edges[-1] >= size or bound == self.n_in:
                edges.append(int(bound))
        return list(pairwise(edges))

    def removal_costs(self, W: Tensor, R: Tensor, U: Tensor, first: int) -> Tensor:
        """Return what removing the weights from a column on costs, (n_out, columns).

        Within a run, the entries of a row add up to the cost of removing all of them:
        with w their weights and H_F the Hessian of this run and all after it, that is
        ``w ([H_F^{-1}]_run)^{-1} w^T = |w R_run|^2``.
        """
        if not self.filled:
            diagonal = torch.sum(U[first:, first:] ** 2, dim=0)
            return W[:, first:] ** 2 / diagonal
        if len(self.bounds) == self.n_in + 1:
            return (W[:, first:] * R.diagonal()[first:]) ** 2
        costs = [
            (W[:, a:b] @ R[a:b, a:b]) ** 2
            for a, b in pairwise(self.bounds[self.bounds >= first].tolist())
        ]
        return torch.cat(costs, dim=1)
