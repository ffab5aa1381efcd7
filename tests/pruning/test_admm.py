"""ADMM against all supports of small layers, and against a plain ADMM."""

import numpy as np
import pytest
import torch

from tests.pruning.reconstruction_cases import (
    SHAPE,
    STRUCTURES,
    check_hostile_hessians,
    check_refusals,
    check_structure,
    check_units,
    damped,
    error,
    fitted,
    least_error,
    make_layer,
    prune_layer,
)
from vitalfew.neural import Statistics
from vitalfew.pruning.reconstruction import ADMM, OBS
from vitalfew.structures import NM, Blocks, Cardinality


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_the_budget_is_used_and_the_weights_are_the_best(structure, seed):
    check_structure(ADMM(), structure, seed)


def plain_admm(weight, H, structure, n_iter, rho, growth):
    """Boyd et al., section 9.1: a linear system each time, multipliers unscaled."""
    scale = np.sqrt(np.diag(H))
    V0, S = weight.numpy() * scale, H / np.outer(scale, scale)
    Z, multiplier = structure.project(V0), np.zeros_like(V0)
    for step in range(n_iter):
        rho *= growth if step and step % 3 == 0 else 1
        right = V0 @ S + rho * Z - multiplier
        V = np.linalg.solve(S + rho * np.eye(len(S)), right.T).T
        Z = structure.project(V + multiplier / rho)
        multiplier += rho * (V - Z)
    return Z != 0


@pytest.mark.parametrize("n_iter", [0, 1, 4, 30])
@pytest.mark.parametrize(
    "structure",
    [Cardinality(40), Blocks((3, 2), 8), NM(2, 4, axis=0)],
    ids=["weights", "3x2", "2:4"],
)
def test_iterations_are_those_of_the_textbook(structure, n_iter):
    for seed in range(3):
        weight, statistics = make_layer(seed)
        H, bound = damped(statistics), structure.on(SHAPE)
        method = ADMM(max_iter=n_iter, rho=0.3, growth=1.2, tol=0)
        new = prune_layer(method, weight, statistics, structure)
        mask = plain_admm(weight, H, bound, n_iter, 0.3, 1.2)
        np.testing.assert_array_equal(new.numpy() != 0, mask)
        np.testing.assert_allclose(new, fitted(weight, mask, H), atol=1e-5)


def test_near_the_best_of_all_supports():
    ratios = {"obs": [], "admm": []}
    for seed in range(20):
        weight, statistics = make_layer(seed, (2, 5))
        H = damped(statistics)
        best = least_error(weight, Cardinality(5), H)
        for method in (OBS(), ADMM()):
            new = prune_layer(method, weight, statistics, Cardinality(5))
            ratios[method.name].append(error(weight, new, H) / best)
    assert min(ratios["obs"] + ratios["admm"]) >= 1 - 1e-9
    assert np.median(ratios["admm"]) < 1.1
    assert np.mean(ratios["admm"]) < np.mean(ratios["obs"])


@pytest.mark.parametrize("n_kept", [0, 1, 4, 9, 10])
def test_uncorrelated_inputs_are_solved(n_kept):
    for seed in range(5):
        weight, _ = make_layer(seed, (2, 5))
        drawn = torch.Generator().manual_seed(seed)
        statistics = Statistics(hessian=torch.diag(torch.rand(5, generator=drawn)))
        H = damped(statistics)
        new = prune_layer(ADMM(), weight, statistics, Cardinality(n_kept))
        best = least_error(weight, Cardinality(n_kept), H)
        assert error(weight, new, H) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("density", [0.5, 0.2, 0.1])
def test_ends_below_the_surgeon(density):
    fractions = []
    for seed in range(4):
        weight, statistics = make_layer(seed, (40, 30), n=300)
        H, structure = damped(statistics), Cardinality(density=density)
        new = prune_layer(ADMM(), weight, statistics, structure)
        surgeon = prune_layer(OBS(), weight, statistics, structure)
        fractions.append(error(weight, new, H) / error(weight, surgeon, H))
    assert np.median(fractions) < 0.85


def test_a_dense_layer_stays_as_it_is():
    weight, statistics = make_layer(0)
    new = prune_layer(ADMM(), weight, statistics, Cardinality(density=1.0))
    torch.testing.assert_close(new, weight)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("method", [OBS(), ADMM()], ids=["obs", "admm"])
def test_thin_layers(method, shape):
    for n_kept in range(7 if shape != (1, 1) else 2):
        weight, statistics = make_layer(3, shape)
        new = prune_layer(method, weight, statistics, Cardinality(n_kept))
        assert int((new != 0).sum()) == n_kept


def test_hostile_hessians():
    check_hostile_hessians(ADMM())


def test_what_cannot_be_used_is_named():
    check_refusals(ADMM())


def test_units_do_not_matter():
    check_units(ADMM())


@pytest.mark.parametrize(
    "wrong",
    [
        {"damping": -1.0},
        {"rho": 0.0},
        {"growth": 1.0},
        {"tol": -1.0},
        {"max_iter": -1},
        {"rho": np.nan},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ADMM(**wrong)
