"""Sparse from the first step, with atoms that are exchanged on the way."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from vitalfew._validation import check_count
from vitalfew.pruning.training._contracts import Phase, Schedule
from vitalfew.pruning.training.schedules._shares import check_share, often, steps_at


@dataclass(frozen=True, kw_only=True)
class RigL(Schedule):
    """Dynamic sparse training: the least atoms leave, those of largest gradient join.

    Begins with a random mask of the final density. The fraction of atoms that is
    exchanged falls as a cosine; those that join are zero and without moments.

    Parameters
    ----------
    exchanges : int, default=50
        How often atoms are exchanged; at most once a step.
    exchanged : float, default=0.3
        The fraction of a layer's kept atoms that leave at first.
    end : float, default=0.75
        Fraction of the training after which masks stay.

    Notes
    -----
    Gradients by weights that are not there are taken only in the steps that exchange.
    The paper's densities of layers are ``Pruner(allocation="erk")``; the default is the
    same density everywhere. Atoms need some steps, tens or hundreds, from one exchange
    to the next to be worth more than those that left.

    References
    ----------
    .. [1] U. Evci, T. Gale, J. Menick, P. S. Castro, E. Elsen, "Rigging the lottery:
       making all tickets winners", ICML, 2020, algorithm 1.
    """

    exchanges: int = 50
    exchanged: float = 0.3
    end: float = 0.75

    grow: ClassVar[Literal["gradient", "random"]] = "gradient"
    name: ClassVar[str] = "rigl"
    use: ClassVar[str] = "training that is sparse all along"

    def __post_init__(self) -> None:
        check_count("exchanges", self.exchanges, 1)
        check_share("exchanged", self.exchanged)
        check_share("end", self.end)

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Return regrowth, sparse."""
        end = max(1, steps_at(self.end, total_steps))
        return (
            Phase(
                name="regrowth",
                start=0,
                end=end,
                every=often(0, end, self.exchanges),
                random=True,
                grow=self.grow,
                exchanged=self.exchanged,
            ),
            Phase(name="sparse", start=end, end=total_steps, alive=True),
        )


@dataclass(frozen=True, kw_only=True)
class SET(RigL):
    """Sparse evolutionary training: the least atoms leave, random ones join.

    Never needs a dense gradient. The paper exchanges the same fraction to the end;
    here it falls as a cosine, as in the comparison of [2]_.

    Parameters
    ----------
    exchanges : int, default=50
        As in `RigL`.
    exchanged, end : float, default=0.3, 0.75
        As in `RigL`.

    References
    ----------
    .. [1] D. C. Mocanu, E. Mocanu, P. Stone, P. H. Nguyen, M. Gibescu, A. Liotta,
       "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nat. Commun., 2018, algorithm 1.
    .. [2] U. Evci, T. Gale, J. Menick, P. S. Castro, E. Elsen, "Rigging the lottery:
       making all tickets winners", ICML, 2020.
    """

    grow: ClassVar[Literal["gradient", "random"]] = "random"
    name: ClassVar[str] = "set"
    use: ClassVar[str] = "training that is sparse all along, gradients too"
