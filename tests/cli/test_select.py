"""``vitalfew select`` from the outside: answers, files, errors, interruptions."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("rich")
typer_testing = pytest.importorskip("typer.testing")

from tests.cli.tables import patients, write_csv  # noqa: E402
from vitalfew import datasets, solvers  # noqa: E402
from vitalfew.cli._app import app  # noqa: E402
from vitalfew.records import RunRecord  # noqa: E402

NEEDS_DATA = pytest.mark.skipif(
    not os.environ.get("VITALFEW_DATA"), reason="VITALFEW_DATA is not set"
)
COMMAND = [sys.executable, "-c", "from vitalfew.cli import main; main()"]


def run(*arguments):
    return typer_testing.CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def table(tmp_path):
    return write_csv(tmp_path / "patients.csv", patients())


def study(path, *options, fast=True, code=0):
    """Run a study and return its record, checked as far as all of them agree."""
    out = path.parent / "out"
    quick = ("--resamples", "4") if fast else ()
    result = run("select", path, *options, *quick, "--out", out, "--overwrite")
    assert result.exit_code in np.atleast_1d(code), result.output
    record = RunRecord.from_json((out / "result.json").read_text(encoding="utf-8"))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    assert not [p.name for p in out.iterdir() if p.name.startswith(".")]
    check_shape(record)
    return record


def check_shape(record):
    """The keys that a report is drawn from."""
    assert record.kind == "select"
    assert set(record.data) == {
        *("source", "sha256", "n_rows", "n_rows_used", "n_columns", "n_features"),
        *("target", "task", "classes", "notes", "columns"),
    }
    assert set(record.settings) == {
        *("n_nonzero", "solver", "criterion", "cv_folds", "outer_folds", "resamples"),
        *("certify", "seed", "seconds", "split_by", "l2", "loss"),
    }
    results = record.results
    assert results["n_chosen"] == len(results["chosen"])
    for entry in results["chosen"]:
        assert set(entry) == {
            *("column", "kind", "effect", "effects", "stability", "near_ties")
        }
    for entry in results["path"]:
        assert len(entry["columns"]) == entry["n_columns"]
    sizes = [entry["n_columns"] for entry in results["path"]]
    assert sizes == sorted(set(sizes))
    if results["errors"]:
        assert [e["model"] for e in results["errors"]] == [
            *("chosen columns", "all columns", "no columns")
        ]
        assert results["metric"]["name"] in results["errors"][0]["metrics"]


def chosen(record):
    return [entry["column"] for entry in record.results["chosen"]]


def error(record, model):
    name = record.results["metric"]["name"]
    (entry,) = [e for e in record.results["errors"] if e["model"] == model]
    return entry["metrics"][name]["mean"]


def fails(*arguments):
    """Message and hint of a run that must fail without a traceback."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    (message,) = [line for line in lines if line.startswith("error: ")]
    assert lines[-1].startswith("hint: ")
    assert "Traceback" not in result.output
    assert not result.stdout
    return message, lines[-1]


# -- answers ---------------------------------------------------------------------------


def test_regression(table):
    record = study(table, "--target", "y", "--criterion", "cv-1se", fast=False)
    assert set(chosen(record)) == {"age", "sex", "dose"}
    assert record.results["chosen_by"] == "cv-1se"
    assert record.results["n_resampled"] == record.settings["resamples"]
    assert record.data["task"] == "regression"
    assert record.data["n_rows"] == record.data["n_rows_used"] == 80
    assert record.data["n_columns"] == 9
    assert record.results["metric"] == {"name": "R2", "higher_is_better": True}
    assert error(record, "chosen columns") > 0.6 > 0.1 > error(record, "no columns")
    assert all(entry["stability"] > 0.8 for entry in record.results["chosen"])
    assert not record.results["cut_short"]
    notes = " ".join(record.data["notes"])
    assert "patient" in notes
    assert "flat" in notes
    kinds = {c["name"]: c for c in record.data["columns"]}
    assert kinds["ward"] == {
        "name": "ward",
        "kind": "category",
        "missing": 0,
        "levels": 3,
    }
    assert kinds["age"]["missing"] == sum(v != v for v in patients()["age"])


def test_an_unknown_criterion_is_refused(table):
    result = run("select", str(table), "--target", "y", "--criterion", "aic")
    assert result.exit_code == 2
    assert "--criterion aic" in result.stderr
    assert "hint: it is one of cv, cv-1se, bic, ebic, gic" in result.stderr


def test_effects_are_in_units_a_person_reads(table):
    record = study(table, "--target", "y", "--n-nonzero", "3")
    effects = {entry["column"]: entry for entry in record.results["chosen"]}
    # per standard deviation of a number, and of one level against the other
    assert effects["dose"]["effect"] == pytest.approx(-1.5, abs=0.3)
    assert effects["sex"]["kind"] == "category"
    assert effects["sex"]["effect"] == pytest.approx(2.0, abs=0.4)
    assert [e["name"] for e in effects["sex"]["effects"]] == ["sex=m"]
    assert [e["name"] for e in effects["age"]["effects"]] == ["age", "age (missing)"]


