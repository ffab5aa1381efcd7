"""The page of `benchmarks.training.overhead`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import _pages
from benchmarks._pages import number
from benchmarks._runs import Results, Row
from benchmarks.training._arms import DENSE

NAME = "training_overhead"
TITLES = {"masks": "plain masks", "attention": "SequentialAttention++"}
PATTERNS = ("32x32", "16x16", "8x8", "unstructured")
LARGE = 512  # batches from which targets were set
TARGETS = {"unstructured": 1.15}
TARGET = 1.05  # of blocks

INTRODUCTION = """\
Two layers of 1,024 x 1,024 with a rectifier between them, trained by Adam, of which 90
per cent of the blocks are removed. A step is the forward pass, the loss, the backward
pass, the optimizer's step and the pruner's. Dense training, plain masks and attention
take turns; times are the least of all rounds, of CPU time on one thread. Steps without
a selection are timed; what a selection takes, of both layers, stands beside them, and
what it comes to when those that the schedule makes in a training of 10,000 steps are
spread over it. *Plain masks* are the schedule of gradual-magnitude. Memory is the
most that was used in three steps in a process of its own, over what was held before.
"""


def write(results: Results, folder: Path) -> None:
    """Write ``training_overhead.rst`` and its figure from the results there are.

    Parameters
    ----------
    results : Results
        All runs.
    folder : Path
        Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = sorted(
        results.rows,
        key=lambda row: (PATTERNS.index(row["cell"]["pattern"]), row["cell"]["batch"]),
    )
    (folder / f"{NAME}.rst").write_text("\n".join(_page(results, rows)))
    if rows:
        _draw(rows, folder / f"{NAME}_step.svg")


def ratio(row: Row, variant: str) -> float:
    """Return the time of a step without a selection over that of a dense one."""
    return float(row["step"][variant] / row["step"][DENSE])


def spread_ratio(row: Row, variant: str) -> float:
    """Return the ratio with the selections of a training spread over its steps."""
    own = row["step"][variant]
    own += row["selection"][variant] * row["n_selections"][variant] / row["training"]
    return float(own / row["step"][DENSE])


def _page(results: Results, rows: list[Row]) -> Iterator[str]:
    yield _pages.heading("What pruning adds to a step of training")
    yield INTRODUCTION
    yield _pages.machines(results)
    if not rows:
        return
    yield _pages.heading("What comes out", "-")
    yield "\n".join(f"- {line}" for line in _claims(rows)) + "\n"
    yield _pages.figure(NAME, "step", "Time of a step over a dense one")
    for pattern in dict.fromkeys(row["cell"]["pattern"] for row in rows):
        yield _pages.heading(pattern.capitalize(), "-")
        yield _table([row for row in rows if row["cell"]["pattern"] == pattern])


def _claims(rows: list[Row]) -> Iterator[str]:
    large = [row for row in rows if row["cell"]["batch"] >= LARGE]
    for title, measured in (
        ("Without selections", ratio),
        ("With those of a training of 10,000 steps", spread_ratio),
    ):
        if not large:
            continue
        met = [row for row in large if measured(row, "attention") <= _target(row)]
        worst = max(large, key=lambda row: measured(row, "attention") / _target(row))
        yield (
            f"{title}, a step of attention takes at most {TARGET:g} times as long as a "
            f"dense one with blocks, and {TARGETS['unstructured']:g} times with single "
            f"weights, in {len(met)} of {len(large)} cells with batches of at least "
            f"{LARGE}; farthest from it is {_where(worst)}: "
            f"{measured(worst, 'attention'):.2f} times, of {_target(worst):g} allowed."
        )
    slowest = max(rows, key=lambda row: ratio(row, "attention"))
    yield (
        f"The largest ratio of all is {ratio(slowest, 'attention'):.2f}, "
        f"{_where(slowest)}, where a dense step takes "
        f"{number(slowest['step'][DENSE])} ms."
    )
    for title, own in (
        ("blocks", [row for row in rows if row["cell"]["pattern"] not in TARGETS]),
        ("single weights", [row for row in rows if row["cell"]["pattern"] in TARGETS]),
    ):
        if own:
            most = max(own, key=_copies)
            yield (
                f"With {title}, attention needs at its peak at most "
                f"{_copies(most):.2f} copies of the pruned weights more than dense "
                f"training ({number(most['peak']['attention'])} MB instead of "
                f"{number(most['peak'][DENSE])} MB, {_where(most)}); what stays "
                f"between steps grows by at most {max(map(_held, own)):.1f} %."
            )


def _target(row: Row) -> float:
    return TARGETS.get(row["cell"]["pattern"], TARGET)


def _where(row: Row) -> str:
    return f"{row['cell']['pattern']} with batches of {row['cell']['batch']:,}"


def _copies(row: Row) -> float:
    """Return the memory over dense training in copies of the weights."""
    return float((row["peak"]["attention"] - row["peak"][DENSE]) / row["copy"])


def _held(row: Row) -> float:
    return float(100 * (row["held"]["attention"] / row["held"][DENSE] - 1))


def _table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        line = [f"{row['cell']['batch']:,}", f"{number(row['step'][DENSE])} ms"]
        for variant in TITLES:
            line += [
                f"{ratio(row, variant):.2f}",
                f"{spread_ratio(row, variant):.2f}",
                f"{number(row['selection'][variant], 2)} ms",
            ]
        line.append(f"{number(row['peak'][DENSE])} MB")
        for variant in TITLES:
            line.append(f"{row['peak'][variant] - row['peak'][DENSE]:+.1f} MB")
        lines.append(line)
    header = ["batch", "dense step"]
    for title in TITLES.values():
        header += [title, "with selections", "one selection"]
    header += ["memory, dense", *(f"more, {title}" for title in TITLES.values())]
    return _pages.table(header, lines)


def _draw(rows: list[Row], file: Path) -> None:
    patterns = list(dict.fromkeys(row["cell"]["pattern"] for row in rows))
    figure, axes = _pages.new_figure(1, len(patterns), width=2.6)
    handles: dict[str, Any] = {}
    for ax, pattern in zip(axes.flat, patterns, strict=True):
        own = [row for row in rows if row["cell"]["pattern"] == pattern]
        x = [row["cell"]["batch"] for row in own]
        for variant, shade in (("masks", "#d98e04"), ("attention", "#0b6e4f")):
            for measured, style, what in (
                (ratio, "o-", ""),
                (spread_ratio, "o:", ", with selections"),
            ):
                y = [measured(row, variant) for row in own]
                (line,) = ax.plot(x, y, style, ms=3, color=shade)
                handles.setdefault(TITLES[variant] + what, line)
        ax.axhline(1, color="#bbbbbb", lw=0.8)
        ax.set_xscale("log", base=2)
        ax.set_title(pattern, loc="left", fontsize=9)
        ax.set_xlabel("batch")
    axes[0, 0].set_ylabel("step over a dense step")
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=8,
    )
    _pages.save(figure, file)
