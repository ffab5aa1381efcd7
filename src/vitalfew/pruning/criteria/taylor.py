"""First-order change of the loss."""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator
from torch import Tensor

from vitalfew.neural import Statistics
from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning.criteria._squares import squared


@dataclass(frozen=True, kw_only=True)
class Taylor(Criterion):
    r"""Gradient times weight, squared: :math:`(g_i w_i)^2`.

    To first order, removing a weight changes the mean loss by :math:`-g_i w_i`; the
    square of that is what the papers rank by. In a well-trained network mean gradients
    are close to zero and noisy: `Fisher`, which squares before it averages, is the
    safer choice there.

    Notes
    -----
    One gradient of the mean loss over the calibration data. The score of a block is the
    sum of the squares of its weights, not the square of their sum.

    References
    ----------
    .. [1] P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz, "Pruning convolutional
       neural networks for resource efficient inference", ICLR, 2017.
    .. [2] P. Molchanov, A. Mallya, S. Tyree, I. Frosio, J. Kautz, "Importance
       estimation for neural network pruning", CVPR, 2019, eq. (8).
    """

    name: ClassVar[str] = "taylor"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})
    cost: ClassVar[str] = "1 gradient of the mean loss"
    use: ClassVar[str] = "targets at hand, network not trained to the end"

    def score(self, weight: Tensor, statistics: Statistics, rng: Generator) -> Tensor:
        """Return the squared first-order change of the loss."""
        return squared(weight) * squared(statistics.get("gradient"))
