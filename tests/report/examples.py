"""Records of every sort that the report must draw."""
# ruff: noqa: RUF001 (names as people write them)

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vitalfew.records import RunRecord

SCRIPT = "<script>alert(1)</script>"

# Diabetes with pairwise products: number of columns, held-out loss, its standard error,
# loss on the rows fitted.
PATH = [
    (1, 2036, 54, 1945, ["bmi"]),
    (2, 1623, 71, 1603, ["bmi", "s5"]),
    (3, 1648, 90, 1542, ["bmi", "bp", "s5"]),
    (4, 1603, 73, 1495, ["bmi", "bp", "s5", "age × sex"]),
    (5, 1571, 79, 1463, ["bmi", "bp", "s5", "age × sex", "bmi × bp"]),
    (6, 1518, 68, 1438, ["sex", "bmi", "bp", "s1", "s2", "s5"]),
    (7, 1468, 86, 1399, ["sex", "bmi", "bp", "s1", "s2", "s5", "age × sex"]),
    (
        8,
        1479,
        75,
        1368,
        ["sex", "bmi", "bp", "s1", "s2", "s5", "age × sex", "bmi × bp"],
    ),
    (9, 1451, 92, 1347, []),
    (10, 1458, 82, 1338, []),
    (12, 1427, 96, 1307, []),
    (14, 1496, 108, 1298, []),
    (16, 1502, 110, 1281, []),
    (20, 1554, 115, 1265, []),
    (30, 1654, 123, 1237, []),
    (40, 1695, 119, 1219, []),
    (64, 1708, 135, 1208, []),
]
CHOSEN = [
    ("s5", 38.81, 1.0, []),
    ("s1", -35.26, 0.74, [("s3", 0.05, 0.0074)]),
    ("s2", 27.08, 0.56, [("s4", 0.66, 0.0054), ("s3", -0.2, 0.0058)]),
    ("bmi", 24.74, 1.0, []),
    ("bp", 14.84, 1.0, []),
    ("sex", -11.14, 0.78, []),
    ("age × sex", 8.8, 0.54, []),
    ("bmi × bp", 8.08, 0.34, [("s6²", 0.17, 0.00015), ("bmi × s6", 0.37, 0.0041)]),
]
FOLDS = {
    "chosen columns": {
        "rmse": [59.117, 51.952, 55.404, 56.958, 54.996],
        "r2": [0.344, 0.443, 0.536, 0.464, 0.54],
        "mae": [45.021, 42.375, 45.988, 46.861, 43.77],
    },
    "all columns": {
        "rmse": [64.385, 55.259, 57.805, 61.688, 61.773],
        "r2": [0.222, 0.37, 0.495, 0.371, 0.42],
        "mae": [48.015, 43.978, 47.61, 49.227, 50.452],
    },
    "no columns": {
        "rmse": [73.26, 70.121, 82.523, 78.03, 81.391],
        "r2": [-0.007, -0.015, -0.029, -0.006, -0.007],
        "mae": [62.58, 58.206, 70.062, 67.53, 71.147],
    },
}
OFTEN = [("s3", 0.24), ("s6²", 0.22), ("bmi × s6", 0.12), ("s4", 0.12), ("bmi²", 0.1)]


def metrics(folds: dict[str, list[float]]) -> dict[str, Any]:
    found = {}
    for name, values in folds.items():
        mean = sum(values) / len(values)
        sd = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        found[name] = {"mean": mean, "sd": sd, "folds": values}
    return found


def chosen(
    column: str, effect: float | None, stability: float | None
) -> dict[str, Any]:
    return {
        "column": column,
        "kind": "numeric",
        "effect": effect,
        "effects": [{"name": column, "class": None, "value": effect}],
        "stability": stability,
        "near_ties": [],
    }


def tie(column: str, correlation: float, loss_increase: float) -> dict[str, Any]:
    return {
        "column": column,
        "correlation": correlation,
        "loss_increase": loss_increase,
    }


