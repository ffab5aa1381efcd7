"""Decay of the atoms that would be removed now."""

from abc import abstractmethod
from dataclasses import dataclass
from math import atanh, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from vitalfew._validation import check_nonnegative
from vitalfew.pruning.training._contracts import Score
from vitalfew.pruning.training._site import Site
from vitalfew.pruning.training.scores._norms import above_cut, norms, shorten, squares

INFLECTION = atanh(1 / sqrt(3))  # of 1 - tanh^2


class Decay(Score):
    """A pull towards zero on each atom, after every step of the optimizer."""

    needs_rate: ClassVar[bool] = True
    cost: ClassVar[str] = "a selection after every step"

    @abstractmethod
    def strength(self, progress: float) -> float:
        """How strong the pull is when so much of the training is over."""

    @abstractmethod
    def pull(self, lengths: Tensor, above: Tensor) -> Tensor:
        """How the pull is divided among atoms of some norms, those above the cut told.

        It is in units of the mean norm, so that `strength` means the same for atoms of
        any size.
        """

    def regularize(self, site: Site, rate: float, progress: float) -> None:
        """Shorten atoms, while there are some that shall go."""
        above = above_cut(site, squares(site.tiles, site.matrix))
        if not 0 < int(above.sum()) < int(site.kept.sum()):  # 0: they are NaN
            return
        lengths = norms(site.tiles, site.matrix)
        much = rate * self.strength(progress) * lengths.mean()
        shorten(site, lengths, much * self.pull(lengths, above))

    def saliency(self, site: Site) -> Tensor:
        """Return the squared norm of each atom."""
        return squares(site.tiles, site.matrix)


@dataclass(frozen=True, kw_only=True)
class GatedDecay(Decay):
    """MaskSparsity: a penalty on just the atoms that would be removed now.

    After each step of the optimizer the atoms below the cut of their layer are
    shortened by the same amount, the proximal step of a group lasso; it grows linearly
    from zero to the end of the training. Those above are left alone. Atoms of largest
    norm stay.

    Parameters
    ----------
    alpha : float, default=1.0
        What the atoms lose in a step at the end, in learning rates times the mean norm
        of the layer's atoms. It needs ``Pruner(optimizer=...)``.

    Notes
    -----
    The paper penalises scales of batch normalization by their absolute values, with a
    constant strength and a mask that was found before; here it is the atoms themselves,
    and the mask is that of the present weights.

    References
    ----------
    .. [1] N. Jiang, X. Zhao, C. Zhao, Y. An, M. Tang, J. Wang, "Pruning-aware sparse
       regularization for network pruning", Machine Intelligence Research, 2023.
    """

    alpha: float = 1.0

    name: ClassVar[str] = "mask-sparsity"
    use: ClassVar[str] = "little harm when atoms go at once"

    def __post_init__(self) -> None:
        check_nonnegative("alpha", self.alpha)

    def strength(self, progress: float) -> float:
        """Return `alpha` times the progress."""
        return self.alpha * progress

    def pull(self, lengths: Tensor, above: Tensor) -> Tensor:
        """Return one below the cut and zero above."""
        return (~above).to(lengths.dtype)


@dataclass(frozen=True, kw_only=True)
class HyperSparse(Decay):
    r"""HyperSparse: a penalty that is the weaker the farther above the cut an atom is.

    After each step of the optimizer atoms are shortened by the slope of the HyperSparse
    loss, for an atom of norm a

    .. math:: c (1 - \tanh^2(c a)) \sum_T a_T / \sum_T \tanh(c a_T)

    with c such that it turns from steeper to flatter at the cut of the layer. Its
    strength grows exponentially. Atoms of largest norm stay.

    Parameters
    ----------
    alpha : float, default=0.1
        Strength at the beginning: a pull of one takes `alpha` times the learning rate
        times the mean norm of the layer's atoms. It needs ``Pruner(optimizer=...)``.
    growth : float, default=20.0
        By what the strength has grown at the end.

    Notes
    -----
    The paper takes single weights, the cut of the whole network, and as its strength a
    constant to the power of the epoch, until the pruned network is as good as the dense
    one.

    References
    ----------
    .. [1] P. Glandorf, T. Kaiser, B. Rosenhahn, "HyperSparse neural networks: shifting
       exploration to exploitation through adaptive regularization", ICCV workshops,
       2023, section 3.
    """

    alpha: float = 0.1
    growth: float = 20.0

    name: ClassVar[str] = "hypersparse"
    use: ClassVar[str] = "single weights, nearly all of them removed"

    def __post_init__(self) -> None:
        check_nonnegative("alpha", self.alpha)
        if check_nonnegative("growth", self.growth) <= 0:
            raise ValueError(f"growth must be positive, got {self.growth!r}")

    def strength(self, progress: float) -> float:
        """Return `alpha` times `growth` to the power of the progress."""
        return self.alpha * self.growth**progress

    def pull(self, lengths: Tensor, above: Tensor) -> Tensor:
        """Return the slope of the HyperSparse loss by the norm of each atom."""
        c = INFLECTION / lengths[above].min()
        bent = torch.tanh(c * lengths)
        return c * (1 - bent.square()) * lengths.sum() / bent.sum()
