"""A new mask in every step, hidden weights trained along."""

from dataclasses import dataclass, replace
from typing import ClassVar

from vitalfew._validation import check_count, check_nonnegative
from vitalfew.pruning.training._contracts import Phase, Schedule
from vitalfew.pruning.training.schedules._shares import check_share, steps_at


@dataclass(frozen=True, kw_only=True)
class StraightThrough(Schedule):
    """Straight-through estimator: the network sees the best atoms, all are trained.

    Masks are chosen anew in every step among all atoms. Hidden weights keep their value
    and get the gradient as if they were seen. Made for n:m; any structure will do.

    Parameters
    ----------
    begin : float, default=0.0
        Fraction of the training that is dense first.
    every : int, default=1
        Steps from one mask to the next.

    References
    ----------
    .. [1] Y. Bengio, N. Léonard, A. Courville, "Estimating or propagating gradients
       through stochastic neurons for conditional computation", arXiv, 2013.
    .. [2] A. Zhou, Y. Ma, J. Zhu, J. Liu, Z. Zhang, K. Yuan, W. Sun, H. Li, "Learning
       N:M fine-grained structured sparse neural networks from scratch", ICLR, 2021,
       section 3.
    """

    begin: float = 0.0
    every: int = 1

    name: ClassVar[str] = "ste"
    use: ClassVar[str] = "n:m from the first step"

    def __post_init__(self) -> None:
        check_share("begin", self.begin)
        check_count("every", self.every, 1)

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Return dense, sparse."""
        begin = steps_at(self.begin, total_steps)
        return (
            Phase(name="dense", start=0, end=begin, removed=(0, 0)),
            Phase(
                name="sparse",
                start=begin,
                end=total_steps,
                every=self.every,
                revive=True,
                zero=False,
                straight_through=True,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class SRSTE(StraightThrough):
    r"""Sparse-refined straight-through estimator: hidden weights decay.

    As `StraightThrough`, but after each step hidden weights are multiplied by
    :math:`1 - \eta \lambda` with the learning rate :math:`\eta`, so that the mask
    settles.

    Parameters
    ----------
    begin : float, default=0.0
        As in `StraightThrough`.
    every : int, default=1
        As in `StraightThrough`.
    hidden_decay : float, default=2e-4
        :math:`\lambda`.

    Notes
    -----
    The paper adds :math:`\lambda` times the hidden weights to the gradient. The decay
    is apart from the gradient here, so that momentum and the scaling of adaptive
    optimizers leave it alone; for plain gradient descent both are the same but for a
    term of the order of the squared rate. Needs ``Pruner(optimizer=...)``.

    References
    ----------
    .. [1] A. Zhou, Y. Ma, J. Zhu, J. Liu, Z. Zhang, K. Yuan, W. Sun, H. Li, "Learning
       N:M fine-grained structured sparse neural networks from scratch", ICLR, 2021,
       section 4.
    """

    hidden_decay: float = 2e-4

    name: ClassVar[str] = "sr-ste"
    use: ClassVar[str] = "n:m from the first step, with masks that settle"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative("hidden_decay", self.hidden_decay)

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Return dense, sparse with decay of what is hidden."""
        dense, sparse = super().phases(total_steps)
        return dense, replace(sparse, hidden_decay=self.hidden_decay)


@dataclass(frozen=True, kw_only=True)
class Decaying(Schedule):
    """Decaying gradient flow: removed weights fade out rather than vanish.

    After a dense beginning, masks are chosen anew in every step, and the network sees
    the other weights times a factor that falls linearly from one to zero; so do their
    gradients. Then the mask stays.

    Parameters
    ----------
    begin, end : float, default=0.1, 0.75
        Fractions of the training between which they fade out.
    every : int, default=1
        Steps from one mask to the next.

    Notes
    -----
    The paper's decay of the mask, in its linear form; the lengths are ours.

    References
    ----------
    .. [1] A. R. Bambhaniya, A. Yazdanbakhsh, S. Subramanian, S.-C. Kao, S. Agrawal, U.
       Evci, T. Krishna, "Progressive gradient flow for robust N:M sparsity training in
       transformers", arXiv, 2024.
    """

    begin: float = 0.1
    end: float = 0.75
    every: int = 1

    name: ClassVar[str] = "decaying"
    use: ClassVar[str] = "n:m with most of the weights removed"

    def __post_init__(self) -> None:
        check_share("begin", self.begin)
        check_share("end", self.end)
        if self.end < self.begin:
            raise ValueError(f"end must not be below begin, got {self.end}")
        check_count("every", self.every, 1)

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Return dense, sparse with a leak, sparse."""
        begin, end = (steps_at(share, total_steps) for share in (self.begin, self.end))
        return (
            Phase(name="dense", start=0, end=begin, removed=(0, 0)),
            Phase(
                name="sparse",
                start=begin,
                end=end,
                every=self.every,
                revive=True,
                zero=False,
                leak=(1.0, 0.0),
            ),
            Phase(name="sparse", start=end, end=total_steps),
        )
