"""Weights, activations and gradients."""

import math
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
class GBLM(Criterion):
    r"""Weight times the norms of its input and of its gradients, squared.

    The score is :math:`|w_{ij}|^2 (\|x_j\|_2 + \alpha \|g_{ij}\|_2)^2`, with the norm
    of the input over tokens and that of the gradient over samples. With ``alpha=0`` it
    is `Wanda`. Single weights compete within their output.

    Parameters
    ----------
    alpha : float, default=100
        Weight of the gradients against the activations.

    Notes
    -----
    One pass over the calibration data and one gradient for every sample. Both norms are
    divided by the root of the number of samples, so that `alpha` means the same for any
    number of them. The paper's other form, with sums of absolute gradients, is not
    offered.

    References
    ----------
    .. [1] R. J. Das, M. Sun, L. Ma, Z. Shen, "Beyond size: how gradients shape pruning
       decisions in large language models", arXiv, 2023 (the metric with p = 2).
    """

    alpha: float = 100.0

    within_outputs: ClassVar[bool] = True
    name: ClassVar[str] = "gblm"
    needs: ClassVar[frozenset[str]] = frozenset({"input_square", "fisher"})
    cost: ClassVar[str] = "1 forward pass, 1 gradient of each sample"
    use: ClassVar[str] = "as wanda, with targets at hand"

    def __post_init__(self) -> None:
        check_nonnegative("alpha", self.alpha)

    def score(self, weight: Tensor, statistics: Statistics, rng: Generator) -> Tensor:
        """Return the squared product of weight and joint norm."""
        per_sample = max(1, statistics.n_tokens) / max(1, statistics.n_samples)
        inputs = torch.sqrt(wide(statistics.get("input_square")))
        gradients = torch.sqrt(wide(statistics.get("fisher")))
        norm = math.sqrt(per_sample) * inputs + self.alpha * gradients
        return squared(weight) * norm * norm
