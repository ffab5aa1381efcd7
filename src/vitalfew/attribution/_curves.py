"""Curves that judge attributions, with a random and an exact greedy order beside."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import is_array_api_obj, rows, to_host
from vitalfew._validation import check_count, check_finite, check_rng
from vitalfew.attribution._explained import Explained, baseline_of, explained
from vitalfew.attribution._features import Features, shown
from vitalfew.attribution._method import Explanation
from vitalfew.attribution._paths import points_together
from vitalfew.contracts import Array, Ints
from vitalfew.exceptions import MissingDependencyError

MOST_GREEDY = 128  # features up to which the exact greedy order is found unasked
GRID = 1000  # points of the information axis
TINY = 1e-12  # least probability that others can be a part of
INFORMATION = ("compressed", "count")
RANDOM, GREEDY = "random", "exact greedy"
MEASURES = {  # what each curve is good for
    "insertion": "higher is better",
    "deletion": "lower is better",
    "sic": "higher is better",
    "kl": "lower is better",
}

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curves:
    """Curves of several attributions and of the controls, always all of them.

    Attributes
    ----------
    fractions : array of shape (levels,)
        Parts of the features that are shown (insertion) or hidden (deletion).
    insertion : dict of str to array of shape (n, levels)
        The target as features appear in falling order of their scores, from the
        baseline to the input.
    deletion : dict of str to array of shape (n, levels)
        The target as they disappear in that order.
    information : array of shape (m,)
        Parts of the information of an input, from 0 to 1.
    sic : dict of str to array of shape (m,)
        Softmax information curve: the probability of the class over that of the whole
        input, at each level of information; the median over inputs. Empty where the
        target is no probability.
    kl : dict of str to array of shape (m,)
        The Kullback-Leibler divergence, in nats, from all probabilities at the whole
        input to those at each level of information; the median over inputs.
    gaps : dict of str to float
        Mean absolute completeness gap of path methods, over the mean absolute
        difference that their scores should add up to.
    notes : tuple of str
        What was left out, and why.
    """

    fractions: Floats
    insertion: dict[str, Floats]
    deletion: dict[str, Floats]
    information: Floats
    sic: dict[str, Floats]
    kl: dict[str, Floats]
    gaps: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def areas(self) -> dict[str, dict[str, float]]:
        """Return the areas under all curves.

        Returns
        -------
        dict of str to dict of str to float
            By the name of the attribution, then of the curve: the mean over inputs for
            insertion and deletion, the area under the median for the others.
        """
        found: dict[str, dict[str, float]] = {}
        for name in self.insertion:
            row = {
                "insertion": float(
                    np.mean(_area(self.insertion[name], self.fractions))
                ),
                "deletion": float(np.mean(_area(self.deletion[name], self.fractions))),
            }
            if name in self.sic:
                row["sic"] = float(_area(self.sic[name], self.information))
                row["kl"] = float(_area(self.kl[name], self.information))
            found[name] = row
        return found

    def __str__(self) -> str:
        areas = self.areas()
        columns = [c for c in MEASURES if all(c in row for row in areas.values())]
        width = max(map(len, areas))
        lines = [" " * width + "".join(f"  {c:>9}" for c in [*columns, "gap"])]
        for name, row in areas.items():
            cells = "".join(f"  {row[c]:9.3f}" for c in columns)
            gap = f"  {self.gaps[name]:9.1e}" if name in self.gaps else ""
            lines.append(f"{name:<{width}}{cells}{gap}")
        lines += ["; ".join(f"{c}: {MEASURES[c]}" for c in columns), *self.notes]
        return "\n".join(lines)

    def plot(self, axes: Any = None) -> Any:
        """Draw all curves side by side.

        Parameters
        ----------
        axes : sequence of matplotlib axes, optional
            One for each kind of curve: two, or four where there are probabilities. A
            new figure by default.

        Returns
        -------
        array of matplotlib axes
            The axes drawn on.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        over = (self.fractions, "features")
        panels: dict[str, tuple[Floats, str, dict[str, Floats]]] = {
            "insertion": (*over, {k: v.mean(0) for k, v in self.insertion.items()}),
            "deletion": (*over, {k: v.mean(0) for k, v in self.deletion.items()}),
        }
        if self.sic:
            panels["sic"] = (self.information, "information", self.sic)
            panels["kl"] = (self.information, "information", self.kl)
        axes = _new_row(len(panels)) if axes is None else np.ravel(axes)
        if len(axes) != len(panels):
            raise ValueError(f"axes must be {len(panels)} axes, got {len(axes)}")
        areas = self.areas()
        for ax, (measure, (x, label, found)) in zip(axes, panels.items(), strict=True):
            for name, y in found.items():
                dashed = {RANDOM: ":", GREEDY: "--"}.get(name, "-")
                area = areas[name][measure]
                ax.plot(x, y, dashed, label=f"{name} {area:.3f}")
            ax.set_xlabel(label)
            ax.set_title(f"{measure} ({MEASURES[measure]})")
            ax.legend(fontsize="small")
        return axes


