"""Train, remove, go back, and again."""

from dataclasses import dataclass, replace
from typing import ClassVar

from vitalfew._validation import check_count
from vitalfew.pruning.training._contracts import Phase, Schedule
from vitalfew.pruning.training.schedules._shares import check_share


@dataclass(frozen=True, kw_only=True)
class Iterative(Schedule):
    """Iterative pruning with rewinding: the same training again with ever fewer atoms.

    The first round trains dense. Each later one removes the least of the atoms that are
    there, sets the network back to how it was early in the first round, and trains it
    from there. The fraction kept falls by the same factor in each. The optimizer
    forgets its moments at every round.

    Parameters
    ----------
    n_rounds : int, default=5
        Rounds that remove.
    rewind_to : float, default=0.1
        Fraction of the first round to which later ones go back; 0 is the
        initialization.
    rewind : bool, default=True
        Whether parameters and buffers go back. Otherwise only the learning rate
        should: weights stay trained, and rounds have the same lengths.

    Notes
    -----
    `Pruner.phases` tells the steps at which rounds start, those of its sparse phases;
    let the learning-rate scheduler begin there anew, from `rewind_to` on. A copy of the
    network is kept.

    References
    ----------
    .. [1] J. Frankle, G. K. Dziugaite, D. M. Roy, M. Carbin, "Linear mode connectivity
       and the lottery ticket hypothesis", ICML, 2020, algorithm 2.
    .. [2] A. Renda, J. Frankle, M. Carbin, "Comparing rewinding and fine-tuning in
       neural network pruning", ICLR, 2020 (of the learning rate alone).
    """

    n_rounds: int = 5
    rewind_to: float = 0.1
    rewind: bool = True

    averages: ClassVar[bool] = False  # the weights of each round's second half
    name: ClassVar[str] = "iterative"
    use: ClassVar[str] = "very sparse networks, where training may take long"

    def __post_init__(self) -> None:
        check_count("n_rounds", self.n_rounds, 1)
        check_share("rewind_to", self.rewind_to)

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Return two dense phases, then a sparse one for each round."""
        again = self.n_rounds * (1 - self.rewind_to)
        length = min(max(1, round(total_steps / (1 + again))), total_steps - 1)
        back = max(0, min(length - 1, round(self.rewind_to * length)))
        rest = total_steps - length
        starts = [length + n * rest // self.n_rounds for n in range(self.n_rounds + 1)]
        rounds = [
            Phase(name="dense", start=back, end=length, removed=(0, 0), remember=True),
            *(
                Phase(
                    name="sparse",
                    start=starts[n],
                    end=starts[n + 1],
                    removed=((n + 1) / self.n_rounds,) * 2,
                    geometric=True,
                    alive=True,
                    reset=True,
                    rewind=self.rewind,
                )
                for n in range(self.n_rounds)
            ),
        ]
        first = Phase(name="dense", start=0, end=back, removed=(0, 0))
        return (first, *(replace(p, average=self.averages) for p in rounds))


@dataclass(frozen=True, kw_only=True)
class SWAMP(Iterative):
    """Iterative pruning of averaged weights.

    As `Iterative`, but the second half of each round is averaged, what is removed is
    chosen by the averages, and the last averages are the result.

    Parameters
    ----------
    n_rounds : int, default=5
        As in `Iterative`.
    rewind_to : float, default=0.1
        As in `Iterative`.
    rewind : bool, default=True
        As in `Iterative`.

    Notes
    -----
    The paper averages several trainings of each round as well, with other orders of
    the data: `soup` does it for the last round. Batch normalization should see some
    data after `Pruner.finalize` (`torch.optim.swa_utils.update_bn`), for averages of
    its statistics are only nearly those of the averaged weights.

    References
    ----------
    .. [1] M. Choi, H. Lee, G. Nam, J. Lee, "Sparse weight averaging with multiple
       particles for iterative magnitude pruning", ICLR, 2024.
    """

    averages: ClassVar[bool] = True
    name: ClassVar[str] = "swamp"
    use: ClassVar[str] = "very sparse networks, flatter minima"
