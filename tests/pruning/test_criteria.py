"""Single criteria against their formulas, written out."""

import numpy as np
import pytest
import torch
from torch import nn

from vitalfew.neural import Statistics, collect, prunable_layers
from vitalfew.pruning._contracts import Part
from vitalfew.pruning.allocation import Global
from vitalfew.pruning.criteria import (
    GBLM,
    LAMP,
    DaSS,
    Fisher,
    Magnitude,
    Movement,
    Random,
    Spectrum,
    Taylor,
    Wanda,
)
from vitalfew.structures import Cardinality

W = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
SQUARES = [[1.0, 4.0], [0.25, 16.0]]
RNG = np.random.default_rng(0)


def values(criterion, **statistics):
    return criterion.score(W, Statistics(**statistics), RNG).tolist()


def test_two_by_two_by_hand():
    inputs = torch.tensor([[9.0, 4.0]]).expand(2, 2)
    gradient = torch.tensor([[-1.0, 3.0], [2.0, 0.0]])
    fisher = torch.tensor([[1.0, 4.0], [9.0, 0.0]])
    assert values(Magnitude()) == SQUARES
    assert values(LAMP()) == [
        [pytest.approx(1 / 21), pytest.approx(4 / 20)],
        [pytest.approx(0.25 / 21.25), 1.0],
    ]
    assert values(Taylor(), gradient=gradient) == [[1.0, 36.0], [1.0, 0.0]]
    assert values(Fisher(), fisher=fisher) == [[0.5, 8.0], [1.125, 0.0]]
    assert values(Wanda(), input_square=inputs) == [[9.0, 16.0], [2.25, 64.0]]
    # 4 tokens a sample: norms 2 * 3 and 2 * 2, plus 10 * (1, 2, 3, 0)
    assert values(
        GBLM(alpha=10), input_square=inputs, fisher=fisher, n_tokens=8, n_samples=2
    ) == [[16.0**2, (2 * 24.0) ** 2], [(0.5 * 36) ** 2, (4 * 4.0) ** 2]]
    assert values(Movement(), movement=gradient) == [[0.0, 4.0], [3.0, 1.0]]
    # 1 and 4 in the first row, .25 and 16 in the second; columns likewise
    assert values(Spectrum()) == [[1 + 1.25, 5 + 4.0], [0.25 + 0.25, 16.25 + 20.0]]


def test_dass_by_hand_in_a_gated_mlp_and_elsewhere():
    both = {
        "input_square": torch.tensor([[9.0, 4.0]]).expand(2, 2),
        "output_square": torch.tensor([16.0, 1.0]),
    }
    assert values(DaSS(), **both) == values(Wanda(), **both)
    assert values(DaSS(), gated=True, **both) == [[4.0, 16.0], [0.25, 16.0]]
    assert values(DaSS(exponent=0), gated=True, **both) == SQUARES


def test_settings_are_checked():
    with pytest.raises(ValueError, match="alpha must be"):
        GBLM(alpha=-1.0)
    with pytest.raises(ValueError, match="exponent must be"):
        DaSS(exponent=float("nan"))


