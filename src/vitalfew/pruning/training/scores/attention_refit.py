"""Attention, Fisher scores, and a refit of the layer whenever atoms are removed."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vitalfew._validation import check_nonnegative
from vitalfew.neural import Statistics
from vitalfew.pruning.reconstruction._layer import objective
from vitalfew.pruning.training._site import Site, put, whole
from vitalfew.pruning.training.scores.fisher_attention import FisherAttention


@dataclass(frozen=True, kw_only=True)
class AttentionRefit(FisherAttention):
    r"""As `FisherAttention`, and what stays makes up for what is removed.

    Whenever atoms are removed, those that stay are refitted so that the outputs of the
    layer on its recent inputs change least:

    .. math:: \min_V \; \langle V - W, (V - W) C \rangle, \quad
       C = E[(x - \bar x)(x - \bar x)^T],

    over V on the atoms that stay, from the weights W that the network saw before; the
    bias makes up for the mean. Layers without a bias that trains, or whose weight
    others share, use the second moments themselves.

    Parameters
    ----------
    rate, weight_decay : float, optional
        Of the logits, as in `SequentialAttention`.
    damping : float, default=0.1
        Added to the diagonal of C, as a fraction of its mean.

    Notes
    -----
    Our own combination. Inputs are looked at in the last 20 steps before a selection,
    at most some 2,048 tokens each, or those of one sample, and C takes n_in^2 numbers.
    Tokens of padding count as others do. A refit is a system of equations for each row
    of atoms, by conjugate gradients or by Cholesky. Grouped and transposed convolutions
    are not refitted, nor are layers whose weight is used without calling them.

    References
    ----------
    .. [1] B. Hassibi, D. G. Stork, "Second order derivatives for network pruning:
       optimal brain surgeon", NeurIPS, 1992 (what stays makes up for what goes).
    .. [2] T. Yasuda, K. Axiotis, G. Fu, M. Bateni, V. Mirrokni, "SequentialAttention++
       for block sparsification: differentiable pruning meets combinatorial
       optimization", NeurIPS, 2024 (attention).
    """

    damping: float = 0.1

    name: ClassVar[str] = "attention-refit"
    needs: ClassVar[frozenset[str]] = frozenset({"fisher", "hessian"})
    cost: ClassVar[str] = "second moments of inputs, a refit of the layer a selection"
    use: ClassVar[str] = "few large blocks stay and accuracy matters more than time"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative("damping", self.damping)

    def compensate(self, site: Site, chosen: Tensor) -> None:
        """Refit what stays to the outputs of what there was."""
        marks = chosen.cpu().numpy()
        atoms = np.flatnonzero(marks & site.kept)
        if not len(atoms) or not np.any(site.kept & ~marks):
            return
        found = site.moments()
        if found is None:
            return
        mean, C = found
        bias = _free_bias(site)
        if bias is not None:
            C = C - mean[:, None] * mean
        matrix, tiles = site.matrix, site.tiles
        factor = self.factor(matrix, tiles, site.parameters, site.gate.density)
        seen = tiles.times(matrix, factor.to(matrix.dtype))
        W = seen.to(torch.promote_types(seen.dtype, torch.float32)) * ~site.gone
        error = objective(W, Statistics(hessian=C), self.damping)
        support = site.structure.support(atoms)
        start = error.at(support, support.restrict(W))
        fit = error.refit(support, start)
        if not fit.value <= start.value or not bool(torch.isfinite(fit.x).all()):
            return
        new = tiles.times(fit.x, 1 / factor).to(matrix.dtype)
        site.write(torch.where(site.entries(chosen.to(new.device)), new, matrix))
        if bias is not None:
            put(bias, whole(bias) + ((W - fit.x) @ mean.to(W.dtype)).to(bias.dtype))


def _free_bias(site: Site) -> nn.Parameter | None:
    """Return the bias that may make up for the mean of the inputs, if there is one.

    That of one module cannot where others have the weight, on inputs of their own.
    """
    bias: nn.Parameter | None = site.layer.module.bias
    if bias is None or not bias.requires_grad or site.layer.sharing:
        return None
    return bias
