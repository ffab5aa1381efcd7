"""Size of atoms, with the layer refitted whenever some are removed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vitalfew._validation import check_nonnegative
from vitalfew.neural import Statistics
from vitalfew.pruning.reconstruction._layer import objective
from vitalfew.pruning.training._contracts import Score
from vitalfew.pruning.training._site import Site, put, whole
from vitalfew.pruning.training._tiles import Tiles
from vitalfew.pruning.training.scores.sequential_attention import SequentialAttention


@dataclass(frozen=True, kw_only=True)
class Refit(Score):
    r"""Magnitude, and what is removed is made up for by what stays.

    Whenever atoms are removed, those that stay are refitted so that the outputs of the
    layer on its recent inputs change least:

    .. math:: \min_V \; \langle V - W, (V - W) H \rangle, \quad H = E[x x^T],

    over V on the atoms that stay, from the weights W that the network saw before. With
    little removed at a time and training in between, the network hardly notices. The
    largest atoms of the weight that the network sees stay.

    Parameters
    ----------
    attention : bool, default=True
        Whether every atom is multiplied by attention that trains along, as
        `SequentialAttention` has it.
    damping : float, default=1e-3
        Added to the diagonal of H, as a fraction of its mean.

    Notes
    -----
    Our own combination: attention lets the kept atoms of a sparse layer grow quickly,
    the refit is what `prune` does to one layer. Inputs are looked at in the last 20
    steps before a selection, a product of n_in^2 numbers with at most 2,048 of them;
    H takes n_in^2 numbers. A refit is a system of equations for each row of atoms, by
    conjugate gradients or by Cholesky. Groups of a grouped convolution are not
    refitted.

    References
    ----------
    .. [1] B. Hassibi, D. G. Stork, "Second order derivatives for network pruning:
       optimal brain surgeon", NeurIPS, 1992 (what stays makes up for what goes).
    .. [2] T. Yasuda, K. Axiotis, G. Fu, M. Bateni, V. Mirrokni, "SequentialAttention++
       for block sparsification: differentiable pruning meets combinatorial
       optimization", NeurIPS, 2024 (attention).
    """

    attention: bool = True
    damping: float = 1e-3

    name: ClassVar[str] = "refit"
    needs: ClassVar[frozenset[str]] = frozenset({"hessian"})
    cost: ClassVar[str] = "second moments of inputs, a least-squares refit a selection"
    use: ClassVar[str] = "few atoms stay and accuracy matters more than time"

    def __post_init__(self) -> None:
        check_nonnegative("damping", self.damping)

    def parameters(self, tiles: Tiles) -> dict[str, Tensor]:
        """Return the logits of the attention, if there is one."""
        return SequentialAttention().parameters(tiles) if self.attention else {}

    def factor(
        self,
        matrix: Tensor,
        tiles: Tiles,
        parameters: Mapping[str, Tensor],
        density: float,
    ) -> Tensor | None:
        """Return the attention on each atom, if there is one."""
        if not self.attention:
            return None
        return SequentialAttention().factor(matrix, tiles, parameters, density)

    def _seen(self, site: Site) -> tuple[Tensor, Tensor]:
        """The weight that the network sees, hidden atoms with it, and its factor."""
        matrix = site.matrix
        factor = self.factor(matrix, site.tiles, site.parameters, site.gate.density)
        if factor is None:
            factor = torch.ones(site.n_atoms, device=matrix.device)
        factor = factor.to(matrix.dtype)
        return site.tiles.times(matrix, factor), factor

    def _spread(self, site: Site) -> tuple[Tensor, Tensor] | None:
        """Mean of the inputs, and what they vary by: a bias makes up for the mean."""
        found = site.moments()
        if found is None:
            return None
        mean, square = found
        if site.layer.module.bias is None:
            return torch.zeros_like(mean), square
        return mean, square - mean[:, None] * mean

    def saliency(self, site: Site) -> Tensor:
        """Return the squared size of each atom as the network sees it."""
        found = self._spread(site)
        seen = self._seen(site)[0].double().square()
        if found is not None:
            seen = seen * found[1].diagonal().double()
        return site.tiles.sums(seen)

    def compensate(self, site: Site, chosen: Tensor) -> None:
        """Refit what stays to the outputs of what there was."""
        found = self._spread(site)
        if found is None or not chosen.any():
            return
        mean, H = found
        chosen = chosen.to(site.gate.mask.device)
        seen, factor = self._seen(site)
        wide = torch.promote_types(seen.dtype, torch.float32)
        W = seen.to(wide) * site.entries(torch.from_numpy(site.kept).to(seen.device))
        error = objective(W, Statistics(hessian=H), self.damping)
        atoms = np.flatnonzero((chosen.cpu().numpy()) & site.kept)
        support = site.structure.support(atoms)
        start = error.at(support, support.restrict(W))
        fit = error.refit(support, start)
        if not bool(torch.isfinite(fit.x).all()) or fit.value > start.value:
            return
        new = site.tiles.times(fit.x.to(seen.dtype), 1 / factor)
        site.write(torch.where(site.entries(chosen), new, site.matrix))
        bias = site.layer.module.bias
        if bias is not None:
            put(bias, whole(bias) + (W - fit.x) @ mean.to(wide))
