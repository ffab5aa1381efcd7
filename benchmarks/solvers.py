"""Our solvers beside those of other libraries, on the same arrays and the same core.

``python -m benchmarks.solvers --install`` makes the environments of the other
libraries, ``python -m benchmarks.solvers`` runs what has not been run and writes
``docs/benchmarks/solvers.rst``. Every run is a new process that reads the problem,
imports the library, fits once (with whatever it compiles), and fits again: CPU seconds
of all, the memory of the first, and the loss on exactly k columns after a refit that is
the same for all. Rounds go through all methods of a problem in turn.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import _problems, _solvers_report
from benchmarks._ours import OURS
from benchmarks._rival_environments import LIBRARIES, install, outcome, python_of
from benchmarks._rivals import RIVALS
from benchmarks._runs import (
    ROOT,
    Results,
    Row,
    Skipped,
    arguments,
    carry_out,
    cores,
    parse,
    say,
    thread_variables,
)
from benchmarks._worker import MARK

ORDER = ("b", "a", "c", "g", "e", "x", "f", "fe", "h", "i", "d", "s")
ONE_ROUND = ("s",)  # a new process for every fit anyway: more rounds, no repeats
TWO_THREADS = ("a", "b", "c", "d", "e", "f", "h", "i")
ROUNDS = 3
REPEATS = 2  # fits after the first, in each round
SECONDS = 120.0  # for one process, unless asked otherwise


def cells(problems: list[str], methods: list[str], most_threads: int) -> Iterator[Row]:
    """Yield all runs, the most wanted first.

    Parameters
    ----------
    problems : list of str
        Which problems, in any order.
    methods : list of str
        Beginnings of the methods to run; all when empty.
    most_threads : int
        1 or 2.

    Yields
    ------
    dict
        Problem, method, threads and round.
    """
    for number in range(ROUNDS):
        for threads in range(1, most_threads + 1):
            for problem in ORDER:
                if problem not in problems or (
                    threads > 1 and problem not in TWO_THREADS
                ):
                    continue
                for method in _methods(problem):
                    if method == "floor" and (threads > 1 or number):
                        continue
                    if methods and not method.startswith(tuple(methods)):
                        continue
                    yield {
                        "problem": problem,
                        "method": method,
                        "threads": threads,
                        "round": number,
                    }


def _methods(problem: str) -> list[str]:
    floor = [] if problem in _problems.PATHS else ["floor"]
    return [*floor, *OURS[problem], *RIVALS[problem]]


class Runner:
    """Makes one run: a process in the environment of the method's library.

    Parameters
    ----------
    folder : Path
        Where problems are saved.
    results : Results
        What has been found: a method that failed is not asked again.
    toy : bool
        Draw tiny problems.
    seconds : float
        Time limit of a process.
    """

    def __init__(
        self, folder: Path, results: Results, toy: bool, seconds: float
    ) -> None:
        self.folder, self.results = folder, results
        self.toy, self.seconds = toy, seconds

    def __call__(self, cell: Row) -> Row:
        """Return what the process told, with why it ended if it failed."""
        problem, method, threads = cell["problem"], cell["method"], cell["threads"]
        library = "vitalfew" if method == "floor" else method.split(".")[0]
        python = python_of(library)
        if python is None:
            reason = outcome(library).get("error", "run with --install first")
            raise Skipped(f"{library} is not installed: {reason}")
        if self._failed_before(cell):
            raise Skipped(f"{method} failed on {problem} in an earlier round")
        file = _problems.write(problem, self.folder, toy=self.toy)
        repeats = 0 if problem in ONE_ROUND else REPEATS
        command = [str(python), "-m", "benchmarks._worker"]
        command += [problem, str(file), method, str(threads), str(repeats)]
        begun = time.perf_counter()
        output, failure = _finish(command, threads, self.seconds)
        row: Row = {"process_wall": time.perf_counter() - begun}
        for line in output.splitlines():
            if line.startswith(MARK):
                row |= json.loads(line.removeprefix(MARK))
        versions = outcome(library).get("versions", {})
        return (
            row | ({"error": failure} if failure else {}) | _version(versions, method)
        )

    def _failed_before(self, cell: Row) -> bool:
        same = [
            row
            for row in self.results.rows
            if all(
                row["cell"].get(k) == cell[k] for k in ("problem", "method", "threads")
            )
        ]
        return any("error" in row for row in same)


def _version(versions: dict[str, str], method: str) -> Row:
    packages = {"sklearn": "scikit-learn", "glmnet": "python_glmnet"}
    library = method.split(".")[0]
    found = versions.get(packages.get(library, library))
    return {} if found is None else {"version": found}


def _finish(command: list[str], threads: int, seconds: float) -> tuple[str, str | None]:
    """Run a command to its end or its time limit; also say how it failed."""
    environment = {**os.environ, **thread_variables(threads), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} "
        f"intra_op_parallelism_threads={threads}"
    )
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=errors,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        failure = None
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            failure = f"stopped after {seconds:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        errors.seek(0)
        if failure is None and process.returncode:
            told = errors.read().strip().splitlines() or [""]
            failure = f"ended with {process.returncode}: {told[-1].strip()[:120]}"
        return out.read(), failure


def note_installations(results: Results) -> None:
    """Record how each library was installed: the page needs only the results."""
    for library in LIBRARIES:
        cell, found = {"installation": library}, outcome(library)
        if found and not results.has(cell):
            results.add(cell, found)


def main(given: list[str] | None = None) -> int:
    """Run the benchmark and write its page.

    Parameters
    ----------
    given : list of str, optional
        The command line by default.

    Returns
    -------
    int
        0, or 1 when runs are left for another time.
    """
    options = _options(given)
    if options.install:
        install()
        return 0
    results = Results(options.results)
    left = 0
    if not options.report_only:
        note_installations(results)
        most_threads = min(options.threads, len(cores()))
        if most_threads < options.threads:
            say(f"runs with {options.threads} threads need as many cores; left out")
        wanted = cells(options.problems, options.methods, most_threads)
        with tempfile.TemporaryDirectory() as folder:
            run = Runner(Path(folder), results, options.toy, options.seconds)
            left = carry_out(wanted, run, results, options.budget_minutes)
    _solvers_report.write(results, options.pages)
    return int(left > 0)


def _options(given: list[str] | None) -> argparse.Namespace:
    parser = arguments(__doc__, "solvers.jsonl")
    parser.add_argument(
        "--install",
        action="store_true",
        help="make the environments of the other libraries, and stop",
    )
    parser.add_argument(
        "--problems",
        nargs="+",
        choices=ORDER,
        default=list(ORDER),
        metavar="P",
        help=f"some of {' '.join(ORDER)} (default: all)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="M",
        help="only methods that begin like this, as in 'vitalfew' or 'sklearn.OMP'",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=2,
        choices=(1, 2),
        help="the most threads (default: 2; one thread is measured first)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help=f"time limit of one process (default: {SECONDS:g})",
    )
    return parse(parser, given)


if __name__ == "__main__":
    sys.exit(main())
