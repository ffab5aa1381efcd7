"""The page of `benchmarks.solvers`: one table for each problem, ratios and a figure."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _pages, _problems
from benchmarks._pages import number
from benchmarks._runs import Results, Row

NEAR = 1.01  # of the best loss: what counts as an answer of the same worth
SMALL_GAP = 3e-4  # of a path, for it to be compared
DRAWN = ("a", "b", "c", "d", "e", "g", "x", "h", "i")

INTRODUCTION = """\
Every run is a new process: the problem is read from a file (X in C order, or CSR), the
library is imported, and one fit is timed (*first fit*: with whatever the library
compiles), then two more; three rounds through all methods. *CPU* is the least CPU time
of the later fits, conversions of X and the making of our objectives included; *memory*
is the peak over what the process held before the first fit.

All methods are asked for exactly k columns or groups. Methods with a penalty, marked
``->k``, walk a warm-started grid of strengths until k are in. Whatever comes back is
cut to its k largest entries and refitted without a penalty by code that belongs to none
of the libraries; *loss* is the training loss of that refit, *found* counts members of
the support that was planted. Problems are drawn once, with fixed seeds, so *found* and
*loss* carry no error bars. JAX, under skscope, computes in single precision unless told
otherwise; all others in double.

*One gradient* is one product with X and one with its transpose in the faster of the two
memory orders, by NumPy or SciPy: the floor under everything here.
"""


@dataclass(frozen=True)
class Line:
    """All rounds of one method on one problem.

    Attributes
    ----------
    method : str
        Library, or library and variant.
    cpu, wall, first, memory : float or None
        Seconds of CPU, of wall, of CPU in the first fit; MB.
    found : dict
        What was judged: loss, hits, gaps.
    error : str
        Why it failed, or empty.
    """

    method: str
    cpu: float | None
    wall: float | None
    first: float | None
    memory: float | None
    found: Row
    error: str

    @property
    def ours(self) -> bool:
        """Whether it is vitalfew's."""
        return self.method.split(".")[0] == "vitalfew"

    @property
    def name(self) -> str:
        """The method as the tables print it."""
        return f"**{self.method}**" if self.ours else self.method


def lines_of(results: Results, problem: str, threads: int) -> list[Line]:
    """Return one line for each method that ran on a problem, the fastest first.

    Parameters
    ----------
    results : Results
        All runs.
    problem : str
        Which problem.
    threads : int
        1 or 2.

    Returns
    -------
    list of Line
        Without the floor.
    """
    by_method: dict[str, list[Row]] = {}
    for row in results.rows:
        cell = row["cell"]
        if cell.get("problem") == problem and cell["threads"] == threads:
            by_method.setdefault(cell["method"], []).append(row)
    by_method.pop("floor", None)
    lines = [_line(method, rows) for method, rows in by_method.items()]
    return sorted(lines, key=lambda line: line.cpu or float("inf"))


def _line(method: str, rows: list[Row]) -> Line:
    def least(key: str) -> float | None:
        values = [row[key] for row in rows if key in row]
        flat = [v for value in values for v in _listed(value)]
        return min(flat, default=None)

    judged = [row for row in rows if "train" in row or "largest_gap" in row]
    return Line(
        method,
        cpu=least("cpu") or least("first_cpu"),
        wall=least("wall") or least("first_wall"),
        first=least("first_cpu"),
        memory=least("memory_mb"),
        found=judged[0] if judged else {},
        error=next((row["error"] for row in rows if "error" in row), ""),
    )


def _listed(value: Any) -> list[float]:
    return value if isinstance(value, list) else [value]


def floors(results: Results) -> dict[str, Row]:
    """Return the floor of each problem, with its true support judged."""
    return {
        row["cell"]["problem"]: row
        for row in results.rows
        if row["cell"].get("method") == "floor" and "forward_rows" in row
    }


