"""Scores of training: laws of all of them, and each against its formula."""

import math
import warnings

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

from vitalfew.pruning import Pruner
from vitalfew.pruning.training import (
    training_methods,
    training_schedules,
    training_scores,
)
from vitalfew.pruning.training._tiles import Tiles
from vitalfew.pruning.training.schedules import ACDC, Gradual, OneShot
from vitalfew.pruning.training.scores import (
    GatedDecay,
    GroupEnvelope,
    HyperSparse,
    PowerPropagation,
    SequentialAttention,
    SoftThreshold,
)
from vitalfew.pruning.training.scores.group_envelope import envelope_scale
from vitalfew.pruning.training.scores.sequential_attention import attention
from vitalfew.structures import NM, Blocks, Cardinality, Channels, Groups

SCORES = training_scores()
N_OUT, N_IN = 18, 22
STRUCTURES = {
    "4x3": Blocks((4, 3), density=0.3),  # smaller at both edges
    "2:4": NM(2, 4),
    "outputs": Channels(density=0.3, axis=0),
}
SCHEDULES = ("one-shot", "gradual", "sequential-attention++")
REGULARIZED = (GatedDecay(), HyperSparse(), GroupEnvelope())


def network(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(N_IN, N_OUT), nn.Tanh(), nn.Linear(N_OUT, 2)).to(
        dtype
    )


def data(seed=0, dtype=torch.float32, n=16):
    drawn = torch.Generator().manual_seed(100 + seed)
    x = torch.randn(n, N_IN, generator=drawn).to(dtype)
    return x, torch.randn(n, 2, generator=drawn).to(dtype)


def made(model, structure, total_steps=24, optimizer=None, **arguments):
    """A Pruner of the first layer."""
    return Pruner(
        model,
        structure,
        include="0",
        min_blocks=2,
        total_steps=total_steps,
        optimizer=optimizer,
        **arguments,
    )


def train(model, pruner, optimizer, x, y, n_steps):
    for _ in range(n_steps):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(loss)


def site_of(score, structure=STRUCTURES["4x3"], seed=0, dtype=torch.float64):
    """A Pruner that has not begun, its only site, and the weight as it was."""
    model = network(seed, dtype)
    before = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = made(model, structure, score=score, optimizer=optimizer)
    return pruner, pruner.sites[0], before


def block_norms(matrix, rows=4, cols=3):
    """Norms of blocks, by two loops."""
    return np.array(
        [
            np.linalg.norm(matrix[i : i + rows, j : j + cols])
            for i in range(0, len(matrix), rows)
            for j in range(0, matrix.shape[1], cols)
        ]
    )