def curves(
    model: Any,
    inputs: Any,
    scores: Mapping[str, Any],
    classes: Any = None,
    *,
    target: str = "softmax",
    baseline: Any = 0.0,
    groups: Any = None,
    levels: int = 100,
    exact_greedy: bool | None = None,
    information: str | Callable[[NDArray[Any]], float] = "compressed",
    min_value: float = 0.8,
    forward: Callable[..., Any] | None = None,
    given: Mapping[str, Any] | None = None,
    amp: Any = None,
    memory: float = 2**28,
    rng: Any = 0,
) -> Curves:
    """Judge attributions by what the model makes of the features they put first.

    Two controls are always beside them: a random order, and the exact greedy order,
    which adds the feature that raises the target most, one after the other, and which
    knows no better than the insertion curve what a human would call an explanation.
    Insertion and deletion show the model inputs it was not trained on.

    Parameters
    ----------
    model : torch Module or callable
        As in `Attribution`; functions of NumPy arrays may return the value alone.
    inputs : array of shape (n, *shape)
        NumPy or torch.
    scores : dict of str to array of shape (n, *shape) or Explanation
        By the name of the method; the score of a feature is the mean over its entries.
        Equal ones are put into a random order.
    classes : int or integer array of shape (n,), optional
        As in `Attribution.attribute`.
    target : {"softmax", "logit", "loss"}, default="softmax"
        What the curves show; only the softmax has curves over information.
    baseline : float or array, default=0.0
        Where insertion starts and deletion ends: ``blur(images, 10)``, say.
    groups : array or str, optional
        As in `GreedyPIG`.
    levels : int, default=100
        Most points of a curve beside its start.
    exact_greedy : bool, optional
        Whether to find the exact greedy order; by default up to 128 features.
    information : {"compressed", "count"} or callable, default="compressed"
        What measures the information in an input: the bytes of its 8-bit values after
        compression by zlib, or the number of features shown; or any function of one
        input.
    min_value : float, default=0.8
        Inputs of lower probability are left out of the curves over information.
    forward, given, amp, memory : object, optional
        As in `Attribution`.
    rng : int, Generator or None, default=0
        For the random order.

    Returns
    -------
    Curves
        All curves of all scores and controls.

    Raises
    ------
    ValueError
        If scores are not finite or have another shape than the inputs.

    Notes
    -----
    2 x levels evaluations of each input for each of the scores; p (p + 1) / 2 for the
    exact greedy order of p features. Curves over information are taken along insertion,
    are made monotone as in [1]_, and scaled so that the baseline has information 0
    and the input 1. We depart from [1]_ in the compression, which is not that of a
    picture format, and in that no random pixels are shown at the start.

    References
    ----------
    .. [1] A. Kapishnikov, T. Bolukbasi, F. Viégas, M. Terry, "XRAI: better attributions
       through regions", ICCV, 2019 (softmax information curve).
    .. [2] V. Petsiuk, A. Das, K. Saenko, "RISE: randomized input sampling for
       explanation of black-box models", BMVC, 2018 (insertion and deletion).
    .. [3] K. Axiotis, S. Abu-El-Haija, L. Chen, M. Fahrbach, G. Fu, "Greedy PIG:
       adaptive integrated gradients", arXiv, 2023 (doubts about such curves).

    Examples
    --------
    >>> import numpy as np
    >>> def f(x):
    ...     return np.maximum(x[:, 0], x[:, 1]) + x[:, 2] / 2
    >>> found = curves(f, np.ones((1, 3)), {"last": [[1, 2, 3]]}, target="logit")
    >>> found.insertion["last"]
    array([[0. , 0.5, 1.5, 1.5]])
    >>> found.insertion["exact greedy"]
    array([[0. , 1. , 1.5, 1.5]])
    """
    check_count("levels", levels, 1)
    if not callable(information) and information not in INFORMATION:
        raise ValueError(
            f"information must be one of {', '.join(INFORMATION)} or a function, got "
            f"{information!r}"
        )
    rng = check_rng(rng)
    bound = explained(
        model, inputs, classes, target, forward=forward, given=given, amp=amp
    )
    with bound as function:
        x = function.inputs
        features = Features(groups, x)
        together = points_together(function, memory)
        run = _Run(function, features, baseline_of(baseline, x), together, information)
        orders = {
            name: _order(features.means(_checked(name, one, x)), features.present, rng)
            for name, one in scores.items()
        }
        drawn = rng.random(features.present.shape)
        orders[RANDOM] = _order(drawn, features.present, rng)
        notes = []
        few = features.count <= MOST_GREEDY
        if exact_greedy or (exact_greedy is None and few):
            orders[GREEDY] = run.exact_greedy()
        else:
            p = features.count
            notes.append(
                f"exact greedy left out: {p} features take {p * (p + 1) // 2} "
                "evaluations of each input (exact_greedy=True)"
            )
        return run.curves(orders, levels, min_value, _gaps(scores), notes)


