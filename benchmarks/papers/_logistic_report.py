"""The page of `benchmarks.papers.logistic`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _pages
from benchmarks._pages import number
from benchmarks._runs import Results, Row

STEPS = (100, 300, 1000, 3000)
SMALL, ROUNDING = 1e-6, 1e-14
NAMES = {0.0: "separable", 0.05: "5 % flipped"}
COLOURS = {
    "constant": "#777777",
    "safe": "#1f4e79",
    "hessian": "#0b6e4f",
    "normalised": "#c44536",
    "armijo": "#d98e04",
    "VariableStepGradient": "#8d6a9f",
    "OMP": "#3aafa9",
    "vitalfew": "#222222",
}

INTRODUCTION = """\
The loss is the sum of log(1 + exp(-margin)), over its value at zero. Dense data: about
180 normal rows, 20 columns, margin at least 0.1. Sparse data: 2,000 rows, 500 columns,
entries from -1 to 1, five of which decide the class. *constant* steps are one over the
smoothness; *safe* ones 1/(B f), with B the largest squared norm of a row; *hessian*
ones half of one over the largest eigenvalue of the Hessian at the point; *normalised*
ones of length 0.1; *armijo* doubles the last step and halves it until the loss falls by
half of what the gradient promises. Greedy coordinate descent takes the same steps along
the coordinate of the largest derivative. Lines are medians over the seeds, bands run
from the lower to the upper quartile. With flipped classes the least loss is not zero,
and the excess over it is drawn.
"""


def write(results: Results, folder: Path) -> None:
    """Write ``logistic.rst`` and its figures from the results there are.

    Parameters
    ----------
    results : Results
        All runs.
    folder : Path
        Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "logistic.rst").write_text("\n".join(_page(results)))
    _draw_dense(results, folder / "logistic_dense.svg")
    _draw_sparse(results, folder / "logistic_sparse.svg")


def _rows(results: Results, kinds: tuple[str, ...], flipped: float) -> list[Row]:
    return [
        row
        for row in results.rows
        if row["cell"]["kind"] in kinds and row["cell"]["flipped"] == flipped
    ]


def _by_method(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["cell"]["method"], []).append(row)
    return found


def _at_step(row: Row, step: int, key: str) -> float:
    """Return what was recorded last up to a step."""
    return float(row[key][int(np.searchsorted(row["steps"], step, "right")) - 1])


def _excess(row: Row, step: int) -> float:
    """Return the loss over the least one; 0 where rounding hides the difference."""
    excess = _at_step(row, step, "loss") - row["least"]
    return 0.0 if row["least"] and excess < ROUNDING else excess


def _steps_to(row: Row, excess: float) -> float:
    """Return the first recorded step at which the excess is so small."""
    reached = (step for step in row["steps"] if _excess(row, step) <= excess)
    return next(reached, float("inf"))


def _page(results: Results) -> Iterator[str]:
    yield _pages.heading("Logistic regression on separable data")
    yield INTRODUCTION
    yield _pages.machines(results)
    yield _pages.heading("Rates of gradient descent", "-")
    yield _pages.figure("logistic", "dense", "Loss against steps for five step rules")
    for flipped, name in NAMES.items():
        rows = _rows(results, ("dense",), flipped)
        if rows:
            yield _pages.heading(name.capitalize(), "~")
            yield from _rates(rows)
    yield _pages.heading("Loss against nonzeros", "-")
    yield _pages.figure("logistic", "sparse", "Loss against the number of nonzeros")
    for flipped, name in NAMES.items():
        rows = _rows(results, ("descent",), flipped)
        if rows:
            yield _pages.heading(f"Greedy coordinate descent, {name}", "~")
            yield from _descents(rows)


