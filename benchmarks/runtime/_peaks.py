"""What one core can do at most, by a few lines of C that are compiled here and now."""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks._runs import Clock, Row

SOURCE = Path(__file__).with_name("peaks.c")
FLAGS = ("-O2", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")
PRECISIONS = ("float32", "bfloat16", "int8")
KILOBYTES = (32, 512, 4 << 10, 16 << 10, 256 << 10)  # of 1,024 bytes
ROUNDS, SECONDS = 7, 0.05


def peaks() -> Row:
    """Measure operations and reading of one core.

    Returns
    -------
    dict
        GFLOP/s (or integer operations) of multiply-adds that stay in registers, for
        each precision that this processor has instructions for; GB/s of reading, for
        arrays of several sizes. Empty where no C compiler is found.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peaks.so"
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(library)]
        if subprocess.run(command, capture_output=True).returncode:
            return {}
        code = ctypes.CDLL(str(library))
    found: Row = {"operations": {}, "reading": {}}
    for name in PRECISIONS:
        function = getattr(code, name)
        function.argtypes, function.restype = [ctypes.c_long], ctypes.c_double
        if operations := function(1):
            found["operations"][name] = operations * _most(function) / 1e9
    code.reading.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    code.reading.restype = ctypes.c_float
    for kilobytes in KILOBYTES:
        size = kilobytes * 256
        array = np.ones(size + 16, np.float32)
        start = array.ctypes.data + -array.ctypes.data % 64
        rate = _most(partial(code.reading, start, size))
        found["reading"][str(kilobytes)] = 4 * size * rate / 1e9
    return found


def _most(function: Callable[[int], object]) -> float:
    """Return the most rounds per CPU second."""
    n, most = 1, 0.0
    while (seconds := _seconds(function, n)) < SECONDS:
        n *= 2
    for _ in range(ROUNDS):
        most = max(most, n / seconds)
        seconds = _seconds(function, n)
    return most


def _seconds(function: Callable[[int], object], n: int) -> float:
    clock = Clock()
    with clock:
        function(n)
    return clock.cpu
