"""The benchmarks of pruning while training: toy runs, exact tests, generated pages."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import permutation_test

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))  # they are not installed

from benchmarks._runs import Results  # noqa: E402
from benchmarks.pruning._data import Data  # noqa: E402
from benchmarks.training import (  # noqa: E402
    _ablation_report,
    _compare,
    _tabular_report,
    ablation,
    overhead,
    tabular,
)
from benchmarks.training._arms import ARMS, DENSE, OURS, cell_of  # noqa: E402
from benchmarks.training._criteo import CLICKS, N_FIELDS, clicks  # noqa: E402

from vitalfew.pruning.training import training_methods  # noqa: E402

pytest.importorskip("matplotlib")

PAGES = {
    "training_ablation": ablation,
    "training_tabular": tabular,
    "training_overhead": overhead,
}
MACHINE = {"cpu": "one", "cores": 1, "system": "s", "python": "3", "versions": {}}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_those_of_the_results(name, tmp_path):
    file = ROOT / "benchmarks" / "results" / f"{name}.jsonl"
    left = PAGES[name].main(
        ["--report-only", "--results", str(file), "--pages", str(tmp_path)]
    )
    assert left == 0
    kept = ROOT / "docs" / "benchmarks" / f"{name}.rst"
    assert (tmp_path / f"{name}.rst").read_text() == kept.read_text()


# -- toy runs --------------------------------------------------------------------------


@pytest.fixture
def images(monkeypatch):
    """Images of ten planted classes, in place of files."""

    def drawn(name):
        generator = torch.Generator().manual_seed(0)
        shape = (3, 32, 32) if name == "cifar10" else (784,)
        y = torch.arange(200) % 10
        x = torch.randn(10, *shape, generator=generator)[y]
        x = x + 4 * torch.randn(200, *shape, generator=generator)
        return Data(x[:150], y[:150], x[150:], y[150:], 10)

    monkeypatch.setattr(ablation, "_images", drawn)


@pytest.fixture
def table(monkeypatch):
    """Fourteen fields that are made up, in place of adult."""
    rng = np.random.default_rng(0)
    fields = rng.integers(8, size=(400, 14)) + 8 * np.arange(14)
    y = fields[:, 0] + rng.integers(4, size=400) > 6
    found = tabular._table(fields, y, np.arange(400) < 300, 8 * 14)
    monkeypatch.setattr(tabular, "adult", lambda: found)


def toy(module, tmp_path, *options):
    """Run a benchmark with tiny problems; return its rows and its page."""
    name = next(name for name, other in PAGES.items() if other is module)
    file = tmp_path / "runs.jsonl"
    given = ["--toy", "--results", str(file), "--pages", str(tmp_path), *options]
    assert module.main(given) == 0
    page = (tmp_path / f"{name}.rst").read_text()
    assert len(list(tmp_path.glob(f"{name}_*.svg"))) == 1
    rows = Results(file, MACHINE).rows
    module.main([*given, "--report-only"])
    assert (tmp_path / f"{name}.rst").read_text() == page
    return rows, page


def counts_are_those_of_the_model(rows):
    pruned = [row for row in rows if row["cell"]["arm"] != DENSE]
    for row in pruned:
        density = round(1 - row["cell"]["sparsity"], 6)
        assert row["kept"] == row["asked"] == int(density * row["atoms"] + 1e-9)
        assert sum(row["layers"].values()) == row["kept"]
        size = np.prod([int(n) for n in row["cell"]["pattern"].split("x")])
        assert row["nonzero"] <= size * row["kept"]
    return pruned


def test_perceptrons_are_pruned_by_every_arm(images, tmp_path):
    options = ("--data", "mnist", "--pattern", "16x16", DENSE)
    options += ("--sparsity", "0.0", "0.95")
    rows, page = toy(ablation, tmp_path, *options, "--seed", "0")
    assert len(counts_are_those_of_the_model(rows)) == len(ARMS)
    assert len(rows) == len(ARMS) + 1
    assert {row["cell"]["arm"] for row in rows} == {DENSE, *ARMS}
    # 16x16 divides both layers
    assert all(row["nonzero"] == 256 * row["kept"] for row in rows if "kept" in row)
    assert f"Of {len(ARMS)} pruned networks, {len(ARMS)} keep" in page
    assert "zero weights of these layers" in page


def test_a_residual_network_is_pruned(images, tmp_path):
    options = ("--data", "cifar10", "--pattern", "16x1", "--seed", "0")
    options += ("--arm", "acdc", "sequential-attention++")
    rows, _ = toy(ablation, tmp_path, *options, "--sparsity", "0.8")
    assert len(counts_are_those_of_the_model(rows)) == 2
    assert all(0 < row["weights"] < row["all_weights"] for row in rows)


def test_the_same_run_twice_gives_the_same(images):
    cell = cell_of("fashion", "16x1", 0.9, "sequential-attention++", 3)
    first, second = (ablation.run(cell, toy=True) for _ in range(2))
    assert {**first, "cpu": 0} == {**second, "cpu": 0}
    others = (ablation.run({**cell, "seed": seed}, toy=True) for seed in range(3))
    assert len({first["accuracy"], *(row["accuracy"] for row in others)}) > 1


def test_tables_are_pruned(table, tmp_path):
    arms = "acdc", "sequential-attention++", "attention-refit"
    options = ("--pattern", "20x20", DENSE, "--sparsity", "0.0", "0.98", "--arm", *arms)
    rows, page = toy(tabular, tmp_path, *options, DENSE, "--seed", "0")
    pruned = counts_are_those_of_the_model(rows)
    assert len(pruned) == 2 * len(arms)
    assert {row["atoms"] for row in pruned} == {140, 400}  # edges are blocks as well
    assert {tuple(row["layers"]) for row in pruned} == {("first",)}
    assert all(0 < row["loss"] < 2 for row in rows)
    assert "the probabilities they were drawn with" in page


def test_steps_are_timed(tmp_path):
    rows, page = toy(overhead, tmp_path, "--batch", "32", "--pattern", "16x16")
    (row,) = rows
    assert set(row["step"]) == {DENSE, "masks", "attention"}
    assert all(time > 0 for time in row["step"].values())
    assert row["held"][DENSE] < row["held"]["masks"] < row["held"]["attention"]
    # one number for each of 32 blocks: masks; then logits, gradient and moments
    assert row["held"]["masks"] - row["held"][DENSE] == pytest.approx(32 * 4e-6)
    logits = row["held"]["attention"] - row["held"]["masks"]
    assert 4 * 32 * 4e-6 <= logits < 5 * 32 * 4e-6
    assert row["n_selections"]["masks"] == 101
    assert "SequentialAttention++" in page


# -- what is run -----------------------------------------------------------------------


def test_arms_are_methods():
    assert set(ARMS) | set(tabular.ARMS) <= set(training_methods())
    assert set(OURS) < set(ARMS)


def test_decisive_cells_come_first_and_all_arms_of_a_seed_together():
    found = list(ablation.cells())
    assert len({json.dumps(cell) for cell in found}) == len(found)
    n = 8 * 2 * (2 * len(ARMS) + 1)
    first = found[:n]
    assert {cell["pattern"] for cell in first} == {"16x16", DENSE}
    assert [cell["seed"] for cell in first] == sorted(cell["seed"] for cell in first)
    groups = [
        (where["data"], [cell["arm"] for cell in group])
        for where, group in itertools.groupby(found, lambda c: {**c, "arm": ""})
    ]
    for data, arms in groups:
        assert arms in ([DENSE], list(ablation.SET_UPS[data].arms))
    runs_of_a_seed = 2 * (15 * len(tabular.ARMS) + 1)
    assert len(list(tabular.cells())) == tabular.SEEDS * runs_of_a_seed


# -- comparisons -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 8])
@pytest.mark.parametrize("seed", range(4))
def test_p_values_are_those_of_scipy(n, seed):
    d = np.random.default_rng(seed).normal(0.4, 1, n)
    found = permutation_test(
        (d, np.zeros(n)), lambda a, b: np.sum(a - b), permutation_type="samples",
        n_resamples=np.inf, alternative="two-sided", vectorized=False,
    )  # fmt: skip
    assert _compare.p_value(d) == pytest.approx(found.pvalue)


def test_p_values_at_their_ends():
    assert _compare.p_value([0.1] * 8) == 2 / 256
    assert _compare.p_value([-3.0] * 5) == 2 / 32
    assert _compare.p_value([0.0] * 5) == 1
    assert _compare.p_value([1.0, -1.0]) == 1


def test_ranges_apart_and_signs():
    low, high = {0: 1.0, 1: 2.0, 2: 5.0}, {1: 3.0, 2: 6.0, 3: -9.0}
    found = _compare.compare(high, low, "low", 1)
    assert (found.n_seeds, found.difference, found.apart) == (2, 1.0, 0)
    far = {0: 7.0, 1: 8.0, 2: 9.0}
    assert _compare.compare(far, low, "low", 1).apart == 1
    assert _compare.compare(far, low, "low", -1).apart == -1
    assert (
        _compare.compare(far, low, "low", -1).difference
        == -_compare.compare(far, low, "low", 1).difference
    )


def test_the_best_rival_is_the_one_that_is_best():
    found = {
        DENSE: {0: 99.0, 1: 99.0},
        "acdc": {0: 3.0, 1: 4.0},
        "magnitude": {0: 5.0, 1: 1.0},
        "new": {0: 4.0, 1: 4.0},
    }
    question = _compare.Question("new", "", "ours")
    best = _compare.answer(question, found, 1)
    assert (best.rival, best.difference) == ("acdc", 0.5)
    best = _compare.answer(question, found, -1)
    assert (best.rival, best.difference) == ("magnitude", -1.0)
    del found["new"]
    assert _compare.answer(question, found, 1) is None


def fabricated(ahead, n_seeds, key, data, patterns):
    """Results in which attention is ahead of every rival by a number."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(n_seeds):
        for pattern in patterns:
            for arm in ARMS:
                value = 0.5 + 1e-3 * rng.random()
                if arm == "sequential-attention++":
                    value += ahead * (1 + patterns.index(pattern))
                row = {key: value, "kept": 3, "asked": 3, "atoms": 100, "weights": 100}
                row |= {"nonzero": 3, "all_weights": 200, "layers": {"a": 3}}
                row |= {"cpu": 1.0}
                rows.append({"cell": cell_of(data, pattern, 0.97, arm, seed), **row})
    return rows