def whole_blocks(per_block, rows=4, cols=3):
    """Numbers of blocks as a matrix."""
    across = -(-N_IN // cols)
    i, j = np.arange(N_OUT) // rows, np.arange(N_IN) // cols
    return np.asarray(per_block)[i[:, None] * across + j]


# -- all scores ----------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
@pytest.mark.parametrize("score", SCORES)
def test_every_score_ends_with_its_budget_and_the_same_function(
    score, structure, schedule
):
    model, (x, y) = network(), data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    pruner = made(model, structure, score=score, schedule=schedule, optimizer=optimizer)
    train(model, pruner, optimizer, x, y, 24)
    before = model(x).detach()
    report = pruner.finalize()
    torch.testing.assert_close(model(x).detach(), before, rtol=1e-5, atol=1e-6)
    weight = model[0].weight.detach()
    assert torch.isfinite(weight).all()
    assert structure.on(weight.shape).contains(weight.numpy())
    mask = report.masks["0"]
    assert not weight[~mask].any()
    of_runs = N_OUT * (5 * 2 + 2)  # 22 = 5 * 4 + 2
    budget = of_runs if isinstance(structure, NM) else int(0.3 * report.n_atoms)
    assert sum(pruner.kept.values()) == budget
    if score == "soft-threshold":  # what is below the threshold is zero as well
        assert 0 < report.kept <= budget
    else:
        assert report.kept == budget


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
@pytest.mark.parametrize("score", SCORES)
def test_a_new_pruner_leaves_the_function_as_it_was(score, structure, dtype):
    model, (x, _) = network(3, dtype), data(3, dtype)
    before = model(x).detach()
    made(model, structure, score=score)
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(model(x).detach(), before, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("score", [PowerPropagation(), SoftThreshold()])
def test_zero_atoms_and_small_types_keep_their_function_and_slopes(score):
    for dtype, rtol in ((torch.bfloat16, 0.02), (torch.float16, 3e-3)):
        model, (x, _) = network(4, dtype), data(4, dtype)
        with torch.no_grad():
            model[0].weight[:4, :3] = 0
        before = model(x).detach()
        made(model, STRUCTURES["4x3"], score=score)
        torch.testing.assert_close(model(x).detach(), before, rtol=rtol, atol=rtol)
        model(x).float().square().sum().backward()
        for parameter in model.parameters():
            assert torch.isfinite(parameter.grad).all()


def test_every_named_method_is_a_score_and_a_schedule():
    methods = training_methods()
    scores, schedules = training_scores(), training_schedules()
    assert methods["movement"].score == scores["movement"]
    assert methods["movement"].schedule == schedules["gradual"]
    assert methods["acdc-gradual"].score == scores["magnitude"]
    both = methods["sequential-attention++"]
    assert methods["acdc-gradual"].schedule == both.schedule
    assert methods["sequential-attention"].score == both.score
    assert methods["sequential-attention"].schedule == ACDC(zero=False)
    for name, kind in {
        "powerpropagation": PowerPropagation,
        "soft-threshold": SoftThreshold,
        "wgsef": GroupEnvelope,
        "mask-sparsity": GatedDecay,
        "hypersparse": HyperSparse,
    }.items():
        assert type(methods[name].score) is kind


@pytest.mark.parametrize(
    "make",
    [
        lambda: PowerPropagation(alpha=0.9),
        lambda: PowerPropagation(alpha=math.inf),
        lambda: SoftThreshold(initial=math.nan),
        lambda: SoftThreshold(rate=-1.0),
        lambda: GroupEnvelope(alpha=-1.0),
        lambda: GatedDecay(alpha=math.nan),
        lambda: HyperSparse(alpha=-0.1),
        lambda: HyperSparse(growth=0.0),
        lambda: SequentialAttention(weight_decay=-1.0),
    ],
)
def test_settings_are_checked(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize("score", REGULARIZED)
def test_a_penalty_without_an_optimizer_says_so_once(score):
    model, (x, y) = network(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = made(model, STRUCTURES["4x3"], score=score, schedule=Gradual())
    with pytest.warns(UserWarning, match=r"learning rate.*Pruner\(optimizer=") as told:
        train(model, pruner, optimizer, x, y, 3)
    assert len(told) == 1


# -- attention ---------------------------------------------------------------------

LOGITS = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(-50, 50, width=32),
)


@settings(max_examples=60, deadline=None)
@given(LOGITS, st.floats(-1e3, 1e3))
def test_attention_is_positive_of_mean_one_and_blind_to_shifts(logits, shift):
    found = attention(torch.from_numpy(logits))
    assert float(found.double().mean()) == pytest.approx(1, rel=1e-5)
    assert bool((found >= 0).all())
    assert bool((found[np.argsort(logits)].diff() >= 0).all())
    moved = attention(torch.from_numpy(logits) + shift)
    torch.testing.assert_close(moved, found, rtol=1e-2, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(LOGITS, st.floats(0.01, 1))
def test_attention_is_clipped_to_the_density_and_its_inverse(logits, density):
    logits = torch.from_numpy(logits)
    found = SequentialAttention().factor(logits, None, {"logits": logits}, density)
    lowest, highest = np.float32(density), np.float32(1 / density)
    assert bool((found >= lowest).all() and (found <= highest).all())
    free = attention(logits)
    inside = (free > lowest) & (free < highest)
    assert torch.equal(found[inside], free[inside])


def test_logits_train_and_their_options_reach_the_optimizer():
    model, (x, y) = network(), data()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.2)
    score = SequentialAttention(rate=0.03, weight_decay=0.7)
    pruner = made(model, STRUCTURES["4x3"], score=score, optimizer=optimizer)
    logits = pruner.parameters()[0]
    group = optimizer.param_groups[-1]
    assert len(group["params"]) == 1
    assert group["params"][0] is logits
    assert (group["lr"], group["weight_decay"]) == (0.03, 0.7)
    assert optimizer.param_groups[0]["weight_decay"] == 0.2
    train(model, pruner, optimizer, x, y, 2)
    assert logits.detach().unique().numel() > 10

    model = network()
    other = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.2)
    same = made(
        model, STRUCTURES["4x3"], method="sequential-attention++", optimizer=other
    )
    assert other.param_groups[-1]["params"][0] is same.parameters()[0]
    assert other.param_groups[-1]["lr"] == 0.01  # as the weights
    assert other.param_groups[-1]["weight_decay"] == 0.2


def test_weight_decay_of_logits_pulls_them_together():
    spread = []
    for decay in (0.0, 20.0):
        model, (x, y) = network(), data()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        score = SequentialAttention(weight_decay=decay)
        pruner = made(
            model,
            STRUCTURES["4x3"],
            score=score,
            schedule=OneShot(at=0.9),
            optimizer=optimizer,
        )
        train(model, pruner, optimizer, x, y, 20)
        spread.append(float(pruner.parameters()[0].detach().std()))
    assert spread[1] < 0.6 * spread[0]


def test_bounds_of_attention_count_costs_where_the_budget_is_one_of_costs():
    labels = np.arange(N_OUT * N_IN).reshape(N_OUT, N_IN) % 12
    costs = np.arange(1, 13) * 100.0
    structure = Groups(labels, costs=costs, max_cost=0.25 * costs.sum())
    _, site, _ = site_of("sequential-attention", structure)
    assert site.gate.density == pytest.approx(0.25)


@pytest.mark.parametrize("score", ["sequential-attention", SoftThreshold()])
def test_a_global_budget_compares_layers_by_what_they_score(score):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).double()
    pruner = Pruner(
        model,
        Blocks((4, 4), density=0.5),
        score=score,
        schedule=OneShot(),
        allocation="global",
        total_steps=4,
        min_blocks=1,
    )
    first, second = pruner.sites
    with torch.no_grad():
        if score == "sequential-attention":
            wide = torch.linspace(-0.5, 0.5, 16)
            first.gate.logits.copy_(wide / 10)
            first.gate.logits[0] = -5  # far below the others, who are nearly alike
            second.gate.logits.copy_(wide)
            strengths = [attention(site.gate.logits) for site in pruner.sites]
        else:
            first.layer.parameter.mul_(0.5)
            second.layer.parameter.mul_(torch.linspace(0.2, 2, 16)[:, None])
            second.gate.threshold.fill_(0.0)  # in the middle of the layer's norms
            strengths = [
                torch.from_numpy(block_norms(site.matrix.numpy(), 4, 4))
                - torch.sigmoid(site.gate.threshold)
                for site in pruner.sites
            ]
    marks = pruner._selection.choose(pruner.phases[-1], 2, False)
    largest = np.argsort(-torch.cat(strengths).numpy())[:16]
    assert 0 < np.sum(largest < 16) < 16
    np.testing.assert_array_equal(
        np.flatnonzero(np.concatenate(marks)), np.sort(largest)
    )


class Planted:
    """A linear map of which some blocks are wanted, and the others are larger.

    Blocks of the target are twice those of the start in the informative places and zero
    elsewhere; inputs are the unit vectors. All informative blocks have one norm and the
    others another, three times as large. As long as attention on an informative block
    is below two, the slope of the loss by it is negative, and positive by any other: by
    symmetry all informative ones rise together and all others fall, whatever was drawn.
    """

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        blocks = rng.normal(size=(6, 8, 4, 4))
        blocks /= np.linalg.norm(blocks, axis=(2, 3), keepdims=True)
        self.wanted = np.zeros(48, bool)
        self.wanted[rng.choice(48, 12, replace=False)] = True
        here = self.wanted.reshape(6, 8, 1, 1)

        def matrix(blocks):
            return torch.from_numpy(blocks.transpose(0, 2, 1, 3).reshape(24, 32))

        self.start = matrix(np.where(here, blocks, 3 * blocks)).float()
        self.target = matrix(np.where(here, 2 * blocks, 0)).float()

    def kept_by(self, score, schedule, n_steps=60):
        model = nn.Sequential(nn.Linear(32, 24, bias=False))
        with torch.no_grad():
            model[0].weight.copy_(self.start)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        pruner = made(
            model,
            Blocks((4, 4), density=0.25),
            total_steps=n_steps,
            optimizer=optimizer,
            score=score,
            schedule=schedule,
        )
        for _ in range(n_steps):
            optimizer.zero_grad()
            loss = (model(torch.eye(32)) - self.target.T).square().sum()
            loss.backward()
            optimizer.step()
            pruner.step(loss)
        return pruner.sites[0].kept


@pytest.mark.parametrize("schedule", ["sequential-attention++", "gradual", "acdc"])
@pytest.mark.parametrize("seed", range(5))
def test_attention_finds_planted_blocks_that_are_smaller_than_the_others(
    seed, schedule
):
    planted = Planted(seed)
    found = planted.kept_by(SequentialAttention(rate=0.01), schedule)
    np.testing.assert_array_equal(found, planted.wanted)


@pytest.mark.parametrize("seed", range(2))
def test_magnitude_takes_the_larger_blocks_there(seed):
    planted = Planted(seed)
    assert not np.any(planted.kept_by("magnitude", "gradual") & planted.wanted)


# -- powerpropagation --------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, 3.0])
def test_power_propagation_is_a_power_of_the_norm_of_its_block(alpha):
    pruner, site, before = site_of(PowerPropagation(alpha=alpha))
    beta = site.matrix.numpy()
    norms = block_norms(beta)
    seen = beta * whole_blocks(norms ** (alpha - 1))
    np.testing.assert_allclose(seen, before, rtol=1e-12)
    np.testing.assert_allclose(pruner.model[0].weight.detach(), seen, rtol=1e-12)
    expected = block_norms(before.numpy()) ** 2
    np.testing.assert_allclose(pruner.score.saliency(site), expected, rtol=1e-10)


def test_power_propagation_of_single_weights_is_the_published_one():
    beta = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    tiles = Tiles(Cardinality(1).on((5, 7)))
    factor = PowerPropagation(alpha=3.0).factor(beta, tiles, {}, 0.5)
    seen = tiles.times(beta, factor)
    torch.testing.assert_close(seen, beta * beta.abs() ** 2, rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(seen.sum(), beta)
    torch.testing.assert_close(slope, 3 * beta.detach() ** 2, rtol=1e-12, atol=1e-18)


def test_a_zero_block_has_no_slope_under_power_propagation():
    pruner, site, _ = site_of(PowerPropagation())
    with torch.no_grad():
        site.layer.parameter[:4, :3] = 0
    x, _ = data(dtype=torch.float64)
    pruner.model(x).square().sum().backward()
    slope = site.layer.parameter.grad
    assert float(slope[:4, :3].abs().max()) < 1e-8
    assert float(slope[:4, 3:].abs().min()) > 1e-6


# -- soft threshold ----------------------------------------------------------------


def test_soft_threshold_shortens_blocks_and_drops_the_short_ones():
    pruner, site, before = site_of(SoftThreshold(initial=-1.0))
    cut = 1 / (1 + math.exp(1.0))
    lengths = block_norms(site.matrix.numpy())
    np.testing.assert_allclose(lengths, block_norms(before.numpy()) + cut, rtol=1e-6)
    with torch.no_grad():
        site.layer.parameter.mul_(0.5)  # some are below the threshold now
    lengths = 0.5 * lengths
    assert 0 < np.sum(lengths < cut) < len(lengths)
    left, trained = np.maximum(0, 1 - cut / lengths), site.matrix.numpy()
    expected = trained * whole_blocks(left)
    seen = pruner.model[0].weight.detach().numpy()
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-9)
    assert np.array_equal(seen == 0, whole_blocks(lengths < cut))
    order = np.argsort(pruner.score.saliency(site).numpy())
    np.testing.assert_array_equal(order, np.argsort(lengths))


def test_the_threshold_trains_and_decay_raises_it():
    model, (x, y) = network(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    score = SoftThreshold(rate=0.1, weight_decay=5.0)
    pruner = made(
        model,
        STRUCTURES["4x3"],
        score=score,
        schedule=OneShot(at=0.9),
        optimizer=optimizer,
    )
    (threshold,) = pruner.parameters()
    assert optimizer.param_groups[-1]["weight_decay"] == 5.0
    train(model, pruner, optimizer, x, y, 1)
    slope = float(threshold.grad)
    assert slope != 0
    expected = -5.0 - 0.1 * (slope - 5.0 * 5.0)
    assert float(threshold.detach()) == pytest.approx(expected, rel=1e-6)
    train(model, pruner, optimizer, x, y, 10)
    assert float(threshold.detach()) > -1


# -- the envelope of k groups ------------------------------------------------------


def envelope_by_definition(a, k):
    """Least value of sum(a^2 / u) / 2 over 0 <= u <= 1 with sum(u) <= k."""
    found = minimize(
        lambda u: np.sum(a * a / u) / 2,
        np.full(len(a), k / len(a)),
        jac=lambda u: -a * a / u**2 / 2,
        bounds=[(1e-9, 1)] * len(a),
        constraints={"type": "ineq", "fun": lambda u: k - u.sum()},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.fun


def envelope(a, k):
    """Half the squared k-support norm of rows, (m, n), by its closed form.

    Over all numbers r of the largest entries that count with their squares, the rest
    together with the square of their sum over k - r; the largest of these bounds whose
    split is consistent is the value.
    """
    a = -np.sort(-np.abs(np.atleast_2d(a)), axis=1)
    sums = np.cumsum(a[:, ::-1], axis=1)[:, ::-1]
    squares = np.concatenate((np.zeros((len(a), 1)), np.cumsum(a * a, axis=1)), axis=1)
    value = np.full(len(a), np.nan)
    for r in range(min(k, a.shape[1])):
        mean = sums[:, r] / (k - r)
        before = a[:, r - 1] if r else np.inf
        fits = (before >= mean - 1e-12) & (mean >= a[:, r] - 1e-12)
        here = (squares[:, r] + sums[:, r] ** 2 / (k - r)) / 2
        value = np.where(fits & np.isnan(value), here, value)
    return value


CASES = [(n, k, seed) for n in (2, 3, 5) for k in range(1, n) for seed in range(3)]


@pytest.mark.parametrize(("n", "k", "seed"), CASES)
def test_the_closed_form_of_the_envelope_is_its_definition(n, k, seed):
    a = np.abs(np.random.default_rng(seed).normal(size=n)) * 10.0 ** (seed - 1) + 1e-3
    assert envelope(a, k)[0] == pytest.approx(envelope_by_definition(a, k), rel=1e-5)


@pytest.mark.parametrize(("n", "k", "seed"), CASES)
def test_the_step_of_the_envelope_minimises_it(n, k, seed):
    rng = np.random.default_rng(50 + seed)
    v = rng.normal(size=n) * np.exp(rng.normal(size=n))
    step = float(10.0 ** rng.uniform(-2, 1))
    scale = envelope_scale(torch.from_numpy(np.abs(v)), k, step).numpy()
    best = scale * v

    def cost(w):  # rows
        return step * envelope(w, k) + np.sum((w - v) ** 2, axis=1) / 2

    # strongly convex: any other point costs more by half its squared distance at least
    least = cost(best[None])[0]
    for size in (1.0, 0.1, 0.01, 1e-3, 1e-4):
        d = size * rng.normal(size=(4000, n))
        assert np.all(cost(best + d) - least >= 0.5 * np.sum(d * d, axis=1) - 1e-12)
    found = minimize(
        lambda w: cost(w[None])[0],
        v,
        method="Nelder-Mead",
        options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 20_000},
    )
    assert least <= found.fun + 1e-12
    if n == 2:  # where that method can be trusted
        np.testing.assert_allclose(best, found.x, atol=1e-5)


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.integers(1, 40),
        elements=st.one_of(st.just(0.0), st.floats(1e-12, 1e12), st.just(1.0)),
    ),
    st.integers(1, 12),
    st.floats(1e-8, 1e4),
)
def test_the_step_shares_k_among_groups_by_their_norm(a, k, step):
    scale = envelope_scale(torch.from_numpy(a), k, step).numpy()
    assert np.all((scale >= 0) & (scale <= 1 / (1 + step) * (1 + 1e-12)))
    order = np.argsort(a, kind="stable")
    assert np.all(np.diff(scale[order]) >= -1e-12)
    inside = a > 0
    u = step * scale[inside] / (1 - scale[inside])
    assert u.sum() == pytest.approx(min(k, inside.sum()), rel=1e-4)


