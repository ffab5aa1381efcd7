"""From atoms to entries of a matrix and back, against one label for every entry."""

import numpy as np
import pytest
import torch

from vitalfew.pruning.training._tiles import Tiles
from vitalfew.structures import NM, Blocks, Cardinality, Channels, Groups

STRUCTURES = [
    Blocks((3, 4), density=0.5),
    Blocks((1, 4), density=0.5),
    Blocks((4, 1), density=0.5),
    Blocks((50, 50), density=0.5),  # one block
    Cardinality(density=0.5),
    NM(2, 4),
    Channels(density=0.5),
    Channels(density=0.5, axis=1),
]
SHAPES = [(12, 20), (13, 20), (12, 22), (7, 5), (1, 1), (1, 9), (9, 1)]


def groups(shape):
    """Groups of no particular form."""
    n = shape[0] * shape[1]
    return Groups(np.arange(n).reshape(shape) * 7 % max(1, n // 3), density=0.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("structure", [*STRUCTURES, groups])
def test_products_and_sums_are_those_of_labels(structure, shape):
    bound = (structure(shape) if callable(structure) else structure).on(shape)
    tiles = Tiles(bound)
    labels = np.zeros(shape[0] * shape[1], int)
    for atom in range(bound.n_atoms):
        labels[bound.members(atom)] = atom
    labels = torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(bound.n_atoms, generator=generator).double().requires_grad_()
    matrix = torch.randn(shape, generator=generator).double().requires_grad_()
    wanted = values[labels].reshape(shape)
    assert torch.equal(tiles.spread(values), wanted)
    assert torch.equal(tiles.times(matrix, values), matrix * wanted)
    sums = torch.zeros_like(values).index_add(0, labels, matrix.reshape(-1))
    torch.testing.assert_close(tiles.sums(matrix), sums)
    assert torch.equal(
        tiles.sizes(), torch.bincount(labels, minlength=bound.n_atoms).float()
    )
    transposed = matrix.detach().T.contiguous().T  # not contiguous
    assert torch.equal(tiles.times(transposed, values), transposed * wanted)
    assert torch.autograd.gradcheck(tiles.times, (matrix, values))
    assert torch.autograd.gradcheck(tiles.sums, (matrix,))
