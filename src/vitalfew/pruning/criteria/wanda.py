"""Weights and activations."""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator
from torch import Tensor

from vitalfew.neural import Statistics
from vitalfew.pruning._contracts import Criterion
from vitalfew.pruning.criteria._squares import squared, wide


@dataclass(frozen=True, kw_only=True)
class Wanda(Criterion):
    r"""Weight times the norm of its input: :math:`(|w_{ij}| \, \|x_j\|)^2`.

    What a weight alone contributes to the squared output of its layer. Single weights
    compete within their output, as in the paper.

    Notes
    -----
    One pass over the calibration data, n_in numbers for each layer. The mean square of
    the input stands for its squared norm, which is a factor that all share.

    References
    ----------
    .. [1] M. Sun, Z. Liu, A. Bair, J. Z. Kolter, "A simple and effective pruning
       approach for large language models", ICLR, 2024, eq. (1).
    """

    within_outputs: ClassVar[bool] = True
    name: ClassVar[str] = "wanda"
    needs: ClassVar[frozenset[str]] = frozenset({"input_square"})
    cost: ClassVar[str] = "1 forward pass"
    use: ClassVar[str] = "transformers at about half density, in seconds"

    def score(self, weight: Tensor, statistics: Statistics, rng: Generator) -> Tensor:
        """Return each weight's mean squared contribution to its output."""
        return squared(weight) * wide(statistics.get("input_square"))