def test_no_more_than_k_groups_are_plain_decay():
    a = torch.tensor([3.0, 0.0, 1e-30, 2.0]).double()
    torch.testing.assert_close(
        envelope_scale(a, 3, 0.25), torch.full((4,), 0.8).double()
    )
    assert torch.equal(envelope_scale(a, 1, 0.0), torch.ones(4).double())


def test_the_envelope_is_applied_to_blocks_at_the_rate_of_the_optimizer():
    pruner, site, before = site_of(GroupEnvelope(alpha=20.0))
    lengths = block_norms(before.numpy())
    k = int(0.3 * len(lengths))
    pruner.score.regularize(site, 0.1, 0.5)
    expected = envelope_scale(torch.from_numpy(lengths), k, 2.0).numpy()
    assert np.sum(expected == 0) > 0
    np.testing.assert_allclose(
        site.matrix, before.numpy() * whole_blocks(expected), rtol=1e-6, atol=1e-12
    )


# -- decay of what is about to go --------------------------------------------------


def test_gated_decay_shortens_just_the_blocks_below_the_cut():
    pruner, site, before = site_of(GatedDecay(alpha=3.0))
    lengths = block_norms(before.numpy())
    k = int(0.3 * len(lengths))
    below = np.argsort(-lengths, kind="stable")[k:]
    for _ in range(2):  # twice: the second from where the first has left them
        much = np.zeros(len(lengths))
        much[below] = 0.1 * 3.0 * 0.4 * block_norms(site.matrix.numpy()).mean()
        expected = np.maximum(0, block_norms(site.matrix.numpy()) - much)
        pruner.score.regularize(site, 0.1, 0.4)
        np.testing.assert_allclose(
            block_norms(site.matrix.numpy()), expected, rtol=1e-6, atol=1e-12
        )
    pruner.score.regularize(site, 100.0, 1.0)
    kept = np.setdiff1d(np.arange(len(lengths)), below)
    np.testing.assert_array_equal(np.flatnonzero(block_norms(site.matrix)), kept)


