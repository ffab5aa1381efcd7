"""The envelope of "at most k groups": a penalty on all atoms at once."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitalfew._validation import check_nonnegative
from vitalfew.pruning.training._contracts import Score
from vitalfew.pruning.training._site import Site
from vitalfew.pruning.training.scores._norms import n_staying, squares


@dataclass(frozen=True, kw_only=True)
class GroupEnvelope(Score):
    r"""Weighted group sparse envelope (WGSEF): a penalty for more than k atoms.

    A proximal step after each step of the optimizer. The penalty is `alpha` times the
    largest convex function below "half the squared norm, and infinite where more than k
    atoms are not zero",

    .. math:: S_k(w) = \min_{0 \le u \le 1,\ \sum u \le k}
        \tfrac12 \sum_T \|w_T\|^2 / u_T,

    half the squared k-support norm of the norms of the atoms, with k the number that
    the layer shall keep. Where at most k atoms are not zero it is plain weight decay.
    Atoms of largest norm stay.

    Parameters
    ----------
    alpha : float, default=0.01
        Strength. The step takes it times the learning rate of the weights, as decoupled
        weight decay does, and so needs ``Pruner(optimizer=...)``.

    Notes
    -----
    The step costs time linear in the number of weights. The paper allows a weight for
    each group; here all are one.

    References
    ----------
    .. [1] Y. Refael, I. Arbel, W. Huleihel, "Learning k-level structured sparse neural
       networks using group envelope regularization", arXiv, 2022.
    .. [2] A. Beck, Y. Refael, "Sparse regularization via bidualization", Journal of
       Global Optimization, 2022 (the envelope for single coordinates).
    .. [3] A. Argyriou, R. Foygel, N. Srebro, "Sparse prediction with the k-support
       norm", NIPS, 2012.
    """

    alpha: float = 0.01

    name: ClassVar[str] = "wgsef"
    needs_rate: ClassVar[bool] = True
    cost: ClassVar[str] = "a pass over the weights in every step"
    use: ClassVar[str] = "a penalty that knows how many atoms shall stay"

    def __post_init__(self) -> None:
        check_nonnegative("alpha", self.alpha)

    def regularize(self, site: Site, rate: float, progress: float) -> None:
        """Take the proximal step of the envelope."""
        lengths = squares(site.tiles, site.matrix).double().sqrt()
        scale = envelope_scale(lengths, n_staying(site), rate * self.alpha)
        site.write(site.tiles.times(site.matrix, scale))

    def saliency(self, site: Site) -> Tensor:
        """Return the squared norm of each atom."""
        return squares(site.tiles, site.matrix)


def envelope_scale(lengths: Tensor, k: int, step: float) -> Tensor:
    """Return by what the proximal step of the envelope multiplies each group.

    Parameters
    ----------
    lengths : tensor of shape (n,)
        Norms of the groups.
    k : int
        How many may be there.
    step : float
        Strength times step size.

    Returns
    -------
    tensor of shape (n,)
        From 0 to 1 / (1 + step).

    Notes
    -----
    For given u the best group is u / (u + step) of what it was, which leaves the sum of
    lengths^2 / (u + step) to be minimised over u: u = clip(t * lengths - step, 0, 1),
    with t such that they add up to k.
    """
    if not step:
        return torch.ones_like(lengths)
    if int((lengths > 0).sum()) <= k:
        u = torch.ones_like(lengths)
    else:
        u = (_level(lengths[lengths > 0], k, step) * lengths - step).clamp(0, 1)
    return u / (u + step)


def _level(a: Tensor, k: int, step: float) -> float:
    """Return the t at which the sum of clip(t * a - step, 0, 1) is k.

    The sum is linear between the points where a term leaves 0 or reaches 1. Their
    median halves those that are left, and with them the terms that are not decided.
    """
    low, high = 0.0, float("inf")
    n_full, n_rising, slope = 0, 0, 0.0  # of the terms that are decided
    while True:
        leaves, fills = step / a, (1 + step) / a
        points = torch.cat([leaves, fills])
        points = points[(points > low) & (points < high)]
        if not len(points):
            break
        middle = float(points.median())
        undecided = float((middle * a - step).clamp(0, 1).sum())
        if n_full + slope * middle - step * n_rising + undecided < k:
            low = middle
        else:
            high = middle
        full, rising = fills <= low, (leaves <= low) & (fills >= high)
        n_full += int(full.sum())
        n_rising += int(rising.sum())
        slope += float(a[rising].sum())
        a = a[~(full | rising | (leaves >= high))]
    return (k - n_full + step * n_rising) / slope if slope > 0 else low