def _rates(rows: list[Row]) -> Iterator[str]:
    longest = max(row["steps"][-1] for row in rows)
    steps = [step for step in STEPS if step <= longest] or [longest]
    table, needed = [], {}
    for method, own in _by_method(rows).items():
        excess = [float(np.median([_excess(r, s) for r in own])) for s in steps]
        norm = float(np.median([_at_step(r, steps[-1], "norm") for r in own]))
        needed[method] = float(np.median([_steps_to(r, SMALL) for r in own]))
        cells = [number(value) if value else "rounding" for value in excess]
        reached = np.isfinite(needed[method])
        cells.append(f"{needed[method]:,.0f}" if reached else "not reached")
        table.append([method, *cells, number(norm)])
    header = ["step rule", *(f"after {step:,}" for step in steps)]
    yield "Medians of the excess over the least loss:\n"
    yield _pages.table([*header, f"steps to {SMALL:g}", "norm at the end"], table)
    best = min(needed, key=lambda method: needed[method])
    if np.isfinite(needed[best]):
        yield f"Fewest steps to an excess of {SMALL:g}: {best}.\n"


def _descents(rows: list[Row]) -> Iterator[str]:
    longest = max(row["steps"][-1] for row in rows)
    steps = [step for step in STEPS if step <= longest] or [longest]
    table = []
    for method, own in _by_method(rows).items():
        cells = []
        for step in steps:
            loss = float(np.median([_at_step(row, step, "loss") for row in own]))
            count = float(np.median([_at_step(row, step, "nonzeros") for row in own]))
            cells.append(f"{number(loss)} ({count:.0f})")
        table.append([method, *cells])
    yield "Median loss, and nonzeros in brackets:\n"
    yield _pages.table(["step", *(f"after {step:,}" for step in steps)], table)


def _draw_dense(results: Results, file: Path) -> None:
    figure, axes = _pages.new_figure(1, 2, width=4.2, height=3.2)
    handles: dict[str, Any] = {}
    for ax, (flipped, name) in zip(axes.flat, NAMES.items(), strict=True):
        for method, own in _by_method(_rows(results, ("dense",), flipped)).items():
            steps = sorted({step for row in own for step in row["steps"]})
            excess = [[_excess(row, step) for step in steps] for row in own]
            _band(ax, method, steps, np.array(excess), handles)
        ax.set_title(name, loc="left", fontsize=10)
        ax.set_yscale("log")
        ax.set_xlabel("steps")
    axes[0, 0].set_ylabel("excess loss / loss at zero")
    axes[0, 0].set_ylim(1e-20, 2)
    _legend(figure, handles)
    _pages.save(figure, file)


def _draw_sparse(results: Results, file: Path) -> None:
    figure, axes = _pages.new_figure(1, 2, width=4.2, height=3.2)
    handles: dict[str, Any] = {}
    for ax, (flipped, name) in zip(axes.flat, NAMES.items(), strict=True):
        rows = _rows(results, ("descent", "solver"), flipped)
        for method, own in _by_method(rows).items():
            counts = sorted({count for row in own for count in row["nonzeros"]} - {0})
            losses = [[_with(row, count) for count in counts] for row in own]
            _band(ax, method, counts, np.array(losses), handles)
        ax.set_title(name, loc="left", fontsize=10)
        ax.set_yscale("log")
        ax.set_xscale("log")
        ax.set_xlabel("nonzeros")
    axes[0, 0].set_ylabel("loss / loss at zero")
    axes[0, 0].set_ylim(1e-6, 1.5)
    _legend(figure, handles)
    _pages.save(figure, file)


def _with(row: Row, count: int) -> float:
    """Return the lowest loss with at most so many nonzeros."""
    pairs = zip(row["nonzeros"], row["loss"], strict=True)
    return min((loss for n, loss in pairs if n <= count), default=1.0)


def _band(
    ax: Any, method: str, x: list[int], values: Any, handles: dict[str, Any]
) -> None:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    colour = COLOURS[method]
    ax.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
    (line,) = ax.plot(x, middle, color=colour, lw=1.5)
    handles.setdefault(method, line)


def _legend(figure: Any, handles: dict[str, Any]) -> None:
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=8,
    )