def regression() -> RunRecord:
    """A whole run on the diabetes data with its pairwise products."""
    names = [c for c, *_ in CHOSEN] + [c for c, _ in OFTEN]
    return RunRecord(
        kind="select",
        created="2026-11-20T07:14:00+00:00",
        versions={"vitalfew": "0.1.0", "python": "3.11.7", "numpy": "2.4.6"},
        settings={
            "n_nonzero": "auto",
            "solver": None,
            "criterion": "cv-1se",
            "cv_folds": 5,
            "outer_folds": 5,
            "resamples": 50,
            "seed": 0,
            "seconds": None,
            "split_by": None,
            "l2": 0.0,
            "loss": "squared",
        },
        data={
            "source": "demo.csv",
            "sha256": "2d711642b726b044" * 4,
            "n_rows": 442,
            "n_rows_used": 440,
            "n_columns": 64,
            "n_features": 64,
            "target": "progression",
            "task": "regression",
            "classes": None,
            "notes": ["2 rows without a target were left out"],
            "columns": [
                {"name": name, "kind": "numeric", "missing": 3, "levels": None}
                for name in names
            ],
        },
        results={
            "status": {
                "name": "CONVERGED",
                "message": "the solver's own criterion was met",
            },
            "solver": "GraSP(), then LocalSearch()",
            "interrupted": False,
            "seconds": 12.73,
            "metric": {"name": "rmse", "higher_is_better": False},
            "path": [
                {
                    "n_columns": n,
                    "cv_mean": mean,
                    "cv_se": se,
                    "train_loss": train,
                    "columns": columns,
                }
                for n, mean, se, train, columns in PATH
            ],
            "n_chosen": 8,
            "chosen": [
                {**chosen(c, effect, share), "near_ties": [tie(*t) for t in ties]}
                for c, effect, share, ties in CHOSEN
            ],
            "intercept": 152.13,
            "errors": [
                {"model": model, "metrics": metrics(folds)}
                for model, folds in FOLDS.items()
            ],
            "runner_up_stability": [
                {"column": c, "stability": share} for c, share in OFTEN
            ],
            "cut_short": [],
        },
    )


def changed(data: dict[str, Any], results: dict[str, Any]) -> RunRecord:
    """The record of `regression` with some of its keys replaced."""
    record = regression()
    return replace(
        record, data={**record.data, **data}, results={**record.results, **results}
    )


def multiclass() -> RunRecord:
    """Three classes, a category of four levels, a missing value's own effect."""
    classes = ["setosa", "versicolor", "virginica"]

    def column(name: str, parts: list[str], kind: str) -> dict[str, Any]:
        effects = [
            {"name": part, "class": k, "value": 0.7 * (i + 1) * (j - 1)}
            for i, part in enumerate(parts)
            for j, k in enumerate(classes)
        ]
        return {
            **chosen(name, None, 0.5),
            "kind": kind,
            "effects": effects,
            "near_ties": [tie("width", 0.96, 0.0003)],
        }

    folds = {"chosen columns": 0.95, "all columns": 0.94, "no columns": 0.33}
    return changed(
        {"task": "multiclass", "classes": classes, "target": "species"},
        {
            "metric": {"name": "accuracy", "higher_is_better": True},
            "chosen": [
                column("region", ["north", "south", "east", "west"], "category"),
                column("length", ["length", "length is missing"], "numeric"),
            ],
            "n_chosen": 2,
            "intercept": [0.1, -0.2, 0.1],
            "errors": [
                {
                    "model": model,
                    "metrics": metrics({"accuracy": [a, a + 0.02, a - 0.03]}),
                }
                for model, a in folds.items()
            ],
        },
    )


def interrupted() -> RunRecord:
    """Ctrl-C after the first usable answer."""
    return changed(
        {},
        {
            "status": {
                "name": "INTERRUPTED",
                "message": "interrupted; the best so far",
            },
            "interrupted": True,
            "path": [],
            "errors": [],
            "chosen": [chosen("bmi", 3.5, None)],
            "n_chosen": 1,
            "runner_up_stability": [],
            "cut_short": ["the path was stopped at 3 columns", "no resamples"],
        },
    )


