"""Movement away from zero during training."""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator
from torch import Tensor

from vitalfew.neural import Statistics
from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning.criteria._squares import wide


@dataclass(frozen=True, kw_only=True)
class Movement(Criterion):
    r"""Movement: :math:`S_i = -\sum_t w_i^{(t)} g_i^{(t)}` over the steps of training.

    Weights that training pushes away from zero stay, whatever their size; those it
    pulls towards zero leave. The sums come from a fine-tuning run, not from calibration
    data: see `Statistics.movement`.

    Notes
    -----
    A saliency is not negative, so the least :math:`S_i` of the layer is subtracted from
    all. That keeps the order of single weights, and of blocks of one size; a smaller
    block at an edge is at a disadvantage where its scores are negative. Scores are not
    comparable between layers: use the allocation "uniform" or "erk".

    References
    ----------
    .. [1] V. Sanh, T. Wolf, A. M. Rush, "Movement pruning: adaptive sparsity by
       fine-tuning", NeurIPS, 2020, eq. (2).
    """

    name: ClassVar[str] = "movement"
    needs: ClassVar[frozenset[str]] = frozenset({"movement"})
    cost: ClassVar[str] = "a fine-tuning run that adds up weight x gradient"
    use: ClassVar[str] = "a pretrained network fine-tuned to another task"

    def score(self, weight: Tensor, statistics: Statistics, rng: Generator) -> Tensor:
        """Return the movement above the least one."""
        moved = wide(statistics.get("movement"))
        return moved - moved.min()
