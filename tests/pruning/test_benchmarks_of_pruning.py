"""The benchmarks of pruning: small runs, and pages written from the results kept."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # they are not installed

from benchmarks.pruning import networks, scale, transformer  # noqa: E402

pytest.importorskip("matplotlib")

PAGES = {
    "pruning_networks": networks,
    "pruning_transformer": transformer,
    "pruning_scale": scale,
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_those_of_the_results(name, tmp_path):
    file = ROOT / "benchmarks" / "results" / f"{name}.jsonl"
    left = PAGES[name].main(
        ["--report-only", "--results", str(file), "--pages", str(tmp_path)]
    )
    assert left == 0
    kept = ROOT / "docs" / "benchmarks" / f"{name}.rst"
    assert (tmp_path / f"{name}.rst").read_text() == kept.read_text()


@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("magnitude", "unstructured"),
        ("wanda", "2:4"),
        ("obs", "16x1"),
        ("admm", "unstructured"),
    ],
)
def test_a_small_layer_is_measured(method, pattern):
    found = scale.measure({"size": 32, "pattern": pattern, "method": method}, True)
    assert 0 < found["kept"] <= found["asked"]
    assert 0 < found["layer_error"] < 1
    assert found["cpu"] > 0


def test_cells_differ_and_claims_come_first():
    cells = [tuple(cell.values()) for cell in networks.cells(3, full=True)]
    assert len(set(cells)) == len(cells)
    claimed = [tuple(cell.values()) for cell in networks.cells(3, full=False)]
    assert cells[: len(claimed)] == claimed
    others = [tuple(cell.values()) for cell in transformer.cells((0, 1))]
    assert len(set(others)) == len(others)