def test_the_answer_is_that_of_the_estimator(table):
    from vitalfew.estimators import SparseRegressor
    from vitalfew.study._folds import folds_of
    from vitalfew.study._model import TINY_L2
    from vitalfew.study._prepare import prepare
    from vitalfew.study._study import Settings, Study

    given = prepare(_columns(patients()), target="y")
    work = Study(given, Settings(resamples=0, outer_folds=2))
    work.run()
    model = SparseRegressor(
        groups=work.encoder.groups_,
        cv=folds_of(given.outcome, None, 5, np.random.default_rng([0, 1])),
        l2=TINY_L2,
    ).fit(work.X, given.outcome.y)
    np.testing.assert_array_equal(
        np.flatnonzero(model.coef_), np.flatnonzero(work.model.solution.x)
    )
    np.testing.assert_allclose(
        model.predict(work.X), work.model.predict(work.X), rtol=1e-6
    )


def _columns(columns):
    from vitalfew.study._columns import Columns

    return Columns.of(
        {
            name: np.array(v, dtype=object if isinstance(v[0], str) else float)
            for name, v in columns.items()
        }
    )


def test_binary(tmp_path):
    columns = patients(90)
    columns["y"] = [
        "ill" if v > np.median(columns["y"]) else "well" for v in columns["y"]
    ]
    record = study(write_csv(tmp_path / "b.csv", columns), "--target", "y")
    assert record.data["task"] == "binary"
    assert record.data["classes"] == ["ill", "well"]
    assert set(record.results["errors"][0]["metrics"]) == {
        *("log loss", "accuracy", "AUC")
    }
    assert error(record, "chosen columns") < error(record, "no columns")
    # more dose, less y, more often well
    effects = {entry["column"]: entry["effect"] for entry in record.results["chosen"]}
    assert effects["dose"] > 0


def test_multiclass(tmp_path):
    columns = patients(120)
    low, high = np.quantile(columns["y"], [0.3, 0.7])
    columns["y"] = [
        "low" if v < low else "mid" if v < high else "top" for v in columns["y"]
    ]
    path = write_csv(tmp_path / "m.csv", columns)
    record = study(path, "--target", "y", "--n-nonzero", "2")
    assert record.data["task"] == "multiclass"
    entry = record.results["chosen"][0]
    assert entry["effect"] is None
    assert {e["class"] for e in entry["effects"]} == {"low", "mid", "top"}
    assert error(record, "chosen columns") < error(record, "no columns")


def test_counts(tmp_path):
    columns = patients(150)
    rng = np.random.default_rng(1)
    eta = (
        0.9 + 0.8 * np.array(columns["dose"]) + 0.5 * (np.array(columns["sex"]) == "m")
    )
    columns["y"] = rng.poisson(np.exp(eta)).tolist()
    record = study(write_csv(tmp_path / "c.csv", columns), "--target", "y")
    assert record.data["task"] == "count"
    assert "dose" in chosen(record)
    assert record.results["metric"]["name"] == "deviance explained"
    assert error(record, "chosen columns") > 0.2
    assert any("looks like a count" in note for note in record.data["notes"])


def test_survival(tmp_path):
    columns = patients(120)
    rng = np.random.default_rng(1)
    del columns["y"]
    life = rng.exponential(np.exp(-1.2 * np.array(columns["dose"])))
    limit = rng.exponential(2.0, 120)
    columns["days"] = (np.minimum(life, limit) + 0.001).round(4).tolist()
    columns["status"] = np.where(life <= limit, "dead", "alive").tolist()
    path = write_csv(tmp_path / "s.csv", columns)
    record = study(path, "--time", "days", "--event", "status", "--criterion", "ebic")
    assert record.data["task"] == "survival"
    assert chosen(record)[0] == "dose"
    assert record.results["metric"]["name"] == "concordance"
    assert error(record, "chosen columns") > 0.6
    assert error(record, "no columns") == 0.5
    assert record.results["intercept"] is None


def test_a_few_whole_numbers_are_numbers_and_it_says_so(tmp_path):
    columns = patients()
    columns["y"] = np.clip(np.round(columns["y"]), 4, 7).astype(int).tolist()
    path = write_csv(tmp_path / "o.csv", columns)
    record = study(path, "--target", "y", "--n-nonzero", "1")
    assert record.data["task"] == "regression"
    assert any("--task ordered" in note for note in record.data["notes"])
    record = study(path, "--target", "y", "--n-nonzero", "1", "--task", "ordered")
    assert record.data["task"] == "ordered"
    assert record.data["classes"] == ["4", "5", "6", "7"]


LABELS = ["poor", "fair", "good", "very, very good"]  # ascending would be f, g, p, v


def graded(n=160):
    """The patients with four ordered labels that age, sex and dose decide."""
    columns = patients(n)
    y = np.array(columns["y"])
    grade = np.digitize(y, np.quantile(y, [0.2, 0.5, 0.8]))
    columns["y"] = [LABELS[g] for g in grade]
    return columns


