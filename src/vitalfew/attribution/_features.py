"""What is chosen: single entries of the inputs, or groups of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import as_array, is_array_api_obj, to_host
from vitalfew._validation import check_labels
from vitalfew.contracts import Array, Ints, Shape

NAMED = ("pixels", "channels", "tokens")
ALL = slice(None)


class Features:
    """Which entries of an input go together.

    Parameters
    ----------
    groups : array of integers, str or None
        As in `vitalfew.attribution.GreedyPIG`.
    inputs : array of shape (n, *shape)
        What is explained.

    Attributes
    ----------
    count : int
        Most features that an input has.
    present : boolean array of shape (n, count)
        Whether an input has a feature.
    """

    def __init__(self, groups: Any, inputs: Array) -> None:
        shape = tuple(int(size) for size in inputs.shape)
        self.shape = shape
        size = int(np.prod(shape[1:]))
        self.labels: Ints | None = None  # (n or 1, size)
        if groups is None:
            self.count = size
            self.present = np.ones((shape[0], size), bool)
            return
        labels = _labels(groups, shape)
        rows = [check_labels(row, "groups") for row in labels]
        self.labels = np.stack(rows)
        sizes = np.array([row.max() + 1 for row in rows])
        self.count = int(sizes.max())
        present = np.arange(self.count) < sizes[:, None]
        self.present = np.broadcast_to(present, (shape[0], self.count))

    def totals(self, values: Array, rows: slice = ALL) -> NDArray[np.float64]:
        """Return sums over the entries of each feature, (m, count), on the host.

        Where inputs have features of their own, `rows` says whose the values are.
        """
        flat = to_host(values).reshape(len(values), -1).astype(np.float64, copy=False)
        if self.labels is None:
            return flat
        labels = self.labels if len(self.labels) == 1 else self.labels[rows]
        place = labels + self.count * np.arange(len(flat))[:, None]
        size = len(flat) * self.count
        sums: Any = np.bincount(place.ravel(), weights=flat.ravel(), minlength=size)
        return np.asarray(sums.reshape(len(flat), self.count), np.float64)

    def means(self, values: Array) -> NDArray[np.float64]:
        """Return means over the entries of each feature, (m, count), on the host."""
        sizes = self.totals(np.ones(self.shape))
        return self.totals(values) / np.maximum(sizes, 1)

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Give each entry the value of its feature: (m, count) to (m, *shape)."""
        if self.labels is not None:
            labels = np.broadcast_to(self.labels, (len(values), self.labels.shape[1]))
            values = np.take_along_axis(values, labels, axis=1)
        return values.reshape(len(values), *self.shape[1:])

    def members(self, features: Ints, owners: Ints) -> NDArray[np.bool_]:
        """Return which entries belong to one feature each, (m, size)."""
        labels = np.arange(self.count)[None] if self.labels is None else self.labels
        labels = labels if len(labels) == 1 else labels[owners]
        return np.asarray(labels == features[:, None])


def shown(marks: NDArray[np.bool_], inputs: Array, baseline: Array) -> Array:
    """Return inputs where marked, the baseline elsewhere; marks are on the host."""
    on = as_array(marks, inputs)
    # on is 0 or 1: exact at both ends
    return on * inputs + (1 - on) * baseline


def _labels(groups: Any, shape: Shape) -> Ints:
    if isinstance(groups, str):
        if groups not in NAMED or len(shape) < 3:
            raise ValueError(
                f"groups must be None, labels or one of {', '.join(NAMED)} (for "
                f"inputs of shape (n, channels or tokens, ...)), got {groups!r} for "
                f"inputs of shape {shape}"
            )
        first, rest = shape[1], shape[2:]
        if groups == "pixels":
            groups = np.arange(int(np.prod(rest))).reshape(1, *rest)
        else:
            groups = np.arange(first).reshape(first, *(1 for _ in rest))
    host = np.asarray(to_host(groups) if is_array_api_obj(groups) else groups)
    n_axes = len(shape)
    own = host.ndim == n_axes and host.shape[0] == shape[0] and shape[0] > 1
    wanted = shape if own else (1, *shape[1:])
    try:
        return np.broadcast_to(host, wanted).reshape(wanted[0], -1)
    except ValueError as error:
        raise ValueError(
            "groups must be labels that broadcast to one input, shape "
            f"{shape[1:]}, or to all of them, {shape}, got shape {host.shape}"
        ) from error
