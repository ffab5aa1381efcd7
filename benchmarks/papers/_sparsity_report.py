"""The page of `benchmarks.papers.sparsity`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _pages
from benchmarks._pages import number
from benchmarks._runs import Results, Row

NEAR = 1.01
PLANTED_K = 10
COLOURS = {
    "vitalfew": "#0b6e4f",
    "LocalSearch": "#7fb685",
    "ARHT": "#c44536",
    "OMPR": "#d98e04",
    "OMP": "#1f4e79",
    "Splicing": "#8d6a9f",
    "GraSP": "#3aafa9",
    "IHT": "#777777",
    "RegularizedIHT": "#e07a9f",
    "lasso": "#222222",
}

INTRODUCTION = """\
Training loss on k columns over the loss on none, for every method at its defaults and
refitted on its support. *vitalfew* is the default of `solve`: GraSP and then
LocalSearch, and LocalSearch alone too where that mends much; *lasso* takes the k
largest coefficients at the first strength with k nonzeros, refitted. Every number of
columns is solved afresh.

The planted problems have 120 rows and 300 columns, 10 of them active, neighbours
correlated as stated, and a signal of 400 times the variance of the noise. Lines are
medians, bands run from the lower to the upper quartile over the seeds. Real tables are
cut at random, 7 rows in 10 to train on, with columns of unit variance; those with two
classes take the logistic loss with a ridge of 0.001.
"""


def write(results: Results, folder: Path) -> None:
    """Write ``sparsity.rst`` and its figures from the results there are.

    Parameters
    ----------
    results : Results
        All runs.
    folder : Path
        Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sparsity.rst").write_text("\n".join(_page(results)))
    _draw(results, _planted(results), "train", folder / "sparsity_planted.svg")
    tables = _tables(results)
    if tables:
        _draw(results, tables, "train", folder / "sparsity_tables.svg")
        _draw(results, tables, "test", folder / "sparsity_test.svg")


def _planted(results: Results) -> list[tuple[str, list[Row]]]:
    rows = [row for row in results.rows if row["cell"]["data"] == "planted"]
    rhos = sorted({row["cell"]["rho"] for row in rows})
    return [
        (f"correlation {rho:g}", [row for row in rows if row["cell"]["rho"] == rho])
        for rho in rhos
    ]


def _tables(results: Results) -> list[tuple[str, list[Row]]]:
    rows = [row for row in results.rows if row["cell"]["data"] != "planted"]
    names = sorted({row["cell"]["data"] for row in rows})
    return [(n, [row for row in rows if row["cell"]["data"] == n]) for n in names]


def _by_method(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["cell"]["method"], []).append(row)
    return found


def _values(rows: list[Row], key: str) -> Any:
    """Return what rows hold under a key, (seeds, sizes)."""
    return np.array([row[key] for row in rows])


def _at(rows: list[Row], k: int) -> int:
    """Return the position of the size nearest to k."""
    return int(np.argmin(np.abs(np.array(rows[0]["sizes"]) - k)))


def _page(results: Results) -> Iterator[str]:
    yield _pages.heading("Loss against sparsity")
    yield INTRODUCTION
    yield _pages.machines(results)
    yield _pages.heading("Planted columns", "-")
    yield _pages.figure(
        "sparsity", "planted", "Training loss against the number of columns"
    )
    for title, rows in _planted(results):
        yield _pages.heading(title.capitalize(), "~")
        yield from _planted_table(rows)
    tables = _tables(results)
    if tables:
        yield _pages.heading("Real tables", "-")
        yield _pages.figure(
            "sparsity", "tables", "Training loss against the number of columns"
        )
        yield "*Training loss over the loss on no columns.*\n"
        yield _pages.figure(
            "sparsity", "test", "Held-out loss against the number of columns"
        )
        yield "*Held-out loss over that of the training mean or share.*\n"
    for title, rows in tables:
        yield _pages.heading(title, "~")
        yield from _real_table(rows)


def _spread(values: Any) -> str:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{number(middle)} ({number(low)}, {number(high)})"


