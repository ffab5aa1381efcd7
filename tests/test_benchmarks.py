"""The benchmarks: their file of runs, their judge, our side of them, their pages."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import Lasso

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # they are not installed

from benchmarks import _problems, _scores, solvers  # noqa: E402
from benchmarks import _solvers_report as report  # noqa: E402
from benchmarks._ours import OURS  # noqa: E402
from benchmarks._rivals import RIVALS, enough, strengths, walk  # noqa: E402
from benchmarks._runs import Results, Skipped, carry_out  # noqa: E402
from benchmarks.papers import logistic, sequential_lasso, sparsity  # noqa: E402

pytest.importorskip("matplotlib")

MACHINE = {"cpu": "one", "cores": 1, "system": "s", "python": "3", "versions": {}}


# -- the file of runs ------------------------------------------------------------------


def test_a_line_cut_short_is_run_again(tmp_path):
    file = tmp_path / "runs.jsonl"
    results = Results(file, MACHINE)
    cells = [{"n": n} for n in range(4)]
    carry_out(cells[:2], lambda cell: {"square": cell["n"] ** 2}, results, 1)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"cell": {"n": 2}, "squ')

    asked = []

    def run(cell):
        asked.append(cell["n"])
        return {"square": cell["n"] ** 2}

    again = Results(file, MACHINE)
    assert file.read_bytes() == whole
    assert carry_out(cells, run, again, 1) == 0
    assert asked == [2, 3]
    assert [row["square"] for row in Results(file, MACHINE).rows] == [0, 1, 4, 9]


def test_another_machine_is_told_before_its_runs(tmp_path):
    file = tmp_path / "runs.jsonl"
    Results(file, MACHINE).add({"n": 0}, {})
    second = Results(file, {**MACHINE, "cpu": "two"})
    second.add({"n": 1}, {})
    second.add({"n": 2}, {})
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    told = [line["machine"]["cpu"] for line in lines if "machine" in line]
    assert told == ["one", "two"]
    assert [("machine" in line) for line in lines] == [True, False, True, False, False]


def test_skipped_runs_are_not_recorded_and_do_not_stop_the_rest(tmp_path, capsys):
    def run(cell):
        if cell["n"] % 2:
            raise Skipped("odd")
        return {}

    results = Results(tmp_path / "runs.jsonl", MACHINE)
    left = carry_out([{"n": n} for n in range(5)], run, results, 1)
    assert left == 0
    assert [row["cell"]["n"] for row in results.rows] == [0, 2, 4]
    assert capsys.readouterr().err.count("skipped: odd") == 1


def test_no_run_begins_after_the_budget(tmp_path):
    results = Results(tmp_path / "runs.jsonl", MACHINE)
    assert carry_out([{"n": 0}, {"n": 1}], lambda cell: {}, results, 0) == 2
    assert results.rows == []


def test_the_machine_is_told_without_names_or_paths(tmp_path):
    results = Results(tmp_path / "runs.jsonl")
    results.add({"n": 0}, {})
    text = (tmp_path / "runs.jsonl").read_text()
    for secret in (socket.gethostname(), str(ROOT), str(Path.home()), str(tmp_path)):
        assert secret not in text or len(secret) < 3
    assert results.machines[0]["versions"]["numpy"] == np.__version__


def test_memory_counts_what_is_written():
    # in a process of its own: here earlier tests' memory may be given back meanwhile
    script = (
        "import numpy as np; from benchmarks._runs import Memory; memory = Memory(); "
        "block = np.ones(5_000_000); print(int(memory.can_reset), memory.grown())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    can_reset, grown = done.stdout.split()
    if can_reset == "1":
        assert 38 <= float(grown) <= 60


# -- the judge -------------------------------------------------------------------------


def _toy(loss: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((80, 4))
    e = X @ np.array([1.0, -1.0, 0.5, 0.0])
    if loss == "logistic":
        return X, (rng.uniform(size=80) < 1 / (1 + np.exp(-e))).astype(float)
    if loss == "cox":
        life, censored = rng.exponential(np.exp(-e)), rng.exponential(2.0, 80)
        return X, np.column_stack([np.minimum(life, censored), life <= censored])
    return X, e + rng.standard_t(2, 80)


@pytest.mark.parametrize("loss", ["squares", "logistic", "huber", "cox"])
def test_refits_end_where_a_general_optimiser_does(loss):
    X, y = _toy(loss)
    coef = _scores.refit(loss, X, y)
    found = minimize(
        lambda b: _scores.loss_at(loss, X @ b, y), np.zeros(4), options={"gtol": 1e-9}
    )
    assert _scores.loss_at(loss, X @ coef, y) <= found.fun + 1e-9
    np.testing.assert_allclose(coef, found.x, atol=1e-4)


def test_the_cox_loss_is_the_sum_over_events_of_who_was_at_risk():
    X, y = _toy("cox")
    e, time_, event = X[:, 0], y[:, 0], y[:, 1]
    total = 0.0
    for i in np.flatnonzero(event):
        at_risk = time_ >= time_[i]
        total += np.log(np.exp(e[at_risk]).sum()) - e[i]
    assert _scores.loss_at("cox", e, y) == pytest.approx(total / len(e), rel=1e-12)


def test_judging_keeps_the_largest_groups_and_refits_them():
    rng = np.random.default_rng(0)
    X, noise = rng.standard_normal((60, 6)), rng.standard_normal(60)
    truth = np.array([0, 0, 1.0, 2.0, 0, 0])
    y = X @ truth + 0.01 * noise
    data = {"X": X, "y": y, "X_test": X, "y_test": y, "coef": truth}
    data |= {"loss": "squares", "k": 1, "group_size": 2}
    found = _scores.judge(data, np.array([0.3, 0, 0.1, 0.4, 0, 0]))
    inside = np.linalg.lstsq(X[:, 2:4], y)[0]
    expected = 0.5 * np.mean((y - X[:, 2:4] @ inside) ** 2)
    assert (found["kept"], found["hits"], found["nonzeros"]) == (1, 1, 3)
    assert found["train"] == pytest.approx(expected)
    assert found["test"] == pytest.approx(expected)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
def test_gaps_vanish_at_the_answer_and_bound_what_is_missing(l1_ratio):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((40, 12))
    y = X[:, 0] - X[:, 1] + rng.standard_normal(40)
    data = {"X": X, "y": y, "loss": "squares", "group_size": 1}
    alpha = float(strengths(data, 2, 0.3)[1])

    def value(w):
        r = y - X @ w
        l1, l2 = alpha * l1_ratio, alpha * (1 - l1_ratio)
        return 0.5 * np.mean(r * r) + l1 * np.abs(w).sum() + 0.5 * l2 * w @ w

    from sklearn.linear_model import ElasticNet

    model = ElasticNet(alpha, l1_ratio=l1_ratio, fit_intercept=False, tol=1e-12)
    best = model.fit(X, y).coef_
    half = best / 2
    coefs, alphas = np.column_stack([best, half]), np.array([alpha, alpha])
    gaps = [
        _scores.judge_path(data, coefs[:, [i]], alphas[[i]], l1_ratio)["largest_gap"]
        for i in range(2)
    ]
    zero = 0.5 * np.mean(y * y)
    assert abs(gaps[0]) < 1e-8
    assert gaps[1] >= (value(half) - value(best)) / zero - 1e-10


def test_the_walk_stops_at_the_first_strength_with_k():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((50, 20))
    y = X[:, :5] @ np.ones(5) + rng.standard_normal(50)
    data = {"X": X, "y": y, "loss": "squares", "group_size": 1, "k": 4}
    alphas = strengths(data)

    def at(alpha):
        return Lasso(alpha, fit_intercept=False).fit(X, y).coef_

    counts = [np.count_nonzero(at(alpha)) for alpha in alphas]
    coef = walk(at, alphas, data)
    assert counts[0] == 0
    assert (
        np.count_nonzero(coef) == counts[next(i for i, c in enumerate(counts) if c > 3)]
    )


# -- problems and our drivers ----------------------------------------------------------


@pytest.mark.parametrize("problem", list(_problems.PROBLEMS))
def test_problems_are_saved_and_read_as_they_were_drawn(problem, tmp_path):
    file = _problems.write(problem, tmp_path, toy=True)
    before = file.stat().st_mtime_ns
    assert _problems.write(problem, tmp_path, toy=True).stat().st_mtime_ns == before
    data, test = _problems.load(file), _problems.load_test(file)
    size = _problems.PROBLEMS[problem].toy
    drawn = _problems.PROBLEMS[problem].draw(
        **{**size, "n_samples": 2 * size["n_samples"]}
    )
    X = drawn[0].toarray() if hasattr(drawn[0], "toarray") else drawn[0]
    both = [data["X"], test["X_test"]]
    both = [part.toarray() if hasattr(part, "toarray") else part for part in both]
    np.testing.assert_array_equal(np.vstack(both), X)
    np.testing.assert_array_equal(np.concatenate([data["y"], test["y_test"]]), drawn[1])
    active = np.any(data["coef"].reshape(-1, data["group_size"]) != 0, axis=1)
    assert active.sum() == data["k"]


@pytest.mark.parametrize(("problem", "method"), [(p, m) for p in OURS for m in OURS[p]])
def test_our_drivers_answer(problem, method, tmp_path):
    if method.endswith("Smooth"):
        pytest.importorskip("torch")
    file = _problems.write(problem, tmp_path, toy=True)
    data = _problems.load(file) | _problems.load_test(file)
    found = OURS[problem][method](data, 1)()
    if problem in _problems.PATHS:
        judged = _scores.judge_path(data, *found, _problems.PATHS[problem][1])
        assert -1e-10 < judged["largest_gap"] < 1e-2
        return
    judged = _scores.judge(data, np.asarray(found))
    null = _scores.loss_at(data["loss"], np.zeros(len(data["y"])), data["y"])
    assert judged["kept"] == data["k"]
    assert judged["train"] < 0.95 * null
    if "->k" in method:
        assert enough(np.asarray(found), data)
    else:  # the budget holds for what is returned, not only for what is kept
        assert judged["nonzeros"] <= data["k"] * data["group_size"]


# -- scripts ---------------------------------------------------------------------------


def _options(tmp_path: Path) -> list[str]:
    return [
        "--toy",
        "--results",
        str(tmp_path / "runs.jsonl"),
        "--pages",
        str(tmp_path / "pages"),
    ]


def _whole(file: Path) -> str:
    text = file.read_text()
    return text[: text.rfind("\n") + 1]


def _cells(tmp_path: Path) -> list[str]:
    lines = _whole(tmp_path / "runs.jsonl").splitlines()
    records = [json.loads(line) for line in lines]
    return [json.dumps(r["cell"]) for r in records if "problem" in r.get("cell", {})]


def test_solvers_run_in_processes_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(solvers, "ROUNDS", 1)
    given = [*_options(tmp_path), "--problems", "b", "h", "s", "--threads", "1"]
    assert solvers.main([*given, "--methods", "floor", "vitalfew.OMP"]) == 0
    results = Results(tmp_path / "runs.jsonl", MACHINE)
    rows = {
        (row["cell"]["problem"], row["cell"]["method"]): row
        for row in results.rows
        if "problem" in row["cell"]
    }
    assert [key for key in rows if "error" in rows[key]] == []
    for problem in ("b", "h"):
        row = rows[problem, "vitalfew.OMP"]
        assert len(row["cpu"]) == solvers.REPEATS
        assert row["first_cpu"] > 0
        assert row["kept"] == 3
    assert rows["b", "floor"]["backward_columns"] > 0
    page = (tmp_path / "pages" / "solvers.rst").read_text()
    assert "Problem b" in page
    assert (tmp_path / "pages" / "solvers_loss.svg").stat().st_size > 1000


def test_a_time_out_is_a_row_and_is_not_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(solvers, "ROUNDS", 2)
    given = [*_options(tmp_path), "--problems", "b", "--threads", "1"]
    given += ["--methods", "vitalfew.OMP", "--seconds", "0.01"]
    solvers.main(given)
    results = Results(tmp_path / "runs.jsonl", MACHINE)
    rows = [row for row in results.rows if "problem" in row["cell"]]
    assert [row["error"] for row in rows] == ["stopped after 0.01 s"]
    assert "stopped after" in (tmp_path / "pages" / "solvers.rst").read_text()


def test_a_killed_benchmark_goes_on_where_it_was(tmp_path):
    command = [sys.executable, "-m", "benchmarks.solvers", *_options(tmp_path)]
    command += ["--problems", "b", "--threads", "1", "--methods", "vitalfew.OMP"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    file = tmp_path / "runs.jsonl"
    limit = time.monotonic() + 60
    while time.monotonic() < limit and not (file.exists() and _cells(tmp_path)):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with file.open("a") as stored:
        stored.write('{"cell": {"problem": "b", "me')
    before = _whole(file)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert file.read_text().startswith(before)
    cells = _cells(tmp_path)
    assert len(cells) == len(set(cells)) == solvers.ROUNDS


def test_tiny_runs_do_not_go_among_measured_ones(capsys):
    with pytest.raises(SystemExit):
        solvers.main(["--toy"])
    assert "--toy needs" in capsys.readouterr().err


@pytest.mark.parametrize("script", [sparsity, logistic, sequential_lasso])
def test_experiments_of_the_papers_run_and_are_told(script, tmp_path, monkeypatch):
    monkeypatch.setattr(sparsity, "RHOS", (0.6,))
    monkeypatch.setattr(logistic, "TOY_STEPS", 20)
    assert script.main(_options(tmp_path)) == 0
    stored = (tmp_path / "runs.jsonl").read_text()
    assert script.main(_options(tmp_path)) == 0
    assert (tmp_path / "runs.jsonl").read_text() == stored
    pages = tmp_path / "pages"
    name = script.__name__.split(".")[-1]
    text = (pages / f"{name}.rst").read_text()
    drawn = [line.split()[-1] for line in text.splitlines() if "image::" in line]
    assert drawn
    for figure in drawn:
        assert (pages / figure).stat().st_size > 1000


def test_descents_are_those_of_a_plain_implementation():
    Z = logistic.dense_data(0.05, 4)

    def f(x):
        return np.logaddexp(0, -(Z @ x)).sum()

    def slope(x):
        return -Z.T @ (1 / (1 + np.exp(Z @ x)))

    bound, L = (Z * Z).sum(axis=1).max(), np.linalg.norm(Z, 2) ** 2 / 4
    for rule, size in (
        ("constant", lambda x: 1 / L),
        ("safe", lambda x: 1 / (bound * f(x))),
        ("normalised", lambda x: 0.1 / np.linalg.norm(slope(x))),
    ):
        x, expected = np.zeros(Z.shape[1]), []
        for _ in range(12):
            expected.append(f(x))
            x = x - size(x) * slope(x)
        values, norms = logistic.descend(Z, rule, 11)
        np.testing.assert_allclose(values, expected, rtol=1e-10)
        assert norms[0] == 0.0
    for rule in ("hessian", "armijo"):
        values, _ = logistic.descend(Z, rule, 200)
        assert np.all(np.diff(values) <= 1e-12)
    assert logistic.least(Z) == pytest.approx(
        minimize(f, np.zeros(Z.shape[1]), jac=slope, options={"gtol": 1e-10}).fun
    )
    assert logistic.least(logistic.dense_data(0.0, 4)) == 0.0


def test_real_tables_are_skipped_with_a_reason(monkeypatch):
    from benchmarks.papers import _tables

    monkeypatch.delenv("VITALFEW_DATA", raising=False)
    _tables._table.cache_clear()
    with pytest.raises(Skipped, match="VITALFEW_DATA"):
        _tables.split("riboflavin", 0)


@pytest.mark.skipif("VITALFEW_DATA" not in os.environ, reason="needs VITALFEW_DATA")
@pytest.mark.parametrize("name", ["riboflavin", "communities_crime", "adult"])
def test_real_tables_are_scaled_by_their_training_rows(name):
    from benchmarks.papers import _tables

    _tables._table.cache_clear()
    part = _tables.split(name, 1)
    np.testing.assert_allclose(part.X.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(part.X.std(axis=0), 1, atol=1e-9)
    assert np.isfinite(part.X_test).all()
    share = len(part.y) / (len(part.y) + len(part.y_test))
    assert 0.68 < share < 0.72


# -- pages -----------------------------------------------------------------------------


def _row(method: str, cpu: float, train: float, **more: Any) -> dict[str, Any]:
    judged = {"hits": 2, "test": train, "nonzeros": 2, "kept": 2, "raw": train}
    return {
        "cell": {"problem": "a", "method": method, "threads": 1, "round": 0, **more},
        "cpu": [2 * cpu, cpu],
        "wall": [cpu],
        "first_cpu": 3 * cpu,
        "first_wall": cpu,
        "memory_mb": 1.0,
        "train": train,
        **judged,
    }


def _results(tmp_path: Path, rows: list[dict[str, Any]]) -> Results:
    results = Results(tmp_path / "runs.jsonl", MACHINE)
    for row in rows:
        cell = row.pop("cell")
        results.add(cell, row)
    return results


def test_the_rival_is_the_fastest_with_as_good_an_answer(tmp_path):
    rows = [
        _row("vitalfew", 1.0, 1.005),
        _row("vitalfew.HTP", 0.5, 1.0),
        _row("sklearn.OMP", 0.1, 1.5),  # fast and wrong
        _row("abess", 4.0, 1.009),
        _row("skscope.Scope", 2.0, 1.002),
        _row("skscope.Scope", 5.0, 1.002, round=1),  # a slower round changes nothing
    ]
    results = _results(tmp_path, rows)
    found = report.compare(results, "a")
    assert found.good
    assert found.rival is not None
    assert found.rival.method == "skscope.Scope"
    assert found.ratio == pytest.approx(0.5)
    report.write(results, tmp_path)
    page = (tmp_path / "solvers.rst").read_text()
    assert "takes 1/2.0 of the time of skscope.Scope" in page
    assert page.count("sklearn.OMP") == 1  # in the table of the problem, nowhere else


def test_no_rival_near_the_best_is_said(tmp_path):
    rows = [_row("vitalfew", 1.0, 1.0), _row("abess", 0.1, 1.02)]
    results = _results(tmp_path, rows)
    assert report.compare(results, "a").rival is None
    report.write(results, tmp_path)
    assert "no rival comes near it" in (tmp_path / "solvers.rst").read_text()


def test_a_default_that_is_beaten_is_told_so(tmp_path):
    rows = [_row("vitalfew", 1.0, 1.1), _row("abess", 0.1, 1.0)]
    results = _results(tmp_path, rows)
    found = report.compare(results, "a")
    assert not found.good
    report.write(results, tmp_path)
    page = (tmp_path / "solvers.rst").read_text()
    assert "ends 10 % above the best loss" in page
    assert "10 times as long as abess" in page


def test_every_method_has_a_library_that_can_be_installed_or_is_ours():
    from benchmarks._rival_environments import LIBRARIES

    asked = {m.split(".")[0] for of in RIVALS.values() for m in of}
    assert asked == set(LIBRARIES)
    assert {m.split(".")[0] for of in OURS.values() for m in of} == {"vitalfew"}
    assert set(RIVALS) == set(OURS) == set(solvers.ORDER)
