"""What scores and schedules of pruning while training promise.

A *score* says how much each atom matters while the network trains; it may have
parameters of its own that train along, and change the weights that the network sees.
A *schedule* says when how many atoms are removed, whether they may come back, and what
happens to weights and optimizer meanwhile: it is data, a list of phases. Any score goes
with any schedule and any structure.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from vitalfew._validation import check_count

if TYPE_CHECKING:
    from vitalfew.pruning.training._site import Site
    from vitalfew.pruning.training._tiles import Tiles

__all__ = ["Curve", "Phase", "Schedule", "Score"]


class Score(ABC):
    """How much atoms matter while a network trains; a frozen dataclass of settings.

    Attributes
    ----------
    name : str
        The literature's name in lower case.
    needs : frozenset of str
        Which of the `Statistics` ``"gradient"``, ``"fisher"`` and ``"movement"`` it
        reads, collected over the steps of training, and ``"hessian"``, over those
        shortly before a selection.
    needs_rate : bool
        Whether `regularize` does nothing without the learning rate of an optimizer.
    cost, use : str
        For the table of scores.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    needs_rate: ClassVar[bool] = False
    cost: ClassVar[str]
    use: ClassVar[str]

    @property
    def options(self) -> dict[str, float]:
        """Options of the optimizer for `parameters`; the weights' own where absent."""
        return {}

    def parameters(self, tiles: "Tiles") -> dict[str, Tensor]:
        """Return initial values of what trains along, for one layer."""
        del tiles
        return {}

    def begin(self, site: "Site") -> None:
        """Change the weights once, before training, so that the network stays the same.

        Parameters
        ----------
        site : Site
            The layer, its weight as it was given.
        """
        del site

    def factor(
        self,
        matrix: Tensor,
        tiles: "Tiles",
        parameters: Mapping[str, Tensor],
        density: float,
    ) -> Tensor | None:
        """Return by what each atom of a weight is multiplied in the forward pass.

        Parameters
        ----------
        matrix : tensor of shape (n_out, n_in)
            The trained weight.
        tiles : Tiles
            Its atoms.
        parameters : mapping of str to tensor
            Those of `parameters`, as trained so far.
        density : float
            Fraction of the layer's atoms that shall be kept.

        Returns
        -------
        tensor of shape (n_atoms,) or None
            None where weights are used as they are.
        """
        del matrix, tiles, parameters, density
        return None

    @abstractmethod
    def saliency(self, site: "Site") -> Tensor:
        """Return how much each atom of a layer matters now.

        Parameters
        ----------
        site : Site
            The layer in training.

        Returns
        -------
        tensor of shape (n_atoms,)
            The larger the longer an atom stays; of any sign.
        """

    def regularize(self, site: "Site", rate: float, progress: float) -> None:
        """Change weights after a step of the optimizer: a penalty's proximal step.

        Parameters
        ----------
        site : Site
            The layer in training.
        rate : float
            Learning rate of the step.
        progress : float
            How much of the training is over, from 0 to 1.
        """
        del site, rate, progress

    def compensate(self, site: "Site", chosen: Tensor) -> None:
        """Change the kept weights when others are about to be removed.

        Parameters
        ----------
        site : Site
            The layer in training; `Site.kept` are the atoms that were there so far.
        chosen : bool tensor of shape (n_atoms,)
            Atoms that stay.
        """
        del site, chosen


