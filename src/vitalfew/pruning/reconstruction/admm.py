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

BETWEEN_LOOKS = 5  # iterations; in one alone little changes before Y has grown


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
    growth : float, default=1.1
        Factor of the penalty from one iteration to the next; nearer to one is slower
        and ends lower.
    tol : float, default=0.0005
        Stop when in five iterations not more has changed than this fraction of the
        weights kept, or of those removed if they are fewer.
    max_iter : int, default=300
        Most iterations.

    Notes
    -----
    One eigendecomposition of S, O(n_in^3), then two products of (n_out, n_in) and
    (n_in, n_in) matrices in each of about 25 iterations, and the refit. The problem is
    not convex: the answer is stationary, not the best, and where there are few atoms,
    tens of channels say, may lie above that of `OBS`.

    Departures from [2]_: the penalty grows by one factor instead of one of three.

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
    growth: float = 1.1
    tol: float = 5e-4
    max_iter: int = 300

    name: ClassVar[str] = "admm"
    cost: ClassVar[str] = "n_in³ + 25 x 4 n_out n_in², and the refit"
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
        curvature, Q = _eigen(H / scale[:, None] / scale[None, :])
        choose = Chooser(structure, weight)
        V0 = weight * scale
        pull = (V0 @ Q) * curvature  # of the error: V0 S, in the basis of eigenvectors
        mask, changed = choose(V0 * V0), 0
        n_kept = int(torch.sum(mask))
        few = self.tol * min(n_kept, mask.numel() - n_kept)
        Z, Y, rho = V0 * mask, torch.zeros_like(V0), self.rho  # Y is in units of rho
        for step in range(1, self.max_iter + 1):
            V = ((pull + rho * ((Z - Y) @ Q)) / (curvature + rho)) @ Q.T
            moved = V + Y
            before, mask = mask, choose(moved * moved)
            Z = moved * mask
            changed += int(torch.sum(mask ^ before))
            if step % BETWEEN_LOOKS == 0:
                if changed <= few:
                    break
                changed = 0
            Y = (moved - Z) / self.growth
            rho *= self.growth
        return refit(error_of(weight, H), structure, Z / scale)


def _eigen(S: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, not negative, and eigenvectors of a positive definite matrix."""
    try:
        values, vectors = torch.linalg.eigh(S)
    except torch.linalg.LinAlgError:  # float32 may not converge
        values, vectors = (part.to(S) for part in torch.linalg.eigh(S.double()))
    return torch.clamp(values, min=0), vectors