@pytest.mark.parametrize("seed", range(3))
def test_lamp_is_the_share_of_weights_not_smaller(seed):
    w = np.random.default_rng(seed).normal(size=40).round(1)  # with ties and zeros
    found = LAMP().score(torch.from_numpy(w.reshape(5, 8)), Statistics(), RNG)
    expected = [
        x**2 / np.sum(w[np.abs(w) >= abs(x)] ** 2) if x != 0 else 0.0 for x in w
    ]
    np.testing.assert_allclose(found.numpy().ravel(), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_lamp_under_a_global_budget_takes_layers_whatever_their_scale(seed):
    rng = np.random.default_rng(seed)
    shapes, scales = [(6, 5), (10, 10), (4, 20)], [1e-3, 1.0, 1e4]
    weights = [rng.normal(size=shape) for shape in shapes]

    def counts(scales):
        parts = []
        for w, scale in zip(weights, scales, strict=True):
            score = LAMP().score(torch.from_numpy(scale * w), Statistics(), RNG)
            structure = Cardinality(1).on(w.shape)
            parts.append(Part(None, structure, score.numpy().ravel()))
        return Global().counts(parts, 40)

    assert counts(scales) == counts([1.0, 1.0, 1.0])
    assert max(counts(scales)) < 40 - 2


@pytest.mark.parametrize("seed", range(3))
def test_spectrum_is_the_sum_over_row_and_column(seed):
    w = np.random.default_rng(seed).normal(size=(6, 9)).round(1)
    expected = [
        [
            sum(x * x for x in w[i] if abs(x) <= abs(w[i, j]))
            + sum(x * x for x in w[:, j] if abs(x) <= abs(w[i, j]))
            for j in range(9)
        ]
        for i in range(6)
    ]
    found = Spectrum().score(torch.from_numpy(w), Statistics(), RNG)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def _heavy_rows(rng):
    """Four rows of medium entries among rows of noise with a few large ones."""
    flat = rng.uniform(0.4, 0.6, size=(4, 128)) * rng.choice([-1, 1], size=(4, 128))
    spikes = rng.normal(size=(60, 128)) * (rng.random((60, 128)) < 0.05)
    noise = 0.1 * rng.normal(size=(60, 128))
    return np.vstack([flat, spikes + noise])


def _ratio(w, density):
    """Operator norm of what spectrum removes, over that of what magnitude removes."""
    structure = Cardinality(density=density).on(w.shape)
    norms = []
    for criterion in (Spectrum(), Magnitude()):
        saliency = criterion.score(torch.from_numpy(w), Statistics(), RNG)
        kept = structure.largest(saliency.sqrt().numpy())
        norms.append(np.linalg.norm(w - kept.embed(kept.restrict(w)), 2))
    return norms[0] / norms[1]


@pytest.mark.parametrize("density", [0.03, 0.05])
def test_spectrum_leaves_a_smaller_operator_norm_where_rows_are_heavy(density):
    ratios = [_ratio(_heavy_rows(np.random.default_rng(s)), density) for s in range(8)]
    assert max(ratios) < 0.9


def test_spectrum_is_no_worse_than_magnitude_on_average_where_rows_are_alike():
    ratios = [
        _ratio(np.random.default_rng(s).normal(size=(64, 128)), 0.5) for s in range(12)
    ]
    assert np.mean(ratios) < 1


def test_movement_keeps_the_order_of_weights_and_of_blocks():
    movement = torch.tensor([[-5.0, 1.0, -1.0, -2.0]])
    found = Movement().score(torch.ones(1, 4), Statistics(movement=movement), RNG)
    assert torch.equal(found.argsort(), movement.argsort())
    assert found[0, :2].sum() < found[0, 2:].sum()  # -4 and -3


def test_random_is_uniform_and_repeatable():
    weight = torch.zeros(100, 100)
    found = Random().score(weight, Statistics(), np.random.default_rng(1))
    again = Random().score(weight, Statistics(), np.random.default_rng(1))
    other = Random().score(weight, Statistics(), np.random.default_rng(2))
    assert torch.equal(found, again)
    assert not torch.equal(found, other)
    assert float(found.min()) > 0
    assert float(found.max()) <= 1
    assert abs(float(found.mean()) - 0.5) < 0.02


def _trained(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    batch = (torch.randn(30, 5), torch.randn(30, 3))
    return model, batch


@pytest.mark.parametrize("seed", range(3))
def test_wanda_is_the_mean_square_of_what_a_weight_adds_to_its_output(seed):
    model, batch = _trained(seed)
    layers, _ = prunable_layers(model)
    known = collect(model, layers, [batch], Wanda.needs)["0"]
    weight = layers[0].weight
    found = Wanda().score(weight, known, RNG)
    terms = batch[0][:, None, :] * weight  # (token, output, input)
    torch.testing.assert_close(found.float(), terms.square().mean(dim=0))


@pytest.mark.parametrize("seed", range(3))
def test_taylor_is_the_squared_change_of_the_loss_for_small_weights(seed):
    model, (x, y) = _trained(seed)
    with torch.no_grad():
        model[0].weight *= 1e-3
    model = model.double()
    batch = (x.double(), y.double())
    layers, _ = prunable_layers(model)
    known = collect(model, layers, [batch], Taylor.needs)["0"]
    weight = layers[0].weight
    found = Taylor().score(weight, known, RNG)

    def loss():
        with torch.no_grad():
            return float(nn.functional.mse_loss(model(batch[0]), batch[1]))

    base, old = loss(), weight.clone()
    for i in range(4):
        for j in range(5):
            layers[0].write(
                old.where(
                    torch.ones_like(old).index_put(
                        (torch.tensor(i), torch.tensor(j)), torch.tensor(0.0).double()
                    )
                    > 0,
                    0.0,
                )
            )
            assert float(found[i, j]) ** 0.5 == pytest.approx(
                abs(loss() - base), rel=0.05, abs=1e-8
            )
    layers[0].write(old)


@pytest.mark.parametrize("seed", range(3))
def test_fisher_adds_up_squared_gradients_of_single_samples(seed):
    model, (x, y) = _trained(seed)
    layers, _ = prunable_layers(model)
    known = collect(model, layers, [(x, y)], Fisher.needs)["0"]
    found = Fisher().score(layers[0].weight, known, RNG)
    total = torch.zeros(4, 5)
    for n in range(30):
        loss = nn.functional.mse_loss(model(x[n : n + 1]), y[n : n + 1])
        (g,) = torch.autograd.grad(loss, [model[0].weight])
        total += g * g
    expected = total / 30 * layers[0].weight ** 2 / 2
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_gblm_without_gradients_ranks_as_wanda(seed):
    model, batch = _trained(seed)
    layers, _ = prunable_layers(model)
    known = collect(model, layers, [batch], GBLM.needs)["0"]
    weight = layers[0].weight
    by_gblm = GBLM(alpha=0).score(weight, known, RNG)
    by_wanda = Wanda().score(weight, known, RNG)
    torch.testing.assert_close(by_gblm, by_wanda, rtol=1e-6, atol=0)
    mixed = GBLM(alpha=1e6).score(weight, known, RNG)
    torch.testing.assert_close(
        mixed.sqrt() / 1e6,
        (weight.double() ** 2 * known.fisher.double()).sqrt(),
        rtol=1e-2,
        atol=1e-7,
    )