@pytest.mark.parametrize(("ahead", "n_seeds"), [(0.1, 8), (-0.1, 8), (0.1, 5), (0, 8)])
@pytest.mark.parametrize("report", [_ablation_report, _tabular_report])
def test_claims_are_those_of_the_numbers(report, ahead, n_seeds, tmp_path):
    less = report is _tabular_report
    data, patterns = (
        ("adult", ["5x5", "20x20"]) if less else ("mnist", ["8x8", "16x16"])
    )
    key = "loss" if less else "accuracy"
    sign = -1 if less else 1
    results = Results(tmp_path / "none.jsonl", MACHINE)
    results.rows = fabricated(sign * ahead, n_seeds, key, data, patterns)
    results.rows.append({"cell": cell_of(data, "8x8", 0.9, "acdc", 0), "error": "NaN"})
    report.write(results, tmp_path)
    page = (tmp_path / f"{report.NAME}.rst").read_text()
    (claim,) = (
        line
        for line in page.splitlines()
        if line.startswith("- sequential-attention++ against acdc-gradual: what")
    )
    for_it, against = (2, 0) if ahead > 0 else (0, 2)
    apart = f"apart for it in {for_it} and against it in {against};"
    if ahead:
        assert f"Better in the mean in {for_it} of 2 cells" in claim
        assert apart in claim
    else:
        assert apart not in claim
    if n_seeds < 6:
        assert "no cell has the six seeds" in claim
    elif ahead:
        assert f"for it in {for_it} and against it in {against}." in claim
    (growth,) = (
        line
        for line in page.splitlines()
        if line.startswith("- sequential-attention++ against acdc-gradual: the mean")
    )
    if ahead:
        assert f"in {int(ahead > 0)} of 1 pairs" in growth
    assert "What diverged" in page
    assert "NaN" in page
    assert "97.0" in page
    assert "48.5" in page  # of the weights of all layers