def check_graded(record):
    assert record.data["task"] == "ordered"
    assert record.data["classes"] == LABELS
    assert record.settings["loss"] == "Ordinal"
    assert {"dose", "age"} <= set(chosen(record))
    effects = {entry["column"]: entry["effect"] for entry in record.results["chosen"]}
    assert effects["dose"] < 0 < effects["age"]
    assert np.all(np.diff(record.results["intercept"]) > 0)
    metrics = record.results["errors"][0]["metrics"]
    assert list(metrics) == ["log loss", "accuracy", "classes off", "weighted kappa"]
    assert error(record, "chosen columns") < 0.8 * error(record, "no columns")
    # without columns every class has its share
    shares = np.array([0.2, 0.3, 0.3, 0.2])
    entropy = -np.sum(shares * np.log(shares))
    assert error(record, "no columns") == pytest.approx(entropy, abs=0.02)
    assert error(record, "all columns") < error(record, "no columns")
    assert metrics["weighted kappa"]["mean"] > 0.6
    assert 0 < metrics["classes off"]["mean"] < 0.6


def test_labels_in_a_given_order(tmp_path):
    path = write_csv(tmp_path / "o.csv", graded())
    order = 'poor,fair, good ,"very, very good"'
    record = study(path, "--target", "y", "--order", order)
    check_graded(record)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "ordered classes" in page
    assert "the lowest first" in page
    quick = ("--resamples", "0", "--n-nonzero", "2", "--out", tmp_path / "again")
    result = run("select", path, "--target", "y", "--order", order, *quick)
    assert "ordered classes" in " ".join(result.stdout.split())
    message, hint = fails("select", path, "--target", "y", "--task", "ordered")
    assert "no known order" in message
    assert "--order low,medium,high" in hint


def test_an_ordered_dictionary_of_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = graded()
    codes = pa.array([LABELS.index(v) + 1 for v in columns["y"]], pa.int8())
    labels = pa.array(["never", *LABELS])
    table = pa.table(columns)
    at = table.column_names.index("y")
    for ordered in (True, False):
        y = pa.DictionaryArray.from_arrays(codes, labels, ordered=ordered)
        path = tmp_path / "o.parquet"
        parquet.write_table(table.set_column(at, "y", y), path)
        if ordered:
            check_graded(study(path, "--target", "y", "--criterion", "bic"))
        else:
            record = study(path, "--target", "y", "--n-nonzero", "2")
            assert record.data["task"] == "multiclass"


def test_orders_that_do_not_fit(tmp_path):
    path = write_csv(tmp_path / "o.csv", graded())
    for order, words in {
        "poor,fair,good": "does not name 'very, very good'",
        "poor": "at least two",
        "poor,fair,poor": "names 'poor' twice",
        "": "at least two",
    }.items():
        message, _ = fails("select", path, "--target", "y", "--order", order)
        assert words in message
    asked = ("--target", "y", "--order", "poor,fair", "--task", "binary")
    assert "--task ordered" in fails("select", path, *asked)[0]
    asked = ("--time", "age", "--event", "sex", "--order", "poor,fair")
    assert "--order" in fails("select", path, *asked)[0]


def test_two_ordered_labels_are_a_binary_target(tmp_path):
    columns = graded()
    columns["y"] = ["low" if v in LABELS[:2] else "high" for v in columns["y"]]
    path = write_csv(tmp_path / "b.csv", columns)
    asked = ("--target", "y", "--order", "low,high,higher", "--n-nonzero", "3")
    record = study(path, *asked)
    assert record.data["task"] == "binary"
    assert record.data["classes"] == ["low", "high"]
    assert any("no row has a y of higher" in note for note in record.data["notes"])
    effects = {entry["column"]: entry["effect"] for entry in record.results["chosen"]}
    assert effects["dose"] < 0


def test_no_column_helps(tmp_path, rng):
    columns = {f"x{i}": rng.normal(size=60).tolist() for i in range(5)}
    columns["y"] = rng.normal(size=60).tolist()
    record = study(write_csv(tmp_path / "n.csv", columns), "--target", "y")
    assert record.results["n_chosen"] == 0
    assert record.results["path"][0]["n_columns"] == 0


def test_near_ties_are_named(tmp_path, rng):
    x = rng.normal(size=100)
    columns = {
        "copy": (x + 0.05 * rng.normal(size=100)).tolist(),
        "x": x.tolist(),
        "far": rng.normal(size=100).tolist(),
        "y": (x + 0.1 * rng.normal(size=100)).tolist(),
    }
    record = study(write_csv(tmp_path / "t.csv", columns), "--target", "y")
    (entry,) = record.results["chosen"]
    (tie,) = entry["near_ties"]
    assert (entry["column"], tie["column"]) == ("x", "copy")
    # what the copy would cost, from the residuals themselves
    y = np.array(columns["y"])
    design = [np.column_stack((np.ones(100), columns[c])) for c in ("x", "copy")]
    errors = [np.linalg.lstsq(A, y, rcond=None)[1].item() for A in design]
    assert tie["loss_increase"] == pytest.approx(errors[1] / errors[0] - 1, rel=1e-3)
    assert tie["correlation"] == pytest.approx(np.corrcoef(x, columns["copy"])[0, 1])


