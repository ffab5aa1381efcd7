"""Dense and sparse by turns, with or without a gradual way from one to the other."""

from dataclasses import dataclass, replace
from typing import ClassVar

from vitalfew._validation import check_count
from vitalfew.pruning.training._contracts import Curve, Phase, Schedule
from vitalfew.pruning.training.schedules._shares import check_share, often, steps_at


@dataclass(frozen=True, kw_only=True)
class ACDC(Schedule):
    """Alternating compressed and decompressed training.

    Dense first, then sparse and dense by turns, the last dense phase longer, then
    sparse to the end. The optimizer forgets its moments at every change.

    Parameters
    ----------
    dense : float, default=0.1
        Fraction of the training before the first cycle.
    n_cycles : int, default=7
        Pairs of a sparse and a dense phase, of equal length.
    extension : float, default=0.05
        By which the last dense phase is longer.
    fine_tuning : float, default=0.15
        Fraction of the training that is sparse at the end.
    zero : bool, default=True
        Whether removed weights become zero, rather than being hidden.

    References
    ----------
    .. [1] A. Peste, E. Iofinova, A. Vladu, D. Alistarh, "AC/DC: alternating
       compressed/decompressed training of deep neural networks", NeurIPS, 2021.
    .. [2] T. Yasuda, K. Axiotis, G. Fu, M. Bateni, V. Mirrokni, "SequentialAttention++
       for block sparsification: differentiable pruning meets combinatorial
       optimization", NeurIPS, 2024, appendix C (the lengths).
    """

    dense: float = 0.1
    n_cycles: int = 7
    extension: float = 0.05
    fine_tuning: float = 0.15
    zero: bool = True

    goes_on: ClassVar[bool] = False  # at the end, with the atoms that are there
    name: ClassVar[str] = "acdc"
    use: ClassVar[str] = "a sparse and a dense network from one training"

    def __post_init__(self) -> None:
        check_count("n_cycles", self.n_cycles, 1)
        for setting in ("dense", "extension", "fine_tuning"):
            check_share(setting, getattr(self, setting))
        if self.dense + self.extension + self.fine_tuning >= 1:
            raise ValueError(
                "dense, extension and fine_tuning must leave time for cycles, got "
                f"{self.dense} + {self.extension} + {self.fine_tuning}"
            )

    @property
    def cycle(self) -> float:
        """Fraction of the training that one cycle takes."""
        rest = 1 - self.dense - self.extension - self.fine_tuning
        return rest / self.n_cycles

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Return dense, sparse and dense by turns, sparse."""

        def at(share: float) -> int:
            return steps_at(share, total_steps)

        begins = [self.dense + n * self.cycle for n in range(self.n_cycles)]
        cuts = [*map(at, begins), at(1 - self.fine_tuning)]
        found = [Phase(name="dense", start=0, end=cuts[0], removed=(0, 0))]
        for n, begin in enumerate(begins):
            last = n == self.n_cycles - 1
            found += self.turn(begin, cuts[n + 1], last, total_steps)
        end = Phase(name="sparse", start=cuts[-1], end=total_steps, reset=True)
        return (*found, replace(end, alive=self.goes_on))

    def turn(
        self, begin: float, stop: int, last: bool, total_steps: int
    ) -> list[Phase]:
        """Return the phases of one cycle, from a fraction of the steps to a step."""
        del last
        start = steps_at(begin, total_steps)
        middle = steps_at(begin + self.cycle / 2, total_steps)
        return [
            Phase(name="sparse", start=start, end=middle, zero=self.zero, reset=True),
            Phase(name="dense", start=middle, end=stop, removed=(0, 0), reset=True),
        ]


@dataclass(frozen=True, kw_only=True)
class SequentialAttentionPlusPlus(ACDC):
    """ACDC with a gradual way down: sparsification, sparse and dense by turns.

    The last cycle, with its extension, is one long sparsification. Atoms are removed
    fast at first and slowly near the end, and none comes back within a sparsification.
    The optimizer forgets its moments at every change. Removed weights are hidden and
    not set to zero; weight decay goes on on them, see `Pruner`.

    Parameters
    ----------
    dense, extension, fine_tuning : float, default=0.1, 0.05, 0.15
        As in `ACDC`.
    n_cycles : int, default=7
        As in `ACDC`.
    c : float, default=4.0
        Exponent of the way down, see `Curve`.
    zero : bool, default=False
        Whether removed weights become zero.

    Notes
    -----
    The paper does not say how long the parts of a cycle are; they are thirds here.

    References
    ----------
    .. [1] T. Yasuda, K. Axiotis, G. Fu, M. Bateni, V. Mirrokni, "SequentialAttention++
       for block sparsification: differentiable pruning meets combinatorial
       optimization", NeurIPS, 2024, section 5 and appendix C.
    """

    zero: bool = False
    c: float = 4.0

    goes_on: ClassVar[bool] = True
    name: ClassVar[str] = "sequential-attention++"
    use: ClassVar[str] = "scores that are learned"

    def turn(
        self, begin: float, stop: int, last: bool, total_steps: int
    ) -> list[Phase]:
        """Return the phases of one cycle; the last is a sparsification alone."""
        start, third = steps_at(begin, total_steps), self.cycle / 3
        first = stop if last else steps_at(begin + third, total_steps)
        second = stop if last else steps_at(begin + 2 * third, total_steps)
        return [
            Phase(
                name="sparsification",
                start=start,
                end=first,
                removed=(0, 1),
                curve=Curve("exponential", self.c),
                every=often(start, first),
                zero=self.zero,
                reset=True,
            ),
            Phase(
                name="sparse",
                start=first,
                end=second,
                zero=self.zero,
                reset=True,
                alive=True,
            ),
            Phase(name="dense", start=second, end=stop, removed=(0, 0), reset=True),
        ]