def test_gated_decay_keeps_to_runs_and_begins_from_nothing():
    pruner, site, before = site_of(GatedDecay(), NM(2, 4))
    pruner.score.regularize(site, 0.1, 0.0)
    assert torch.equal(site.matrix, before)
    pruner.score.regularize(site, 100.0, 1.0)
    assert np.array_equal(site.matrix, NM(2, 4).project(before.numpy()))


@pytest.mark.parametrize("score", [GatedDecay(), HyperSparse()])
def test_nothing_decays_when_all_that_shall_go_is_gone(score):
    _, site, before = site_of(score)
    kept = np.zeros(site.n_atoms, bool)
    kept[:: math.ceil(1 / 0.29)] = True  # not those of largest norm
    kept[np.flatnonzero(~kept)[: int(0.3 * site.n_atoms) - kept.sum()]] = True
    site.show(kept)
    score.regularize(site, 1.0, 1.0)
    assert torch.equal(site.matrix, before)
    more = kept.copy()
    more[np.flatnonzero(~kept)[0]] = True
    site.show(more)
    score.regularize(site, 1.0, 1.0)
    assert not torch.equal(site.matrix, before)


def test_hypersparse_pulls_by_the_slope_of_its_loss():
    lengths = torch.rand(40, dtype=torch.float64).requires_grad_()
    above = lengths.detach() > 0.8
    cut = float(lengths.detach()[above].min())
    c = math.atanh(1 / math.sqrt(3)) / cut
    bent = torch.tanh(c * lengths)
    loss = lengths.sum() * bent.sum() / bent.sum().detach() - lengths.sum()
    (slope,) = torch.autograd.grad(loss, lengths)
    found = HyperSparse().pull(lengths.detach(), above)
    torch.testing.assert_close(found, slope, rtol=1e-10, atol=1e-12)


