"""Exchanges in a layer: closed forms, brute force, feasibility, hostile layers."""

import numpy as np
import pytest
import torch

from tests.pruning.reconstruction_cases import (
    STRUCTURES as PATTERNS,
)
from tests.pruning.reconstruction_cases import (
    check_hostile_hessians,
    check_refusals,
    check_structure,
    check_units,
    damped,
    error,
    fitted,
    least_error,
)
from tests.pruning.tiny_layers import layer, masks_of
from vitalfew.neural import Statistics
from vitalfew.pruning._contracts import Reconstruction
from vitalfew.pruning.reconstruction.local_search import LocalSearch
from vitalfew.pruning.reconstruction.net_trim import NetTrim
from vitalfew.structures import NM, Blocks, Cardinality, Channels


class Given(Reconstruction):
    """A start of one's own: the structure's projection of some matrix."""

    def __init__(self, matrix):
        self.matrix = matrix

    def reconstruct(self, weight, statistics, structure, rng):
        return structure.project(self.matrix)


def run(W, statistics, structure, **settings):
    structure = structure.on(tuple(W.shape))
    new = LocalSearch(**settings).reconstruct(W, statistics, structure, None)
    assert new.dtype == W.dtype
    assert new.shape == W.shape
    assert structure.contains(new)
    return new


STRUCTURES = [
    Cardinality(5),
    NM(2, 5),
    Blocks((2, 1), 2),
    Blocks((1, 2), 3),
    Channels(2, axis=1),
]


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_close_to_the_best_of_all_supports(structure):
    ratios = []
    for seed in range(8):
        W, statistics = layer(2, 5, seed)
        H = damped(statistics)
        new = run(W, statistics, structure, tol=1e-9)
        best = least_error(W, structure, H)
        found = error(W, new, H)
        assert found >= best * (1 - 1e-9)
        ratios.append(found / best)
    assert np.median(ratios) < 1 + 1e-6
    assert max(ratios) < 1.5


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize("seed", range(3))
def test_no_single_exchange_improves_from_the_worst_start(structure, seed):
    W, statistics = layer(2, 5, seed)
    H, bound = damped(statistics), structure.on(tuple(W.shape))
    worst = max(masks_of(bound), key=lambda mask: error(W, fitted(W, mask, H), H))
    start = Given(worst.to(W.dtype))
    new = run(W, statistics, structure, start=start, tol=1e-9)
    found = error(W, new, H)
    assert found < error(W, fitted(W, worst, H), H)
    here = new != 0
    for mask in masks_of(bound):
        changed = bound.scores((mask != here).to(W.dtype))
        if np.count_nonzero(changed) == 2:  # one atom out, one in
            assert error(W, fitted(W, mask, H), H) >= found * (1 - 1e-8)


@pytest.mark.parametrize("structure", [Cardinality(60), NM(2, 4), Blocks((4, 2), 11)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_flops", [1e12, 0])
def test_the_error_falls_from_the_start(structure, dtype, max_flops):
    for seed in range(3):
        W, statistics = layer(10, 17, seed, dtype)
        H, bound = damped(statistics), structure.on(tuple(W.shape))
        start = bound.project(torch.flip(W, (1,)))
        new = run(W, statistics, structure, start=Given(start), max_flops=max_flops)
        refitted = error(W, fitted(W, start != 0, H), H)
        found = error(W, new, H)
        assert found < 0.95 * refitted
        assert found <= error(W, fitted(W, new != 0, H), H) * (1 + 1e-4)
        if dtype == torch.float64:
            assert bound.budget == bound.largest(new).atoms.size


def test_weights_move_between_rows():
    W = torch.tensor([[3.0, 2.0, 1.0], [0.3, 0.2, 0.1]], dtype=torch.float64)
    statistics = Statistics(hessian=torch.eye(3, dtype=torch.float64))
    start = Given(torch.tensor([[0, 0, 1.0], [1, 1, 0]], dtype=torch.float64))
    for max_flops in (1e12, 0):
        new = run(W, statistics, Cardinality(3), start=start, max_flops=max_flops)
        assert torch.equal(new != 0, torch.tensor([[True] * 3, [False] * 3]))


@pytest.mark.parametrize(
    "structure",
    [NM(1, 2, axis=0), Channels(1, axis=0), Cardinality(6, keep=(0, 7))],
    ids=repr,
)
def test_structures_whose_rows_are_not_independent(structure):
    W, statistics = layer(2, 6, 1)
    H, bound = damped(statistics), structure.on((2, 6))
    new = run(W, statistics, structure)
    best = min(error(W, fitted(W, mask, H), H) for mask in masks_of(bound))
    assert best * (1 - 1e-9) <= error(W, new, H) <= 1.3 * best


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_flops", [1e12, 0])
def test_hostile_layers(dtype, max_flops):
    W, statistics = layer(4, 8, 0, dtype)
    X = statistics.inputs.clone()
    X[:, 1] = 0  # never on
    X[:, 3] = X[:, 2]  # twice the same
    X[:, 5] *= 1e-4
    X[:, 6] *= 1e3
    H = X.T @ X / len(X)
    for hessian in (H, torch.zeros_like(H), H * 1e-12, X[:2].T @ X[:2]):
        for structure in (Cardinality(9), NM(1, 4), Blocks((4, 1), 3), Cardinality(32)):
            new = run(W, Statistics(hessian=hessian), structure, max_flops=max_flops)
            assert bool(torch.isfinite(new).all())
    for n_out, n_in in ((1, 8), (4, 1), (1, 1)):
        part = Statistics(hessian=H[:n_in, :n_in])
        for structure in (Cardinality(1), Blocks((16, 1), 1), Channels(1, axis=1)):
            run(W[:n_out, :n_in], part, structure, max_flops=max_flops)


def test_all_weights_stay_as_they_are():
    W, statistics = layer(3, 6, 2)
    new = run(W, statistics, Cardinality(density=1.0))
    assert torch.allclose(new, W, atol=1e-9)


def test_nothing_given_is_changed():
    W, statistics = layer(4, 8, 3)
    start = Cardinality(12).on((4, 8)).project(torch.flip(W, (0,)))
    kept = W.clone(), statistics.hessian.clone(), start.clone()
    for max_flops in (1e12, 0):
        run(W, statistics, Cardinality(12), start=Given(start), max_flops=max_flops)
    for now, then in zip((W, statistics.hessian, start), kept, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("structure", PATTERNS.values(), ids=PATTERNS)
def test_every_structure(structure):
    for seed in range(3):
        check_structure(LocalSearch(), structure, seed)


def test_hostile_hessians():
    check_hostile_hessians(LocalSearch())


def test_refusals():
    check_refusals(LocalSearch())


def test_units_dtypes_and_layouts():
    check_units(LocalSearch())


def test_bad_settings_are_named():
    for wrong in ({"start": "admm"}, {"max_sweeps": -1}, {"tol": -1.0}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} must be"):
            LocalSearch(**wrong)
    assert LocalSearch(start=NetTrim()).needs == {"inputs", "hessian"}
