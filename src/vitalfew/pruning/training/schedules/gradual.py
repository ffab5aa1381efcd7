"""Little by little, fast at first."""

from dataclasses import dataclass
from typing import ClassVar

from vitalfew._validation import check_count
from vitalfew.pruning.training._contracts import Curve, Phase, Schedule
from vitalfew.pruning.training.schedules._shares import check_share, often, steps_at


@dataclass(frozen=True, kw_only=True)
class Gradual(Schedule):
    """Cubic gradual pruning: dense, more and more removed, then fine-tuning.

    Removed weights are hidden and not set to zero, so that they may return as others
    shrink. The loss does not change them, but the optimizer's momentum and weight decay
    do: see `Pruner`.

    Parameters
    ----------
    begin, end : float, default=0.1, 0.6
        Fractions of the training between which atoms are removed.
    selections : int, default=100
        How often; at most once a step.
    zero : bool, default=False
        Whether removed weights become zero, and so hardly return.

    References
    ----------
    .. [1] M. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of
       pruning for model compression", ICLR workshop, 2018, section 3.
    """

    begin: float = 0.1
    end: float = 0.6
    selections: int = 100
    zero: bool = False

    name: ClassVar[str] = "gradual"
    use: ClassVar[str] = "the strong simple choice"

    def __post_init__(self) -> None:
        check_share("begin", self.begin)
        check_share("end", self.end)
        if self.end < self.begin:
            raise ValueError(f"end must not be below begin, got {self.end}")
        check_count("selections", self.selections, 1)

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Return dense, sparsification, sparse."""
        begin, end = (steps_at(share, total_steps) for share in (self.begin, self.end))
        return (
            Phase(name="dense", start=0, end=begin, removed=(0, 0)),
            Phase(
                name="sparsification",
                start=begin,
                end=end,
                removed=(0, 1),
                curve=Curve("cubic"),
                every=often(begin, end, self.selections),
                revive=True,
                zero=self.zero,
            ),
            Phase(name="sparse", start=end, end=total_steps),
        )