@dataclass(frozen=True, eq=False)
class _Run:
    """What all orders are judged with."""

    function: Explained
    features: Features
    baseline: Array
    together: int
    information: str | Callable[[NDArray[Any]], float]

    def curves(
        self,
        orders: Mapping[str, Ints],
        levels: int,
        min_value: float,
        gaps: dict[str, float],
        notes: list[str],
    ) -> Curves:
        count = self.features.count
        shown_at = np.unique(np.linspace(0, count, min(levels, count) + 1).round())
        fractions = shown_at / count
        insertion, deletion, sic, kl = {}, {}, {}, {}
        grid = np.linspace(0, 1, GRID + 1)
        left_out = 0
        for name, ranks in orders.items():
            insertion[name], logs = self._along(ranks, shown_at, hide=False)
            deletion[name], _ = self._along(ranks, shown_at, hide=True)
            if logs is None:
                continue
            known, some = self._information(ranks, shown_at)
            some &= insertion[name][:, -1] >= max(min_value, TINY)
            left_out = int(np.sum(~some))
            value = insertion[name][some]
            part = np.clip(value / value[:, -1:], 0, 1)
            sic[name] = _over(grid, known[some], part, np.maximum)
            nats = np.maximum(_divergence(logs[some]), 0)
            kl[name] = _over(grid, known[some], nats, np.minimum)
        if left_out:
            notes.append(
                f"sic and kl leave out {left_out} of {len(self.function.inputs)} "
                f"inputs: probability below {min_value:g}, or no more information than "
                "their baseline"
            )
        if not sic:
            notes.append("sic and kl left out: the target is no probability")
        return Curves(
            fractions=fractions,
            insertion=insertion,
            deletion=deletion,
            information=grid,
            sic=sic,
            kl=kl,
            gaps=gaps,
            notes=tuple(notes),
        )

    def exact_greedy(self) -> Ints:
        """Return ranks, 0 for the feature whose value alone is largest, and so on."""
        n, count = self.features.present.shape
        x, height = self.function.inputs, max(1, self.together)
        ranks = np.full((n, count), -1)
        for number in range(count):
            owners, candidates = np.nonzero(ranks < 0)
            gain = np.full((n, count), -np.inf)
            on = self.features.spread(ranks >= 0).reshape(n, -1)
            for top in range(0, len(owners), height):
                whose = owners[top : top + height]
                which = candidates[top : top + height]
                marks = on[whose] | self.features.members(which, whose)
                points = self._points(marks.reshape(len(whose), *x.shape[1:]), whose)
                found = to_host(self.function.value(points, whose))
                here = self.features.present[whose, which]
                gain[whose, which] = np.where(here, found, -np.inf)
            gain[ranks >= 0] = np.nan
            best = np.argsort(-gain, axis=1, kind="stable")[:, 0]
            ranks[np.arange(n), best] = number
        return ranks

    def _along(
        self, ranks: Ints, shown_at: Floats, *, hide: bool
    ) -> tuple[Floats, Floats | None]:
        """Return targets (n, levels) and logarithms of probabilities beside."""
        n, n_levels = len(ranks), len(shown_at)
        entries = self.features.spread(ranks)
        pairs = np.arange(n * n_levels)
        parts, logs = [], []
        for top in range(0, len(pairs), self.together):
            owners, level = np.divmod(pairs[top : top + self.together], n_levels)
            marks = _marks(entries[owners], shown_at[level])
            points = self._points(~marks if hide else marks, owners)
            value, log = self.function.outcome(points, owners)
            parts.append(to_host(value))
            logs.append(None if log is None else to_host(log))
        together = np.concatenate(parts).astype(np.float64).reshape(n, n_levels)
        if any(log is None for log in logs):
            return together, None
        known = np.concatenate([log for log in logs if log is not None])
        return together, known.astype(np.float64).reshape(n, n_levels, -1)

    def _points(self, marks: NDArray[np.bool_], owners: Ints) -> Array:
        x, baseline = self.function.inputs, self.baseline
        return shown(marks, rows(x, owners), rows(baseline, owners))

    def _information(
        self, ranks: Ints, shown_at: Floats
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Return information in [0, 1], (n, levels), and where there is any."""
        if self.information == "count":
            part = shown_at / shown_at[-1]
            return np.tile(part, (len(ranks), 1)), np.ones(len(ranks), bool)
        x, baseline = to_host(self.function.inputs), to_host(self.baseline)
        entries = self.features.spread(ranks)
        sizes = np.empty((len(ranks), len(shown_at)))
        for i, row in enumerate(entries):
            measure = self._measure(x[i], baseline[i])
            for j, level in enumerate(shown_at):
                sizes[i, j] = measure(np.where(row < level, x[i], baseline[i]))
        whole = sizes[:, -1:] - sizes[:, :1]
        enough = whole[:, 0] > 0
        part = (sizes - sizes[:, :1]) / np.where(whole > 0, whole, 1)
        return np.clip(part, 0, 1), enough

    def _measure(
        self, x: NDArray[Any], baseline: NDArray[Any]
    ) -> Callable[[NDArray[Any]], float]:
        if callable(self.information):
            return self.information
        low = min(x.min(), baseline.min())
        scale = max(x.max(), baseline.max()) - low

        def compressed(point: NDArray[Any]) -> float:
            eight = np.round((point - low) * (255 / (scale or 1))).astype(np.uint8)
            return float(len(zlib.compress(eight.tobytes(), 6)))

        return compressed


def _marks(entries: Ints, level: Floats) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = entries < level.reshape(-1, *(1,) * (entries.ndim - 1))
    return found


def _divergence(logs: Floats) -> Floats:
    """Return divergences (n, levels) from the probabilities at the last level."""
    full = logs[:, -1:]
    chance = np.exp(full)
    gone = chance == 0  # logarithms may be infinite there
    with np.errstate(invalid="ignore"):
        found: Floats = np.where(gone, 0, chance * (full - logs)).sum(2)
    return found


def _over(grid: Floats, known: Floats, y: Floats, best: np.ufunc) -> Floats:
    """Return the median of curves, made monotone, over a grid; NaN where none are."""
    if not len(y):
        return np.full(len(grid), np.nan)
    found = np.empty((len(y), len(grid)))
    for i, row in enumerate(y):
        at = np.maximum.accumulate(known[i])
        last = np.append(at[1:] > at[:-1], True)  # of equal information
        found[i] = np.interp(grid, at[last], best.accumulate(row)[last])
    return np.asarray(np.median(found, axis=0))


def _order(means: Floats, present: NDArray[np.bool_], rng: np.random.Generator) -> Ints:
    """Return the rank of each feature, (n, count): 0 for the largest mean score."""
    falling = np.where(present, -means, np.inf)
    order = np.lexsort((rng.random(means.shape), falling), axis=1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
    return ranks


def _checked(name: str, given: Any, x: Array) -> NDArray[Any]:
    scores = given.scores if isinstance(given, Explanation) else given
    host = to_host(scores) if is_array_api_obj(scores) else np.asarray(scores, float)
    if name in (RANDOM, GREEDY):
        raise ValueError(f"scores must not be named {name!r}: that is a control")
    if host.shape != tuple(x.shape):
        raise ValueError(
            f"scores of {name!r} must have the shape of the inputs {tuple(x.shape)}, "
            f"got {host.shape}"
        )
    check_finite(f"scores of {name!r}", host)
    return host


def _gaps(scores: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, given in scores.items():
        if isinstance(given, Explanation) and given.gaps is not None:
            whole = np.abs(given.values - given.baseline_values).mean()
            found[name] = float(np.abs(given.gaps).mean() / (whole or 1))
    return found


def _area(y: Floats, x: Floats) -> Floats:
    return np.asarray(np.trapezoid(y, x, axis=-1))


def _new_row(count: int) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingDependencyError(
            "plots need matplotlib: pip install 'vitalfew[plot]'"
        ) from error
    figure = plt.figure(figsize=(4 * count, 3.5), layout="constrained")
    return figure.subplots(1, count)
