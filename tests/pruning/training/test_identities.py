"""What a product of weights with a trained mask is penalised by, once it is minimised.

The least value of a penalty on the factors of u, over all factors whose product is u,
is a penalty on u: see section 3 of T. Yasuda et al., "SequentialAttention++ for block
sparsification", NeurIPS, 2024.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import lambertw

from vitalfew.penalties import GroupL2, Lq
from vitalfew.pruning.training._tiles import Tiles
from vitalfew.pruning.training.scores import PowerPropagation
from vitalfew.pruning.training.scores.sequential_attention import attention
from vitalfew.structures import Groups

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
ONES = np.ones(4)


def drawn(seed):
    """A strength and a vector in four groups, of norms from tiny to large."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=10) * np.exp(rng.normal(size=4, scale=1.5))[LABELS]
    return rng.uniform(0.1, 3), u


def norms(u):
    return np.array([np.linalg.norm(u[g == LABELS]) for g in range(4)])


def least(cost):
    """The least value over t of a cost with one minimum, to rounding."""
    grid = np.linspace(-30, 30, 601)
    with np.errstate(over="ignore"):
        start = grid[np.argmin([cost(t) for t in grid])]
    found = minimize_scalar(
        cost, bracket=(start - 0.1, start, start + 0.1), tol=1e-12, method="brent"
    )
    return found.fun


def total(cost, u):
    """The sum over groups of the least cost(t, group): t is the mask's only freedom."""
    parts = [u[g == LABELS] for g in range(4)]
    return sum(least(lambda t, part=part: cost(t, part)) for part in parts)


@pytest.mark.parametrize("seed", range(5))
def test_a_mask_with_squares_is_the_group_lasso(seed):
    strength, u = drawn(seed)

    def cost(t, part):  # mask exp(t), weights part / exp(t); of either sign the same
        w, beta = np.exp(t), part / np.exp(t)
        return strength / 2 * (w * w + beta @ beta)

    lasso = GroupL2(LABELS, alpha=strength, weights=ONES)
    assert total(cost, u) == pytest.approx(lasso.value(u), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_an_exponential_mask_is_a_penalty_of_lamberts_function(seed):
    strength, u = drawn(seed)

    def cost(t, part):  # mask exp(t), and t itself penalised
        beta = part / np.exp(t)
        return strength * (t * t + beta @ beta)

    w = lambertw(2 * norms(u) ** 2).real
    expected = strength * np.sum(w * w / 4 + w / 2)
    assert total(cost, u) == pytest.approx(expected, rel=1e-9)


def test_the_penalty_of_lamberts_function_is_ridge_near_zero_and_flat_far_away():
    # a mask of one is free, so that small weights cost their squares: it is not
    # subadditive there, which theorems on penalties that select groups ask for
    def q(a):
        w = lambertw(2 * a * a).real
        return w * w / 4 + w / 2

    a = np.linspace(0.01, 20, 200)
    assert np.all(np.diff(q(a)) > 0)
    small, large = a[a < 0.05], a[a > 2]
    np.testing.assert_allclose(q(small), small**2, rtol=0.01)
    assert np.all(q(2 * small) > 2 * q(small))
    assert np.all(q(large[:, None] + large) < q(large)[:, None] + q(large))


@pytest.mark.parametrize("seed", range(5))
def test_a_mask_with_absolute_values_is_a_power_of_two_thirds(seed):
    strength, u = drawn(seed)

    def cost(t, part):
        w, beta = np.exp(t), part / np.exp(t)
        return strength * (w + beta @ beta)

    power = Lq(alpha=1.5 * 2 ** (1 / 3) * strength, q=2 / 3)
    assert total(cost, u) == pytest.approx(power.value(norms(u)), rel=1e-9)


def power_weights(u):
    """The trained weights, as a row, of which PowerPropagation makes u; and back."""
    tiles = Tiles(Groups(LABELS[None], density=0.5).on((1, 10)))
    score = PowerPropagation()

    def seen(beta):
        return tiles.times(beta, score.factor(beta, tiles, {}, 0.5))

    return seen


@pytest.mark.parametrize("seed", range(5))
def test_power_propagation_with_squares_is_the_group_lasso(seed):
    strength, u = drawn(seed)
    beta = u / np.sqrt(norms(u))[LABELS]  # there is but one factor that gives u
    seen = power_weights(u)(torch.from_numpy(beta[None])).numpy()[0]
    np.testing.assert_allclose(seen, u, rtol=1e-12)
    lasso = GroupL2(LABELS, alpha=strength, weights=ONES)
    assert strength * beta @ beta == pytest.approx(lasso.value(u), rel=1e-9)


def minimised(cost, starts):
    """The least value of a differentiable cost of torch, from several starts."""

    def value_and_slope(z):
        z = torch.from_numpy(z).requires_grad_()
        value = cost(z)
        (slope,) = torch.autograd.grad(value, z)
        return float(value.detach()), slope.numpy()

    options = {"maxiter": 5000, "ftol": 1e-16, "gtol": 1e-11}
    return min(
        minimize(value_and_slope, z, jac=True, method="L-BFGS-B", options=options).fun
        for z in starts
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["mask", "power"])
def test_problems_with_factors_have_the_minimum_of_the_group_lasso(seed, kind):
    rng = np.random.default_rng(100 + seed)
    strength, v = rng.uniform(0.3, 1), rng.normal(size=10)
    lasso = GroupL2(LABELS, alpha=strength, weights=ONES)
    best = lasso.prox(v, 1.0)  # minimises |u - v|^2 / 2 + penalty
    expected = np.sum((best - v) ** 2) / 2 + lasso.value(best)
    assert 0 < np.count_nonzero(norms(best)) <= 4
    target, labels = torch.from_numpy(v), torch.from_numpy(LABELS)
    seen = power_weights(v)

    def cost(z):
        if kind == "mask":
            w, beta = z[:4], z[4:]
            u, penalty = w[labels] * beta, (w @ w + beta @ beta) / 2
        else:
            u, penalty = seen(z[None])[0], z @ z
        return (u - target).square().sum() / 2 + strength * penalty

    n = 14 if kind == "mask" else 10
    found = minimised(cost, rng.normal(size=(8, n)))
    assert found == pytest.approx(expected, rel=1e-9)


def test_attention_without_its_sum_is_the_exponential_mask():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    ratio = attention(logits).double() / torch.exp(logits.double())
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