def test_groups_are_chosen_together(table):
    for text in (
        "column,group\nage,body\nnoise,body\n",
        '{"age": "body", "noise": "body"}',
    ):
        groups = table.parent / "groups"
        groups.write_text(text)
        record = study(table, "--target", "y", "--groups", groups, "--n-nonzero", "3")
        assert set(chosen(record)) == {"body", "sex", "dose"}
        (body,) = [e for e in record.results["chosen"] if e["column"] == "body"]
        assert body["kind"] == "group"
        assert len(body["effects"]) == 3  # age, whether it is missing, noise


def test_blocks_stay_together(table):
    record = study(table, "--target", "y", "--split-by", "hospital")
    assert record.settings["split_by"] == "hospital"
    assert "hospital" not in [c for e in record.results["path"] for c in e["columns"]]
    assert "dose" in chosen(record)


def test_blocks_are_never_split(rng):
    from vitalfew.study._folds import folds_of, half_of
    from vitalfew.study._outcome import Outcome

    blocks = rng.integers(0, 9, 100)
    for classes in (None, ("a", "b")):
        y = rng.integers(0, 2, 100).astype(float)
        outcome = Outcome("binary" if classes else "regression", "y", y, None, classes)
        folds = folds_of(outcome, blocks, 5, rng)
        assert len(folds) == 5
        for train, test in folds:
            assert not set(blocks[train]) & set(blocks[test])
        half = half_of(outcome, blocks, rng)
        outside = np.setdiff1d(np.arange(100), half)
        assert not set(blocks[half]) & set(blocks[outside])


def test_options_reach_the_record(table):
    record = study(
        table,
        *("--target", "y", "--n-nonzero", "2", "--solver", "omp", "--seed", "5"),
        *("--drop", "noise", "--drop", "ward"),
    )
    assert record.results["n_chosen"] == 2
    assert record.settings["solver"] == "OMP"
    assert record.settings["seed"] == 5
    assert record.settings["n_nonzero"] == 2
    assert record.data["n_columns"] == 9
    assert {"noise", "ward"}.isdisjoint(c["name"] for c in record.data["columns"])


def test_rows_without_a_target_are_left_out(tmp_path):
    columns = patients()
    columns["y"][3] = columns["y"][9] = None
    record = study(write_csv(tmp_path / "p.csv", columns), "--target", "y")
    assert (record.data["n_rows"], record.data["n_rows_used"]) == (80, 78)
    assert any("2 rows without y" in note for note in record.data["notes"])


def test_json_is_all_that_stdout_holds(table):
    out = table.parent / "out"
    result = run("select", table, "--target", "y", "--json", "--out", out)
    assert result.exit_code == 0
    record = RunRecord.from_json(result.stdout)
    written = RunRecord.from_json((out / "result.json").read_text(encoding="utf-8"))
    assert record == written


def test_quiet_leaves_stderr_empty(table):
    out = table.parent / "out"
    result = run("select", table, "--target", "y", "--quiet", "--out", out)
    assert result.stderr == ""
    assert "dose" in result.stdout


def test_the_same_seed_gives_the_same_bytes(table):
    texts = []
    for _ in range(2):
        study(table, "--target", "y", "--seed", "3")
        text = (table.parent / "out" / "result.json").read_text(encoding="utf-8")
        text = re.sub(r'"created": "[^"]*"', '"created": ""', text)
        texts.append(re.sub(r'"seconds": [0-9.e-]+', '"seconds": 0', text))
    assert texts[0] == texts[1]


def test_a_time_limit_cuts_short_and_says_what(table):
    # 1 where the clock stopped the choice itself, which a slow machine decides
    record = study(table, "--target", "y", "--seconds", "0.05", code=(0, 1))
    assert record.results["cut_short"]
    assert record.settings["seconds"] == 0.05


# -- leaks and row numbers -------------------------------------------------------------


@pytest.mark.parametrize(
    "leak",
    [
        lambda y: y,
        lambda y: -3 * y + 7,
        np.exp,
        lambda y: y + 1e-4 * np.sin(1000 * y),
    ],
    ids=["equal", "affine", "monotone", "nearly"],
)
def test_a_column_that_repeats_the_target_is_refused(tmp_path, leak):
    columns = patients()
    columns["answer"] = leak(np.array(columns["y"])).tolist()
    path = write_csv(tmp_path / "l.csv", columns)
    message, hint = fails("select", path, "--target", "y")
    assert "'answer'" in message
    assert hint == "hint: use `--drop answer`"
    assert "dose" in chosen(study(path, "--target", "y", "--drop", "answer"))


def test_a_category_that_determines_the_class_is_refused(tmp_path):
    columns = patients()
    columns["y"] = ["ill" if v > 5 else "well" for v in columns["y"]]
    columns["code"] = [{"ill": "I", "well": "W"}[v] for v in columns["y"]]
    path = write_csv(tmp_path / "l.csv", columns)
    message, _ = fails("select", path, "--target", "y")
    assert "'code' determines the target y exactly" in message


