"""Greedy path integrated gradients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import namespace
from vitalfew._validation import check_count
from vitalfew.attribution._explained import Explained, like_given
from vitalfew.attribution._features import Features, shown
from vitalfew.attribution._method import Attribution
from vitalfew.attribution._paths import along, integrals, points_together, quadrature
from vitalfew.contracts import Array


@dataclass(frozen=True, eq=False, kw_only=True)
class GreedyPIG(Attribution):
    r"""Greedy path integrated gradients: integrate, choose, start again from there.

    Chooses features one round after the other. In each round the path leads from
    b, which is the input x on the features S chosen so far and the baseline elsewhere,
    to x:

    .. math:: a_i = (x_i - b_i) \int_0^1 \partial_i g(b + t (x - b)) \, dt,
       \quad i \notin S,

    and the `per_round` features of largest a, signed, join S. One round of all
    features is `IntegratedGradients`. It climbs the insertion curve of what it is given
    as a target, and its deletion curve is worse for it: look at both (`curves`).

    Parameters
    ----------
    model, target, baseline, forward, amp, memory : object
        As in `Attribution`.
    rounds : int, default=64
        Features that are not chosen by then rank after those that are, by the scores
        of the last round.
    steps : int, default=5
        Nodes of each integral. Many rounds of few steps are better than few of many.
    per_round : int, default=1
        Features chosen in a round.
    nodes : {"midpoint", "gauss-legendre"}, default="midpoint"
        Where the nodes lie.
    groups : array of integers or {"pixels", "channels", "tokens"}, optional
        What is chosen together, as labels from 0 without gaps that broadcast to the
        shape of one input, or of the inputs if each has its own: (height, width)
        labels of superpixels for inputs (n, channels, height, width), say. "pixels"
        puts all channels of a pixel together, "channels" and "tokens" all that share
        the first axis of an input. Single entries by default.

    Notes
    -----
    `rounds` x `steps` gradients of each input, fewer where all features are chosen
    before. Equal scores rank by the number of the feature. No bound on g(S) is known.
    Exact greedy choice of all of p features takes p (p + 1) / 2 evaluations: for a few
    dozen features it is cheaper, and better.

    References
    ----------
    .. [1] K. Axiotis, S. Abu-El-Haija, L. Chen, M. Fahrbach, G. Fu, "Greedy PIG:
       adaptive integrated gradients", arXiv, 2023. The rule of integration is ours.

    Examples
    --------
    Two features of which the model needs one: integrated gradients give both half.

    >>> import numpy as np
    >>> def either(x):
    ...     total = x @ [1.0, 1.0, 0.3]
    ...     slope = np.where(total[:, None] < 1, [1.0, 1.0, 0.3], 0)
    ...     return np.minimum(total, 1), slope
    >>> GreedyPIG(either).attribute(np.ones((1, 3)))
    array([[3., 2., 1.]])
    """

    rounds: int = 64
    steps: int = 5
    per_round: int = 1
    nodes: str = "midpoint"
    groups: Any = None

    complete: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds, 1)
        check_count("per_round", self.per_round, 1)
        quadrature(self.steps, self.nodes)

    def attribute(
        self,
        inputs: Any,
        classes: Any = None,
        *,
        given: Mapping[str, Any] | None = None,
    ) -> Array:
        """Return ranks: the number of features for the first chosen, 1 for the last.

        Parameters
        ----------
        inputs : array of shape (n, *shape)
            As in `Attribution.attribute`.
        classes : int or integer array of shape (n,), optional
            As in `Attribution.attribute`.
        given : mapping of str to object, optional
            As in `Attribution.attribute`.

        Returns
        -------
        array of shape (n, *shape)
            All entries of a feature have its rank.
        """
        return super().attribute(inputs, classes, given=given)

    def attribute_dataset(
        self,
        inputs: Any,
        classes: Any = None,
        *,
        given: Mapping[str, Any] | None = None,
    ) -> Array:
        """Return ranks of features for all inputs together: which ones a model uses.

        A feature is there in all inputs or in none, and scores are means over inputs.
        With ``target="loss"`` it chooses the features of a model that has been trained;
        their means are a fair baseline.

        Parameters
        ----------
        inputs : array of shape (n, *shape)
            As in `attribute`.
        classes : int or array of shape (n,), optional
            As in `attribute`.
        given : mapping of str to object, optional
            As in `attribute`.

        Returns
        -------
        array of shape (*shape)
            Number of features for the first chosen, 1 for the last.
        """
        with self._bound(inputs, classes, given) as function:
            features = Features(self.groups, function.inputs)
            if features.labels is not None and len(features.labels) > 1:
                raise ValueError(
                    "groups must be the same for all inputs of a data set, got labels "
                    f"of shape {np.shape(self.groups)}"
                )
            together = points_together(function, self.memory)
            ranks, _ = self._ranks(function, features, together, shared=True)
        return like_given(_as(features.spread(ranks)[0], function.inputs), inputs)

    def _scores(self, function: Explained, together: int) -> tuple[Array, int]:
        features = Features(self.groups, function.inputs)
        ranks, n_rounds = self._ranks(function, features, together, shared=False)
        scores = _as(features.spread(ranks), function.inputs)
        return scores, n_rounds * self.steps

    def _ranks(
        self, function: Explained, features: Features, together: int, *, shared: bool
    ) -> tuple[NDArray[np.float64], int]:
        """Return ranks (m, features), m = 1 if shared, and the number of rounds."""
        present = features.present[:1] if shared else features.present
        chosen = np.zeros(present.shape, bool)
        ranks = np.zeros(present.shape)
        left = features.count
        rows = np.arange(len(ranks))[:, None]
        totals = np.zeros(present.shape)
        n_rounds = 0
        while left > 1 and n_rounds < self.rounds:
            totals = self._totals(function, features, together, chosen)
            totals[~present] = -np.inf
            totals[chosen] = np.nan  # sorted last
            n_rounds += 1
            count = min(self.per_round, left)
            best = np.argsort(-totals, axis=1, kind="stable")[:, :count]
            ranks[rows, best] = left - np.arange(count)
            chosen[rows, best] = True
            left -= count
        totals[chosen] = np.nan
        rest = np.argsort(-totals, axis=1, kind="stable")[:, :left]
        ranks[rows, rest] = left - np.arange(left)
        return ranks, n_rounds

    def _totals(
        self,
        function: Explained,
        features: Features,
        together: int,
        chosen: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        """Return the path integrals of features, or their means over all inputs."""
        x, baseline = function.inputs, self._start(function)
        marks = features.spread(chosen)
        xp = namespace(x)

        def start(rows: slice) -> Array:
            some = marks if len(marks) == 1 else marks[rows]
            return shown(some, x[rows], baseline[rows])

        def path(rows: slice, times: Array) -> tuple[Array, None]:
            begin = start(rows)
            ahead = (x[rows] - begin)[:, None]
            return begin[:, None] + along(times, x) * ahead, None

        found = np.zeros(chosen.shape)
        rule = quadrature(self.steps, self.nodes)
        for rows, mean in integrals(function, path, rule, together):
            scores = mean * (x[rows] - start(rows))
            if len(found) == x.shape[0]:
                found[rows] = features.totals(scores, rows)
            else:
                sums = xp.sum(scores, axis=0)[None]
                found += features.totals(sums) / x.shape[0]
        return found


def _as(ranks: NDArray[np.float64], like: Array) -> Array:
    return namespace(like).asarray(ranks, dtype=like.dtype, device=like.device)
