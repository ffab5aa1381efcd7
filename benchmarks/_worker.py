"""One process, one method, one problem: load, import, fit, measure, judge.

``python -m benchmarks._worker PROBLEM FILE METHOD THREADS REPEATS`` prints records that
begin with `MARK`, each as soon as it is known, so that what a time-out cuts short still
tells something. Runs in the environment of any library: it needs NumPy, and SciPy where
X is sparse.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _problems, _rivals, _scores
from benchmarks._runs import Clock, Memory, cores

MARK = "@@"
LONG = 60.0  # CPU seconds of a first fit after which there is no second
MOST_MEMORY = 14 << 30  # bytes; one more and the allocation fails, not the machine


def emit(**record: Any) -> None:
    """Print a part of the row."""
    sys.__stdout__.write(MARK + json.dumps(record) + "\n")
    sys.__stdout__.flush()


def limit(threads: int) -> None:
    """Hold the process to some cores and to a share of the memory."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[-threads:])
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))


def driver_of(problem: str, method: str) -> _rivals.Driver:
    """Return the driver of a method of any library."""
    if method.split(".")[0] == "vitalfew":
        from benchmarks._ours import OURS

        return OURS[problem][method]
    return _rivals.RIVALS[problem][method]


def work(problem: str, file: Path, method: str, threads: int, repeats: int) -> None:
    """Do all that the module says, for one method."""
    data = _problems.load(file)
    with Clock() as loading:
        fit = driver_of(problem, method)(data, threads)
    memory = Memory()
    with Clock() as first:
        found = fit()
    emit(
        import_seconds=loading.wall,
        first_cpu=first.cpu,
        first_wall=first.wall,
        process_cpu=time.process_time(),
        memory_mb=memory.grown(),
    )
    data |= _problems.load_test(file)
    if problem in _problems.PATHS:
        coefs, alphas = found
        judged = _scores.judge_path(data, coefs, alphas, _problems.PATHS[problem][1])
    else:
        judged = _scores.judge(data, np.asarray(found, dtype=np.float64).ravel())
    emit(**judged)
    cpu, wall = [], []
    for _ in range(repeats if first.cpu < LONG else 0):
        with Clock() as clock:
            fit()
        cpu.append(clock.cpu)
        wall.append(clock.wall)
        emit(cpu=cpu, wall=wall)


def floor(file: Path) -> None:
    """Time one product with X and one with its transpose, in both memory orders."""
    data = _problems.load(file)
    X = data["X"]
    sparse = not isinstance(X, np.ndarray)
    arrays = (X.data, X.indices) if sparse else (X,)
    orders = {"rows": X} if sparse else {"rows": X, "columns": np.asfortranarray(X)}
    r, w = np.ones(X.shape[0]), np.ones(X.shape[1])
    found: dict[str, Any] = {"data_mb": sum(a.nbytes for a in arrays) / 1e6}
    for order, matrix in orders.items():
        transposed = matrix.T
        found[f"backward_{order}"] = _least(lambda m=transposed: m @ r)
        found[f"forward_{order}"] = _least(lambda m=matrix: m @ w)
    data |= _problems.load_test(file)
    emit(**found, **_scores.judge(data, data["coef"]))


def _least(function: Any, repeats: int = 9) -> float:
    times = []
    for _ in range(repeats):
        with Clock() as clock:
            function()
        times.append(clock.cpu)
    return min(times)


def main(arguments: list[str]) -> None:
    """Read the command line."""
    warnings.filterwarnings("ignore")
    problem, file, method, threads, repeats = arguments
    limit(int(threads))
    if method == "floor":
        floor(Path(file))
    else:
        work(problem, Path(file), method, int(threads), int(repeats))


if __name__ == "__main__":
    main(sys.argv[1:])