@pytest.mark.parametrize("kind", ["ascending", "shuffled", "text"])
def test_row_numbers_are_dropped(tmp_path, rng, kind):
    columns = patients()
    ids = {
        "ascending": (np.arange(80) * 3 + 10).tolist(),
        "shuffled": (rng.permutation(80) + 1).tolist(),
        "text": [f"row {i}" for i in rng.permutation(80)],
    }[kind]
    path = write_csv(tmp_path / "i.csv", {"id": ids, **columns})
    record = study(path, "--target", "y")
    assert any("id, patient" in note for note in record.data["notes"])
    assert "id" not in [c for e in record.results["path"] for c in e["columns"]]


# -- bad input -------------------------------------------------------------------------


def replaced(columns, name, at, value):
    columns = {**columns, name: list(columns[name])}
    columns[name][at] = value
    return columns


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        (patients(), ["--target", "z"], "no such column"),
        (patients(), [], "there is no target"),
        (patients(), ["--target", "flat"], "the same value in all 80 rows"),
        (patients(6), ["--target", "y"], "at least 10 rows"),
        (patients(), ["--target", "patient"], "needs at least 4"),
        (patients(), ["--target", "ward", "--task", "regression"], "holds text"),
        (patients(), ["--target", "ward", "--task", "binary"], "binary needs two"),
        (patients(), ["--target", "dose", "--task", "count"], "whole numbers >= 0"),
        (patients(), ["--target", "y", "--task", "guess"], "no such task"),
        (patients(), ["--target", "y", "--solver", "magic"], "no such solver"),
        (patients(), ["--target", "y", "--n-nonzero", "0"], "from 1, or auto"),
        (patients(), ["--target", "y", "--n-nonzero", "-1"], "from 1, or auto"),
        (patients(), ["--target", "y", "--n-nonzero", "99"], "6 columns to choose"),
        (patients(), ["--target", "y", "--seconds", "-1"], "positive"),
        (patients(), ["--target", "y", "--seed", "-1"], "negative"),
        (patients(), ["--target", "y", "--split-by", "flat"], "1 different values"),
        (patients(), ["--target", "y", "--split-by", "y"], "what is to be predicted"),
        (patients(), ["--target", "y", "--n-nonzero", "9" * 5000], "--n-nonzero 99"),
        (patients(), ["--time", "age", "--event", "age"], "both name age"),
        (patients(), ["--target", "y", "--time", "age"], "--time and --event"),
        (patients(), ["--time", "age", "--event", "ward"], "3 levels"),
        (patients(), ["--time", "age", "--event", "sex"], "not clear which"),
        (patients(), ["--time", "ward", "--event", "sex"], "holds text"),
        (patients(), ["--time", "dose", "--event", "flat"], "positive and finite"),
        (patients(), ["--time", "age", "--event", "hospital"], "must hold 0 and 1"),
        (
            replaced(patients(), "y", 4, "inf"),
            ["--target", "y"],
            "infinite in row 5",
        ),
        (
            replaced(patients(), "dose", 4, "-inf"),
            ["--target", "y"],
            "'dose' must not hold infinities, but row 5",
        ),
        (
            replaced(patients(), "dose", 4, "-1e200"),
            ["--target", "y"],
            "'dose' must not hold numbers beyond 1e+150",
        ),
        (
            replaced(patients(), "y", 4, "1e300"),
            ["--target", "y"],
            "squares of such numbers",
        ),
        (
            {**patients(), "y": [v * 1e-200 for v in patients()["y"]]},
            ["--target", "y"],
            "squares of such numbers",
        ),
        (
            {**patients(), "y": [0] * 77 + [3, 5, 9]},
            ["--target", "y", "--task", "count"],
            "more than 0 in 3 rows",
        ),
        (
            # all events are in one block
            {
                **patients(),
                "died": [1] * 10 + [0] * 70,
                "days": range(1, 81),
                "site": [0] * 10 + [1 + i % 4 for i in range(70)],
            },
            ["--time", "days", "--event", "died", "--split-by", "site"],
            "cannot be split",
        ),
        (
            {"a": [1] * 20, "b": [None] * 20, "y": list(np.sin(range(20)))},
            ["--target", "y"],
            "none of the 2 columns can be used",
        ),
        (
            {"id": list(range(20)), "y": list(np.sin(range(20)))},
            ["--target", "y"],
            "only columns are row numbers",
        ),
    ],
)
def test_bad_input(tmp_path, columns, options, said):
    path = write_csv(tmp_path / "bad.csv", columns)
    out = tmp_path / "out"
    message, _ = fails("select", path, *options, "--out", out)
    assert said in message
    assert not out.exists()


def test_an_event_must_happen(tmp_path):
    columns = {**patients(), "died": [0] * 80}
    path = write_csv(tmp_path / "e.csv", columns)
    message, _ = fails("select", path, "--time", "age", "--event", "died")
    assert "happened in 0 of" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("column,group\nage,a\nagee,a\n", "no such column"),
        ("column,group\ny,a\n", "no feature"),
        ("column,group\nage,dose\n", "names a group and also a column"),
        ("column,group\nage,a\nage,b\n", "twice"),
        ("age,a\n", "first line"),
        ("column,group\nage\n", "line 2"),
        ('{"age": ', "no JSON"),
        ('{"age": ' * 100_000, "no JSON"),
        ('{"age": ' + "9" * 5000 + "}", "no JSON"),
        ('{"age": true}', "no object"),
        ('{"age": "a", "age": "b"}', "twice"),
        ("column,group\nage,\n", "has no group"),
        ("column,group\nage,\x00\n", "binary"),
        ("[1]", "no object"),
    ],
)
def test_bad_groups(table, text, said):
    groups = table.parent / "groups.csv"
    groups.write_text(text)
    message, _ = fails("select", table, "--target", "y", "--groups", groups)
    assert said in message