def nothing_chosen() -> RunRecord:
    """No column helps; the honest error says so."""
    return changed(
        {"n_features": 1},
        {
            "chosen": [],
            "n_chosen": 0,
            "path": [{"n_columns": 0, "cv_mean": 1.0, "cv_se": None, "columns": []}],
            "errors": [
                {
                    "model": m,
                    "metrics": {"rmse": {"mean": 1.0, "sd": None, "folds": []}},
                }
                for m in FOLDS
            ],
        },
    )


def many_columns() -> RunRecord:
    """2,000 columns, 1,500 of them chosen."""
    columns = [f"gene_{i:05d}" for i in range(2000)]
    return changed(
        {
            "n_columns": 2000,
            "columns": [
                {"name": c, "kind": "category", "missing": 1, "levels": 3}
                for c in columns
            ],
        },
        {
            "chosen": [
                chosen(c, math.sin(i), 0.3) for i, c in enumerate(columns[:1500])
            ],
            "n_chosen": 1500,
            "path": [
                {
                    "n_columns": n,
                    "cv_mean": 1 / n,
                    "cv_se": 0.01,
                    "train_loss": 0.5 / n,
                    "columns": columns[:n],
                }
                for n in range(1, 1501, 15)
            ],
            "runner_up_stability": [
                {"column": c, "stability": 0.2} for c in columns[1500:]
            ],
        },
    )


def hostile() -> RunRecord:
    """Names that would break a page that trusts them."""
    names = [
        SCRIPT,
        "</title></style><img src=x onerror=alert(1)>",
        "\u202eright to left\x00\x1b[31m",
        "很长的列名" * 30,
        "a" * 5000,
        "two words " * 200,
        "",
        "{{ 7 * 7 }}{% raw %}",
        "half \ud800 a character",
        "🦊 &amp; \" ' ` <b>",
    ]
    return changed(
        {
            "source": SCRIPT,
            "target": SCRIPT,
            "task": SCRIPT,
            "classes": names,
            "notes": names,
            "columns": [
                {"name": n, "kind": n, "missing": n, "levels": names} for n in names
            ],
        },
        {
            "status": {"name": SCRIPT, "message": SCRIPT},
            "interrupted": True,
            "chosen": [
                {
                    **chosen(n, float(i - 3), 0.9),
                    "kind": n,
                    "effects": [{"name": m, "class": m, "value": 1.0} for m in names],
                    "near_ties": [tie(m, 0.9, 1e-7) for m in names],
                }
                for i, n in enumerate(names)
            ],
            "errors": [{"model": n, "metrics": metrics({n: [1, 2]})} for n in names],
            "metric": {"name": SCRIPT, "higher_is_better": True},
            "path": [{"n_columns": 2, "cv_mean": 1.0, "cv_se": 0.1, "columns": names}],
            "runner_up_stability": [{"column": n, "stability": 0.1} for n in names],
            "cut_short": names,
        },
    )


def extreme() -> RunRecord:
    """Numbers from the ends of what floats hold, and what is not a number."""
    values = [1e308, -1e308, 5e-324, 0.0, -0.0, math.nan, math.inf, None, 10**400, "x"]
    return changed(
        {"n_rows": 10**12, "n_rows_used": -1},
        {
            "seconds": 1e9,
            "chosen": [chosen(f"c{i}", v, v) for i, v in enumerate(values)],
            "path": [
                {"n_columns": i, "cv_mean": v, "cv_se": v, "train_loss": v}
                for i, v in enumerate(values)
            ],
            "errors": [
                {
                    "model": "chosen columns",
                    "metrics": {"rmse": {"mean": v, "sd": v, "folds": values}},
                }
                for v in values
            ],
            "intercept": values,
        },
    )


def empty() -> RunRecord:
    """A record with nothing in it."""
    return RunRecord(kind="select", created="")


EXAMPLES: dict[str, Callable[[], RunRecord]] = {
    f.__name__: f
    for f in (
        regression,
        multiclass,
        interrupted,
        nothing_chosen,
        many_columns,
        hostile,
        extreme,
        empty,
    )
}
