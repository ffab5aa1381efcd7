"""``vitalfew select --certify``: the proof in the tables, the record and the report."""

import re

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("rich")
typer_testing = pytest.importorskip("typer.testing")

from tests.cli.tables import write_csv  # noqa: E402
from vitalfew.cli._app import app  # noqa: E402
from vitalfew.records import RunRecord  # noqa: E402


def numbers(rng, n=120, p=8):
    table = {f"x{j}": rng.standard_normal(n) for j in range(p)}
    y = table["x1"] - table["x5"] + 0.8 * rng.standard_normal(n)
    return table, y


def run(tmp_path, table, *options):
    path = write_csv(tmp_path / "table.csv", table)
    fixed = ("--resamples", "0", "--out", tmp_path / "out", "--overwrite")
    arguments = ("select", path, "--target", "y", *fixed, *options)
    result = typer_testing.CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "result.json").read_text(encoding="utf-8")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    return result.stdout, RunRecord.from_json(text), page


@pytest.mark.parametrize("task", ["regression", "binary"])
def test_independent_columns(task, tmp_path, rng):
    table, y = numbers(rng)
    table["y"] = y if task == "regression" else np.where(y > 0, "up", "down")
    shown, record, page = run(tmp_path, table, "--certify", "--n-nonzero", "2")
    proof = record.results["certificate"]
    assert proof["lower_bound"] <= proof["value"]
    assert proof["gap"] == (proof["value"] - proof["lower_bound"]) / proof["value"]
    assert proof["gap"] <= 1.01e-3
    assert proof["l2"] == record.settings["l2"]
    said = r"roved: the training loss is within 0\.[01]\d* % of that of the best "
    said += "possible 2 columns"
    assert re.search(said, " ".join(shown.split()))
    assert re.search(said, page)
    assert "both with a ridge" not in proof["sentence"]


def test_columns_that_repeat_one_another(tmp_path, rng):
    """There is no bound without a ridge, and the one that was used is told."""
    table, y = numbers(rng)
    table["sum"] = table["x0"] + table["x2"]
    table["y"] = y
    shown, record, _ = run(tmp_path, table, "--certify", "--n-nonzero", "2")
    proof = record.results["certificate"]
    assert proof["l2"] == 0.01 != record.settings["l2"]
    assert "both with a ridge of 0.01" in " ".join(shown.split())
    assert proof["gap"] < 0.1


def test_it_is_only_done_when_asked_for(tmp_path, rng):
    table, table["y"] = numbers(rng)
    shown, record, page = run(tmp_path, table)
    assert record.results["certificate"] is None
    assert "proved" not in shown
    assert not re.search("Proved|does not reach", page)
    assert "not asked for" in page


def test_no_columns_need_no_proof(tmp_path, rng):
    table, _ = numbers(rng)
    table["y"] = rng.standard_normal(120)
    shown, record, _ = run(tmp_path, table, "--certify", "--criterion", "ebic")
    assert record.results["n_chosen"] == 0
    assert record.results["certificate"] is None
    assert "none: no column" in shown