def test_groups_with_a_cell_that_csv_refuses(tmp_path):
    from vitalfew.cli._groups import read_groups
    from vitalfew.exceptions import DataError

    (tmp_path / "groups.csv").write_text("column,group\nage," + "x" * 200_000)
    before = csv.field_size_limit(131_072)  # what it is until a table was read
    try:
        with pytest.raises(DataError, match="field larger"):
            read_groups(tmp_path / "groups.csv")
    finally:
        csv.field_size_limit(before)


def test_a_result_is_never_overwritten_unasked(table):
    study(table, "--target", "y")
    out = table.parent / "out"
    before = (out / "result.json").read_bytes()
    message, hint = fails("select", table, "--target", "y", "--out", out)
    assert "already holds result.json and report.html" in message
    assert "--overwrite" in hint
    assert (out / "result.json").read_bytes() == before


def test_a_result_that_came_meanwhile_is_not_replaced(table):
    """Two runs into one folder: both saw it empty, and one was first."""
    from vitalfew.cli._folder import claimed, write
    from vitalfew.exceptions import DataError

    out = table.parent / "out"
    record = RunRecord(kind="select", created="now", data={"source": "second"})
    with claimed(out, overwrite=False):
        study(table, "--target", "y")
        before = (out / "result.json").read_bytes()
        with pytest.raises(DataError, match="already holds"):
            write(record, out, overwrite=False)
    assert (out / "result.json").read_bytes() == before
    assert len(list(out.iterdir())) == 2


@pytest.mark.parametrize("name", ["result.json", "report.html"])
def test_what_cannot_be_replaced_is_told_before_the_work(table, name):
    out = table.parent / "out"
    (out / name).mkdir(parents=True)
    message, _ = fails("select", table, "--target", "y", "--out", out, "--overwrite")
    assert f"{name} is a folder" in message
    (out / name).rmdir()
    (out / name).symlink_to(out / "nowhere")
    message, _ = fails("select", table, "--target", "y", "--out", out)
    assert f"already holds {name}" in message
    assert (out / name).is_symlink()


def test_a_record_is_not_lost_with_its_report(table, monkeypatch):
    import vitalfew.report

    def fail(record):
        raise RuntimeError("a fault of the report")

    monkeypatch.setattr(vitalfew.report, "render", fail)
    out = table.parent / "out"
    result = run("select", table, "--target", "y", "--out", out, "--resamples", "1")
    assert result.exit_code == 2
    RunRecord.from_json((out / "result.json").read_text(encoding="utf-8"))


def test_a_name_that_is_too_long(table):
    out = table.parent / ("x" * 300)
    message, hint = fails("select", table, "--target", "y", "--out", out)
    assert "nothing can be written" in message
    assert "--out" in hint


# -- names that would do harm ----------------------------------------------------------


def test_names_cannot_command_the_terminal(tmp_path):
    columns = patients()
    columns["\x1b]0;x\x07\x1b[2Jdose\u202e"] = columns.pop("dose")
    columns["flat\nerror: forged"] = columns.pop("flat")
    path = write_csv(tmp_path / "e.csv", columns)
    options = ("--n-nonzero", "3", "--resamples", "1", "--out", tmp_path / "out")
    result = run("select", path, "--target", "y", *options)
    assert result.exit_code == 0
    message, _ = fails("select", path, "--target", "\x1b[2Jdose")
    for text in (result.output, message):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    assert "\nerror: forged" not in result.output
    assert "dose" in result.stdout
    record = RunRecord.from_json((tmp_path / "out" / "result.json").read_text("utf-8"))
    assert any("\x1b" in column for column in chosen(record))  # the data are as given


def test_errors_beyond_all_measure_are_printed():
    from vitalfew.cli._tables import _spread
    from vitalfew.study._scores import summary

    found = summary([{"R2": -1e300}, {"R2": 1.0}, {"R2": np.nan}])["R2"]
    assert found["sd"] is None
    assert _spread(found) == "-5e+299"
    assert summary([{"R2": np.inf}])["R2"]["mean"] is None
    assert _spread({"mean": 1e250, "sd": 1e249}) == "1e+250 ± 1e+249"


def test_messages_stay_short(tmp_path):
    path = write_csv(tmp_path / "l.csv", {"n" * 1_000_000: [1] * 20, "y": range(20)})
    message, hint = fails("select", path, "--target", "z")
    assert len(message) + len(hint) < 5000


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes there")
def test_a_file_whose_name_is_no_text(table):
    path = os.fsencode(table.parent) + b"/caf\xe9.csv"
    os.link(table, path)
    record = study(type(table)(os.fsdecode(path)), "--target", "y")
    assert record.data["source"].endswith("caf\udce9.csv")


