"""Alternating directions between the least error and the structure."""

from dataclasses import dataclass
from typing import Any, ClassVar

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

AT_ONE_PENALTY = 3  # iterations, for which S is factorised once


@dataclass(frozen=True, kw_only=True)
class ADMM(Reconstruction):
    r"""Alternating direction method of multipliers with a growing penalty.

    In inputs scaled to unit curvature, :math:`V = W D^{1/2}` with D the diagonal of H
    and :math:`S = D^{-1/2} H D^{-1/2}`, solves

    .. math:: \min \tfrac{1}{2} \langle V - V_0, (V - V_0) S \rangle
       \quad \text{subject to } V = Z, \; Z \text{ in the structure}

    by turns: V minimises the augmented Lagrangian, Z is the projection of
    :math:`V + Y / \rho`, and Y, the multiplier, adds up what is left between them. The
    penalty :math:`\rho` grows until the support of Z stays as it is.

    Parameters
    ----------
    damping : float, default=0.01
        Share of the mean of the Hessian's diagonal added to it.
    rho : float, default=0.1
        Penalty to start with; the diagonal of S is one.
    growth : float, default=1.4
        Factor of the penalty after every third iteration; nearer to one is slower and
        ends lower.
    tol : float, default=0.002
        Stop when in three iterations not more has changed than this fraction of the
        weights kept, or of those removed if they are fewer.
    max_iter : int, default=300
        Most iterations.

    Notes
    -----
    In each of about 25 iterations a product of (n_out, n_in) and (n_in, n_in) matrices,
    in every third also an inverse, O(n_in^3); then the refit. The problem is not
    convex: the answer is a local minimum, no worse than the projection of the scaled
    weights, which is the best where inputs are uncorrelated. Where there are few atoms,
    tens of channels say, it may lie above that of `OBS`.

    Departures from [2]_: the penalty grows by one factor instead of one of three, and
    inverses take the place of one eigendecomposition, which costs more.

    References
    ----------
    .. [1] S. Boyd, N. Parikh, E. Chu, B. Peleato, J. Eckstein, "Distributed
       optimization and statistical learning via the alternating direction method of
       multipliers", Found. Trends Mach. Learn., 2011, section 9.1.
    .. [2] X. Meng, K. Behdin, H. Wang, R. Mazumder, "ALPS: improved optimization for
       highly sparse one-shot pruning for large language models", NeurIPS, 2024: the
       growing penalty, the diagonal scaling and the final refit.
    .. [3] V. Boža, "Fast and effective weight update for pruned large language
       models", TMLR, 2024.
    """

    damping: float = 0.01
    rho: float = 0.1
    growth: float = 1.4
    tol: float = 2e-3
    max_iter: int = 300

    name: ClassVar[str] = "admm"
    cost: ClassVar[str] = "8 n_in³ + 50 n_out n_in², and the refit"
    use: ClassVar[str] = "the lowest error of a layer for any structure; the default"

    def __post_init__(self) -> None:
        check_nonnegative("damping", self.damping)
        check_nonnegative("tol", self.tol)
        check_count("max_iter", self.max_iter, 0)
        if not (check_nonnegative("rho", self.rho) > 0):
            raise ValueError(f"rho must be positive, got {self.rho}")
        if not (check_nonnegative("growth", self.growth) > 1):
            raise ValueError(f"growth must be above one, got {self.growth}")

    def supports(self, structure: Any) -> bool:
        """Whether the structure is one of atoms."""
        return has_free_values(structure)

    def reconstruct(
        self, weight: Tensor, statistics: Statistics, structure: Any, rng: Generator
    ) -> Tensor:
        """Iterate until the support stays, and refit on it."""
        del rng
        H, _ = layer_hessian(weight, statistics, self.damping)
        scale = torch.sqrt(H.diagonal())
        S = H / scale[:, None] / scale[None, :]
        choose = Chooser(structure, weight)
        V0 = weight * scale
        first = mask = choose(V0 * V0)
        changed = 0
        n_kept = int(torch.sum(mask))
        few = self.tol * min(n_kept, mask.numel() - n_kept)
        Z, Y, rho = V0 * mask, torch.zeros_like(V0), self.rho  # Y is in units of rho
        for step in range(self.max_iter):
            if step % AT_ONE_PENALTY == 0:
                if step and changed <= few:
                    break
                if step:
                    rho, Y = rho * self.growth, Y / self.growth
                pull, changed = _pull(S, rho), 0
            # V + Y, where V = V0 + (Z - Y - V0) pull
            moved = torch.addmm(V0 + Y, Z - Y - V0, pull)
            before, mask = mask, choose(moved * moved)
            Z = moved * mask
            Y = moved - Z
            changed += int(torch.sum(mask ^ before))
        error = error_of(weight, H)
        best = refit(error, structure, Z / scale)
        nearest = weight * first
        if error.value_and_gradient(nearest)[0] < error.value_and_gradient(best)[0]:
            best = refit(error, structure, nearest)
        return best


def _pull(S: Tensor, rho: float) -> Tensor:
    """Return ``rho (S + rho I)^{-1}``, what the penalty does against the error."""
    L = torch.linalg.cholesky(S + rho * torch.eye(len(S), dtype=S.dtype).to(S))
    return rho * torch.cholesky_inverse(L)
