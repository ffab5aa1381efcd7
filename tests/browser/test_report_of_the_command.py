"""From a table as a person has it to the report, opened in a browser."""

import os

import numpy as np
import pytest

from tests.browser.test_report_in_browser import CONTRAST, OUTSIDE, SCHEMES, WIDTHS
from tests.cli.tables import write_csv
from vitalfew import datasets

typer_testing = pytest.importorskip("typer.testing")
NEEDS_DATA = pytest.mark.skipif(
    not os.environ.get("VITALFEW_DATA"), reason="VITALFEW_DATA is not set"
)


def hostile(folder):
    """Names that a page must not take for its own."""
    rng = np.random.default_rng(0)
    columns = {
        "<script>console.log(1)</script>": rng.standard_normal(60).tolist(),
        "<img src=x onerror=console.log(2)>": rng.standard_normal(60).tolist(),
        "a" * 300: rng.standard_normal(60).tolist(),
        "ward {{ 7 * 7 }}": rng.choice(["<b>east</b>", "west"], 60).tolist(),
    }
    y = 2 * np.array(columns["<script>console.log(1)</script>"])
    y = y + (np.array(columns["ward {{ 7 * 7 }}"]) == "west")
    columns["y & z"] = (y + 0.3 * rng.standard_normal(60)).tolist()
    return write_csv(folder / "hostile.csv", columns), ("--target", "y & z")


def riboflavin(folder):
    data = datasets.load("riboflavin").arrays
    names = [str(name) for name in data["feature_names"]]
    columns = dict(zip(names, data["X"].astype(float).T.tolist(), strict=True))
    columns["production"] = data["y"].astype(float).tolist()
    path = write_csv(folder / "riboflavin.csv", columns)
    return path, ("--target", "production", "--n-nonzero", "5")


def communities_crime(folder):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = datasets.load("communities_crime").columns
    table = {name: pa.array(v, from_pandas=True) for name, v in columns.items()}
    pq.write_table(pa.table(table), folder / "crime.parquet")
    options = ("--target", "ViolentCrimesPerPop", "--drop", "fold", "--n-nonzero", "6")
    return folder / "crime.parquet", options


def prostate_ge(folder):
    data = datasets.load("prostate_ge").arrays
    rng = np.random.default_rng(0)
    X = data["X"].astype(float)[:, ::10].round(4)
    X[rng.random(X.shape) < 0.02] = np.nan
    columns = {f"gene {i}": X[:, i].tolist() for i in range(X.shape[1])}
    columns["laboratory"] = rng.choice(["Boston", "Basel"], len(X)).tolist()
    columns["tissue"] = np.where(data["y"] == 1, "tumour", "normal").tolist()
    path = write_csv(folder / "prostate.csv", columns, delimiter=";")
    return path, ("--target", "tissue", "--n-nonzero", "4")


@pytest.mark.parametrize(
    "make",
    [
        hostile,
        pytest.param(riboflavin, marks=NEEDS_DATA),
        pytest.param(communities_crime, marks=NEEDS_DATA),
        pytest.param(prostate_ge, marks=NEEDS_DATA),
    ],
)
def test_the_report_is_quiet_offline_and_readable(make, browser, tmp_path):
    from vitalfew.cli._app import app

    path, options = make(tmp_path)
    out = tmp_path / "out"
    words = ["select", path, *options, "--resamples", "2", "--out", out]
    result = typer_testing.CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    for width in WIDTHS:
        for scheme in SCHEMES:
            said, fetched = [], []
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme
            )
            page = context.new_page()
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda r, fetched=fetched: fetched.append(r.url))
            address = (out / "report.html").as_uri()
            page.goto(address, wait_until="networkidle")
            page.eval_on_selector_all(
                "details", "all => all.forEach(d => d.open = true)"
            )
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(OUTSIDE) == []
            assert [pair for pair in page.evaluate(CONTRAST) if pair[0] < 4.5] == []
            context.close()
            assert said == []
            assert [u for u in fetched if not u.startswith("data:")] == [address]
