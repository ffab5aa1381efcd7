"""The sequential (group) lasso, on a linear model or in a network."""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize

from vitalfew._arrays import as_array
from vitalfew._validation import check_count, check_nonnegative, check_rng
from vitalfew.contracts import Fit, Ints
from vitalfew.designs import Scaled, as_design
from vitalfew.estimators._base import AUTO_L2
from vitalfew.estimators._network_selector import Floats, NetworkSelector
from vitalfew.objectives import LeastSquares, Logistic, Multinomial
from vitalfew.solvers.sequential_lasso import lasso_entrants
from vitalfew.structures import Groups
from vitalfew.supports import Whole

SHARE = 0.02  # of the gap between two gradients, below the upper of which alpha lies
TINY_L2 = 1e-8  # tells columns that repeat others apart
START = 1e-2  # of a mask, which cannot leave zero
TINY = 1e-3  # of the longest atom, below which a mask is taken for zero
FORMS = ("lasso", "mask")


class SequentialLassoSelector(NetworkSelector):
    r"""Keep the columns that a lasso lets in first, one after the other.

    From the chosen columns S a group lasso of all others, just strong enough to let one
    in, says which to add:
    :math:`\min L(\beta) + \alpha \sum_{i \notin S} \|\beta_i\|`. On a linear model,
    which is the default, the picks are those of orthogonal matching pursuit (`OMP`),
    and `SparseSelector` finds better ones; in a network the lasso is on the weights of
    the first layer.

    Parameters
    ----------
    n_features_to_select : int, default=10
        How many columns, or groups if `groups` is given, to keep: always as many.
    network : "linear", "mlp", Module or callable, default="linear"
        A linear model, without torch; a perceptron of `hidden_sizes`; or as in
        `SequentialAttentionSelector`, where a ``torch.nn.Linear`` reads the columns.
    form : {"lasso", "mask"}, default="lasso"
        How a linear model is solved: as a convex problem, or by
        :math:`\beta = a \circ \theta` with the same l2 penalty on the mask a and on
        :math:`\theta`, which has the same minimum. Networks always have the mask.
    alpha : float, default=0.01
        Strength in a network; on a linear model it follows from the gradients.
    l2 : float or "auto", default="auto"
        Ridge of a linear model; automatically 1e-8 for numbers and 1e-3 for classes.
    hidden_sizes : int or tuple of int, default=67
        Units of the hidden layers of the perceptron.
    groups : array of shape (n_features,), optional
        Group of each column, by any name; a group is picked whole.
    task : {"auto", "regression", "classification"}, default="auto"
        Whether y holds numbers or classes, as in `SparseSelector`.
    per_round : int, default=1
        Columns picked at a time.
    steps_per_round : int or "auto", default="auto"
        Steps of the optimizer; this and what follows is for networks, and as in
        `SequentialAttentionSelector`, except where a linear model is named.
    warm_up : float, default=0.1
        Share of the steps before, without a lasso.
    batch_size : int, default=256
        Rows of a step.
    learning_rate : float, default=3e-3
        Of Adam.
    weight_decay : float, default=0
        Of the network.
    dropout : float or "auto", default="auto"
        Share of the inputs that is dropped in rounds.
    standardize : bool, default=True
        Bring columns to mean 0 and standard deviation 1, for a linear model too.
    validation_fraction : float, default=0.125
        Share of the rows held out to see when to stop.
    early_stopping : bool, default=True
        End a round once the held-out loss stops falling.
    loss : callable, optional
        Of outputs and targets.
    device : str or device, default="auto"
        Where to train.
    amp : bool, default=True
        On a GPU, compute in bfloat16 where torch finds it safe.
    checkpoint : path, optional
        A file in which the run is stored, and from which it goes on.
    callback : callable, optional
        Told the progress; on a linear model, the list of picks so far. Returning True
        stops.
    random_state : int, Generator or None
        Of weights, batches and the rows held out; of the start of the mask.

    Attributes
    ----------
    order_ : integer array
        Columns chosen, in the order of picking; those of a group side by side.
    ranking_ : integer array of shape (n_features,)
        1 for the column, or group, picked first, and so on; the others follow by their
        gradients, or by their weights in the network.
    support_ : integer array
        Columns chosen, ascending.
    groups_ : array
        Groups chosen, in the order of picking; only with `groups`.
    status_ : str
        How the run ended.
    n_picked_ : int
        Picks that were made as planned, as in `SequentialAttentionSelector`.
    n_steps_ : int
        Steps taken in a network.
    classes_ : array of shape (n_classes,)
        The classes, for classification.
    n_features_in_ : int
        Number of columns seen in `fit`.

    See Also
    --------
    SequentialAttentionSelector : The same with a softmax.

    Notes
    -----
    For a linear model a pick is a convex problem and a refit; `OMP` needs a gradient
    and a refit.

    References
    ----------
    .. [1] K. Axiotis, T. Yasuda, "Performance of l1 regularization for sparse convex
       optimization", arXiv 2307.07405, 2023 (sequential group lasso).
    .. [2] T. Yasuda, M. Bateni, L. Chen, M. Fahrbach, G. Fu, V. Mirrokni, "Sequential
       attention for feature selection", ICLR, 2023 (the mask under l2 penalties).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> SequentialLassoSelector(3).fit(X, y).order_
    array([2, 8, 3])
    """

    def __init__(
        self,
        n_features_to_select: int = 10,
        *,
        network: Any = "linear",
        form: str = "lasso",
        alpha: float = 0.01,
        l2: Any = "auto",
        hidden_sizes: Any = 67,
        groups: Any = None,
        task: str = "auto",
        per_round: int = 1,
        steps_per_round: Any = "auto",
        warm_up: float = 0.1,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.0,
        dropout: Any = "auto",
        standardize: bool = True,
        validation_fraction: float = 0.125,
        early_stopping: bool = True,
        loss: Any = None,
        device: Any = "auto",
        amp: bool = True,
        checkpoint: Any = None,
        callback: Any = None,
        random_state: Any = None,
    ) -> None:
        self.n_features_to_select = n_features_to_select
        self.network = network
        self.form = form
        self.alpha = alpha
        self.l2 = l2
        self.hidden_sizes = hidden_sizes
        self.groups = groups
        self.task = task
        self.per_round = per_round
        self.steps_per_round = steps_per_round
        self.warm_up = warm_up
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.standardize = standardize
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.loss = loss
        self.device = device
        self.amp = amp
        self.checkpoint = checkpoint
        self.callback = callback
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Choose the columns.

        Parameters
        ----------
        X : array, data frame or sparse matrix of shape (n_samples, n_features)
            Data.
        y : array of shape (n_samples,) or (n_samples, n_outputs)
            Numbers or classes.

        Returns
        -------
        self
            The fitted selector. Ctrl-C in a network leaves the choice so far in place
            and is passed on.
        """
        if self.form not in FORMS:
            raise ValueError(
                f"form must be one of {', '.join(FORMS)}, got {self.form!r}"
            )
        if not isinstance(self.network, str):
            return self._fit_network(X, y)
        if self.network not in ("linear", "mlp"):
            raise ValueError(
                "network must be 'linear', 'mlp', a torch module or a function that "
                f"returns one, got {self.network!r}"
            )
        if self.network == "linear":
            return self._fit_linear(X, y)
        return self._fit_network(X, y)

    # -- in a network ------------------------------------------------------------------

    schedule = "train-then-pick"

    def _mask(self, engine: Any, network: Any, labels: Ints, n_atoms: int) -> Any:
        alpha = check_nonnegative("alpha", self.alpha)
        first = engine.first_layer(network, len(labels))
        return engine.LassoMask(first, labels, n_atoms, alpha)

    # -- on a linear model -------------------------------------------------------------

    def _fit_linear(self, X: Any, y: Any) -> Self:
        X, y, classes = self._checked(X, y)
        labels, names = self._atoms(X.shape[1])
        n_picks = self._count(len(names))
        per_round = check_count("per_round", self.per_round, 1)
        rng = check_rng(self.random_state)
        objective = self._objective(X, y, classes)
        structure = Groups(labels, len(names)).on(objective.shape)
        fit = structure.refit(objective, structure.empty(objective.like), None)
        order: Ints = np.empty(0, np.int64)
        entrants: Callable[..., Ints] = lasso_entrants
        if self.form == "mask":
            entrants = partial(mask_entrants, rng=rng)
        while len(order) < n_picks:
            count = min(per_round, n_picks - len(order))
            picked = next_atoms(objective, structure, fit, count, entrants)
            order = np.concatenate((order, picked))
            joined = structure.join(fit.support, structure.support(picked))
            fit = structure.refit(objective, joined, fit)
            if self.callback is not None and self.callback(order.tolist()) is True:
                break
        n_picked = len(order)
        scores = np.sqrt(structure.scores(fit.gradient))
        rest = np.setdiff1d(np.arange(len(names)), order)
        rest = rest[np.argsort(-scores[rest], kind="stable")]
        order = np.concatenate((order, rest[: n_picks - n_picked]))
        self._keep(order, scores, labels, names)
        self._tell("finished" if n_picked == n_picks else "stopped", n_picked, n_picks)
        return self

    def _objective(self, X: Any, y: Any, classes: bool) -> Any:
        l2 = AUTO_L2 if classes else TINY_L2
        if self.l2 != "auto":
            l2 = check_nonnegative("l2", self.l2)
        design: Any = as_design(X)
        n = design.shape[0]
        if self.standardize:
            w = np.full(n, 1.0 / n, dtype=X.dtype)
            design = Scaled.standard(design, w, design.rmatvec(w))
        y = y.astype(X.dtype)
        if not classes:
            return LeastSquares(design, y, l2=l2, fit_intercept=True)
        loss = Logistic if len(self.classes_) == 2 else Multinomial
        return loss(design, y, l2=l2, fit_intercept=True)


def next_atoms(
    objective: Any,
    structure: Groups,
    fit: Fit,
    count: int,
    entrants: Callable[..., Ints] = lasso_entrants,
) -> Ints:
    """Return the atoms that a lasso lets in next, the first of them first.

    Parameters
    ----------
    objective : Objective
        What is minimised, plus the penalty.
    structure : Groups
        Whose atoms may all be used.
    fit : Fit
        The minimiser on its support, which goes unpenalised.
    count : int
        How many, no more than there are left.
    entrants : callable, default=lasso_entrants
        What solves the lasso.

    Returns
    -------
    integer array of shape (count,)
        Numbers of atoms. If fewer enter than that, as where gradients are equal, those
        of largest gradient follow.
    """
    slopes = np.sqrt(structure.scores(fit.gradient))
    slopes[fit.support.atoms] = -1.0
    ranked = np.argsort(-slopes, kind="stable")
    inside, outside = slopes[ranked[count - 1]], 0.0
    if count < len(slopes):
        outside = max(0.0, slopes[ranked[count]])
    alpha = float(inside - SHARE * (inside - outside))
    found = np.empty(0, np.int64)
    if alpha > 0:
        found = entrants(objective, structure, fit, alpha)
    both = np.concatenate((found, ranked))
    first = np.sort(np.unique(both, return_index=True)[1])
    atoms: Ints = both[first][:count]
    return atoms


def mask_entrants(
    objective: Any, structure: Groups, fit: Fit, alpha: float, rng: Any
) -> Ints:
    r"""Return what `lasso_entrants` does, from a mask under an l2 penalty.

    Minimises :math:`f(a \circ \theta) + \alpha/2 \sum_{i \notin S} (a_i^2 +
    \|\theta_i\|^2)` over both, where a is 1 on S.

    Parameters
    ----------
    objective : Objective
        What is minimised, plus the penalty.
    structure : Groups
        Whose atoms share a factor.
    fit : Fit
        The minimiser on its support, which goes unpenalised.
    alpha : float
        Strength.
    rng : numpy.random.Generator
        Of the start, for at zero nothing moves.

    Returns
    -------
    integer array
        Numbers of the atoms, the longest first.
    """
    labels, shape = np.asarray(structure.labels), tuple(objective.shape)
    n_atoms, whole = structure.n_atoms, Whole(shape)
    free = np.ones(n_atoms, bool)
    free[fit.support.atoms] = False
    column = (slice(None), *[None] * (len(shape) - 1))
    rows_free = free[labels][column]

    def halves(v: Floats) -> tuple[Floats, Floats]:
        return np.where(free, v[:n_atoms], 1.0), v[n_atoms:].reshape(shape)

    def value(v: Floats) -> tuple[float, Floats]:
        mask, theta = halves(v)
        spread = mask[labels][column]
        x = as_array(spread * theta, objective.like)
        at = objective.at(whole, whole.restrict(x))
        gradient = np.asarray(at.gradient, np.float64)
        inner = (gradient * theta).reshape(len(labels), -1).sum(axis=1)
        by_mask = np.bincount(labels, inner, n_atoms) + alpha * mask
        by_theta = spread * gradient + alpha * theta * rows_free
        penalty = 0.5 * alpha * ((mask[free] ** 2).sum() + (theta**2 * rows_free).sum())
        together = np.concatenate((by_mask * free, by_theta.ravel()))
        return float(at.value) + float(penalty), together

    here = np.asarray(fit.x, np.float64)
    size = START * max(1.0, float(np.abs(here).max(initial=0.0)))
    theta = here + size * rng.standard_normal(shape) * rows_free
    start = np.concatenate((np.full(n_atoms, size), theta.ravel()))
    options: Any = {"maxiter": 5_000, "maxfun": 20_000, "ftol": 0.0, "gtol": 1e-10}
    found: Any = minimize(value, start, jac=True, method="L-BFGS-B", options=options)
    mask, theta = halves(found.x)
    squares = (theta**2).reshape(len(labels), -1).sum(axis=1)
    lengths = np.abs(mask) * np.sqrt(np.bincount(labels, squares, n_atoms)) * free
    ranked = np.argsort(-lengths, kind="stable")
    entered: Ints = ranked[lengths[ranked] > TINY * lengths.max()]
    return entered
