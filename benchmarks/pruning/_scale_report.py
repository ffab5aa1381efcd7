"""The page of `benchmarks.pruning.scale`."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import _pages
from benchmarks._pages import number
from benchmarks._runs import Results, Row

COLOURS = {
    "magnitude": "#c44536",
    "wanda": "#d98e04",
    "obs": "#1f4e79",
    "admm": "#0b6e4f",
    "iht": "#8d6a9f",
}
LIMIT = 8_000  # MB of 10^6 bytes

INTRODUCTION = """\
A linear layer of as many outputs as inputs is pruned through `prune`, in a process of
its own on all cores, with 128 sequences of 2,048 tokens. Single weights and 16x1 blocks
are cut to 30 %. The time includes making the inputs, the Hessian, the method and its
checks; the memory is the most that was used over what was held before, the model,
inputs of 256 numbers for each token and statistics among it.
"""


def write(results: Results, folder: Path) -> None:
    """Write ``pruning_scale.rst`` and its figure from the results there are.

    Parameters
    ----------
    results : Results
        All runs.
    folder : Path
        Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in results.rows if "error" not in row]
    (folder / "pruning_scale.rst").write_text("\n".join(_page(results, rows)))
    if rows:
        _draw(rows, folder / "pruning_scale_cost.svg")


def _values(rows: list[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row["cell"][key] for row in rows))


def _at(rows: list[Row], **wanted: Any) -> Row | None:
    return next(
        (r for r in rows if all(r["cell"][k] == v for k, v in wanted.items())), None
    )


def _page(results: Results, rows: list[Row]) -> Iterator[str]:
    yield _pages.heading("Pruning a layer of growing size")
    yield INTRODUCTION
    yield _pages.machines(results)
    if rows:
        yield _pages.figure("pruning_scale", "cost", "Time and memory against size")
        largest = max(_values(rows, "size"))
        own = [row for row in rows if row["cell"]["size"] == largest]
        most = max(own, key=lambda row: row["memory"])
        slowest = max(own, key=lambda row: row["wall"])
        yield (
            f"At {largest:,} x {largest:,} no run used more than "
            f"{most['memory'] / 1000:.1f} GB ({most['cell']['method']}; the limit set "
            f"was {LIMIT / 1000:g} GB), and the slowest took "
            f"{slowest['wall'] / 60:.1f} minutes ({slowest['cell']['method']}, "
            f"{slowest['cell']['pattern']}).\n"
        )
    for pattern in _values(rows, "pattern"):
        yield _pages.heading(pattern.capitalize(), "-")
        yield _table([row for row in rows if row["cell"]["pattern"] == pattern])
    failures = [row for row in results.rows if "error" in row]
    if failures:
        yield _pages.heading("What could not be run", "-")
        for row in failures:
            yield f"- {' '.join(str(v) for v in row['cell'].values())}: {row['error']}"
        yield ""


def _table(rows: list[Row]) -> str:
    sizes = sorted(_values(rows, "size"))
    lines = []
    for method in _values(rows, "method"):
        found = [_at(rows, size=size, method=method) for size in sizes]
        cells = [
            f"{number(r['wall'], 2)} s, {number(r['memory'], 2)} MB" if r else ""
            for r in found
        ]
        last = found[-1]
        error = last["layer_error"] if last else None
        cells += [_growth(sizes, found), number(error)]
        lines.append([method, *cells])
    header = ["method", *(f"{size:,}" for size in sizes), "growth", "error at the end"]
    return _pages.table(header, lines)


def _growth(sizes: list[int], found: list[Row | None]) -> str:
    """Return the power of the size that the CPU time grew by at the end."""
    if len(sizes) < 2 or found[-1] is None or found[-2] is None:
        return ""
    ratio = found[-1]["cpu"] / max(found[-2]["cpu"], 1e-9)
    return f"{math.log(ratio) / math.log(sizes[-1] / sizes[-2]):.1f}"


def _draw(rows: list[Row], file: Path) -> None:
    figure, axes = _pages.new_figure(1, 2, width=4.2, height=3.2)
    handles: dict[str, Any] = {}
    own = [row for row in rows if row["cell"]["pattern"] == "unstructured"]
    for ax, key, label in (
        (axes[0, 0], "cpu", "CPU seconds"),
        (axes[0, 1], "memory", "memory (MB)"),
    ):
        for method in _values(own, "method"):
            mine = [row for row in own if row["cell"]["method"] == method]
            x = [row["cell"]["size"] for row in mine]
            y = [row[key] for row in mine]
            (line,) = ax.plot(x, y, "o-", ms=3, color=COLOURS[method])
            handles.setdefault(method, line)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xlabel("inputs and outputs")
        ax.set_ylabel(label)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=8,
    )
    _pages.save(figure, file)
