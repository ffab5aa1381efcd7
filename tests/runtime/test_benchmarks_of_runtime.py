"""The benchmarks of the runtime: small runs, and the page of the results kept."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # they are not installed

from benchmarks._runs import Results  # noqa: E402
from benchmarks.runtime import (  # noqa: E402
    _engines,
    _kernels_report,
    _networks_report,
    _peaks,
    kernels,
    networks,
)

pytest.importorskip("matplotlib")
torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("script", "name"), [(kernels, "runtime_kernels"), (networks, "runtime_networks")]
)
def test_the_page_is_that_of_the_results(script, name, tmp_path):
    file = ROOT / "benchmarks" / "results" / f"{name}.jsonl"
    given = ["--report-only", "--results", str(file), "--pages", str(tmp_path)]
    assert script.main(given) == 0
    kept = ROOT / "docs" / "benchmarks" / f"{name}.rst"
    assert (tmp_path / kept.name).read_text() == kept.read_text()


def test_small_runs_are_made_once_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr(_peaks, "KILOBYTES", (32, 64))
    monkeypatch.setattr(_peaks, "SECONDS", 1e-4)
    file, pages = tmp_path / "runs.jsonl", tmp_path / "pages"
    given = ["--toy", "--results", str(file), "--pages", str(pages)]
    given += ["--pattern", "16x2", "--tokens", "16", "--masks", "uneven"]
    given += ["--weights", "memory"]
    assert kernels.main(given) == 0
    stored = file.read_text()
    assert kernels.main(given) == 0
    assert file.read_text() == stored
    rows = [row for row in Results(file).rows if "precision" in row["cell"]]
    assert len(rows) == 1
    assert "error" not in rows[0]
    for facts in rows[0]["sparse"].values():
        assert facts["us"] > 0
        assert facts["difference"] < 0.02
        assert facts["fullest"] > 1
    kept = [facts["weights"] for facts in rows[0]["sparse"].values()]
    assert kept == [32 * round(192 * (1 - s)) for s in kernels.SPARSITIES]
    page = (pages / "runtime_kernels.rst").read_text()
    assert "16x2, bfloat16" in page
    assert "What could not be run" not in page
    for name in ("speed", "roofline"):
        assert (pages / f"runtime_kernels_{name}.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("precision", "pattern"),
    [(p, pattern) for p, own in kernels.PATTERNS.items() for pattern in own],
)
def test_each_pattern_gives_the_product(precision, pattern):
    if precision not in {cell["precision"] for cell in kernels.cells(True)}:
        pytest.skip(f"no kernels of {precision}")
    cell = {"precision": precision, "pattern": pattern, "weights": "cache"}
    cell |= {"masks": "uniform", "shape": "64x96", "tokens": 3}
    found = kernels.measure(cell, True)
    close = {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.05}
    for facts in found["sparse"].values():
        assert facts["difference"] < close[precision]
    for name, facts in found["dense"].items():
        assert facts["difference"] < close[name.split()[-1]]


def test_a_run_that_fails_is_a_line_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "MOST_SECONDS", 0.01)
    cell = next(kernels.cells(True))
    found = kernels.run(cell, True)
    assert found == {"error": "not finished after 0.01 s"}
    results = Results(tmp_path / "runs.jsonl")
    results.add(cell, found)
    _kernels_report.write(results, tmp_path)
    assert found["error"] in (tmp_path / "runtime_kernels.rst").read_text()


def test_masks_keep_as_many_blocks_and_the_largest(rng):
    weights = kernels.weights_of((64, 48), "uneven", rng)
    tiles = weights.reshape(4, 16, 48)
    for sparsity in kernels.SPARSITIES:
        uniform, uneven = (
            kernels.mask_of(weights, (16, 1), sparsity, masks, rng)
            for masks in ("uniform", "uneven")
        )
        assert uniform.sum() == uneven.sum() == round((1 - sparsity) * 192)
        scores = (tiles * tiles).sum(1)
        assert scores[uneven].min() >= scores[~uneven].max()
        assert not np.array_equal(uniform, uneven)


def test_cells_differ_and_the_decisive_ones_come_first():
    cells = [tuple(cell.values()) for cell in kernels.cells(False)]
    assert len(set(cells)) == len(cells)
    own = [cell for cell in cells if cell[:2] == ("float32", "16x1")]
    assert cells[: len(own)] == own


def test_tables_have_as_many_cells_in_each_line():
    file = ROOT / "benchmarks" / "results" / "runtime_kernels.jsonl"
    rows = [row for row in Results(file).rows if "sparse" in row]
    tables = "\n".join(_kernels_report._told(rows, {})).split("list-table::")[1:]
    for table in tables:
        lines = table.split("\n   * -")[1:]
        counts = {line.partition("\n\n")[0].count("\n     -") for line in lines}
        assert len(counts) == 1


def _row(precision="float32", tokens=2):
    cell = {"precision": precision, "pattern": "16x1", "weights": "memory"}
    cell |= {"masks": "uniform", "shape": "10x30", "tokens": tokens}
    dense = {"a float32": 8.0, "b float32": 6.0, "c int8": 2.0, "b int8": 3.0}
    return {
        "cell": cell,
        "dense": {name: {"us": us} for name, us in dense.items()},
        "sparse": {"0.5": {"us": 4.0, "nbytes": 680, "weights": 150}},
    }


def test_speeds_are_over_the_fastest_engine():
    row = _row()
    assert _kernels_report.fastest(row, "float32") == (6.0, "b")
    assert _kernels_report.speed_up(row, "0.5") == 1.5
    assert _kernels_report.speed_up(row, "0.5", "int8") == 0.5
    assert np.isnan(_kernels_report.speed_up(row, "0.5", "bfloat16"))
    # 2 x 150 x 2 operations in 4 microseconds; 680 bytes and 2 x 40 numbers of 4
    assert _kernels_report.rate(row, "0.5") == pytest.approx(0.15)
    assert _kernels_report.intensity(row, "0.5") == pytest.approx(0.6)


def test_peaks_are_told_for_each_size(monkeypatch):
    monkeypatch.setattr(_peaks, "SECONDS", 1e-3)
    monkeypatch.setattr(_peaks, "KILOBYTES", (32, 4 << 10))
    found = _peaks.peaks()
    if shutil.which("cc") is None:
        assert found == {}
    else:
        assert found["reading"].keys() == {"32", "4096"}
        told = [*found["reading"].values(), *found["operations"].values()]
        assert min(told) > 0


def test_without_a_compiler_there_are_no_peaks(monkeypatch):
    monkeypatch.setattr(_peaks.shutil, "which", lambda name: None)
    assert _peaks.peaks() == {}


def test_bfloat16_is_the_nearest(rng):
    x = rng.standard_normal(1000).astype(np.float32)
    back = _engines.numbers(_engines.bits(x))
    assert np.all(np.abs(back - x) <= 2.0**-8 * np.abs(x))
    exact = np.array([1.0, -0.5, 96.0], np.float32)
    np.testing.assert_array_equal(_engines.numbers(_engines.bits(exact)), exact)


def _cell(network, pattern="16x1", masks="network", tokens=16):
    values = (network, 1, tokens, pattern, masks, 1)
    return dict(zip(networks.CHOICES, values, strict=True))


@pytest.mark.slow
def test_small_networks_are_run_once_and_told(tmp_path):
    pytest.importorskip("transformers")
    file, pages = tmp_path / "runs.jsonl", tmp_path / "pages"
    given = ["--toy", "--results", str(file), "--pages", str(pages)]
    given += ["--network", "mlps", "loading", "--tokens", "0", "16"]
    given += ["--pattern", "16x1", "--masks", "random", "--threads", "1"]
    assert networks.main(given) == 0
    stored = file.read_text()
    assert networks.main(given) == 0
    assert file.read_text() == stored
    loading, mlps = sorted(Results(file).rows, key=lambda row: row["cell"]["network"])
    facts = mlps["sparse"]["0.8"]
    assert facts["us"] > 0
    assert facts["difference"] < 1e-5
    assert facts["density"] == pytest.approx(0.2, abs=0.02)
    assert sum(facts["kernels"].values()) == 4
    assert not [name for name in mlps["dense"] if name.startswith("vitalfew")]
    assert mlps["dense"]["torch float32"]["difference"] == 0
    facts = loading["loading"]["0.8"]
    assert facts["ms"] > 0
    assert facts["array_bytes"] < 0.6 * facts["dense_bytes"]
    page = (pages / "runtime_networks.rst").read_text()
    assert "MLPs of the encoder with 80 % of the 16x1 blocks" in page
    assert "\nLoading\n" in page
    assert (pages / "runtime_networks_speed.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("network", "pattern", "masks"),
    [
        ("resnet-20", "8x1", "network"),
        ("mlps", "16x2", "layers"),
        ("mlps", "16x4", "random"),
        ("encoder", "16x1", "network"),
    ],
)
@torch.no_grad()
def test_compiled_networks_compute_the_same(network, pattern, masks):
    pytest.importorskip("transformers")
    cell = _cell(network, pattern, masks)
    model, (x, *_) = networks.network(cell, True)
    facts, fast = networks._compiled(model, x, cell, 0.8)
    close = {"float32": 1e-4, "bfloat16": 0.05, "int8": 0.1}
    assert facts["difference"] < close[networks.PATTERNS[pattern]]
    assert fast.dtype == networks.PATTERNS[pattern]
    assert 0 < facts["density"] < 0.9
    if masks != "network":  # each layer as full as any other
        assert facts["multiply_adds"] == pytest.approx(facts["density"], abs=0.02)


def test_multiply_adds_count_positions():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(18, 5)
    )
    with torch.no_grad():
        model[0].weight[1] = 0
        model[2].weight[:, 9:] = 0
        model[2].weight[0] = 0
    # 1 of 2 weights at 9 places, 36 of 90 at one
    assert networks.work(model, torch.ones(1, 1, 3, 3)) == pytest.approx(
        (37 / 92, 45 / 108)
    )


def test_networks_differ_and_each_has_a_title():
    cells = [tuple(cell.values()) for cell in networks.cells(False)]
    assert len(set(cells)) == len(cells)
    for cell in networks.cells(False):
        assert all(cell[key] in values for key, values in networks.CHOICES.items())
    assert set(networks.SIZES) == set(_networks_report.TITLES)
    assert networks.PATTERNS == _networks_report.PATTERN_PRECISION
    assert set(networks.MASKS) == set(_networks_report.MASKS)


def test_networks_are_over_engines_of_no_lower_precision():
    dense = {"a float32": 8.0, "b, more, float32": 6.0, "c bfloat16": 4.0}
    dense |= {"c int8": 2.0}
    row = {
        "dense": {name: {"us": us} for name, us in dense.items()},
        "sparse": {"0.5": {"us": 3.0}},
    }
    assert _networks_report.fastest(row) == (6.0, "b, more, float32")
    assert _networks_report.fastest(row, "bfloat16") == (4.0, "c bfloat16")
    assert _networks_report.speed_up(row, "0.5") == 2
    assert _networks_report.speed_up(row, "0.5", "a float32") == 8 / 3
    assert _networks_report.speed_up(row, "0.5", lowest="int8") == 2 / 3


def test_a_network_that_fails_is_a_line_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "MOST_SECONDS", 0.01)
    cell = _cell("mlps")
    found = networks.run(cell, True)
    assert found == {"error": "not finished after 0.01 s"}
    results = Results(tmp_path / "runs.jsonl")
    results.add(cell, found)
    _networks_report.write(results, tmp_path)
    assert found["error"] in (tmp_path / "runtime_networks.rst").read_text()
