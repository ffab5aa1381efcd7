"""Optimal brain surgery by a low-rank inverse, against the explicit one."""

import itertools

import numpy as np
import pytest
import torch

from vitalfew.objectives import Fisher
from vitalfew.pruning.network import MFAC
from vitalfew.pruning.network.mfac import root_of_costs
from vitalfew.structures import Blocks, Cardinality, Channels, Groups, Joint

STRUCTURES = {
    "single": Cardinality(4).on((12,)),
    "matrix": Joint([Cardinality(2).on((3, 2)), Cardinality(2).on((2, 3))]),
    "blocks": Joint([Blocks((2, 2), 1).on((3, 3)), Channels(1).on((1, 3))]),
    "groups": Groups(np.array([0, 1, 2, 0, 1, 2, 2, 2, 3, 0, 1, 1]), 2).on((12,)),
    "one of all": Groups(np.zeros(12, int), 1).on((12,)),
}


def model_of(seed, n, ridge=0.1, slope=0.0):
    rng = np.random.default_rng(seed)
    A = torch.from_numpy(rng.standard_normal((n, 12)))
    w = torch.from_numpy(rng.standard_normal(12))
    return Fisher(A, w, 0.0, slope=slope, ridge=ridge)


def inverse_of(model):
    A = model.design.dense().numpy()
    return np.linalg.inv(A.T @ A / len(A) + model.ridge * np.eye(A.shape[1]))


def costs_by_inverse(model, structure):
    """Least increase of the quadratic when an atom goes, by the explicit inverse."""
    w, inverse = model.center.numpy(), inverse_of(model)
    costs = []
    for atom in range(structure.n_atoms):
        ids = structure.support([atom]).ids
        block = inverse[np.ix_(ids, ids)]
        costs.append(w[ids] @ np.linalg.solve(block, w[ids]) / 2)
    return np.array(costs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
@pytest.mark.parametrize("name", STRUCTURES)
def test_costs_are_those_of_the_explicit_inverse(name, n, seed, ridge):
    model, structure = model_of(seed, n, ridge), STRUCTURES[name]
    found = structure.scores(root_of_costs(model, structure))
    np.testing.assert_allclose(found, costs_by_inverse(model, structure), rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [2, 30])
def test_a_cost_is_the_increase_of_the_refitted_quadratic(n, seed):
    model, structure = model_of(seed, n), STRUCTURES["groups"]
    found = structure.scores(root_of_costs(model, structure))
    for out in range(structure.n_atoms):
        rest = structure.support([a for a in range(structure.n_atoms) if a != out])
        assert model.refit(rest).value == pytest.approx(found[out])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [3, 40])
def test_the_update_is_the_joint_one_of_the_surgeon(n, seed):
    model, structure = model_of(seed, n), STRUCTURES["single"]
    kept = structure.largest(root_of_costs(model, structure))
    gone = np.setdiff1d(np.arange(12), kept.ids)
    inverse, w = inverse_of(model), model.center.numpy()
    step = inverse[:, gone] @ np.linalg.solve(inverse[np.ix_(gone, gone)], w[gone])
    np.testing.assert_allclose(model.refit(kept).x.numpy(), w - step, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_weights_that_are_zero_cost_nothing_and_take_no_part(seed):
    model = model_of(seed, 5)
    dead = torch.tensor([1, 4, 7])
    alive = np.setdiff1d(np.arange(12), dead.numpy())
    w = model.center.clone()
    w[dead] = 0.0
    A = model.design.dense()
    pruned = Fisher(A, w, 0.0, slope=0.0, ridge=0.1)
    found = root_of_costs(pruned, STRUCTURES["single"])
    assert torch.equal(found[dead], torch.zeros(3, dtype=w.dtype))
    few = Fisher(A[:, alive], w[alive], 0.0, slope=0.0, ridge=0.1)
    expected = root_of_costs(few, Cardinality(4).on((9,)))
    torch.testing.assert_close(found[alive], expected)


@pytest.mark.parametrize("seed", range(3))
def test_one_weight_less_is_the_best_choice_of_all(seed):
    model, structure = model_of(seed, 4), Cardinality(11).on((12,))
    kept = structure.largest(root_of_costs(model, structure))
    best = min(
        model.refit(structure.support(np.array(some))).value
        for some in itertools.combinations(range(12), 11)
    )
    assert model.refit(kept).value == pytest.approx(best)


def test_single_precision_and_chunks(monkeypatch):
    model, structure = model_of(0, 6), STRUCTURES["blocks"]
    expected = root_of_costs(model, structure)
    monkeypatch.setattr("vitalfew.pruning.network.mfac.CHUNK", 1)
    torch.testing.assert_close(root_of_costs(model, structure), expected)
    single = Fisher(
        model.design.dense().float(), model.center.float(), slope=0.0, ridge=0.1
    )
    found = root_of_costs(single, structure)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"n_stages": 0}, {"n_samples": True}])
def test_settings_that_cannot_be(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        MFAC(**settings)
