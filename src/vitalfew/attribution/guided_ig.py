"""Guided integrated gradients."""

from dataclasses import dataclass

from vitalfew._arrays import namespace
from vitalfew._validation import check_count
from vitalfew.attribution._explained import Explained
from vitalfew.attribution._method import Attribution
from vitalfew.attribution._paths import gradients
from vitalfew.contracts import Array


@dataclass(frozen=True, eq=False, kw_only=True)
class GuidedIG(Attribution):
    r"""Guided integrated gradients: entries of small gradient travel first.

    The path from the baseline to the input is found on the way. At each step the
    `fraction` of entries whose gradients are smallest in absolute value go ahead, then
    the next, until the L1 distance to the input has fallen by a `steps`-th of the
    whole; no entry may be further than `max_distance` from the straight line, as a
    part of its own way. Meant for images, where it keeps noise out of the picture.

    Parameters
    ----------
    model, target, baseline, forward, amp, memory : object
        As in `Attribution`.
    steps : int, default=50
        Gradients of each input.
    fraction : float, default=0.25
        Of the entries that go together, in (0, 1].
    max_distance : float, default=0.02
        From the straight line, in [0, 1]; at 0 the path is the straight line, at 1 it
        is free.

    Notes
    -----
    `steps` gradients of each input, one after the other, of many inputs at once, and
    as many sorts of its entries. Scores add up to the difference of the outputs as the
    steps grow many: the gradient of a step is that of its beginning.

    References
    ----------
    .. [1] A. Kapishnikov, S. Venugopalan, B. Avci, B. Wedin, M. Terry, T. Bolukbasi,
       "Guided integrated gradients: an adaptive path method for removing noise", CVPR,
       2021.

    Examples
    --------
    >>> import numpy as np
    >>> def linear(x):
    ...     return x @ [2.0, -1.0], np.broadcast_to([2.0, -1.0], x.shape)
    >>> GuidedIG(linear, steps=10).attribute(np.array([[1.0, 3.0]])).round(12)
    array([[ 2., -3.]])
    """

    steps: int = 50
    fraction: float = 0.25
    max_distance: float = 0.02

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 1)
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {self.fraction!r}")
        if not 0 <= self.max_distance <= 1:
            raise ValueError(
                f"max_distance must lie in [0, 1], got {self.max_distance!r}"
            )

    def _scores(self, function: Explained, together: int) -> tuple[Array, int]:
        x, start = function.inputs, self._start(function)
        xp = namespace(x)
        parts = []
        for top in range(0, x.shape[0], together):
            some = slice(top, top + together)
            parts.append(self._block(function, x[some], start[some], top, together))
        return xp.concat(parts, axis=0), self.steps

    def _block(
        self, function: Explained, x: Array, start: Array, first: int, together: int
    ) -> Array:
        xp = namespace(x)
        flat = (x.shape[0], -1)
        begin, end = xp.reshape(start, flat), xp.reshape(x, flat)
        way = end - begin
        length = xp.abs(way)
        done = xp.zeros_like(way)  # how much of its way each entry has gone
        score = xp.zeros_like(way)
        for step in range(1, self.steps + 1):
            # not start + way at the end: entries arrive where they should
            points = xp.where(done < 1, begin + done * way, end)
            points = xp.reshape(points, x.shape)
            slope = gradients(function, points, together, first)
            slope = xp.reshape(slope, flat)
            new = self._ahead(done, xp.abs(slope), length, step / self.steps)
            score = score + slope * way * (new - done)
            done = new
        return xp.reshape(score, x.shape)

    def _ahead(self, done: Array, steep: Array, length: Array, time: float) -> Array:
        """Move entries until a fraction `time` of all the way of an input is gone."""
        xp = namespace(done)
        least = max(time - self.max_distance, 0.0)
        most = min(time + self.max_distance, 1.0)
        done = xp.clip(done, min=least)
        # entries that have gone as far as they may, or have no way, stay where they are
        free = (done < most) & (length > 0)
        keys = xp.where(free, steep, xp.inf)
        ranked = xp.sort(keys, axis=1)
        room = xp.where(free, length * (most - done), 0)
        still = xp.sum(length * (time - done), axis=1)
        # a batch ends at the quantile of what is left: this many entries on, and ties
        batch = int(self.fraction * (done.shape[1] - 1))
        share = xp.zeros_like(done)
        past = xp.zeros_like(free)
        while bool(xp.any(still > 0)):
            place = xp.clip(_counts(past) + batch, max=done.shape[1] - 1)
            level = xp.take_along_axis(ranked, place[:, None], axis=1)
            within = keys <= level
            moving = within & ~past
            here = xp.sum(room * moving, axis=1)
            part = xp.clip(still / xp.where(here > 0, here, 1), 0, 1)
            share = xp.where(moving, part[:, None], share)
            # rounding may leave a rest when all have moved
            still = xp.where(here > 0, still - here, 0)
            past = within
        return xp.where(share < 1, done + share * (most - done), most)


def _counts(marks: Array) -> Array:
    return namespace(marks).count_nonzero(marks, axis=1)
