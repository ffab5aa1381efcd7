"""Weights and what gated MLPs make of their outputs."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from numpy.random import Generator
from torch import Tensor

from vitalfew._validation import check_nonnegative
from vitalfew.neural import Statistics
from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning.criteria._squares import squared, wide


@dataclass(frozen=True, kw_only=True)
class DaSS(Criterion):
    r"""Dependency-aware: weight times the norm of its neuron in a gated MLP.

    In the gate and up projections the score is
    :math:`(|w_{ij}| \, \|h_i\|^{\alpha})^2`, where :math:`h_i` is the product of gate
    and up that enters the down projection, so that weights of a neuron that hardly ever
    speaks leave first, in both. All other layers, attention and the down projection
    among them, are scored as by `Wanda`.

    Parameters
    ----------
    exponent : float, default=0.5
        The power :math:`\alpha` of the norm; 0 is magnitude.

    Notes
    -----
    One pass over the calibration data. The gated layers are those whose statistics say
    so: children of one module with the names ``gate_proj``, ``up_proj``, ``down_proj``,
    or ``w1``, ``w3``, ``w2``, or ``wi_0``, ``wi_1``, ``wo``; gate and up in one matrix
    are not recognised. Weights compete in the whole layer: within an output the norm
    would have no effect. Scores of gated and other layers do not compare: use the
    allocation "uniform" or "lamp".

    References
    ----------
    .. [1] Z. Guo, H. Kamigaito, T. Watanabe, "Dependency-aware semi-structured sparsity
       of GLU variants in large language models", TMLR, 2025.
    """

    exponent: float = 0.5

    name: ClassVar[str] = "dass"
    needs: ClassVar[frozenset[str]] = frozenset({"input_square", "output_square"})
    cost: ClassVar[str] = "1 forward pass"
    use: ClassVar[str] = "transformers with gated MLPs at about half density"

    def __post_init__(self) -> None:
        check_nonnegative("exponent", self.exponent)

    def score(self, weight: Tensor, statistics: Statistics, rng: Generator) -> Tensor:
        """Return the squared product of weight and norm."""
        if not statistics.gated:
            return squared(weight) * wide(statistics.get("input_square"))
        neurons = wide(statistics.get("output_square"))
        return squared(weight) * torch.pow(neurons, self.exponent)[:, None]