def gradient_seconds(floor: Row) -> float:
    """Return the least time of one product each way."""
    return float(
        min(floor[k] for k in floor if k.startswith("backward"))
        + min(floor[k] for k in floor if k.startswith("forward"))
    )


@dataclass(frozen=True)
class Comparison:
    """Our default on one problem beside the fastest rival with as good an answer.

    Attributes
    ----------
    problem : str
        Which one.
    ours : Line or None
        Our default.
    rival : Line or None
        None where no rival comes near the best answer.
    good : bool
        Whether our default does.
    """

    problem: str
    ours: Line | None
    rival: Line | None
    good: bool

    @property
    def ratio(self) -> float | None:
        """Our CPU time over the rival's."""
        if self.ours is None or self.rival is None:
            return None
        if self.ours.cpu is None or self.rival.cpu is None:
            return None
        return self.ours.cpu / self.rival.cpu


def compare(results: Results, problem: str, threads: int = 1) -> Comparison:
    """Find the fastest rival within 1 % of the best loss, or with small gaps."""
    lines = [line for line in lines_of(results, problem, threads) if line.found]
    good = [line for line in lines if _near(line, lines, problem)]
    ours = [line for line in lines if line.ours]
    if problem in _problems.PATHS:
        ours = sorted(ours, key=lambda line: line not in good)  # a good one first
    else:
        ours = [line for line in ours if line.method == "vitalfew"]
    rival = next((line for line in good if not line.ours and line.cpu), None)
    mine = ours[0] if ours else None
    return Comparison(problem, mine, rival, mine in good)


def _near(line: Line, lines: list[Line], problem: str) -> bool:
    if problem in _problems.PATHS:
        return bool(line.found["largest_gap"] <= SMALL_GAP)
    return bool(line.found["train"] <= NEAR * _best(lines))


def _best(lines: list[Line]) -> float:
    return min((line.found["train"] for line in lines if line.found), default=1.0)


# -- the page --------------------------------------------------------------------------


