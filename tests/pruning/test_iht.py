"""Projected gradients on a layer: stationarity, brute force, hostile layers."""

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
from tests.pruning.tiny_layers import layer
from vitalfew import solvers
from vitalfew.neural import Statistics
from vitalfew.pruning.reconstruction.iht import IHT
from vitalfew.structures import NM, Blocks, Bounded, Cardinality, Channels

STRUCTURES = [Cardinality(5), NM(2, 5), Blocks((2, 1), 2), Channels(2, axis=1)]


def run(W, statistics, structure, **settings):
    structure = structure.on(tuple(W.shape))
    new = IHT(**settings).reconstruct(
        W, statistics, structure, np.random.default_rng(0)
    )
    assert new.dtype == W.dtype
    assert structure.contains(new)
    return new


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize("solver", [solvers.IHT(), solvers.HTP()], ids=repr)
def test_close_to_the_best_of_all_supports(structure, solver):
    ratios = []
    for seed in range(8):
        W, statistics = layer(2, 5, seed)
        H = damped(statistics)
        new = run(W, statistics, structure, solver=solver)
        best = least_error(W, structure, H)
        found = error(W, new, H)
        assert found >= best * (1 - 1e-9)
        assert found == pytest.approx(error(W, fitted(W, new != 0, H), H), rel=1e-6)
        ratios.append(found / best)
    assert np.median(ratios) < 1.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("structure", [Cardinality(40), NM(2, 4), Blocks((4, 2), 8)])
def test_no_worse_than_where_it_starts(structure, dtype):
    for seed in range(3):
        W, statistics = layer(9, 13, seed, dtype)
        H, bound = damped(statistics), structure.on((9, 13))
        start = bound.project(W * torch.as_tensor(np.sqrt(np.diag(H)), dtype=dtype))
        new = run(W, statistics, structure)
        least = error(W, fitted(W, start != 0, H), H)
        assert error(W, new, H) <= least * (1 + 1e-4)


def test_units_of_the_inputs_do_not_matter():
    W, statistics = layer(4, 8, 0)
    unit = torch.tensor([1, 10, 0.1, 1, 100, 1, 2, 1e-3], dtype=W.dtype)
    X = statistics.inputs
    H = X.T @ X / len(X)
    plain = run(W, Statistics(hessian=H), Cardinality(12), damping=0.0)
    scaled = Statistics(hessian=H / (unit[:, None] * unit))
    other = run(W * unit, scaled, Cardinality(12), damping=0.0)
    assert torch.allclose(other / unit, plain, atol=1e-6)


def test_a_structure_of_values_is_kept_to():
    W, statistics = layer(2, 4, 0)
    run(W, statistics, Bounded(Cardinality(3), lower=-0.5, upper=0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hostile_layers(dtype):
    W, statistics = layer(4, 8, 0, dtype)
    X = statistics.inputs.clone()
    X[:, 1] = 0
    X[:, 3] = X[:, 2]
    X[:, 6] *= 1e3
    H = X.T @ X / len(X)
    for hessian in (H, torch.zeros_like(H), H * 1e-12, X[:2].T @ X[:2]):
        for structure in (Cardinality(9), NM(1, 4), Blocks((4, 1), 3), Cardinality(32)):
            new = run(W, Statistics(hessian=hessian), structure)
            assert bool(torch.isfinite(new).all())
    for n_out, n_in in ((1, 8), (4, 1), (1, 1)):
        part = Statistics(hessian=H[:n_in, :n_in])
        run(W[:n_out, :n_in], part, Cardinality(1))


def test_all_weights_stay_as_they_are():
    W, statistics = layer(3, 6, 2)
    assert torch.allclose(run(W, statistics, Cardinality(18)), W, atol=1e-9)


@pytest.mark.parametrize("structure", PATTERNS.values(), ids=PATTERNS)
def test_every_structure(structure):
    for seed in range(3):
        check_structure(IHT(), structure, seed)


def test_hostile_hessians():
    check_hostile_hessians(IHT())


def test_refusals():
    check_refusals(IHT())


def test_units_dtypes_and_layouts():
    check_units(IHT())


def test_bad_settings_are_named():
    for wrong in ({"solver": "htp"}, {"solver": solvers.ProximalGradient()}):
        with pytest.raises(ValueError, match="solver must be"):
            IHT(**wrong)
    with pytest.raises(ValueError, match="max_iter must be"):
        IHT(max_iter=-1)