@dataclass(frozen=True)
class Curve:
    """How a phase gets from its first to its last level.

    Parameters
    ----------
    kind : {"linear", "cubic", "exponential"}
        ``u``, ``1 - (1 - u)^3`` or ``(1 - exp(-c u)) / (1 - exp(-c))`` at the fraction
        u of the phase.
    c : float, default=4.0
        Of the exponential one.

    References
    ----------
    .. [1] M. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of
       pruning for model compression", ICLR workshop, 2018 (cubic).
    .. [2] T. Yasuda, K. Axiotis, G. Fu, M. Bateni, V. Mirrokni, "SequentialAttention++
       for block sparsification: differentiable pruning meets combinatorial
       optimization", NeurIPS, 2024 (exponential).
    """

    kind: Literal["linear", "cubic", "exponential"] = "linear"
    c: float = 4.0

    def __call__(self, u: float) -> float:
        """Return the level at a fraction of the phase, 0 at 0 and 1 at 1."""
        if self.kind == "cubic":
            return 1 - (1 - u) ** 3
        if self.kind == "exponential":
            return math.expm1(-self.c * u) / math.expm1(-self.c)
        return u


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What happens in some consecutive steps of training.

    Attributes
    ----------
    name : str
        ``"dense"``, ``"sparsification"``, ``"sparse"`` or ``"regrowth"``.
    start, end : int
        Steps taken when it begins and when it is over.
    removed : tuple of two floats
        How much of what shall be removed in the end is removed when it begins and when
        it is over.
    curve : Curve
        From one to the other.
    geometric : bool
        Whether `removed` counts equal factors of what is kept, not equal numbers.
    every : int
        Steps from one selection to the next; 0 selects only when the phase begins.
    revive : bool
        Whether removed atoms compete again at the later selections of the phase.
    alive : bool
        Whether the selection at its beginning is among the atoms that are there, not
        all.
    random : bool
        Whether that selection is random, whatever atoms score.
    zero : bool
        Whether removed weights become zero, rather than being hidden and kept.
    reset : bool
        Whether the optimizer forgets its moments when the phase begins.
    straight_through : bool
        Whether hidden weights are trained as if they were seen.
    hidden_decay : float
        What part of hidden weights is taken away in each step, times the learning rate.
    leak : tuple of two floats
        By what removed weights are multiplied when it begins and ends; 0 hides them.
    grow : {"", "gradient", "random"}
        In ``"regrowth"``: how the atoms that come back are chosen.
    exchanged : float
        The fraction of kept atoms that is exchanged at first; it falls as a cosine.
    remember, rewind : bool
        Whether the parameters and buffers of the model at its beginning are
        remembered, or replaced by those that were.
    average : bool
        Whether those at its end become the mean of those since its middle.
    """

    name: Literal["dense", "sparsification", "sparse", "regrowth"]
    start: int
    end: int
    removed: tuple[float, float] = (1.0, 1.0)
    curve: Curve = Curve()
    geometric: bool = False
    every: int = 0
    revive: bool = False
    alive: bool = False
    random: bool = False
    zero: bool = True
    reset: bool = False
    straight_through: bool = False
    hidden_decay: float = 0.0
    leak: tuple[float, float] = (0.0, 0.0)
    grow: Literal["", "gradient", "random"] = ""
    exchanged: float = 0.0
    remember: bool = False
    rewind: bool = False
    average: bool = False

    def progress(self, n_steps: int) -> float:
        """How much of the phase is over after a number of steps, from 0 to 1."""
        length = max(1, self.end - self.start)
        return min(1.0, max(0.0, (n_steps - self.start) / length))

    def removed_at(self, n_steps: int, density: float = 1.0) -> float:
        """How much of what shall be removed is removed after a number of steps.

        Parameters
        ----------
        n_steps : int
            Steps of the optimizer.
        density : float
            Fraction of all that is kept in the end; matters if `geometric`.
        """
        begin, end = self.removed
        level = begin + (end - begin) * self.curve(self.progress(n_steps))
        if not self.geometric or density == 1:
            return level
        return (1 - density**level) / (1 - density)

    def leak_at(self, n_steps: int) -> float:
        """By what removed weights are multiplied after a number of steps."""
        begin, end = self.leak
        return begin + (end - begin) * self.progress(n_steps)

    def selects_at(self, n_steps: int) -> bool:
        """Say whether atoms are selected after a number of steps, not the first."""
        if not self.every or n_steps >= self.end:
            return False
        return (n_steps - self.start) % self.every == 0


class Schedule(ABC):
    """When how much is removed; a frozen dataclass of settings.

    Attributes
    ----------
    name : str
        The literature's name in lower case.
    use : str
        When to use it.
    """

    name: ClassVar[str]
    use: ClassVar[str]

    @abstractmethod
    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Return the phases of a training of some steps.

        Parameters
        ----------
        total_steps : int
            Steps of the optimizer.

        Returns
        -------
        tuple of Phase
            One after the other from 0 to `total_steps`; the last one ends with all
            removed that shall be.
        """


def phases_of(schedule: Schedule, total_steps: int) -> tuple[Phase, ...]:
    """Return the phases of a schedule that have steps, checked.

    Raises
    ------
    ValueError
        If they leave steps out, or do not end where they should.
    """
    check_count("total_steps", total_steps, 1)
    found = tuple(p for p in schedule.phases(total_steps) if p.end > p.start)
    ends = [0, *(phase.end for phase in found)]
    if [p.start for p in found] != ends[:-1] or ends[-1] != total_steps:
        raise ValueError(
            f"the phases of {schedule!r} must follow one another from step 0 to "
            f"{total_steps}, got {[(p.start, p.end) for p in found]}"
        )
    if found[-1].removed[1] != 1:
        raise ValueError(
            f"the last phase of {schedule!r} must end with everything removed that "
            f"shall be, got {found[-1].removed[1]}"
        )
    return found