def write(results: Results, folder: Path) -> None:
    """Write ``solvers.rst`` and its figures from the results there are.

    Parameters
    ----------
    results : Results
        All runs.
    folder : Path
        Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "solvers.rst").write_text("\n".join(_page(results)))
    _draw(results, folder / "solvers_loss.svg")
    _draw_paths(results, folder / "solvers_paths.svg")


def _page(results: Results) -> Iterator[str]:
    asked = [*DRAWN, *_problems.PATHS]
    problems = [p for p in asked if lines_of(results, p, 1)]
    yield _pages.heading("Beside other libraries")
    yield INTRODUCTION
    yield _pages.machines(results)
    yield _pages.heading("The default beside the best rival", "-")
    yield (
        "The rival is the fastest one that comes within 1 % of the best loss anyone "
        f"found, for paths within a largest relative duality gap of {SMALL_GAP:g}. "
        "One core; CPU seconds.\n"
    )
    yield _summary(results, problems)
    yield "\n".join(_statements(results, problems)) + "\n"
    yield _pages.figure(
        "solvers",
        "loss",
        "CPU seconds against excess loss for every method on nine problems",
    )
    yield (
        "*Excess training loss on k columns, in per cent of the best, against CPU "
        "seconds on one core. Left and down is better; diamonds are ours, hollow marks "
        "penalised methods.*\n"
    )
    if any(p in problems for p in _problems.PATHS):
        yield _pages.figure(
            "solvers", "paths", "CPU seconds against the largest duality gap of paths"
        )
        yield "*Whole paths: largest relative duality gap against CPU seconds.*\n"
    yield from _cold_start(results)
    for problem in problems:
        yield from _details(results, problem)
    yield from _installation(results)


def _summary(results: Results, problems: list[str]) -> str:
    floor, rows = floors(results), []
    for problem in problems:
        found = compare(results, problem)
        rival, ours = found.rival, found.ours
        one = floor.get(_problems.source(problem))
        gradients = None
        if one and ours and ours.cpu:
            gradients = ours.cpu / gradient_seconds(one)
        rows.append(
            [
                problem,
                number(ours.cpu) if ours else "",
                number(gradients, 2),
                ("yes" if found.good else "no") if ours else "",
                rival.method if rival else "none",
                number(rival.cpu) if rival else "",
                number(found.ratio, 2),
            ]
        )
    header = ["", "ours", "in gradients", "near the best", "best rival", "its CPU"]
    return _pages.table([*header, "ours / rival"], rows)


def _statements(results: Results, problems: list[str]) -> Iterator[str]:
    for problem in problems:
        found = compare(results, problem)
        if found.ours is None:
            continue
        head = f"* {problem}: {found.ours.method} "
        if problem in _problems.PATHS:
            gap = found.ours.found["largest_gap"]
            reached = f"has a largest gap of {number(gap, 2)}"
        elif found.good:
            reached = "comes within 1 % of the best loss"
        else:
            best = _best(lines_of(results, problem, 1))
            excess = 100 * (found.ours.found["train"] / best - 1)
            reached = f"ends {number(excess, 2)} % above the best loss"
        if found.rival is None:
            yield head + reached + "; no rival comes near it."
        elif found.ratio is None:
            yield head + reached + "."
        else:
            yield (
                f"{head}{reached}; it takes {_pages.times(found.ratio)} as "
                f"{found.rival.method}."
            ).replace("of the time as", "of the time of")


def _cold_start(results: Results) -> Iterator[str]:
    lines = lines_of(results, "s", 1)
    if not lines:
        return
    yield _pages.heading("A new process", "-")
    yield (
        "From the start of the interpreter through the import to the first answer: "
        f"{_problems.PROBLEMS['s'].title.removeprefix('a new process: ')}.\n"
    )
    rows = []
    for line in lines:
        of_method = [
            row
            for row in results.rows
            if row["cell"].get("problem") == "s"
            and row["cell"]["method"] == line.method
        ]
        cpu = min(
            (r["process_cpu"] for r in of_method if "process_cpu" in r), default=0
        )
        wall = min(
            (
                r["import_seconds"] + r["first_wall"]
                for r in of_method
                if "first_wall" in r
            ),
            default=None,
        )
        rows.append((cpu, [line.name, number(cpu), number(wall), line.error]))
    rows.sort(key=lambda row: row[0] or float("inf"))
    header = ["method", "CPU s, whole process", "wall s, import and fit", ""]
    yield _pages.table(header, [row for _, row in rows])


def _details(results: Results, problem: str) -> Iterator[str]:
    yield _pages.heading(f"Problem {problem}", "-")
    text = _problems.title(problem)
    yield f"{text[0].upper()}{text[1:]}.\n"
    floor = floors(results).get(problem)
    if floor:
        yield (
            f"X holds {number(floor['data_mb'])} MB. One gradient takes "
            f"{number(1e3 * gradient_seconds(floor))} ms. The planted support has a "
            f"training loss of {number(floor['train'], 5)} and a test loss of "
            f"{number(floor['test'], 5)}.\n"
        )
    two = {line.method: line for line in lines_of(results, problem, 2)}
    one = lines_of(results, problem, 1)
    describe = _path_cells if problem in _problems.PATHS else _loss_cells
    rows = []
    for line in one:
        twice = two.get(line.method)
        rows.append(
            [
                line.name,
                number(line.cpu),
                number(line.first),
                number(twice.wall) if twice else "",
                number(line.memory),
                *describe(line, one),
                line.error,
            ]
        )
    header = ["method", "CPU s", "first fit s", "wall s on 2", "memory MB"]
    if problem in _problems.PATHS:
        header += ["largest gap", "median gap", "nonzeros"]
    else:
        header += ["found", "loss", "% above", "test loss"]
    yield _pages.table([*header, ""], rows)


def _loss_cells(line: Line, lines: list[Line]) -> list[str]:
    if not line.found:
        return ["", "", "", ""]
    train, best = line.found["train"], _best(lines)
    return [
        str(line.found["hits"]),
        number(train, 5),
        number(100 * (train / best - 1), 2),
        number(line.found["test"], 5),
    ]


def _path_cells(line: Line, lines: list[Line]) -> list[str]:
    if not line.found:
        return ["", "", ""]
    gaps = line.found["largest_gap"], line.found["median_gap"]
    return [number(gaps[0], 2), number(gaps[1], 2), str(line.found["nonzeros"])]


def _installation(results: Results) -> Iterator[str]:
    rows = []
    for row in results.rows:
        library = row["cell"].get("installation")
        if library is None:
            continue
        versions = row.get("versions", {})
        names = {"sklearn": "scikit-learn", "glmnet": "python_glmnet"}
        version = versions.get(names.get(library, library), "")
        count = str(row.get("packages", ""))
        rows.append(
            [library, version, versions.get("numpy", ""), count, row.get("error", "")]
        )
    if rows:
        yield _pages.heading("Versions", "-")
        yield "Each library has an environment of its own.\n"
        header = ["library", "version", "NumPy", "packages in its environment", ""]
        yield _pages.table(header, sorted(rows))


# -- the figures -----------------------------------------------------------------------


def _draw(results: Results, file: Path) -> None:
    figure, axes = _pages.new_figure(3, 3)
    labelled: dict[str, Any] = {}
    for ax, problem in zip(axes.flat, DRAWN, strict=True):
        lines = [line for line in lines_of(results, problem, 1) if line.found]
        ax.set_title(problem, loc="left", fontsize=10)
        ax.set_xscale("log")
        for line in lines:
            excess = 100 * (line.found["train"] / _best(lines) - 1)
            _mark(ax, line, max(excess, 0.0), labelled)
        ax.set_yscale("symlog", linthresh=0.1)
        ax.set_ylim(-0.03, max(2.0, 2 * ax.get_ylim()[1]))
        ticks = [t for t in (0, 0.1, 1, 10, 100, 1000) if t <= ax.get_ylim()[1]]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        _whole_decades(ax)
    _finish(figure, axes, labelled, "% above the best loss", file)


def _draw_paths(results: Results, file: Path) -> None:
    figure, axes = _pages.new_figure(1, 2, width=4.0, height=3.0)
    labelled: dict[str, Any] = {}
    for ax, problem in zip(axes.flat, _problems.PATHS, strict=True):
        ax.set_title(problem, loc="left", fontsize=10)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.axhline(SMALL_GAP, color="#cccccc", lw=1, zorder=0)
        for line in lines_of(results, problem, 1):
            if line.found:
                _mark(ax, line, max(line.found["largest_gap"], 1e-12), labelled)
        _whole_decades(ax)
    _finish(figure, axes, labelled, "largest relative gap", file)


def _whole_decades(ax: Any) -> None:
    low, high = np.log10(ax.get_xlim())
    ax.set_xlim(10 ** np.floor(low), 10 ** np.ceil(high))
    ax.minorticks_off()


def _mark(ax: Any, line: Line, y: float, labelled: dict[str, Any]) -> None:
    library = line.method.split(".")[0]
    (drawn,) = ax.plot(
        line.cpu,
        y,
        "D" if line.ours else "o",
        color=_pages.COLOURS[library],
        mfc="none" if line.method.endswith("->k") else None,
        ms=7 if line.ours else 4.5,
        alpha=0.9,
        zorder=3 if line.ours else 2,
    )
    labelled.setdefault(library, drawn)


def _finish(
    figure: Any, axes: Any, labelled: dict[str, Any], ylabel: str, file: Path
) -> None:
    for ax in axes[-1]:
        ax.set_xlabel("CPU seconds")
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    known = [name for name in _pages.COLOURS if name in labelled]
    if known:
        figure.legend(
            [labelled[name] for name in known],
            known,
            loc="outside lower center",
            ncols=8,
            frameon=False,
            fontsize=8,
        )
    _pages.save(figure, file)
