"""What all benchmarks share: runs in a fixed order, their file, clocks and memory.

A run is told by its cell, a small record such as ``{"problem": "a", "round": 0}``. It
is appended to the results as one JSON line when it has finished, so a benchmark that
was killed goes on where it ended. A line with the facts of the machine stands before
the runs made on it. Needs nothing but the standard library, as workers run in
environments of other libraries.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "benchmarks"
PACKAGES = ("vitalfew", "numpy", "scipy", "scikit-learn", "torch")
THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA")  # prefixes of ..._NUM_THREADS

Row = dict[str, Any]


class Skipped(Exception):
    """A run that cannot be made here and now; it is told and not recorded."""


class Results:
    """Finished runs in a file of JSON lines.

    Parameters
    ----------
    file : Path
        Read if it exists. A last line cut short by a kill is removed.
    machine : dict, optional
        Facts of this machine by default.
    """

    def __init__(self, file: Path, machine: Row | None = None) -> None:
        self.file = file
        self.machine = machine_facts() if machine is None else machine
        self.rows: list[Row] = []
        self.machines: list[Row] = []
        for record in _whole_lines(file):
            self._take(record)
        self.finished = {_key(row["cell"]) for row in self.rows}

    def _take(self, record: Row) -> None:
        if "machine" in record:
            self.machines.append(record["machine"])
        else:
            self.rows.append(record)

    def has(self, cell: Row) -> bool:
        """Say whether a run has finished."""
        return _key(cell) in self.finished

    def add(self, cell: Row, found: Row) -> None:
        """Append a run; it is on the disk when this returns."""
        if not self.machines or self.machines[-1] != self.machine:
            self._write({"machine": self.machine})
        self._write({"cell": cell, **found})
        self.finished.add(_key(cell))

    def _write(self, record: Row) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(record)


def _whole_lines(file: Path) -> list[Row]:
    if not file.exists():
        return []
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        os.truncate(file, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def _key(cell: Row) -> str:
    return json.dumps(cell, sort_keys=True)


def carry_out(
    cells: Iterable[Row],
    run: Callable[[Row], Row],
    results: Results,
    minutes: float,
) -> int:
    """Run what is not finished, in order, until the time is used.

    Parameters
    ----------
    cells : iterable of dict
        All runs, the most wanted first.
    run : callable
        Makes one run and returns what to record, or raises `Skipped`.
    results : Results
        Where runs are looked up and recorded.
    minutes : float
        No run begins later than this.

    Returns
    -------
    int
        How many runs are left, skipped ones not counted.
    """
    cells = [cell for cell in cells if not results.has(cell)]
    deadline = time.monotonic() + 60 * minutes
    told: set[str] = set()
    for done, cell in enumerate(cells):
        if time.monotonic() >= deadline:
            say(f"{minutes:g} minutes are used; {len(cells) - done} runs are left")
            return len(cells) - done
        try:
            found = run(cell)
        except Skipped as reason:
            if str(reason) not in told:
                say(f"skipped: {reason}")
                told.add(str(reason))
            continue
        results.add(cell, found)
        say(f"{done + 1}/{len(cells)} {' '.join(str(v) for v in cell.values())}")
    return 0


@dataclass
class Clock:
    """CPU and wall seconds of what runs in its block, in this process."""

    cpu: float = 0.0
    wall: float = 0.0
    _begun: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def __enter__(self) -> "Clock":
        self._begun = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu = time.process_time() - self._begun[0]
        self.wall = time.perf_counter() - self._begun[1]


class Memory:
    """The most memory used since it was made, over what was in use then.

    Where the system cannot forget an earlier peak (anywhere but Linux), that peak is
    what growth is measured from.
    """

    def __init__(self) -> None:
        self.can_reset = Path("/proc/self/clear_refs").exists()
        if self.can_reset:
            Path("/proc/self/clear_refs").write_text("5")
        self.base = self._status("VmRSS") if self.can_reset else self._peak()

    def grown(self) -> float:
        """Return the growth in MB of 10^6 bytes."""
        peak = self._status("VmHWM") if self.can_reset else self._peak()
        return peak - self.base

    @staticmethod
    def _status(field: str) -> float:
        text = Path("/proc/self/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
        return int(found[1]) * 1024 / 1e6 if found else float("nan")

    @staticmethod
    def _peak() -> float:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def cores() -> list[int]:
    """Return the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment that holds numerical libraries to some threads."""
    return {f"{name}_NUM_THREADS": str(threads) for name in THREADS}


def machine_facts() -> Row:
    """Return what a reader must know of the machine; no names, no paths."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu_model(),
        "cores": len(cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_model() -> str:
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or "unknown"


def arguments(description: str | None, results: str) -> argparse.ArgumentParser:
    """Return a parser with the options every benchmark has.

    Parameters
    ----------
    description : str or None
        What the script does; its first line is shown.
    results : str
        Name of the default file of results.

    Returns
    -------
    argparse.ArgumentParser
        To which a script may add its own.
    """
    parser = argparse.ArgumentParser(
        description=(description or "").strip().splitlines()[0]
    )
    parser.add_argument(
        "--budget-minutes",
        type=float,
        default=60.0,
        metavar="M",
        help="no run begins after this many minutes (default: 60)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS / results,
        metavar="FILE",
        help=f"JSON lines of runs (default: benchmarks/results/{results})",
    )
    parser.add_argument(
        "--pages",
        type=Path,
        default=PAGES,
        metavar="FOLDER",
        help="where the page and its figures are written (default: docs/benchmarks)",
    )
    parser.add_argument(
        "--report-only",
        action="store_true",
        help="run nothing, write the page from the results there are",
    )
    parser.add_argument(
        "--toy", action="store_true", help="tiny problems that finish in seconds"
    )
    return parser


def parse(
    parser: argparse.ArgumentParser, given: list[str] | None
) -> argparse.Namespace:
    """Read a command line; tiny problems may not be mixed with measured ones."""
    options = parser.parse_args(given)
    defaults = parser.get_default("results"), parser.get_default("pages")
    if options.toy and (options.results in defaults or options.pages in defaults):
        parser.error("--toy needs --results and --pages of its own")
    return options


def add_choices(
    parser: argparse.ArgumentParser, choices: Mapping[str, Sequence[Any]]
) -> None:
    """Add an option for each part of a cell, to make some of the runs only.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        To which they are added.
    choices : mapping of str to sequence
        The values of each part.
    """
    for name, values in choices.items():
        parser.add_argument(
            f"--{name}",
            nargs="+",
            type=type(values[0]),
            choices=values,
            help=f"only these values of {name}",
        )


def chosen(
    cells: Iterable[Row], choices: Iterable[str], options: argparse.Namespace
) -> list[Row]:
    """Return the runs that the options of `add_choices` leave.

    Parameters
    ----------
    cells : iterable of dict
        All runs.
    choices : iterable of str
        Parts of a cell that have an option.
    options : argparse.Namespace
        As parsed.

    Returns
    -------
    list of dict
        In the same order.
    """
    wanted = {name: getattr(options, name) for name in choices}
    return [
        cell
        for cell in cells
        if all(
            values is None or cell[name] in values for name, values in wanted.items()
        )
    ]


def conduct(
    options: argparse.Namespace,
    cells: Iterable[Row],
    run: Callable[[Row], Row],
    write: Callable[[Results, Path], None],
    choices: Iterable[str] = (),
) -> int:
    """Make the runs that a command line asks for, then write their page.

    Parameters
    ----------
    options : argparse.Namespace
        From `parse`.
    cells : iterable of dict
        All runs.
    run : callable
        Makes one.
    write : callable
        Writes the page of results into a folder.
    choices : iterable of str
        Parts of a cell with an option of `add_choices`.

    Returns
    -------
    int
        Exit status: 0, or 1 when runs are left for another time.
    """
    results = Results(options.results)
    left = 0
    if not options.report_only:
        wanted = chosen(cells, choices, options)
        left = carry_out(wanted, run, results, options.budget_minutes)
    write(results, options.pages)
    return int(left > 0)


def say(text: str) -> None:
    """Tell the user how far things are."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def median(values: Iterable[float]) -> float:
    """Return the median, or NaN of nothing."""
    values = list(values)
    return statistics.median(values) if values else float("nan")