# -- drawn clicks ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_drawn_clicks_have_the_shape_that_is_told(seed):
    n = 20_000
    found = clicks(n, places=200, seed=seed)
    assert found.fields.shape == (n, N_FIELDS)
    assert N_FIELDS == len(found.places) == 39
    assert np.all(found.fields >= 0)
    assert np.all(found.fields < np.array(found.places))
    assert abs(found.y.mean() - CLICKS) < 0.02
    entropy = -(CLICKS * np.log(CLICKS) + (1 - CLICKS) * np.log(1 - CLICKS))
    assert 0.3 < found.least < entropy - 0.05
    for field, places in enumerate(found.places):
        counts = np.bincount(found.fields[:, field], minlength=places)
        if places == 200:  # a power law, after hashing
            assert counts.max() > 10 * np.median(counts)
    again = clicks(n, places=200, seed=seed)
    assert np.array_equal(again.fields, found.fields)
    assert np.array_equal(again.y, found.y)


def test_single_fields_say_something_of_clicks_but_not_all():
    n = 50_000
    found = clicks(n, seed=0)
    half = np.arange(n) < n // 2
    y, base = found.y[~half], found.y[half].mean()
    entropy = -np.mean(np.where(y, np.log(base), np.log(1 - base)))
    losses = []
    for field, places in enumerate(found.places):
        codes = found.fields[:, field]
        size = np.bincount(codes[half], minlength=places)
        hits = np.bincount(codes[half], found.y[half], minlength=places)
        p = ((hits + 20 * base) / (size + 20))[codes[~half]]
        losses.append(-np.mean(np.where(y, np.log(p), np.log(1 - p))))
    assert min(losses) < entropy - 0.005
    assert max(losses) > entropy - 0.001
    assert min(losses) > found.least + 0.02
