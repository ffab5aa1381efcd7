"""Sequential attention: choosing the inputs of a network while it trains."""

from typing import Any, Self

from vitalfew.contracts import Ints
from vitalfew.estimators._network_selector import NOISE, NetworkSelector


class SequentialAttentionSelector(NetworkSelector):
    r"""Keep the columns that a network attends to, picked one after the other.

    While the network trains, column i is multiplied by 1 if it is picked and otherwise
    by :math:`\exp(\ell_i) / \sum_{j \notin S} \exp(\ell_j)`, where the logits
    :math:`\ell` train along. At the end of each round the columns of largest attention
    are picked, so that every pick knows what is chosen already. It finds columns that
    matter together and none of which shows alone. Where a linear model is good enough,
    `SparseSelector` is faster and more exact.

    Parameters
    ----------
    n_features_to_select : int, default=10
        How many columns, or groups if `groups` is given, to keep: always as many.
    network : Module or callable, optional
        A torch module that takes (n, p) and returns (n, n_classes), or (n, n_outputs)
        for numbers; a copy of it is trained, in single precision. Or a function of p
        and the number of outputs that returns one. By default a perceptron of
        `hidden_sizes`. A module with a method ``embed`` is called on what that makes of
        the table, masked: (n, n_fields, width), or a sequence of (n, width) for each
        field.
    hidden_sizes : int or tuple of int, default=67
        Units of the hidden layers of the perceptron; ``()`` is a linear model.
    groups : array of shape (n_features,), optional
        Field of each column, by any name; a field is picked whole. In the order of
        their names they are the fields of ``embed``.
    task : {"auto", "regression", "classification"}, default="auto"
        Whether y holds numbers or classes, as in `SparseSelector`.
    per_round : int, default=1
        Columns picked at a time; all of them is one-shot attention.
    steps_per_round : int or "auto", default="auto"
        Steps of the optimizer; automatically 1,000 steps or 20 epochs in all, whichever
        is more, and at least 50 a round.
    schedule : {"train-then-pick", "one-pass"}, default="train-then-pick"
        Whether a round trains and then picks; "one-pass" picks and then trains, as
        published, so that its first pick is random.
    warm_up : float, default=0.1
        Share of the steps before, in which all columns count in full.
    batch_size : int, default=256
        Rows of a step.
    learning_rate, attention_rate : float, default=3e-3 and 2e-2
        Of Adam, for the network and for the logits.
    weight_decay : float, default=0
        Of the network.
    dropout : float or "auto", default="auto"
        Share of the inputs that is dropped while attention trains; automatically half
        of them if the network overfits in the warm-up, which is then forgotten, else
        none. Not for fields of ``embed``.
    standardize : bool, default=True
        Bring columns to mean 0 and standard deviation 1 on the rows trained on, and cut
        them off at 5. Not for a network with ``embed``, which may want codes.
    validation_fraction : float, default=0.125
        Share of the rows, at most 1,024, held out to see when to stop.
    early_stopping : bool, default=True
        End a round once the held-out loss stops falling.
    loss : callable, optional
        Of outputs and targets, a mean; by default the cross-entropy, or the squared
        error of targets of unit standard deviation.
    device : str or device, default="auto"
        Where to train; automatically a GPU if there is one.
    amp : bool, default=True
        On a GPU, compute in bfloat16 where torch finds it safe.
    checkpoint : path, optional
        A file in which the run is stored between rounds, every 30 seconds and at the
        end. If it exists and is of this run, the run goes on from it to the same picks.
    callback : callable, optional
        Told the progress (`step`, `n_steps`, `picked`, `n_picks`, `loss`,
        `held_out_loss`) after the warm-up and each round; returning True stops.
    random_state : int, Generator or None
        Of weights, batches and the rows held out: the same picks from the same number.

    Attributes
    ----------
    order_ : integer array
        Columns chosen, in the order of picking; those of a group side by side.
    ranking_ : integer array of shape (n_features,)
        1 for the column, or group, picked first, and so on; the others follow by the
        attention they had at the end.
    support_ : integer array
        Columns chosen, ascending.
    groups_ : array
        Groups chosen, in the order of picking; only with `groups`.
    status_ : str
        How the run ended.
    n_picked_ : int
        Picks that were made as planned. If Ctrl-C, the callback or a loss that is no
        number ended the run, the others are those of most attention then.
    n_steps_ : int
        Steps taken.
    classes_ : array of shape (n_classes,)
        The classes, for classification.
    n_features_in_ : int
        Number of columns seen in `fit`.

    Raises
    ------
    MissingDependencyError
        If PyTorch is not installed.

    See Also
    --------
    SequentialLassoSelector : The same with a group lasso.
    SparseSelector : By a sparse linear model.

    Notes
    -----
    One training of the network, with one more number for each column. Constant columns
    are picked last. The paper's algorithm trains anew for every pick, and its
    experiments split one training into rounds, as is done here.

    With a mask that is no softmax and an l2 penalty, the picks on a linear model are
    those of orthogonal matching pursuit (`SequentialLassoSelector`). With the softmax
    they are not: of 5 columns out of 24 correlated ones, 4.1 are the same on average
    over 20 tables, and 3.2 if all are picked at once.

    References
    ----------
    .. [1] T. Yasuda, M. Bateni, L. Chen, M. Fahrbach, G. Fu, V. Mirrokni, "Sequential
       attention for feature selection", ICLR, 2023, algorithm 1. We pick after a round
       instead of before, and drop inputs where the network overfits.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((500, 10))
    >>> y = X[:, 2] * X[:, 7]
    >>> selector = SequentialAttentionSelector(2, random_state=0).fit(X, y)
    >>> selector.get_support(indices=True)
    array([2, 7])
    """

    def __init__(
        self,
        n_features_to_select: int = 10,
        *,
        network: Any = None,
        hidden_sizes: Any = 67,
        groups: Any = None,
        task: str = "auto",
        per_round: int = 1,
        steps_per_round: Any = "auto",
        schedule: str = "train-then-pick",
        warm_up: float = 0.1,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        attention_rate: float = 2e-2,
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
        self.hidden_sizes = hidden_sizes
        self.groups = groups
        self.task = task
        self.per_round = per_round
        self.steps_per_round = steps_per_round
        self.schedule = schedule
        self.warm_up = warm_up
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.attention_rate = attention_rate
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
            Data; sparse ones become dense a batch at a time.
        y : array of shape (n_samples,) or (n_samples, n_outputs)
            Numbers or classes.

        Returns
        -------
        self
            The fitted selector. Ctrl-C leaves the choice so far in place and is passed
            on.
        """
        return self._fit_network(X, y)

    def _mask_rate(self) -> Any:
        return self.attention_rate

    def _mask(self, engine: Any, network: Any, labels: Ints, n_atoms: int) -> Any:
        noise = NOISE if self.schedule == "one-pass" else 0.0
        return engine.SoftmaxMask(n_atoms, noise)
