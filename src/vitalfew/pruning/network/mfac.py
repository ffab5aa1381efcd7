"""Removal by optimal brain surgery with the inverse of a low-rank Fisher matrix."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from vitalfew._arrays import to_host
from vitalfew._validation import check_count
from vitalfew.contracts import Ints
from vitalfew.neural.flat import FlatNetwork
from vitalfew.objectives import Fisher
from vitalfew.pruning._contracts import NetworkMethod
from vitalfew.pruning.network._stages import Stages
from vitalfew.supports import Coordinates

CHUNK = 1 << 23  # numbers of temporaries in double precision: 64 MB


@dataclass(frozen=True, kw_only=True)
class MFAC(NetworkMethod):
    r"""Optimal brain surgeon on a whole network, by products with an inverse Fisher.

    With :math:`F = A^T A / n + \lambda I` from the gradients A of n samples, an atom Q
    costs :math:`\tfrac12 w_Q^T ([F^{-1}]_{QQ})^{-1} w_Q`, which for one weight is
    :math:`w_q^2 / (2 [F^{-1}]_{qq})`. The cheapest atoms go, all of a stage at once,
    and the weights that stay move to the minimum of the quadratic, which is the joint
    update :math:`-F^{-1} E (E^T F^{-1} E)^{-1} E^T w` of the atoms removed.

    Parameters
    ----------
    n_stages : int, default=10
        Stages in which weights are removed, each with gradients of its own; 1 is
        one-shot.
    n_samples : int, default=1000
        Gradients of a quadratic; fewer where there are not so many samples.
    per_row : int, default=1
        Samples whose mean gradient makes one row of A.
    first_order : bool, default=True
        Whether the update follows the mean gradient too, which is not zero once
        weights have been removed.

    Notes
    -----
    Nothing of size p x p: the inverse is that of an n x n matrix, by the identity of
    Woodbury. A stage costs n gradients and O(n^2 p) for each of the dampings
    :math:`\lambda` that are tried, three or more; the one whose answer has the least
    loss on 2,000 samples is taken, and the step doubled while that falls. Memory: n p
    numbers, and some 200 MB; on devices with double precision.

    Departures from [1]_: scores and update see all weights, not blocks of them; the
    mean gradient counts, unless `first_order` is off; damping and length of the step
    are chosen by the loss.

    References
    ----------
    .. [1] E. Frantar, E. Kurtic, D. Alistarh, "M-FAC: efficient matrix-free
       approximations of second-order information", NeurIPS, 2021, section 3.1.
    .. [2] S. P. Singh, D. Alistarh, "WoodFisher: efficient second-order approximation
       for neural network compression", NeurIPS, 2020, section 4.
    .. [3] B. Hassibi, D. G. Stork, "Second order derivatives for network pruning:
       optimal brain surgeon", NeurIPS, 1993.
    """

    n_stages: int = 10
    n_samples: int = 1000
    per_row: int = 1
    first_order: bool = True

    name: ClassVar[str] = "mfac"
    cost: ClassVar[str] = "10 times 1,000 gradients and scores by them, n² p each"
    use: ClassVar[str] = "half to nine tenths of the weights go, targets at hand"

    def __post_init__(self) -> None:
        for setting in ("n_stages", "n_samples", "per_row"):
            check_count(setting, getattr(self, setting), 1)

    def prune_network(
        self,
        network: FlatNetwork,
        structure_at: Callable[[float], Any],
        rng: Generator,
        progress: Callable[[str, int, int], None],
    ) -> Tensor:
        """Return the pruned flat vector of all weights."""

        def propose(model: Fisher, structure: Any) -> Tensor:
            support = structure.largest(root_of_costs(model, structure))
            x: Tensor = model.refit(support).x
            return x

        slope = float(self.first_order)
        stages = Stages(network, propose, slope, self.n_samples, self.per_row, rng)
        return stages.run(
            structure_at,
            self.n_stages,
            0,
            lambda number, total: progress(self.name, number, total),
        )


def root_of_costs(model: Fisher, structure: Any) -> Tensor:
    """Return a vector whose square over an atom is what removing the atom costs.

    Parameters
    ----------
    model : Fisher
        On torch, damped.
    structure : Structure
        Over the weights.

    Returns
    -------
    tensor of shape (p,)
        The cost of an atom is spread evenly over its weights.

    Notes
    -----
    With ``B = L^{-1} A`` and ``L L^T = n ridge I + A A^T``, the inverse is
    ``(I - B^T B) / ridge``. Weights that are zero already are none of its rows. An atom
    of m weights costs O(n m min(n, m)).
    """
    w, everything = model.center, structure.support(np.arange(structure.n_atoms))
    A, alive = model.design.dense(), w != 0
    n = len(A)
    K = model.products(np.flatnonzero(to_host(alive))).double()
    unit = torch.eye(n, dtype=K.dtype, device=K.device)
    L = torch.linalg.cholesky(K + n * model.ridge * unit)
    found = torch.zeros_like(w)
    for ids, m in _alike(everything, n):
        index = torch.from_numpy(ids).to(w.device)
        some = (A[:, index] * alive[index]).double()
        B = torch.linalg.solve_triangular(L, some, upper=False)
        B = B.reshape(n, -1, m).transpose(0, 1)  # (atoms, n, m)
        v = w[index].double().reshape(-1, m, 1)
        costs = model.ridge / 2 * _inverse_form(B, v)
        found[index] = (costs / m).sqrt().repeat_interleave(m).to(w.dtype)
    return found


def _alike(support: Coordinates, n: int) -> Iterator[tuple[Ints, int]]:
    """Yield coordinates of some atoms of one size, and the size."""
    starts = support.starts[:-1]
    for size in np.unique(support.sizes):
        m = int(size)
        atoms = np.flatnonzero(support.sizes == m)
        step = max(1, CHUNK // max(n * m, min(n, m) ** 2))
        for begin in range(0, len(atoms), step):
            places = starts[atoms[begin : begin + step], None] + np.arange(m)
            yield support.ids[places.ravel()], m


def _inverse_form(B: Tensor, v: Tensor) -> Tensor:
    """``v^T (I - B^T B)^{-1} v`` for many B (n, m) of norm below one, v (m, 1)."""
    n, m = B.shape[1:]
    if m == 1:
        rest = 1 - torch.sum(B * B, dim=1)[:, 0]
        return v[:, 0, 0] ** 2 / rest.clamp(min=1e-14)
    if m <= n:
        rest = torch.eye(m, dtype=B.dtype, device=B.device) - B.mT @ B
        return torch.sum(v * torch.linalg.solve(rest, v), dim=(1, 2)).clamp(min=0)
    rest = torch.eye(n, dtype=B.dtype, device=B.device) - B @ B.mT
    u = B @ v
    more = torch.sum(u * torch.linalg.solve(rest, u), dim=(1, 2))
    return torch.sum(v * v, dim=(1, 2)) + more.clamp(min=0)
