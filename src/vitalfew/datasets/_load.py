"""Finding and checking data files."""

import difflib
import gzip
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew.datasets._facts import FACTS
from vitalfew.exceptions import DataError, MissingDependencyError

VARIABLE = "VITALFEW_DATA"


@dataclass(frozen=True)
class Dataset:
    """A checked file; what it holds is read when asked for.

    Attributes
    ----------
    name : str
        As in `FACTS`.
    path : Path
        The file.
    task : str
        What it is for, in a line.
    """

    name: str
    path: Path
    task: str

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays of a ``.npz`` file by name."""
        self._must_end_with(".npz", "arrays")
        with np.load(self.path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """Columns of a ``.parquet`` file by name.

        Missing numbers are NaN; text is held as objects, and None where missing.
        """
        self._must_end_with(".parquet", "columns")
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise MissingDependencyError(
                f"reading {self.path.name} needs pyarrow: pip install 'vitalfew[cli]'"
            ) from error
        table = pyarrow.parquet.read_table(self.path)
        return {
            name: table.column(name).to_numpy(zero_copy_only=False)
            for name in table.column_names
        }

    @cached_property
    def text(self) -> str:
        """Text of a ``.gz`` file."""
        self._must_end_with(".gz", "text")
        return gzip.decompress(self.path.read_bytes()).decode("utf-8")

    def _must_end_with(self, suffix: str, wanted: str) -> None:
        kinds = {".npz": "arrays", ".parquet": "columns", ".gz": "text"}
        if self.path.suffix != suffix:
            raise DataError(
                f"{self.path.name} holds no {wanted}; "
                f"use load({self.name!r}).{kinds[self.path.suffix]}"
            )


def load(name: str) -> Dataset:
    """Find a data set in the folder named by ``VITALFEW_DATA`` and check it.

    Parameters
    ----------
    name : str
        One of `FACTS`; the file is ``$VITALFEW_DATA/<name>/<file>``.

    Returns
    -------
    Dataset
        Whose file has the SHA-256 that the table states.

    Raises
    ------
    DataError
        If the name is unknown, the variable unset, the file absent or another one.
    """
    if name not in FACTS:
        near = difflib.get_close_matches(name, FACTS, n=3)
        known = f"did you mean {' or '.join(near)}?" if near else "see datasets.FACTS"
        raise DataError(f"no data set is called {name!r}; {known}")
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise DataError(
            f"data sets are looked for in the folder that the environment variable "
            f"{VARIABLE} names, and it is not set"
        )
    facts = FACTS[name]
    path = Path(folder) / name / facts.file
    if not path.is_file():
        raise DataError(
            f"{path} is not there; {VARIABLE} must hold {name}/{facts.file}"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != facts.sha256:
        raise DataError(
            f"{path} is not the file it should be: its SHA-256 is {found}, "
            f"not {facts.sha256}"
        )
    return Dataset(name, path, facts.task)
