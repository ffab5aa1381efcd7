"""The column sweep against inverses computed anew after every removal."""

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
from vitalfew.pruning.reconstruction import OBS
from vitalfew.pruning.reconstruction._layer import (
    Chooser,
    condition,
    largest,
    objective,
    relative_error,
)
from vitalfew.pruning.reconstruction.obs import _Columns
from vitalfew.structures import NM, Blocks, Cardinality, Channels


def surgeon(weight, mask, H):
    """Remove weights one by one, with the inverse for the columns from here on."""
    W = weight.double().numpy().copy()
    for j in range(W.shape[1]):
        inverse = np.linalg.inv(H[j:, j:])
        for row in np.flatnonzero(~mask[:, j]):
            W[row, j:] -= W[row, j] / inverse[0, 0] * inverse[0]
    return W


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block_size", [1, 4, 128])
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_the_sweep_is_the_exact_surgeon(structure, block_size, seed):
    weight, statistics = make_layer(seed)
    method = OBS(block_size=block_size, refit=False)
    new = prune_layer(method, weight, statistics, structure)
    expected = surgeon(weight, new.numpy() != 0, damped(statistics))
    np.testing.assert_allclose(new.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_the_budget_is_used_and_the_weights_are_the_best(structure, seed):
    check_structure(OBS(block_size=4), structure, seed)


@pytest.mark.parametrize(
    ("structure", "first"),
    [
        (Cardinality(5), 0),
        (Cardinality(5), 7),
        (Blocks((3, 2), 4), 0),
        (Blocks((3, 2), 4), 6),
        (Blocks((1, 4), 4), 4),
        (Blocks((1, 4), 4), 8),
        (Channels(2, axis=0), 0),
        (Channels(2, axis=1), 3),
    ],
)
def test_costs_are_those_of_the_best_removal(structure, first):
    # an atom that fills its columns costs twice the least increase of the error when
    # it goes and only the columns not yet passed can make up for it
    weight, statistics = make_layer(4)
    bound, H = structure.on(SHAPE), damped(statistics)
    _, R, _ = condition(statistics.hessian, 0.01)
    columns = _Columns(bound, SHAPE)
    costs = columns.removal_costs(weight, R, torch.linalg.inv(R), first).numpy()
    for atom in range(bound.n_atoms):
        rows, cols = np.divmod(bound.members(atom), SHAPE[1])
        if cols.min() < first:
            continue
        after = np.arange(cols.min(), SHAPE[1])
        mask = np.ones((SHAPE[0], len(after)), bool)
        mask[rows, cols - after[0]] = False
        part, here = weight[:, after[0] :], H[np.ix_(after, after)]
        best = error(part, fitted(part, mask, here), here)
        assert costs[rows, cols - first].sum() == pytest.approx(2 * best)


def test_scattered_atoms_cost_the_sum_of_their_weights():
    weight, statistics = make_layer(1)
    bound, H = STRUCTURES["scattered groups"].on(SHAPE), damped(statistics)
    _, R, _ = condition(statistics.hessian, 0.01)
    costs = _Columns(bound, SHAPE).removal_costs(weight, R, torch.linalg.inv(R), 0)
    expected = weight.numpy() ** 2 / np.diag(np.linalg.inv(H))
    np.testing.assert_allclose(costs.numpy(), expected)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_outputs_are_kept(seed):
    # outputs do not share weights, so that here the sweep has no choice to get wrong
    weight, statistics = make_layer(seed, (6, 5))
    structure = Channels(2, axis=0)
    new = prune_layer(OBS(), weight, statistics, structure)
    H = damped(statistics)
    assert error(weight, new, H) == pytest.approx(least_error(weight, structure, H))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_kept", range(9))
def test_uncorrelated_inputs_are_solved(seed, n_kept):
    weight, _ = make_layer(seed, (1, 8))
    variances = torch.rand(8, generator=torch.Generator().manual_seed(seed)).double()
    statistics = Statistics(hessian=torch.diag(variances))
    new = prune_layer(OBS(block_size=3), weight, statistics, Cardinality(n_kept))
    H = damped(statistics)
    best = least_error(weight, Cardinality(n_kept), H)
    assert error(weight, new, H) == pytest.approx(best, abs=1e-12)


def test_near_the_best_of_all_supports():
    ratios = []
    for seed in range(30):
        weight, statistics = make_layer(seed, (1, 8))
        H = damped(statistics)
        new = prune_layer(OBS(), weight, statistics, Cardinality(4))
        ratios.append(error(weight, new, H) / least_error(weight, Cardinality(4), H))
    assert min(ratios) >= 1 - 1e-9
    assert np.median(ratios) < 3


def test_one_of_three_equal_inputs_does_for_all():
    for seed in range(5):
        weight, statistics = make_layer(seed, copies=[(3, 1), (4, 1)])
        new = prune_layer(OBS(), weight, statistics, Channels(8, axis=1))
        assert relative_error(weight, new, statistics.hessian) < 1e-3


def test_the_refit_only_lowers_the_error():
    for seed in range(5):
        weight, statistics = make_layer(seed)
        H, structure = damped(statistics), Cardinality(density=0.4)
        swept = prune_layer(OBS(refit=False), weight, statistics, structure)
        fit = prune_layer(OBS(), weight, statistics, structure)
        assert torch.equal(fit != 0, swept != 0)
        masked = error(weight, weight * (swept != 0), H)
        assert error(weight, fit, H) < error(weight, swept, H) < masked


def test_hostile_hessians():
    check_hostile_hessians(OBS())


def test_what_cannot_be_used_is_named():
    check_refusals(OBS())


def test_units_do_not_matter():
    check_units(OBS())


@pytest.mark.parametrize(
    "wrong", [{"damping": -1.0}, {"block_size": 0}, {"block_size": 1.5}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OBS(**wrong)


# -- what methods share ----------------------------------------------------------------


def test_damping_grows_until_the_factor_exists():
    statistics = make_layer(0, n=3)[1]  # of rank 3
    H, R, said = condition(statistics.hessian, 0.0)
    assert said.damping > 0
    np.testing.assert_allclose((R @ R.T).numpy(), H.numpy(), atol=1e-6)
    assert not torch.tril(R, -1).any()
    full = make_layer(0)[1].hessian
    H, _, said = condition(full, 0.0)
    assert said.damping == 0
    assert torch.equal(H, full)
    _, _, said = condition(make_layer(0, dead=(1, 4, 5))[1].hessian, 0.01)
    assert (said.damping, said.n_dead) == (0.01, 3)


def test_the_objective_is_half_the_squared_change_of_the_outputs():
    weight, statistics = make_layer(2)
    f = objective(weight, statistics, 0.01)
    H = damped(statistics)
    value, gradient = f.value_and_gradient(weight)
    assert value == pytest.approx(0, abs=1e-9)
    assert gradient.abs().max() < 1e-9
    other = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).double()
    assert f.value_and_gradient(other)[0] == pytest.approx(error(weight, other, H))


def test_relative_error_is_that_of_the_outputs():
    rng = np.random.default_rng(0)
    X, W, V = (rng.standard_normal(s) for s in [(40, 6), (3, 6), (3, 6)])
    H = torch.as_tensor(X.T @ X / 40)
    expected = np.sum((X @ W.T - X @ V.T) ** 2) / np.sum((X @ W.T) ** 2)
    got = relative_error(torch.as_tensor(W), torch.as_tensor(V), H)
    assert got == pytest.approx(expected)
    assert relative_error(torch.zeros(3, 6), torch.as_tensor(V), H * 0) == 0


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_the_threshold_finds_what_the_structure_would(structure):
    bound = structure.on(SHAPE)
    for seed in range(5):
        saliency = make_layer(seed)[0] ** 2
        mask = Chooser(bound, saliency)(saliency)
        expected = bound.project(torch.sqrt(saliency)) != 0
        assert torch.equal(mask, expected)


def test_one_run_that_fits_does_not_vouch_for_the_next():
    # the two largest entries lie in different runs first, then in the same one
    bound = NM(1, 2).on((1, 4))
    choose = Chooser(bound, torch.zeros(1, 4))
    assert choose(torch.tensor([[4.0, 0, 3, 0]])).tolist() == [[True, False] * 2]
    assert choose(torch.tensor([[4.0, 3, 1, 0]])).tolist() == [[True, False] * 2]


def test_largest_takes_the_first_among_equals():
    scores = torch.tensor([1.0, 3, 2, 2, 0, 2])
    assert largest(scores, 2).tolist() == [False, True, True, False, False, False]
    assert largest(scores, 3).tolist() == [False, True, True, True, False, False]
    assert largest(scores, 6).tolist() == [True, True, True, True, False, True]
    assert largest(torch.tensor([0.0, 0, 1]), 2).tolist() == [False, False, True]
    assert not largest(scores, 0).any()
