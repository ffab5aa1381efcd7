"""Masks over the inputs of a network: factors that train along, and what they score."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Ints = NDArray[np.int64]


class Mask(nn.Module):
    """One number for each atom, by which its inputs are multiplied.

    Attributes
    ----------
    free : bool tensor of shape (n_atoms,)
        Atoms that are not picked.
    """

    def __init__(self, n_atoms: int) -> None:
        super().__init__()
        self.register_buffer("free", torch.ones(n_atoms, dtype=torch.bool))

    def weights(self) -> Tensor:
        """Return the factor of each atom."""
        raise NotImplementedError

    def penalty(self) -> Tensor | float:
        """Return what is added to the loss in rounds."""
        return 0.0

    def scores(self) -> Tensor:
        """Return what the best of the free atoms have most of."""
        raise NotImplementedError

    def reset(self) -> bool:
        """Begin a round; return whether the optimizer forgets about the mask."""
        return False


class SoftmaxMask(Mask):
    """Softmax over the atoms that are not picked; those that are count in full.

    Parameters
    ----------
    n_atoms : int
        Columns or fields.
    noise : float
        Standard deviation of the logits at the beginning of a round.
    """

    def __init__(self, n_atoms: int, noise: float = 0.0) -> None:
        super().__init__(n_atoms)
        self.logits = nn.Parameter(torch.zeros(n_atoms))
        self.noise = noise

    def weights(self) -> Tensor:
        """One for atoms that are picked; the others share one."""
        if not bool(self.free.any()):
            return torch.ones_like(self.logits)
        shares = torch.softmax(self.logits.masked_fill(~self.free, -torch.inf), 0)
        return torch.where(self.free, shares, torch.ones_like(shares))

    def scores(self) -> Tensor:
        """Return the attention on each atom."""
        return self.weights()

    def reset(self) -> bool:
        """Forget the attention of the last round."""
        with torch.no_grad():
            noise = torch.randn(self.logits.shape)  # alike on every device
            self.logits.copy_(self.noise * noise)
        return True


class LassoMask(Mask):
    r"""Group lasso on the first layer, as a product of two under an l2 penalty.

    A factor :math:`a_i` multiplies the inputs of an atom, and :math:`\theta_i` are the
    weights that read them; the least :math:`(a_i^2 + \|\theta_i\|^2)/2` of a given
    product is :math:`|a_i| \|\theta_i\|`. Atoms that are picked go unpenalised.

    Parameters
    ----------
    first : Linear
        Layer that reads the inputs.
    labels : integer array of shape (p,)
        Atom of each column.
    n_atoms : int
        Columns or fields.
    alpha : float
        Strength.
    """

    def __init__(
        self, first: nn.Linear, labels: Ints, n_atoms: int, alpha: float
    ) -> None:
        super().__init__(n_atoms)
        self.factors = nn.Parameter(torch.ones(n_atoms))
        self.register_buffer("labels", torch.from_numpy(labels), persistent=False)
        self.alpha = alpha
        self._first = [first]  # not a module of this one

    def weights(self) -> Tensor:
        """Return the factors."""
        return self.factors

    def _squares(self) -> Tensor:
        weight = self._first[0].weight.float()
        zeros = torch.zeros_like(self.factors)
        return zeros.index_add(0, self.labels, weight.square().sum(0))

    def penalty(self) -> Tensor:
        """Return half the squares of both factors over atoms that are not picked."""
        squares = self.factors.square() + self._squares()
        return 0.5 * self.alpha * (squares * self.free).sum()

    def scores(self) -> Tensor:
        """Return the length of the weights of each atom."""
        return self.factors.abs() * self._squares().sqrt()