# -- streams that fail -----------------------------------------------------------------


BRIEFLY = ("--n-nonzero", "3", "--resamples", "1")


def streams(table, *options, **arguments):
    code = subprocess.run(
        [*COMMAND, "select", table, "--target", "y", *BRIEFLY, *options],
        **arguments,
        stderr=subprocess.PIPE,
        cwd=table.parent,
    )
    assert b"Traceback" not in code.stderr
    assert (table.parent / "vitalfew-patients" / "report.html").exists()
    return code


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_characters_that_stdout_does_not_know(tmp_path, options):
    columns = patients()
    columns["d\u00f6s\u4e2d"] = columns.pop("dose")
    table = write_csv(tmp_path / "patients.csv", columns)
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = streams(table, *options, env=env, stdout=subprocess.PIPE)
    assert done.returncode == 0
    if options:
        json.loads(done.stdout.decode("ascii"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_stdout_that_is_full(table):
    with open("/dev/full", "wb") as full:
        done = streams(table, stdout=full)
    assert done.returncode == 2
    assert b"error: nothing can be printed" in done.stderr


def test_the_default_folder_is_named_after_the_table(table, monkeypatch):
    monkeypatch.chdir(table.parent)
    result = run("select", "patients.csv", "--target", "y", "--resamples", "1")
    assert result.exit_code == 0
    assert (table.parent / "vitalfew-patients" / "result.json").exists()


def test_a_folder_that_cannot_be_made_is_told_before_the_work(table):
    file = table.parent / "file"
    file.write_text("")
    begun = time.perf_counter()
    message, hint = fails("select", table, "--target", "y", "--out", file / "out")
    assert time.perf_counter() - begun < 1.0
    assert "nothing can be written" in message
    assert "--out" in hint


@pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="root writes anywhere"
)
def test_a_read_only_folder(table):
    out = table.parent / "out"
    out.mkdir(mode=0o500)
    message, _ = fails("select", table, "--target", "y", "--out", out)
    assert "nothing can be written" in message


def test_a_full_disk(table, monkeypatch):
    from vitalfew.cli import _folder

    out = table.parent / "out"

    def full(texts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_folder, "write_together", full)
    result = run("select", table, "--target", "y", "--out", out, "--resamples", "1")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("hint: ")
    assert "dose" in result.stdout  # the answer is not lost
    assert not out.exists()


def test_little_space_is_told_before_the_work(table, monkeypatch):
    from vitalfew.cli import _folder

    monkeypatch.setattr(_folder, "LEAST_SPACE", 1 << 62)
    message, _ = fails("select", table, "--target", "y", "--out", table.parent / "o")
    assert "is full" in message
    assert not (table.parent / "o").exists()


# -- the rest of the command line ------------------------------------------------------


def test_solvers_are_those_of_the_library():
    result = run("solvers", "--json")
    assert result.exit_code == 0
    assert [entry["name"] for entry in json.loads(result.stdout)] == solvers.__all__
    for name in solvers.__all__:
        assert name in run("solvers").stdout


def test_version():
    import vitalfew

    assert run("--version").stdout.strip() == f"vitalfew {vitalfew.__version__}"


@pytest.mark.parametrize(
    "arguments", [["selct"], ["select"], ["select", "a.csv", "--targt", "x"]]
)
def test_misuse(arguments):
    message, _ = fails(*arguments)
    assert "Traceback" not in message


def test_no_command_shows_help():
    result = run()
    assert result.exit_code == 2
    assert "select" in result.stderr


# -- real processes --------------------------------------------------------------------


def spawn(*arguments, **options):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture
def long_study(tmp_path, rng):
    """A study that takes a while once its answer is there."""
    X = rng.normal(size=(400, 300))
    columns = {f"x{i}": X[:, i].round(3).tolist() for i in range(300)}
    columns["y"] = (X[:, :40].sum(axis=1) + rng.normal(size=400)).round(3).tolist()
    return write_csv(tmp_path / "long.csv", columns)


def until(process, said):
    """Read stderr until something is said."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if said in line:
            return lines
    raise AssertionError(f"{said!r} was never said: {''.join(lines)}")


def test_a_process(table):
    process = spawn("select", table, "--target", "y", "--out", table.parent / "out")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "dose" in stdout
    assert "\x1b" not in stdout + stderr  # no colours without a terminal
    assert "wrote" in stderr


def test_ctrl_c_after_an_answer_keeps_it(long_study):
    out = long_study.parent / "out"
    process = spawn("select", long_study, "--target", "y", "--out", out)
    until(process, "there is an answer")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    assert "Traceback" not in stderr
    record = RunRecord.from_json((out / "result.json").read_text(encoding="utf-8"))
    check_shape(record)
    assert record.results["interrupted"]
    assert record.results["n_chosen"] >= 30
    assert record.results["cut_short"]
    assert (out / "report.html").exists()
    assert "x0" in stdout


def test_an_impatient_ctrl_c_costs_nothing(long_study):
    out = long_study.parent / "out"
    process = spawn("select", long_study, "--target", "y", "--out", out)
    until(process, "there is an answer")
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    assert "Traceback" not in stderr
    assert "x0" in stdout
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "result.json"]


def test_ctrl_c_during_the_judgement_keeps_what_there_is(long_study):
    out = long_study.parent / "out"
    process = spawn(
        *("select", long_study, "--target", "y", "--out", out, "--n-nonzero", "40"),
        *("--resamples", "2"),
    )
    until(process, "repeating everything")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    record = RunRecord.from_json((out / "result.json").read_text(encoding="utf-8"))
    assert record.results["interrupted"]
    assert any("errors" in what for what in record.results["cut_short"])
    assert record.results["chosen"][0]["stability"] is not None


def test_ctrl_c_before_an_answer_writes_nothing(long_study):
    out = long_study.parent / "out"
    process = spawn("select", long_study, "--target", "y", "--out", out)
    until(process, "choosing columns")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    # quick as it was, a first column may have been chosen
    assert process.returncode == 1
    assert "Traceback" not in stderr
    if not out.exists():
        assert "nothing was written" in stderr


def test_kill_leaves_no_partial_file(long_study):
    out = long_study.parent / "out"
    process = spawn("select", long_study, "--target", "y", "--out", out)
    until(process, "there is an answer")
    process.kill()
    process.communicate(timeout=60)
    assert not (out / "result.json").exists()
    assert not (out / "report.html").exists()


def test_kill_while_writing_leaves_no_partial_file(tmp_path):
    """Killed at any moment of the writing, a file is whole or not there."""
    code = (
        "import sys; from pathlib import Path; from vitalfew.records import *\n"
        "from vitalfew._disk import write_atomically\n"
        "record = RunRecord(kind='x', created='now', data={'a': list(range(200000))})\n"
        "text = record.to_json()\n"
        "print('ready', flush=True)\n"
        "while True: write_atomically(Path(sys.argv[1]) / 'result.json', text)\n"
    )
    for wait in (0.01, 0.03, 0.08):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
        )
        process.stdout.readline()
        time.sleep(wait)
        process.kill()
        process.communicate(timeout=60)
        written = tmp_path / "result.json"
        if written.exists():
            RunRecord.from_json(written.read_text(encoding="utf-8"))


def test_a_missing_extra_names_the_line_that_installs_it(table):
    code = (
        "import sys\n"
        "sys.modules['typer'] = None\n"
        "from vitalfew.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "hint: pip install 'vitalfew[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


# -- real tables -----------------------------------------------------------------------


@NEEDS_DATA
def test_riboflavin_as_csv(tmp_path):
    data = datasets.load("riboflavin").arrays
    names = [str(name) for name in data["feature_names"]]
    columns = dict(zip(names, data["X"].astype(float).T.tolist(), strict=True))
    columns["production"] = data["y"].astype(float).tolist()
    path = write_csv(tmp_path / "riboflavin.csv", columns)
    record = study(path, "--target", "production", "--n-nonzero", "5")
    assert record.data["n_features"] == 4088
    assert record.results["n_chosen"] == 5
    assert error(record, "chosen columns") > error(record, "no columns")
    assert error(record, "all columns") > 0.4
    # genes of one operon stand in for one another
    assert any(
        tie["correlation"] > 0.9
        for entry in record.results["chosen"]
        for tie in entry["near_ties"]
    )


@NEEDS_DATA
def test_communities_and_crime_as_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = datasets.load("communities_crime").columns
    table = pa.table(
        {name: pa.array(v, from_pandas=True) for name, v in columns.items()}
    )
    state = table.column_names.index("state")
    table = table.set_column(state, "state", table["state"].cast(pa.string()))
    path = tmp_path / "crime.parquet"
    pq.write_table(table, path)
    record = study(path, "--target", "ViolentCrimesPerPop", "--drop", "fold")
    assert record.data["n_rows"] == 1994
    kinds = {c["name"]: c for c in record.data["columns"]}
    assert kinds["county"]["missing"] > 1000
    assert any("communityname" in note for note in record.data["notes"])
    assert error(record, "chosen columns") > 0.55
    assert error(record, "all columns") > 0.55
    assert record.results["n_chosen"] <= 30


@NEEDS_DATA
def test_prostate_as_csv_with_gaps_and_categories(tmp_path, rng):
    data = datasets.load("prostate_ge").arrays
    X = data["X"].astype(float)[:, ::3].round(4)
    X[rng.random(X.shape) < 0.02] = np.nan
    columns = {f"gene {i}": X[:, i].tolist() for i in range(X.shape[1])}
    columns["laboratory"] = rng.choice(["Boston", "Basel", "Kyoto"], len(X)).tolist()
    columns["tissue"] = np.where(data["y"] == 1, "tumour", "normal").tolist()
    path = write_csv(tmp_path / "prostate.csv", columns, delimiter=";")
    record = study(path, "--target", "tissue", "--n-nonzero", "4")
    assert record.data["task"] == "binary"
    assert record.data["n_features"] == X.shape[1] + 1
    # four genes judge some rows with too much confidence, which log loss punishes
    metrics = record.results["errors"][0]["metrics"]
    assert metrics["accuracy"]["mean"] > 0.8
    assert metrics["AUC"]["mean"] > 0.8