def _best(rows: list[Row], at: int) -> dict[int, float]:
    """Return the lowest training loss of each seed, over methods at their defaults."""
    best: dict[int, float] = {}
    for row in rows:
        seed, value = row["cell"]["seed"], row["train"][at]
        best[seed] = min(value, best.get(seed, np.inf))
    return best


def _near(rows: list[Row], at: int, best: dict[int, float]) -> int:
    return sum(row["train"][at] <= NEAR * best[row["cell"]["seed"]] for row in rows)


def _planted_table(rows: list[Row]) -> Iterator[str]:
    at = _at(rows, min(PLANTED_K, max(rows[0]["sizes"])))
    k, best, methods = rows[0]["sizes"][at], _best(rows, at), _by_method(rows)
    cells = []
    for method, own in methods.items():
        tuned = [row["tuned"][at] for row in own if "tuned" in row]
        middle = float(np.median(_values(own, "train")[:, at]))
        cells.append(
            (
                middle,
                [
                    method,
                    _spread(_values(own, "train")[:, at]),
                    number(float(np.median(tuned))) if tuned else "",
                    f"{_near(own, at, best)} of {len(own)}",
                    number(float(np.mean(_values(own, "hits")[:, at])), 2),
                    number(float(np.median([row["cpu"] for row in own]))),
                ],
            )
        )
    header = [
        "method",
        f"loss at k = {k}, median (quartiles)",
        "median, best of 4 settings",
        "within 1 % of the best",
        "planted columns found, mean",
        "CPU s, all k",
    ]
    yield _pages.table(header, [row for _, row in sorted(cells)])
    truth = float(np.median([row["truth"] for row in rows]))
    yield f"The planted columns themselves have a median loss of {number(truth)}.\n"
    yield _winners(methods, at, best, k)


def _real_table(rows: list[Row]) -> Iterator[str]:
    at = _at(rows, 10)
    k, best, methods = rows[0]["sizes"][at], _best(rows, at), _by_method(rows)
    cells = []
    for method, own in methods.items():
        tuned = [row["tuned"][at] for row in own if "tuned" in row]
        train, test = _values(own, "train")[:, at], _values(own, "test")[:, at]
        cells.append(
            (
                float(np.median(train)),
                [
                    method,
                    _spread(train),
                    number(float(np.median(tuned))) if tuned else "",
                    f"{_near(own, at, best)} of {len(own)}",
                    _spread(test),
                    number(float(np.median([row["cpu"] for row in own]))),
                ],
            )
        )
    header = [
        "method",
        f"training loss at k = {k}, median (quartiles)",
        "median, best of 4 settings",
        "within 1 % of the best",
        "held-out loss",
        "CPU s, all k",
    ]
    yield _pages.table(header, [row for _, row in sorted(cells)])
    yield _winners(methods, at, best, k)


def _winners(
    methods: dict[str, list[Row]], at: int, best: dict[int, float], k: int
) -> str:
    counts = {m: _near(own, at, best) for m, own in methods.items()}
    most = max(counts.values())
    first = ", ".join(method for method, count in counts.items() if count == most)
    return (
        f"Most often within 1 % of the lowest loss any method found at k = {k}: "
        f"{first}, on {most} of {len(best)} seeds.\n"
    )


def _draw(
    results: Results, panels: list[tuple[str, list[Row]]], key: str, file: Path
) -> None:
    if not panels:
        return
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = _pages.new_figure(lines, columns, width=3.6, height=3.0)
    handles: dict[str, Any] = {}
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, rows) in zip(axes.flat, panels, strict=False):
        methods = _by_method(rows)
        for method, colour in COLOURS.items():
            if method not in methods:
                continue
            values, sizes = _values(methods[method], key), rows[0]["sizes"]
            low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
            ax.fill_between(sizes, low, high, color=colour, alpha=0.08, lw=0)
            width = 2.2 if method == "vitalfew" else 1.2
            (line,) = ax.plot(sizes, middle, ".-", color=colour, lw=width, ms=4)
            handles.setdefault(method, line)
        ax.set_title(title, loc="left", fontsize=10)
        ax.set_yscale("log")
        ax.set_xlabel("columns")
    axes[0, 0].set_ylabel("loss / loss on none")
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=8,
    )
    _pages.save(figure, file)
