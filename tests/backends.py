"""Array libraries the tests run on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

BACKENDS = ["numpy", "strict", "torch"]
# Each library and each precision, for what costs too much on every pair. The strict
# one is where mixed precisions fail.
KINDS = [
    ("numpy", "float64"),
    ("numpy", "float32"),
    ("strict", "float32"),
    ("torch", "float64"),
]


@dataclass(frozen=True)
class Backend:
    """Makes arrays of one library from NumPy arrays."""

    name: str
    module: Any

    @classmethod
    def load(cls, name: str) -> "Backend":
        package = {"numpy": "numpy", "strict": "array_api_strict", "torch": "torch"}
        module = pytest.importorskip(package[name])
        if name == "torch":
            module.set_num_threads(1)  # small arrays; two workers on two cores
        return cls(name, module)

    def array(self, host: Any, dtype: str | None = None) -> Any:
        host = np.array(host, dtype=dtype)
        if self.name == "torch":
            return self.module.from_numpy(host)
        return self.module.asarray(host)
