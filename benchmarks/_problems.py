"""The problems: fixed seeds, known answers, saved as arrays that every worker reads.

Half of the rows (2,000 to 20,000 of them where that would be too many or too few) are
kept for testing. Only `write` needs vitalfew; workers of other libraries `load`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Data = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """One problem and how it is drawn.

    Attributes
    ----------
    title : str
        What it is, in a line.
    loss : str
        As in `benchmarks._scores.loss_at`.
    k : int
        Columns, or groups, to choose.
    size, toy : dict
        Arguments of `draw` for the measured problem and for a tiny one.
    draw : callable
        Returns X, y (time and event in two columns for Cox) and coefficients.
    test : int
        Rows kept for testing, on top of those in `size`.
    toy_k : int
        `k` of the tiny problem.
    group_size : int
        Columns of a group; 1 where columns are chosen.
    """

    title: str
    loss: str
    k: int
    size: dict[str, Any]
    toy: dict[str, Any]
    draw: Callable[..., tuple[Any, Any, Any]]
    test: int
    toy_k: int
    group_size: int = 1


def _regression(**size: Any) -> tuple[Any, Any, Any]:
    from vitalfew.datasets import make_sparse_regression

    data = make_sparse_regression(**size)
    return data.X, data.y, data.coef


def _blocks(**size: Any) -> tuple[Any, Any, Any]:
    from vitalfew.datasets import make_correlated_blocks

    data = make_correlated_blocks(**size)
    return data.X, data.y, data.coef


def _classes(**size: Any) -> tuple[Any, Any, Any]:
    from vitalfew.datasets import make_sparse_classification

    data = make_sparse_classification(**size)
    return data.X, data.y.astype(np.float64), data.coef


def _groups(**size: Any) -> tuple[Any, Any, Any]:
    from vitalfew.datasets import make_group_regression

    data = make_group_regression(**size)
    return data.X, data.y, data.coef


def _heavy_tails(*, rng: int, **size: Any) -> tuple[Any, Any, Any]:
    from vitalfew.datasets import make_sparse_regression

    generator = np.random.default_rng(rng)
    data = make_sparse_regression(**size, rng=generator)
    noise = generator.standard_t(1.5, len(data.y))
    return data.X, data.X @ data.coef + noise, data.coef


def _survival(**size: Any) -> tuple[Any, Any, Any]:
    from vitalfew.datasets import make_sparse_survival

    data = make_sparse_survival(**size)
    return data.X, np.column_stack([data.time, data.event]), data.coef


def _sparse(
    *, n_samples: int, n_features: int, n_nonzero: int, classes: bool, rng: int
) -> tuple[Any, Any, Any]:
    """Rows of about n_features / 1000 (at least 5) entries in columns of many sizes."""
    import scipy.sparse

    generator = np.random.default_rng(rng)
    popularity = (np.arange(n_features) + 200.0) ** -0.7
    popularity /= popularity.sum()
    per_row = generator.poisson(max(5.0, n_features * 1e-3), n_samples)
    columns = generator.choice(n_features, per_row.sum(), p=popularity)
    rows = np.repeat(np.arange(n_samples), per_row)
    values = generator.uniform(0.5, 1.5, len(columns))
    X = scipy.sparse.csr_matrix((values, (rows, columns)), (n_samples, n_features))
    X.sum_duplicates()
    common = np.flatnonzero(np.bincount(X.indices, minlength=n_features) >= 180)
    coef = np.zeros(n_features)
    where = generator.choice(common, n_nonzero, replace=False)
    coef[where] = generator.uniform(0.5, 1.5, n_nonzero)
    coef[where] *= generator.choice([-1, 1], n_nonzero)
    if classes:
        coef *= 2.5
        share = 1 / (1 + np.exp(-(X @ coef)))
        y = (generator.uniform(size=n_samples) < share).astype(np.float64)
    else:
        signal = X @ coef
        noise = generator.standard_normal(n_samples)
        y = signal + np.sqrt(np.var(signal) / 6) * noise
    return X, y, coef


def _chain(n: int, p: int, k: int, correlation: float, **more: Any) -> dict[str, Any]:
    return {
        "n_samples": n,
        "n_features": p,
        "n_nonzero": k,
        "correlation": correlation,
        **more,
    }


_SPARSE = {"n_samples": 50_000, "n_features": 100_000, "n_nonzero": 50, "rng": 9}
_TOY_SPARSE = {"n_samples": 800, "n_features": 40, "n_nonzero": 3, "rng": 9}

PROBLEMS = {
    "a": Problem(
        "least squares, n = 1,000, p = 10,000, k = 50, neighbours correlated 0.7, "
        "signal to noise 6",
        "squares",
        50,
        _chain(1_000, 10_000, 50, 0.7, snr=6.0, rng=1),
        _chain(60, 40, 3, 0.7, snr=6.0, rng=1),
        _regression,
        test=1_000,
        toy_k=3,
    ),
    "b": Problem(
        "the greedy trap: least squares, n = 500, p = 2,000, k = 30 in blocks of 10 "
        "columns correlated 0.95, three active in each of ten with signs + - +, "
        "signal to noise 30",
        "squares",
        30,
        {"n_samples": 500, "n_features": 2_000, "n_blocks": 10, "rng": 2},
        {"n_samples": 60, "n_features": 40, "n_blocks": 1, "rng": 2},
        _blocks,
        test=2_000,
        toy_k=3,
    ),
    "c": Problem(
        "logistic, n = 2,000, p = 5,000, k = 40, neighbours correlated 0.5",
        "logistic",
        40,
        _chain(2_000, 5_000, 40, 0.5, rng=3),
        _chain(120, 40, 3, 0.5, rng=3),
        _classes,
        test=2_000,
        toy_k=3,
    ),
    "d": Problem(
        "many rows: least squares, n = 200,000, p = 500, k = 25, neighbours "
        "correlated 0.5, signal to noise 0.05",
        "squares",
        25,
        _chain(200_000, 500, 25, 0.5, snr=0.05, rng=4),
        _chain(600, 20, 3, 0.5, snr=1.0, rng=4),
        _regression,
        test=20_000,
        toy_k=3,
    ),
    "e": Problem(
        "groups: least squares, n = 2,000, 1,000 groups of 5 columns correlated 0.5, "
        "k = 20 groups, signal to noise 2",
        "squares",
        20,
        {"n_samples": 2_000, "n_groups": 1_000, "n_nonzero": 20, "rng": 5},
        {"n_samples": 80, "n_groups": 8, "n_nonzero": 2, "rng": 5},
        _groups,
        test=2_000,
        toy_k=2,
        group_size=5,
    ),
    "g": Problem(
        "robust: Huber's loss (delta 1.345), n = 1,000, p = 1,000, k = 20, neighbours "
        "correlated 0.6, Student noise with 1.5 degrees of freedom",
        "huber",
        20,
        _chain(1_000, 1_000, 20, 0.6, rng=7),
        _chain(80, 30, 3, 0.6, rng=7),
        _heavy_tails,
        test=1_000,
        toy_k=3,
    ),
    "x": Problem(
        "survival: Cox partial likelihood, n = 1,000, p = 1,000, k = 20, neighbours "
        "correlated 0.5",
        "cox",
        20,
        _chain(1_000, 1_000, 20, 0.5, censoring_time=float(np.exp(0.5)), rng=8),
        _chain(100, 30, 3, 0.5, rng=8),
        _survival,
        test=1_000,
        toy_k=3,
    ),
    "h": Problem(
        "sparse X: least squares, n = 50,000, p = 100,000, k = 50, one entry in a "
        "thousand, signal to noise 6",
        "squares",
        50,
        {**_SPARSE, "classes": False},
        {**_TOY_SPARSE, "classes": False},
        _sparse,
        test=10_000,
        toy_k=3,
    ),
    "i": Problem(
        "sparse X: logistic, n = 50,000, p = 100,000, k = 50, one entry in a thousand",
        "logistic",
        50,
        {**_SPARSE, "classes": True},
        {**_TOY_SPARSE, "classes": True},
        _sparse,
        test=10_000,
        toy_k=3,
    ),
    "s": Problem(
        "a new process: import, then least squares with n = 200, p = 100, k = 5",
        "squares",
        5,
        _chain(200, 100, 5, 0.5, rng=10),
        _chain(60, 20, 3, 0.5, rng=10),
        _regression,
        test=200,
        toy_k=3,
    ),
}
# Lasso and elastic-net paths over the data of another problem.
PATHS = {"f": ("a", 1.0), "fe": ("a", 0.5)}
PATH_TITLES = {
    "f": "lasso path on the data of a, 100 strengths down to 0.01 of the largest",
    "fe": "elastic-net path (half l1) on the data of a, 100 strengths down to 0.01",
}


def source(problem: str) -> str:
    """Return the problem whose data a problem uses."""
    return PATHS[problem][0] if problem in PATHS else problem


def title(problem: str) -> str:
    """Return what a problem is, in a line."""
    return PATH_TITLES.get(problem) or PROBLEMS[problem].title


def write(problem: str, folder: Path, *, toy: bool = False) -> Path:
    """Draw a problem and save it, unless that has been done.

    Parameters
    ----------
    problem : str
        A key of `PROBLEMS` or `PATHS`.
    folder : Path
        Where its file goes.
    toy : bool, default=False
        Draw the tiny one.

    Returns
    -------
    Path
        The ``.npz`` file.
    """
    name = source(problem)
    file = folder / f"{name}.npz"
    if file.exists():
        return file
    chosen = PROBLEMS[name]
    size = dict(chosen.toy if toy else chosen.size)
    n, test = size["n_samples"], size["n_samples"] if toy else chosen.test
    X, y, coef = chosen.draw(**{**size, "n_samples": n + test})
    arrays: Data = {"y": y[:n], "y_test": y[n:], "coef": coef}
    arrays |= {
        "loss": chosen.loss,
        "k": chosen.toy_k if toy else chosen.k,
        "group_size": chosen.group_size,
    }
    for key, part in (("X", X[:n]), ("X_test", X[n:])):
        if isinstance(part, np.ndarray):
            arrays[key] = part
        else:
            fields = ("data", "indices", "indptr", "shape")
            arrays |= {f"{key}_{f}": np.asarray(getattr(part, f)) for f in fields}
    np.savez(file, **arrays)
    return file


def load(file: Path) -> Data:
    """Read a problem: X in C order or CSR, y, coef, loss, k and group_size.

    `load_test` reads the rest.
    """
    with np.load(file, allow_pickle=False) as saved:
        return {
            "X": _matrix(saved, "X"),
            "y": saved["y"],
            "coef": saved["coef"],
            "loss": str(saved["loss"]),
            "k": int(saved["k"]),
            "group_size": int(saved["group_size"]),
        }


def load_test(file: Path) -> Data:
    """Read the rows kept for testing."""
    with np.load(file, allow_pickle=False) as saved:
        return {"X_test": _matrix(saved, "X_test"), "y_test": saved["y_test"]}


def _matrix(saved: Any, key: str) -> Any:
    if key in saved:
        return saved[key]
    import scipy.sparse

    parts = tuple(saved[f"{key}_{f}"] for f in ("data", "indices", "indptr"))
    return scipy.sparse.csr_matrix(parts, shape=tuple(saved[f"{key}_shape"]))
