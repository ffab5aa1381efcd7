"""Lasso over the inputs of a layer, then least squares on those that stay."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from vitalfew import solvers
from vitalfew._solve import solve
from vitalfew._validation import check_nonnegative
from vitalfew.neural import Statistics
from vitalfew.objectives import Quadratic
from vitalfew.penalties import L1
from vitalfew.pruning._contracts import Reconstruction
from vitalfew.pruning.reconstruction._layer import objective, refit
from vitalfew.structures import Channels

MOST_BISECTIONS = 40  # of the strength of the penalty


@dataclass(frozen=True, kw_only=True)
class ChannelLasso(Reconstruction):
    r"""Choose input channels by a lasso on their scales, then refit.

    Channel i of the inputs gets a scale :math:`\beta_i`, and
    :math:`\|Y - \sum_i \beta_i X_i W_i^\top\|^2 / (2 n) + \alpha \|\beta\|_1` is
    minimised with the strength that leaves as many channels as there shall be. Then all
    weights of these channels are refitted by least squares. For whole inputs only:
    ``Channels(axis=1)``.

    Parameters
    ----------
    damping : float, default=0.01
        Added to the diagonal of the Hessian, as a fraction of its mean.
    tol : float, default=1e-8
        Of each lasso, relative to its gradient at zero.

    Notes
    -----
    The error in the scales is a quadratic with ``G_ij = <W_i, W_j H_ij>``, which costs
    O(n_out n_in^2) once; each of up to forty lassos is that of one vector.

    References
    ----------
    .. [1] Y. He, X. Zhang, J. Sun, "Channel pruning for accelerating very deep neural
       networks", ICCV, 2017, eq. (2); one round of its two steps, the strength by
       bisection in place of small increases.
    """

    damping: float = 0.01
    tol: float = 1e-8

    name: ClassVar[str] = "channel-lasso"
    cost: ClassVar[str] = "some 30 lassos of one vector, 1 refit"
    use: ClassVar[str] = "whole inputs"

    def __post_init__(self) -> None:
        check_nonnegative("damping", self.damping)
        check_nonnegative("tol", self.tol)

    def supports(self, structure: Any) -> bool:
        """Say whether atoms are whole inputs."""
        return isinstance(structure, Channels) and structure.axis == 1

    def reconstruct(
        self, weight: Tensor, statistics: Statistics, structure: Any, rng: Generator
    ) -> Tensor:
        """Return the pruned and re-fitted matrix."""
        if not self.supports(structure):
            raise ValueError(
                "structure must be Channels(axis=1) for channel-lasso, got "
                f"{structure!r}; method='admm' takes any"
            )
        error = objective(weight, statistics, self.damping)
        channel = torch.arange(weight.shape[1]) // structure.width
        scores = self._scores(_scales(weight, error.H, structure), structure.budget)
        marks = torch.zeros_like(weight)
        marks[:] = torch.as_tensor(scores)[channel].to(weight)
        support = structure.largest(marks)
        return refit(error, structure, support.embed(support.restrict(weight)))

    def _scores(self, scales: Quadratic, budget: int) -> NDArray[np.float64]:
        """Rank channels: by scale if they are in within the budget, then the next."""
        zero = np.zeros(scales.shape)
        critical = L1(1.0).critical_alpha(scales.value_and_gradient(zero)[1])
        few = many = zero[0]
        low, high, fit = 0.0, critical, None
        for _ in range(MOST_BISECTIONS):
            alpha = np.sqrt(low * high) if low else high / 4
            if not alpha > 1e-9 * critical:
                break
            solver = solvers.CoordinateDescent(tol=self.tol)
            fit = solve(scales, L1(alpha), solver, start=fit)
            found = np.abs(fit.x[0])
            if np.count_nonzero(found) <= budget:
                high, few = alpha, found
            else:
                low, many = alpha, found
            if np.count_nonzero(few) == budget:
                break
        scores = np.empty(len(few))
        scores[np.lexsort((many, few))] = np.arange(1, len(few) + 1)
        return scores


def _scales(weight: Tensor, H: Tensor, structure: Channels) -> Quadratic:
    """Return the error as a function of one scale for each input, zero at ones."""
    n = structure.n_atoms
    G = (weight.T @ weight) * H
    G = G.reshape(n, structure.width, n, structure.width).sum(dim=(1, 3))
    host = G.double().cpu().numpy()
    B = host.sum(axis=1)[None, :]
    return Quadratic((host + host.T) / 2, B, 0.5 * float(B.sum()))