def test_the_pull_of_hypersparse_turns_at_the_cut():
    a = torch.linspace(0.01, 3, 3000, dtype=torch.float64)
    above = a >= 1.0
    bend = np.diff(HyperSparse().pull(a, above).numpy(), 2)
    turn = a[1:-1][int(np.argmax(bend > 0))]
    assert float(turn) == pytest.approx(1.0, abs=0.003)


def test_hypersparse_grows_and_shortens_blocks():
    score = HyperSparse(alpha=0.3, growth=8.0)
    _, site, before = site_of(score)
    lengths = block_norms(before.numpy())
    above = lengths >= np.sort(lengths)[-int(0.3 * len(lengths))]
    pull = score.pull(torch.from_numpy(lengths), torch.from_numpy(above)).numpy()
    score.regularize(site, 0.1, 1 / 3)  # 8^(1/3) = 2
    np.testing.assert_allclose(
        block_norms(site.matrix.numpy()),
        np.maximum(0, lengths - 0.1 * 0.3 * 2 * lengths.mean() * pull),
        rtol=1e-6,
        atol=1e-9,
    )


@pytest.mark.parametrize("score", [GatedDecay(), HyperSparse(), GroupEnvelope()])
def test_a_layer_of_zeros_stays_one(score):
    _, site, _ = site_of(score)
    site.write(torch.zeros_like(site.matrix))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score.regularize(site, 0.1, 0.5)
    assert not site.matrix.any()


@pytest.mark.parametrize(
    "score", [GatedDecay(), HyperSparse(), GroupEnvelope(alpha=0.03)]
)
def test_less_is_lost_at_the_cut_than_without_the_penalty(score):
    # of the squared norm, when all that shall go goes at once after some training
    lost = []
    for asked in ("magnitude", score):
        model, (x, y) = network(5), data(5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        pruner = made(
            model,
            STRUCTURES["4x3"],
            total_steps=400,
            optimizer=optimizer,
            score=asked,
            schedule=OneShot(at=0.9),
        )
        train(model, pruner, optimizer, x, y, 350)
        energy = np.sort(block_norms(pruner.sites[0].matrix.numpy()) ** 2)
        k = int(0.3 * len(energy))
        lost.append(energy[:-k].sum() / energy.sum())
    assert lost[1] < 0.75 * lost[0]
