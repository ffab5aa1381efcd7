"""Targets that are classes."""

import numpy as np

from vitalfew._arrays import to_host
from vitalfew.contracts import Array, Ints
from vitalfew.objectives._glm import PointwiseGLM


class TwoClasses(PointwiseGLM):
    """A loss whose targets are 0 and 1."""

    def _check_target(self) -> None:
        values = np.unique(to_host(self.y))
        if not np.all(np.isin(values, (0.0, 1.0))):
            raise ValueError(f"y must hold 0 and 1 only, got {values[:5].tolist()}")
        weighted = np.unique(to_host(self.y)[to_host(self.w) > 0])
        if len(weighted) < 2:
            raise ValueError(f"y must hold both classes, got only {weighted.tolist()}")

    @property
    def strata(self) -> Ints | None:
        """Classes that folds should hold in equal shares."""
        return to_host(self.y).astype(np.int64)


def count_classes(y: Array, w: Array) -> int:
    """Return how many classes there are, or say what is wrong with them.

    Parameters
    ----------
    y : array of shape (n,)
        Classes.
    w : array of shape (n,)
        Weights; rows without do not count.

    Returns
    -------
    int
        C, where `y` holds all of 0 to C - 1 and nothing else.
    """
    labels = to_host(y)
    if labels.ndim != 1:
        raise ValueError(f"y must have shape (n,), got {labels.shape}")
    if np.any(labels != np.round(labels)) or labels.min() < 0:
        raise ValueError("y must hold classes 0 to C - 1 as integers")
    n_classes = max(int(labels.max()) + 1, 2)
    present = np.unique(labels[to_host(w) > 0])
    if len(present) < n_classes:
        in_turn = np.append(present, -1.0) == np.arange(len(present) + 1)
        raise ValueError(
            f"y must hold at least two classes, all of 0 to {n_classes - 1}; "
            f"class {int(np.argmin(in_turn))} has 0 rows"
        )
    return n_classes
