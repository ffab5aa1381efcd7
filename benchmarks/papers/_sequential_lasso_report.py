"""The page of `benchmarks.papers.sequential_lasso`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import _pages
from benchmarks._pages import number
from benchmarks._runs import Results, Row

COLOURS = {"squares": "#0b6e4f", "logistic": "#c44536"}
STYLES = {1: "-", 3: "--"}
NAMES = {"squares": "least squares", "logistic": "logistic"}

INTRODUCTION = """\
With S chosen and refitted, let tau be the largest norm of the gradient over a group
outside S. The lasso that penalises only what is outside S, with a strength just below
tau, lets in the group that attains it: the pick of orthogonal matching pursuit. The
designs have 120 rows and 36 correlated columns, alone or in groups of 3; the logistic
loss has a ridge of 0.01, so that it is strictly convex.
"""


def write(results: Results, folder: Path) -> None:
    """Write ``sequential_lasso.rst`` and its figure from the results there are.

    Parameters
    ----------
    results : Results
        All runs.
    folder : Path
        Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sequential_lasso.rst").write_text("\n".join(_page(results)))
    _draw(results, folder / "sequential_lasso_curve.svg")


def _grouped(results: Results, kind: str) -> dict[tuple[str, int], list[Row]]:
    found: dict[tuple[str, int], list[Row]] = {}
    for row in results.rows:
        cell = row["cell"]
        if cell["kind"] == kind:
            found.setdefault((cell["loss"], cell["group_size"]), []).append(row)
    return found


def _name(loss: str, size: int) -> str:
    return f"{NAMES[loss]}, {'columns' if size == 1 else f'groups of {size}'}"


def _page(results: Results) -> Iterator[str]:
    yield _pages.heading("Sequential lasso and matching pursuit")
    yield INTRODUCTION
    yield _pages.machines(results)
    yield _pages.heading("Picks", "-")
    yield (
        "The strength is tau less 2 % of its distance to the runner-up. A step counts "
        "where exactly one group enters and it is that of matching pursuit.\n"
    )
    rows, right, total = [], 0, 0
    for (loss, size), own in _grouped(results, "picks").items():
        equal = np.array([row["equal"] for row in own])
        right, total = right + int(equal.sum()), total + equal.size
        rows.append([_name(loss, size), f"{int(equal.sum())} of {equal.size}"])
    yield _pages.table(["", "steps with the same single pick"], rows)
    yield f"Together: {right} of {total} steps.\n"
    yield _pages.heading("How far below tau", "-")
    yield _pages.figure(
        "sequential_lasso", "curve", "Share of designs with one right entrant"
    )
    yield (
        "*First step: share of designs on which exactly the right group enters, by "
        "how far the strength lies below tau.*\n"
    )
    curves = _grouped(results, "curve")
    table = []
    for (loss, size), own in curves.items():
        shares = _shares(own)
        gap = float(np.median([row["gap"] for row in own]))
        table.append([_name(loss, size), *(f"{s:.2f}" for s in shares), number(gap, 2)])
    below = next(iter(curves.values()))[0]["below"] if curves else []
    header = ["", *(f"{100 * b:g} %" for b in below), "median gap to the runner-up"]
    yield _pages.table(header, table)


def _shares(rows: list[Row]) -> list[float]:
    good = [
        [n == 1 and r for n, r in zip(row["entered"], row["right"], strict=True)]
        for row in rows
    ]
    return [float(share) for share in np.mean(good, axis=0)]


def _draw(results: Results, file: Path) -> None:
    figure, axes = _pages.new_figure(1, 1, width=5.5, height=3.4)
    ax = axes[0, 0]
    for (loss, size), own in _grouped(results, "curve").items():
        ax.plot(
            own[0]["below"],
            _shares(own),
            STYLES[size],
            marker=".",
            color=COLOURS[loss],
            label=_name(loss, size),
        )
    ax.set_xscale("log")
    ax.set_ylim(0, 1.03)
    ax.set_xlabel("1 - strength / tau")
    ax.set_ylabel("share of designs")
    if ax.lines:
        ax.legend(frameon=False, fontsize=8)
    _pages.save(figure, file)
