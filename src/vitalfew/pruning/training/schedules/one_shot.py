"""All at once, in the middle of training."""

from dataclasses import dataclass
from typing import ClassVar

from vitalfew.pruning.training._contracts import Phase, Schedule
from vitalfew.pruning.training.schedules._shares import check_share, steps_at


@dataclass(frozen=True, kw_only=True)
class OneShot(Schedule):
    """Train dense, remove everything that shall go in one step, fine-tune.

    Parameters
    ----------
    at : float, default=0.5
        Fraction of the training after which it is done.

    References
    ----------
    .. [1] S. Han, J. Pool, J. Tran, W. J. Dally, "Learning both weights and
       connections for efficient neural networks", NeurIPS, 2015.
    """

    at: float = 0.5

    name: ClassVar[str] = "one-shot"
    use: ClassVar[str] = "a baseline; a network that is trained already"

    def __post_init__(self) -> None:
        check_share("at", self.at)

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Return dense, then sparse."""
        cut = steps_at(self.at, total_steps)
        return (
            Phase(name="dense", start=0, end=cut, removed=(0, 0)),
            Phase(name="sparse", start=cut, end=total_steps, reset=True),
        )
