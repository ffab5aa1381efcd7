"""What criteria, reconstructions, whole-network methods and allocations promise.

A *saliency* is a non-negative matrix of the shape of the weight whose entries add up
over an atom of a structure: a block's saliency is the sum of its weights'. Methods are
frozen dataclasses that hold their settings and nothing else; each is its file and one
export line, and `prune`, the command line, the docs and the tests find it by `name`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from vitalfew.neural import Layer, Statistics

__all__ = [
    "Allocation",
    "Criterion",
    "NetworkMethod",
    "Part",
    "Reconstruction",
]


class Method:
    """What all methods say of themselves.

    Attributes
    ----------
    name : str
        The literature's name in lower case, as `prune(method=...)` takes it.
    needs : frozenset of str
        Names of the `Statistics` it reads; empty when no data are needed.
    cost, use : str
        For the table of methods: what it costs, and when to use it.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str]
    use: ClassVar[str]


class Criterion(Method, ABC):
    """A score of every weight; the atoms of largest total score stay as they are."""

    within_outputs: ClassVar[bool] = False  # compare single weights within their row

    @abstractmethod
    def score(self, weight: Tensor, statistics: Statistics, rng: Generator) -> Tensor:
        """Return the saliency of every entry of a weight matrix.

        Parameters
        ----------
        weight : tensor of shape (n_out, n_in)
            In float32 or float64.
        statistics : Statistics
            With what `needs` names.
        rng : Generator
            For random criteria.

        Returns
        -------
        tensor of shape (n_out, n_in)
            Not negative, finite, additive over atoms.
        """


class Reconstruction(Method, ABC):
    """Choose and re-fit the weights of one layer so that its outputs change least."""

    needs: ClassVar[frozenset[str]] = frozenset({"hessian"})

    def supports(self, structure: Any) -> bool:
        """Say whether the method can keep to a structure."""
        del structure
        return True

    @abstractmethod
    def reconstruct(
        self, weight: Tensor, statistics: Statistics, structure: Any, rng: Generator
    ) -> Tensor:
        """Return the pruned and re-fitted matrix.

        Parameters
        ----------
        weight : tensor of shape (n_out, n_in)
            Trained weights, in float32 or float64.
        statistics : Statistics
            With what `needs` names.
        structure : Structure
            On the shape of the weight, with its exact budget.
        rng : Generator
            For random methods.

        Returns
        -------
        tensor of shape (n_out, n_in)
            A point that the structure contains.
        """


class NetworkMethod(Method, ABC):
    """Choose and re-fit all weights of a network at once."""

    @abstractmethod
    def prune_network(
        self,
        network: Any,
        structure_at: Callable[[float], Any],
        rng: Generator,
        progress: Callable[[str, int, int], None],
    ) -> Tensor:
        """Return the pruned flat vector of all weights.

        Parameters
        ----------
        network : FlatNetwork
            Weights laid end to end, and the gradients of samples at any of them.
        structure_at : callable
            From a fraction between 0 (nothing removed) and 1 (all that shall be) of
            the atoms to remove to the structure on the flat vector; for stages.
        rng : Generator
            For the choice of samples.
        progress : callable
            Told what is being done, the number of the step and of steps.

        Returns
        -------
        tensor of shape (p,)
            A point that ``structure_at(1.0)`` contains.
        """


@dataclass(frozen=True, eq=False)
class Part:
    """A layer as an allocation sees it.

    Parameters
    ----------
    layer : Layer
        The layer.
    structure : Structure
        On the shape of its matrix; its own budget does not matter.
    saliency : array of shape (n_atoms,)
        What each atom scores; comparable between layers if the criterion's are.
    loss_increase : callable, optional
        From a number of atoms kept to the measured increase of the loss when this
        layer alone is pruned to it.
    macs_per_weight : float
        How often a weight is multiplied for one sample: output positions of a
        convolution, tokens of a linear layer.
    """

    layer: Layer
    structure: Any
    saliency: NDArray[np.float64]
    loss_increase: Callable[[int], float] | None = None
    macs_per_weight: float = 1.0


class Allocation(ABC):
    """How one budget is divided among layers.

    Attributes
    ----------
    name : str
        As `prune(allocation=...)` takes it.
    measures : bool
        Whether it calls `Part.loss_increase`.
    """

    name: ClassVar[str]
    measures: ClassVar[bool] = False

    @abstractmethod
    def counts(self, parts: Sequence[Part], total: int) -> list[int]:
        """Return how many atoms each layer keeps.

        Parameters
        ----------
        parts : sequence of Part
            The layers.
        total : int
            Number of atoms all layers keep together, at least one for each layer and
            at most all.

        Returns
        -------
        list of int
            From 1 to the number of a layer's atoms; they sum to `total`, unless a cost
            other than the number of atoms forbids it, and never to more.
        """
