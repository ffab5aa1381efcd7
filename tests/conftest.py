"""Fixtures that every test shares: seeds and array libraries."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

from tests.backends import BACKENDS, KINDS, Backend

# timings on a shared machine say nothing, and a failure must be the same next time
settings.register_profile("vitalfew", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("vitalfew")


@pytest.fixture(autouse=True)
def figures_closed() -> Iterator[None]:
    """Let no test leave figures open: the twentieth makes matplotlib warn."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


@pytest.fixture
def seed() -> int:
    return 20240817


@pytest.fixture
def rng(seed) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(params=BACKENDS)
def backend(request) -> Backend:
    """Each array library: NumPy, the strict one, torch."""
    return Backend.load(request.param)


@pytest.fixture(params=["float64", "float32"])
def dtype(request) -> str:
    return request.param


@pytest.fixture(params=KINDS, ids="-".join)
def kind(request) -> tuple[Backend, str]:
    """An array library and a precision."""
    library, precision = request.param
    return Backend.load(library), precision
