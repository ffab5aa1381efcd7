"""Attention that trains along, and atoms judged by the loss they would cost."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vitalfew.pruning.training._site import Site
from vitalfew.pruning.training.scores._criterion import fisher_saliency
from vitalfew.pruning.training.scores.sequential_attention import SequentialAttention


@dataclass(frozen=True, kw_only=True)
class FisherAttention(SequentialAttention):
    r"""Attention as in `SequentialAttention`; the atoms whose loss costs least go.

    Every atom is multiplied by attention that trains along, but what leaves is not what
    has the least attention: it is what costs the least loss to second order,
    :math:`\sum_i F_{ii} w_i^2` over the atom, with the running mean of squared
    gradients for F. With the gradient of one step it is the same number whether weights
    are taken with their attention or without; over the hundred steps or so that F
    remembers it is so as far as attention stands still.

    Parameters
    ----------
    rate, weight_decay : float, optional
        Of the logits, as in `SequentialAttention`.

    Notes
    -----
    Our own combination. Attention gives the atoms that stay one more number to grow by;
    the method "gradual-fisher" is the same without it. A pass over the gradient of each
    pruned weight a step, and as many numbers as weights. Hidden weights have no
    gradient, so that what is remembered of them fades.

    References
    ----------
    .. [1] T. Yasuda, K. Axiotis, G. Fu, M. Bateni, V. Mirrokni, "SequentialAttention++
       for block sparsification: differentiable pruning meets combinatorial
       optimization", NeurIPS, 2024 (attention).
    .. [2] L. Theis, I. Korshunova, A. Tejani, F. Huszár, "Faster gaze prediction with
       dense networks and Fisher pruning", arXiv, 2018 (the scores).
    """

    name: ClassVar[str] = "fisher-attention"
    needs: ClassVar[frozenset[str]] = frozenset({"fisher"})
    cost: ClassVar[str] = "one number for each atom; mean squared gradients"
    use: ClassVar[str] = "blocks, most of them removed"

    def saliency(self, site: Site) -> Tensor:
        """Return the loss that each atom would cost, to second order."""
        return fisher_saliency(site)
