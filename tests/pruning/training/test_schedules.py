"""Schedules: their phases, and what the engine makes of them step by step."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.pruning.networks import mlp, pairs
from vitalfew.pruning import Pruner
from vitalfew.pruning.allocation import Uniform
from vitalfew.pruning.training import Phase, training_schedules
from vitalfew.pruning.training._contracts import phases_of
from vitalfew.pruning.training.schedules import (
    ACDC,
    SET,
    SRSTE,
    SWAMP,
    Decaying,
    Gradual,
    Iterative,
    OneShot,
    RigL,
    SequentialAttentionPlusPlus,
    StraightThrough,
)
from vitalfew.structures import NM, Blocks, Cardinality, Channels, Groups

DEFAULTS = training_schedules()
BATCHES = pairs()


class Run:
    """A small network in training, step by step."""

    def __init__(
        self, schedule, structure, total_steps=40, seed=0, rate=0.05, **options
    ):
        self.model = mlp(seed).double()
        kind = options.pop("optimizer", torch.optim.SGD)
        extra = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        extra = options.pop("extra", extra)
        self.optimizer = kind(self.model.parameters(), lr=rate, **extra)
        options = {"score": "magnitude", "min_blocks": 1, "exclude": "4"} | options
        self.pruner = Pruner(
            self.model,
            structure,
            schedule=schedule,
            total_steps=total_steps,
            optimizer=self.optimizer,
            **options,
        )

    def loss(self, model, n):
        x, y = BATCHES[n % len(BATCHES)]
        return functional.cross_entropy(model(x.double()), y)

    def train(self):
        """Take the step of the optimizer."""
        self.optimizer.zero_grad()
        loss = self.loss(self.model, self.pruner.n_steps)
        loss.backward()
        self.optimizer.step()
        return loss

    def step(self):
        self.pruner.step(self.train())

    def steps(self, n):
        for _ in range(n):
            self.step()

    @property
    def kept(self):
        return [site.kept.copy() for site in self.pruner.sites]

    @property
    def weights(self):
        return [site.matrix.clone() for site in self.pruner.sites]


def phase_at(pruner, n):
    return next((p for p in pruner.phases if n < p.end), pruner.phases[-1])


# -- phases ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFAULTS)
def test_phases_follow_one_another_from_the_first_step_to_the_last(name):
    for total_steps in range(1, 301):
        steps = np.zeros(total_steps, int)
        for phase in DEFAULTS[name].phases(total_steps):
            assert 0 <= phase.start <= phase.end <= total_steps
            steps[phase.start : phase.end] += 1
        assert np.all(steps == 1)
        assert phases_of(DEFAULTS[name], total_steps)[-1].removed_at(total_steps) == 1


share = st.floats(0, 0.33)
settings_of = st.one_of(
    st.builds(
        ACDC,
        dense=share,
        extension=share,
        fine_tuning=share,
        n_cycles=st.integers(1, 12),
    ),
    st.builds(
        SequentialAttentionPlusPlus,
        dense=share,
        extension=share,
        fine_tuning=share,
        n_cycles=st.integers(1, 12),
    ),
    st.builds(Gradual, begin=share, end=st.floats(0.34, 0.999)),
    st.builds(OneShot, at=st.floats(0, 0.999)),
    st.builds(Iterative, n_rounds=st.integers(1, 40), rewind_to=st.floats(0, 0.999)),
    st.builds(SWAMP, n_rounds=st.integers(1, 40), rewind_to=st.floats(0, 0.999)),
    st.builds(RigL, end=st.floats(0, 0.999), exchanges=st.integers(1, 400)),
    st.builds(SET, end=st.floats(0, 0.999)),
    st.builds(StraightThrough, begin=st.floats(0, 0.999)),
    st.builds(Decaying, begin=share, end=st.floats(0.34, 0.999)),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(settings_of, st.integers(1, 300))
def test_phases_follow_one_another_with_odd_settings(schedule, total_steps):
    found = phases_of(schedule, total_steps)  # raises where they do not
    assert sum(p.end - p.start for p in found) == total_steps
    went_back = [p for p in found if p.rewind]
    remembered = [p.start for p in found if p.remember]
    if went_back and total_steps > 1:  # one step alone has nothing to go back to
        assert remembered[0] < went_back[0].start


def test_the_way_down_of_sequential_attention_has_the_numbers_of_the_paper():
    phase = Phase(
        name="sparsification",
        start=0,
        end=100,
        removed=(0, 1),
        curve=next(
            p.curve
            for p in SequentialAttentionPlusPlus().phases(1000)
            if p.name == "sparsification"
        ),
    )
    assert 0.9 * phase.removed_at(0) == 0
    assert round(0.9 * phase.removed_at(25), 3) == 0.580
    assert round(0.9 * phase.removed_at(50), 3) == 0.793
    assert phase.removed_at(100) == 1


def test_cycles_have_the_lengths_of_the_paper():
    plus = SequentialAttentionPlusPlus().phases(6000)
    names = [p.name for p in plus if p.end > p.start]
    cycle = ["sparsification", "sparse", "dense"]
    assert names == ["dense", *6 * cycle, "sparsification", "sparse"]
    downs = [p for p in plus if p.name == "sparsification"]
    assert [p.start for p in downs] == [600 * n for n in range(1, 8)]
    assert [p.end - p.start for p in downs] == [200] * 6 + [900]
    assert plus[-1].end - plus[-1].start == 900
    assert all(p.reset for p in plus[1:])
    assert all(not p.revive for p in plus)

    turns = ACDC().phases(6000)
    names = [p.name for p in turns]
    assert names == ["dense", *7 * ["sparse", "dense"], "sparse"]
    lengths = [p.end - p.start for p in turns]
    assert lengths == [600, *13 * [300], 600, 900]
    assert all(p.reset for p in turns[1:])


def test_the_last_cycle_is_one_way_down_without_an_extension_too():
    plus = phases_of(SequentialAttentionPlusPlus(extension=0.0), 6000)
    assert [p.name for p in plus[-2:]] == ["sparsification", "sparse"]
    assert [p.name for p in plus].count("dense") == 7


def test_rounds_keep_ever_fewer_by_the_same_factor():
    rounds = [p for p in Iterative(n_rounds=4).phases(500) if p.name == "sparse"]
    kept = [1 - 0.9 * p.removed_at(p.start, density=0.1) for p in rounds]
    np.testing.assert_allclose(kept, [0.1 ** (n / 4) for n in range(1, 5)])
    assert rounds[-1].removed_at(499, density=0.1) == 1


@pytest.mark.parametrize("rewind_to", [0.0, 0.1, 0.5])
def test_rounds_last_as_long_as_what_is_left_of_the_first(rewind_to):
    found = Iterative(n_rounds=3, rewind_to=rewind_to).phases(2000)
    again = [p.end - p.start for p in found if p.name == "sparse"]
    left = next(p.end - p.start for p in found if p.remember)
    assert max(abs(length - left) for length in again) <= 2


@pytest.mark.parametrize("schedule", [RigL(), SET(end=0.5), RigL(exchanged=0.5)])
def test_exchanges_are_spread_evenly_and_stop(schedule):
    total_steps, found = 400, schedule.phases(400)
    assert found[0].end == schedule.end * total_steps
    assert (found[0].random, found[0].every) == (True, found[0].end // 50)
    assert (found[1].alive, found[1].every) == (True, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Iterative(n_rounds=0), "n_rounds"),
        (lambda: Iterative(rewind_to=1.0), "rewind_to"),
        (lambda: RigL(exchanges=0), "exchanges"),
        (lambda: SET(exchanged=1.5), "exchanged"),
        (lambda: RigL(end=-0.1), "end"),
        (lambda: StraightThrough(every=0), "every"),
        (lambda: SRSTE(hidden_decay=-1.0), "hidden_decay"),
        (lambda: SRSTE(begin=1.0), "begin"),
        (lambda: Decaying(begin=0.5, end=0.4), "end must not be below begin"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- masks -----------------------------------------------------------------------------

LABELS = np.arange(16 * 24) // 12 % 32
COSTS = np.random.default_rng(0).integers(1, 6, 32).astype(float)
COUNTED = {
    "weights": Cardinality(density=0.2),
    "blocks": Blocks((3, 5), density=0.3),  # smaller ones at the edges
    "outputs": Channels(density=0.4),
    "inputs": Channels(density=0.25, axis=1),
}
SCHEDULES = {
    **DEFAULTS,
    "acdc": ACDC(n_cycles=2),
    "sequential-attention++": SequentialAttentionPlusPlus(n_cycles=2),
    "iterative": Iterative(n_rounds=3),
    "swamp": SWAMP(n_rounds=3),
    "rigl": RigL(exchanges=6),
    "set": SET(exchanges=6),
}


def total_kept(pruner, phase, n):
    """How many atoms there must be, by the formula."""
    everything = sum(site.n_atoms for site in pruner.sites)
    final = max(2, math.floor(pruner.structure.density * everything + 1e-9))
    level = phase.removed_at(n, final / everything)
    return everything - math.floor(level * (everything - final) + 1e-9)


def follow(run, check):
    """Train to the end; tell `check` masks before and after, and whether they may."""
    pruner, total_steps = run.pruner, run.pruner.total_steps
    before = [np.ones(site.n_atoms, bool) for site in pruner.sites]
    check(pruner.phases[0], 0, before, run.kept)
    for n in range(1, total_steps + 1):
        before = run.kept
        run.step()
        phase, after = phase_at(pruner, n), run.kept
        starts = n == phase.start
        again = phase.every > 0 and (n - phase.start) % phase.every == 0
        at_the_end = n == total_steps and (phase.revive or phase.removed[0] < 1)
        changed = any((a != b).any() for a, b in zip(before, after, strict=True))
        if not (starts or again or at_the_end):
            assert not changed, f"step {n} of {phase}"
        if not starts and not phase.revive and not phase.grow:
            for a, b in zip(before, after, strict=True):
                assert not (b & ~a).any()
        if starts and phase.alive:
            for a, b in zip(before, after, strict=True):
                assert not (b & ~a).any()
        if starts or again or at_the_end:
            check(phase, n, before, after)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("kind", "allocation"),
    [
        ("weights", "uniform"),
        ("weights", "global"),
        ("weights", "lamp"),
        ("weights", "erk"),
        ("blocks", "global"),
        ("blocks", "lamp"),
        ("outputs", "uniform"),
        ("inputs", "erk"),
    ],
)
def test_counts_are_exact_at_every_selection(name, kind, allocation):
    run = Run(SCHEDULES[name], COUNTED[kind], allocation=allocation)

    def check(phase, n, before, after):
        kept = [int(marks.sum()) for marks in after]
        assert sum(kept) == total_kept(run.pruner, phase, n)
        assert min(kept) >= 1
        if allocation == "uniform":
            sizes = np.array([len(marks) for marks in after])
            fair = sizes * sum(kept) / sizes.sum()
            assert np.all(np.abs(kept - fair) < 1 + 1e-9)

    follow(run, check)
    report = run.pruner.finalize()
    final = total_kept(run.pruner, run.pruner.phases[-1], 40)
    assert sum(marks.sum() for marks in run.kept) == final
    # an output that was exchanged for another may have been without gradients since
    assert report.kept <= final
    assert report.kept == final or (run.pruner.phases[0].grow and kind == "outputs")
    for site, layer in zip(run.pruner.sites, (run.model[0], run.model[2]), strict=True):
        assert torch.equal(report.masks[site.name], ~site.gone)
        assert bool((layer.weight[site.gone] == 0).all())


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("structure", [NM(2, 4), NM(1, 3, axis=0), NM(1, 5)])
def test_every_run_of_neighbours_holds_what_the_phase_allows(name, structure):
    run = Run(SCHEDULES[name], structure)
    n_final, m = structure.n, structure.m

    def check(phase, n, before, after):
        for site, marks in zip(run.pruner.sites, after, strict=True):
            table = marks.reshape(site.tiles.shape)
            table = table if structure.axis == -1 else table.T
            full = table[:, : table.shape[1] // m * m].reshape(len(table), -1, m)
            rest = table[:, full.shape[1] * m :]
            density = marks.size and site.structure.budget / marks.size
            level = phase.removed_at(n, density)
            allowed = math.floor(m - level * (m - n_final) + 1e-9)
            assert np.all(full.sum(-1) == allowed)
            assert np.all(rest.sum(-1) == min(allowed, rest.shape[1]))

    follow(run, check)
    run.pruner.finalize()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("whole", [True, False])
def test_costs_stay_within_the_budget_of_the_phase(name, whole):
    costs = COSTS if whole else COSTS + 0.3
    budget = 0.3 * costs.sum()
    groups = Groups(LABELS.reshape(24, 16), costs=costs, max_cost=budget)
    run = Run(SCHEDULES[name], groups, include="0", exclude=None)
    spent = []

    def check(phase, n, before, after):
        level = phase.removed_at(n, 0.3)
        allowed = costs.sum() - level * (costs.sum() - budget)
        used = costs[after[0]].sum()
        assert used <= allowed * (1 + 1e-9)
        starts = n == phase.start
        among = phase.alive if starts else not (phase.revive or phase.grow)
        able = (before[0] if among else np.ones(32, bool)) & ~after[0]
        assert not able.any() or costs[able].min() > allowed - used - 1e-9
        spent.append(used)

    follow(run, check)
    assert spent[-1] > budget - costs.max()
    run.pruner.finalize()


def test_costs_fall_little_by_little_in_a_gradual_phase():
    groups = Groups(LABELS.reshape(24, 16), costs=COSTS, max_cost=0.2 * COSTS.sum())
    run = Run(Gradual(), groups, include="0", exclude=None)
    used = []
    for _ in range(40):
        run.step()
        used.append(COSTS[run.kept[0]].sum())
    assert used[0] == COSTS.sum()
    assert len(set(used)) > 10
    assert all(b <= a + COSTS.max() for a, b in itertools.pairwise(used))


def test_no_layer_gains_an_atom_when_shares_are_rounded():
    class Jumping(Uniform):
        """As rounding may do: one more here and one less there, then the reverse."""

        def counts(self, parts, total):
            found = super().counts(parts, total)
            found[total % 2] += 1
            found[1 - total % 2] -= 1
            return found

    run = Run(
        SequentialAttentionPlusPlus(n_cycles=2),
        Cardinality(density=0.5),
        allocation=Jumping(),
    )

    def check(phase, n, before, after):
        assert sum(m.sum() for m in after) == total_kept(run.pruner, phase, n)

    follow(run, check)  # asserts that what is gone stays away


# -- rewinding and averaging -----------------------------------------------------------


def tensors(model):
    """All parameters and buffers but the masks, by name."""
    state = model.state_dict().items()
    return {n: t.detach().clone() for n, t in state if not n.endswith("mask")}


def original(site):
    return f"{site.name}.parametrizations.weight.original"


@pytest.mark.parametrize("rewind_to", [0.0, 0.4])
@pytest.mark.parametrize("kind", [Iterative, SWAMP])
@pytest.mark.parametrize("score", ["magnitude", "sequential-attention"])
def test_rewinding_restores_the_exact_parameters(kind, rewind_to, score):
    schedule = kind(n_rounds=3, rewind_to=rewind_to)
    structure = Cardinality(density=0.1)
    run = Run(schedule, structure, 43, score=score, optimizer=torch.optim.Adam)
    back = next(p.start for p in run.pruner.phases if p.remember)
    run.steps(back)
    then, rounds = tensors(run.model), 0
    while run.pruner.n_steps < 43:
        run.step()
        phase = phase_at(run.pruner, run.pruner.n_steps)
        if not phase.rewind or run.pruner.n_steps != phase.start:
            continue
        rounds += 1
        expected = dict(then)
        for site in run.pruner.sites:
            there = torch.from_numpy(site.kept).reshape(site.tiles.shape)
            assert not there.all()
            expected[original(site)] = then[original(site)] * there
        now = tensors(run.model)
        assert now.keys() == expected.keys()
        assert all(torch.equal(now[name], expected[name]) for name in now)
        moments = run.optimizer.state.values()
        assert all((state["exp_avg"] == 0).all() for state in moments)
    assert rounds == 3


def test_weights_go_on_where_only_the_learning_rate_is_rewound():
    run = Run(Iterative(n_rounds=2, rewind=False), Cardinality(density=0.2))
    start = next(p.start for p in run.pruner.phases if p.name == "sparse")
    run.steps(start - 1)
    run.train()
    before = run.weights
    run.pruner.step()
    assert run.pruner.phase == "sparse"
    for site, weight in zip(run.pruner.sites, before, strict=True):
        there = torch.from_numpy(site.kept).reshape(weight.shape)
        assert torch.equal(site.matrix, weight * there)


def test_the_running_statistics_go_back_too():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 12), torch.nn.BatchNorm1d(12))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(
        model,
        Cardinality(density=0.2),
        method="iterative",
        schedule=Iterative(n_rounds=1, rewind_to=0.5),
        total_steps=12,
        optimizer=optimizer,
    )
    back, again = (pruner.phases[i].start for i in (1, 2))
    for n in range(1, again + 1):
        loss = model(torch.randn(8, 16)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step()
        if n == back:
            then = tensors(model[1])
    assert int(then["num_batches_tracked"]) == back > 0
    now = tensors(model[1])
    assert all(torch.equal(now[name], then[name]) for name in then)


def test_averages_are_the_means_of_the_second_halves():
    run = Run(SWAMP(n_rounds=3, rewind_to=0.2), Cardinality(density=0.1), 61)
    halves = []
    for n in range(1, 62):
        phase = phase_at(run.pruner, n - 1)
        run.train()
        if phase.average and n - phase.start >= (phase.end - phase.start) / 2:
            halves.append(tensors(run.model))
        run.pruner.step()
        if n < 61 and phase_at(run.pruner, n) is phase:
            continue
        if not phase.average:
            halves = []
            continue
        length = phase.end - phase.start
        assert len(halves) == length // 2 + 1
        means = {k: sum(h[k] for h in halves) / len(halves) for k in halves[0]}
        halves = []
        if n < 61:  # the masks of the next round are those of the means
            everything = torch.cat(
                [
                    means[original(s)].flatten().square() / s.n_atoms
                    for s in run.pruner.sites
                ]
            )
            assert everything.isfinite().all()
            for site in run.pruner.sites:
                size = means[original(site)].flatten().abs().numpy()
                assert size[site.kept].min() >= size[~site.kept].max()
    masks = run.kept
    run.pruner.finalize()
    for module, mask in zip((run.model[0], run.model[2]), masks, strict=True):
        there = torch.from_numpy(mask).reshape(module.weight.shape)
        name = "0" if module is run.model[0] else "2"
        mean = means[f"{name}.parametrizations.weight.original"]
        torch.testing.assert_close(
            module.weight.detach(), mean * there, rtol=1e-12, atol=0
        )
    torch.testing.assert_close(run.model[4].bias.detach(), means["4.bias"])


# -- straight through ------------------------------------------------------------------


def dense_gradients(run, n):
    """Gradients of the loss by the weights that the network sees, on plain layers."""
    plain = mlp(0).double()
    with torch.no_grad():
        for name, module in plain.named_children():
            if hasattr(module, "weight"):
                source = run.model.get_submodule(name)
                module.weight.copy_(source.weight)
                module.bias.copy_(source.bias)
    run.loss(plain, n).backward()
    return [plain.get_submodule(site.name).weight.grad for site in run.pruner.sites]


@pytest.mark.parametrize("schedule", [StraightThrough(), SRSTE()])
@pytest.mark.parametrize("structure", [NM(1, 4), Blocks((2, 3), density=0.2)])
def test_the_straight_through_gradient_is_the_dense_one(schedule, structure):
    run = Run(schedule, structure)
    for n in range(12):
        expected = dense_gradients(run, n)
        run.train()
        for site, gradient in zip(run.pruner.sites, expected, strict=True):
            assert bool((gradient[site.gone] != 0).any())
            torch.testing.assert_close(site.gradient, gradient, rtol=1e-12, atol=1e-15)
        run.pruner.step()


def largest(weight, n, m):
    """Mark the largest of every run of neighbours in a row, one run at a time."""
    marks = torch.zeros_like(weight, dtype=torch.bool)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], m):
            run = weight[row, start : start + m].abs()
            marks[row, start + run.topk(min(n, len(run))).indices] = True
    return marks


@pytest.mark.parametrize("name", ["ste", "sr-ste", "decaying"])
def test_masks_are_those_of_the_present_weights_to_the_very_end(name):
    run = Run(DEFAULTS[name], NM(2, 4))
    begin, end = (0, 40) if name != "decaying" else (4, 30)
    for n in range(1, 41):
        run.step()
        if begin <= n <= end:
            for site in run.pruner.sites:
                there = torch.from_numpy(site.kept).reshape(site.tiles.shape)
                assert torch.equal(there, largest(site.matrix, 2, 4))
    run.pruner.finalize()
    if name != "decaying":
        weight = run.model[0].weight
        assert torch.equal(weight != 0, largest(weight, 2, 4))


def test_hidden_weights_decay_by_the_rate():
    run = Run(SRSTE(hidden_decay=0.3), NM(1, 4), rate=0.1)
    for n in range(10):
        run.optimizer.param_groups[0]["lr"] = rate = 0.1 / (n + 1)
        hidden = [site.gone for site in run.pruner.sites]
        run.train()
        before = run.weights
        run.pruner.step()
        for site, weight, gone in zip(run.pruner.sites, before, hidden, strict=True):
            expected = weight - (rate * 0.3) * (gone * weight)
            torch.testing.assert_close(site.matrix, expected, rtol=1e-14, atol=0)
            assert torch.equal(site.matrix[~gone], weight[~gone])


def test_decay_without_an_optimizer_is_said():
    model = mlp()
    pruner = Pruner(model, NM(2, 4), method="sr-ste", total_steps=5, min_blocks=1)
    before = [site.matrix.clone() for site in pruner.sites]
    with pytest.warns(UserWarning, match="decays weights by the learning rate"):
        pruner.step()
    for site, weight in zip(pruner.sites, before, strict=True):
        assert torch.equal(site.matrix, weight)


def test_removed_weights_fade_out():
    run = Run(Decaying(begin=0.25, end=0.75), NM(1, 4))
    for n in range(1, 41):
        run.step()
        leak = 1.0 if n < 10 else max(0.0, 1 - (n - 10) / 20)
        for site in run.pruner.sites:
            seen = run.model.get_submodule(site.name).weight.detach()
            there = torch.from_numpy(site.kept).reshape(seen.shape)
            expected = site.matrix * torch.where(there, 1.0, leak)
            torch.testing.assert_close(seen, expected, rtol=1e-6, atol=0)
            if n >= 30:
                assert int((seen != 0).sum()) == int(there.sum())


def test_gradients_of_removed_weights_fade_out_too():
    run = Run(Decaying(begin=0.0, end=0.5), NM(1, 4))
    for n in range(20):
        expected = dense_gradients(run, n)
        run.train()
        for site, gradient in zip(run.pruner.sites, expected, strict=True):
            scale = torch.where(site.gone, 1 - n / 20, 1.0)
            torch.testing.assert_close(
                site.gradient, gradient * scale, rtol=1e-6, atol=1e-12
            )
        run.pruner.step()


# -- exchanges -------------------------------------------------------------------------


def sums(matrix, tiles):
    """Add up the squares of each atom, one after the other."""
    labels = tiles.spread(torch.arange(tiles.n_atoms)).numpy()
    squares = matrix.double().numpy() ** 2
    return np.array([squares[labels == i].sum() for i in range(tiles.n_atoms)])


@pytest.mark.parametrize("kind", ["weights", "blocks", "outputs"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_rigl_takes_the_atoms_of_largest_dense_gradient(kind, seed, optimizer):
    schedule = RigL(exchanges=5, exchanged=0.4)
    run = Run(schedule, COUNTED[kind], seed=seed, rng=seed, optimizer=optimizer)
    phase, moved = run.pruner.phases[0], 0
    assert (phase.every, phase.end) == (6, 30)
    for n in range(1, 41):
        before, exchange = run.kept, n % 6 == 0 and n < 30
        gradients = dense_gradients(run, n - 1)
        run.train()
        hidden = [site.gradient[site.gone] for site in run.pruner.sites]
        assert bool((torch.cat(hidden) != 0).any()) == exchange
        weights = run.weights
        run.pruner.step()
        if not exchange:
            continue
        fraction = 0.4 / 2 * (1 + math.cos(math.pi * n / 30))
        for i, site in enumerate(run.pruner.sites):
            count = before[i].sum()
            strength = sums(weights[i], site.tiles)
            gain = sums(gradients[i], site.tiles)
            inside = sorted(np.flatnonzero(before[i]), key=lambda a: strength[a])
            staying = inside[int(fraction * count) :]
            others = sorted(set(range(site.n_atoms)) - set(staying))
            others.sort(key=lambda a: -gain[a])
            joining = others[: count - len(staying)]
            expected = np.zeros(site.n_atoms, bool)
            expected[staying + joining] = True
            assert np.array_equal(site.kept, expected)
            new = site.kept & ~before[i]
            moved += new.sum()
            fresh = site.entries(torch.from_numpy(new))
            gone = site.gone
            assert bool((site.matrix[fresh | gone] == 0).all())
            for state in run.optimizer.state[site.layer.parameter].values():
                if isinstance(state, torch.Tensor) and state.ndim == 2:
                    assert bool((state[fresh | gone] == 0).all())
            old = ~(fresh | gone)
            assert torch.equal(site.matrix[old], weights[i][old])
    assert moved > 0


@pytest.mark.parametrize("schedule", [SET(exchanges=10), RigL(exchanges=10)])
@pytest.mark.parametrize("allocation", ["uniform", "erk", "global"])
def test_the_first_mask_is_random_and_removed_weights_stay_zero(schedule, allocation):
    structure = Cardinality(density=0.2)
    runs = [Run(schedule, structure, rng=r, allocation=allocation) for r in (0, 0, 1)]
    first, same, other = (np.concatenate(run.kept) for run in runs)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    size = torch.cat([w.abs().flatten() for w in Run(OneShot(), structure).weights])
    size = size.numpy()
    # magnitudes of what is kept are like those of all: far from the largest fifth
    assert abs(size[first].mean() - size.mean()) < 0.2 * size.mean()
    run = runs[0]
    counts = [marks.sum() for marks in run.kept]
    for _ in range(40):
        run.step()
        assert [marks.sum() for marks in run.kept] == counts
        for site in run.pruner.sites:
            assert bool((site.matrix[site.gone] == 0).all())


def test_random_growth_needs_no_gradient_and_no_two_draws_are_the_same():
    run = Run(SET(exchanges=4, exchanged=0.5), Cardinality(density=0.3))
    news = []
    for n in range(1, 30):
        before = run.kept[0]
        run.train()
        for site in run.pruner.sites:
            assert bool((site.gradient[site.gone] == 0).all())
        run.pruner.step()
        if n % 7 == 0:
            news.append(tuple(np.flatnonzero(run.kept[0] & ~before)))
    assert len(set(news)) == 4
    assert all(news[:3])


def test_an_overflow_in_the_step_of_an_exchange_leaves_masks_alone():
    run = Run(RigL(exchanges=5), Cardinality(density=0.3))
    run.steps(5)
    run.train()
    run.pruner.sites[0].layer.parameter.grad[0, 0] = math.inf
    before = run.kept
    run.pruner.step()
    assert np.array_equal(run.kept[0], before[0])
    assert not np.array_equal(run.kept[1], before[1])


def test_missing_gradients_are_said():
    run = Run(RigL(exchanges=5), Cardinality(density=0.3))
    run.steps(5)
    run.train()
    run.optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="before zero_grad"):
        run.pruner.step()


def test_atoms_to_keep_are_never_exchanged():
    structure = Cardinality(density=0.2, keep=(0, 7, 100))
    run = Run(SET(exchanges=8, exchanged=0.9), structure)
    for _ in range(40):
        run.step()
        assert all(marks[[0, 7, 100]].all() for marks in run.kept)


# -- checkpoints -----------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("at", [3, 17, 29])
def test_resuming_is_bit_identical(name, at, tmp_path):
    structure = Cardinality(density=0.2)
    straight, broken = (Run(SCHEDULES[name], structure) for _ in range(2))
    straight.steps(40)
    broken.steps(at)
    torch.save(
        [part.state_dict() for part in (broken.model, broken.optimizer, broken.pruner)],
        tmp_path / "state.pt",
    )
    resumed = Run(SCHEDULES[name], structure, seed=5)
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    parts = (resumed.model, resumed.optimizer, resumed.pruner)
    for part, state in zip(parts, states, strict=True):
        part.load_state_dict(state)
    resumed.steps(40 - at)
    for run in (straight, resumed):
        run.pruner.finalize()
    ours, theirs = straight.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
