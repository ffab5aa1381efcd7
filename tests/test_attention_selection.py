"""Columns chosen by a network while it trains, and by the sequential lasso."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.feature_selection import mutual_info_regression

from vitalfew.estimators import SequentialAttentionSelector, SequentialLassoSelector
from vitalfew.estimators._network_selector import _moments, _split
from vitalfew.estimators.sequential_lasso import mask_entrants, next_atoms
from vitalfew.exceptions import ConvergenceWarning
from vitalfew.objectives import LeastSquares, Logistic
from vitalfew.solvers import OMP
from vitalfew.solvers.sequential_lasso import lasso_entrants
from vitalfew.structures import Groups

torch = pytest.importorskip("torch")
nn = torch.nn


def table(seed=0, n=120, p=8):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    return X, X[:, 1] - X[:, 4] + 0.1 * rng.standard_normal(n)


def quick(k=3, **changed):
    settings = {
        "hidden_sizes": 8,
        "steps_per_round": 6,
        "batch_size": 32,
        "random_state": 0,
    }
    return SequentialAttentionSelector(k, **{**settings, **changed})


def interaction(seed, n=400, p=12):
    """A target of three columns of small variance, two of which show nothing alone."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    X[:, 3:] *= rng.uniform(1, 3, p - 3)
    return X, X[:, 0] * X[:, 1] + X[:, 2] ** 2 + 0.1 * rng.standard_normal(n)


def test_it_finds_columns_that_matter_together():
    found = {"attention": [], "variance": [], "information": []}
    for seed in range(3):
        X, y = interaction(seed)
        selector = SequentialAttentionSelector(
            3, steps_per_round=120, batch_size=100, random_state=seed
        ).fit(X, y)
        found["attention"].append(set(selector.support_))
        for name, score in {
            "variance": X.var(axis=0),
            "information": mutual_info_regression(X, y, random_state=seed),
        }.items():
            found[name].append(set(np.argsort(-score)[:3]))
    hits = {name: [len(s & {0, 1, 2}) for s in sets] for name, sets in found.items()}
    assert hits["attention"] == [3, 3, 3]
    assert sum(hits["variance"]) < 9
    assert sum(hits["information"]) < 9


@pytest.mark.parametrize("schedule", ["train-then-pick", "one-pass"])
@pytest.mark.parametrize("per_round", [1, 2, 3, 5, 8, 20])
def test_always_as_many_as_asked_for(schedule, per_round):
    X, y = table()
    for k in (1, 5, 8):
        chosen = quick(k, per_round=per_round, steps_per_round=2, schedule=schedule)
        chosen.fit(X, y)
        assert len(chosen.order_) == k == chosen.get_support().sum()
        assert len(set(chosen.order_)) == k
        assert chosen.n_picked_ == k
        assert sorted(chosen.ranking_) == list(range(1, 9))
        assert chosen.ranking_[chosen.order_].tolist() == list(range(1, k + 1))


def test_the_published_schedule_picks_first_at_random():
    X, y = table()
    firsts = {}
    for schedule in ("train-then-pick", "one-pass"):
        settings = {"schedule": schedule, "steps_per_round": 80, "hidden_sizes": 67}
        runs = [quick(1, **settings, random_state=s).fit(X, y) for s in range(4)]
        firsts[schedule] = {int(run.order_[0]) for run in runs}
    assert firsts["train-then-pick"] <= {1, 4}
    assert firsts["one-pass"] - {1, 4}


def test_the_same_seed_gives_the_same_picks_and_leaves_torch_alone():
    X, y = table()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    runs = [quick(5, random_state=s).fit(X, y) for s in (1, 1, 2, 3)]
    assert torch.equal(torch.rand(3), expected)
    orders = [run.order_.tolist() for run in runs]
    assert orders[0] == orders[1]
    assert any(order != orders[0] for order in orders[2:])


# -- ends before their time ------------------------------------------------------------


class Interrupted:
    """Raises in the middle of a round, as Ctrl-C would."""

    def __init__(self, after):
        self.left = after

    def __call__(self, outputs, targets):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return nn.functional.mse_loss(outputs[:, 0], targets)


def test_ctrl_c_keeps_what_was_picked():
    X, y = table()
    whole = quick(6, early_stopping=False, warm_up=0, validation_fraction=0)
    cut = quick(6, early_stopping=False, warm_up=0, validation_fraction=0)
    whole.set_params(loss=Interrupted(1_000)).fit(X, y)
    cut.set_params(loss=Interrupted(2 * 6 + 3))
    with pytest.raises(KeyboardInterrupt):
        cut.fit(X, y)
    assert cut.n_picked_ == 2
    assert "interrupted after 2 of 6" in cut.status_
    assert cut.order_[:2].tolist() == whole.order_[:2].tolist()
    assert len(set(cut.order_)) == 6


def test_ctrl_c_in_the_warm_up_has_nothing_to_keep():
    X, y = table()
    selector = quick(6, warm_up=0.5, loss=Interrupted(1))
    with pytest.raises(KeyboardInterrupt):
        selector.fit(X, y)
    assert not hasattr(selector, "order_")


def test_the_callback_is_told_and_may_stop():
    X, y = table()
    told = []

    def callback(progress):
        told.append(progress)
        return len(progress.picked) == 2

    selector = quick(4, callback=callback).fit(X, y)
    assert [len(progress.picked) for progress in told] == [0, 1, 2]
    assert selector.n_picked_ == 2
    assert selector.order_[:2].tolist() == list(told[-1].picked)
    assert len(set(selector.order_)) == 4
    assert "asked to stop after 2 of 4" in selector.status_
    assert all(np.isfinite([p.loss, p.held_out_loss]).all() for p in told)


class Fixed:
    """A generator that draws one number."""

    def __init__(self, seed):
        self.seed = seed

    def integers(self, most):
        assert self.seed < most
        return self.seed


@pytest.mark.parametrize("schedule", ["train-then-pick", "one-pass"])
@pytest.mark.parametrize("random_state", [3, None])
def test_a_stored_run_goes_on_to_the_same_picks(
    tmp_path, monkeypatch, schedule, random_state
):
    from vitalfew.neural import feature_selection

    monkeypatch.setattr(feature_selection, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    X, y = table()
    file = tmp_path / "run.safetensors"

    def net(n_in, n_out):  # which draws random numbers as it trains
        return nn.Sequential(
            nn.Linear(n_in, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, n_out)
        )

    settings = {"network": net, "schedule": schedule, "dropout": 0.2}
    settings["random_state"] = random_state
    cut = quick(6, **settings, checkpoint=file)
    cut.set_params(callback=lambda progress: len(progress.picked) >= 3).fit(X, y)
    assert cut.n_picked_ == 3
    resumed = quick(6, **settings, checkpoint=file).fit(X, y)
    assert resumed.n_picked_ == 6
    seed = feature_selection.stored_seed(file)
    monkeypatch.setattr(
        "vitalfew.estimators._network_selector.check_rng", lambda given: Fixed(seed)
    )
    whole = quick(6, **settings).fit(X, y)
    assert resumed.order_.tolist() == whole.order_.tolist()
    assert resumed.ranking_.tolist() == whole.ranking_.tolist()
    assert resumed.n_steps_ == whole.n_steps_


def test_checkpoints_of_other_runs_and_other_files_are_refused(tmp_path):
    X, y = table()
    file = tmp_path / "run.safetensors"
    first = quick(2, checkpoint=file).fit(X, y)
    again = quick(2, checkpoint=file).fit(X, y)  # finished: read, not trained
    assert again.order_.tolist() == first.order_.tolist()
    for other in (quick(3), quick(2, random_state=1), quick(2, learning_rate=0.1)):
        with pytest.raises(ValueError, match="belongs to other"):
            other.set_params(checkpoint=file).fit(X, y)
    with pytest.raises(ValueError, match="belongs to other"):
        quick(2, checkpoint=file).fit(2 * X + y[:, None], y)
    held = file.read_bytes()
    for broken in (b"", b"none", held[: len(held) // 2]):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match="cannot be read"):
            quick(2, checkpoint=file).fit(X, y)
    with pytest.raises(ValueError, match="existing folder"):
        quick(2, checkpoint=tmp_path / "none" / "run").fit(X, y)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    from safetensors.torch import load, save

    from vitalfew.neural import feature_selection

    X, y = table()
    file = tmp_path / "run.safetensors"
    quick(3, checkpoint=file).fit(X, y)
    facts, tensors = feature_selection._read(file)
    assert load(file.read_bytes()).keys() == tensors.keys()
    for name, value in {
        "order": torch.tensor([0, 0, 1]),
        "scores": torch.full((8,), torch.nan),
        "network.0.weight": torch.zeros(2, 2),
    }.items():
        file.write_bytes(save({**tensors, name: value}, facts))
        with pytest.raises(ValueError, match="is damaged"):
            quick(3, checkpoint=file).fit(X, y)


def test_a_loss_that_stops_being_finite():
    X, y = table()

    class Breaks(Interrupted):
        def __call__(self, outputs, targets):
            self.left -= 1
            return (outputs[:, 0] - targets).square().mean() / (self.left > 0)

    settings = {"warm_up": 0, "validation_fraction": 0}
    with pytest.raises(ValueError, match="not finite after"):
        quick(4, loss=Breaks(3), **settings).fit(X, y)
    selector = quick(4, loss=Breaks(2 * 6 + 3), **settings)
    with pytest.warns(ConvergenceWarning, match="after 2 of 4 picks"):
        selector.fit(X, y)
    assert selector.n_picked_ == 2
    assert len(set(selector.order_)) == 4


# -- networks and fields ---------------------------------------------------------------


def test_groups_are_picked_whole_and_by_name():
    X, y = table(p=9)
    groups = np.array(list("cbabcabca"))  # columns 1 and 4 are in b and c
    selector = quick(2, groups=groups, steps_per_round=150).fit(X, y)
    assert set(selector.groups_) == {"b", "c"}
    assert selector.support_.tolist() == np.flatnonzero(groups != "a").tolist()
    assert groups[selector.order_].tolist() == [
        g for name in selector.groups_ for g in 3 * [name]
    ]
    assert set(selector.ranking_[groups == "a"]) == {3}


class Fields(nn.Module):
    """Codes of six fields, each with an embedding of its own."""

    def __init__(self, several):
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleList([nn.Embedding(4, 3) for _ in range(6)])
        self.head = nn.Sequential(nn.Linear(18, 16), nn.ReLU(), nn.Linear(16, 2))
        self.several = several

    def embed(self, x):
        codes = x.long()
        found = [t(codes[:, i]) for i, t in enumerate(self.tables)]
        return found if self.several else torch.stack(found, 1)

    def forward(self, fields):
        return self.head(torch.cat(fields, 1) if self.several else fields.flatten(1))


@pytest.mark.parametrize("several", [True, False])
def test_fields_with_embeddings(several):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 4, (400, 6))
    y = np.array(["no", "yes"])[(X[:, 1] + X[:, 3]) % 2]  # no field shows alone
    network = Fields(several)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    selector = SequentialAttentionSelector(
        2, network=network, batch_size=128, steps_per_round=150, learning_rate=1e-2,
        random_state=0,
    ).fit(X, y)  # fmt: skip
    assert set(selector.support_) == {1, 3}
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    with pytest.raises(ValueError, match="embed must return"):
        quick(1, network=network, groups=[0, 0, 1, 2, 3, 4]).fit(X, y)


def test_networks_that_do_not_fit():
    X, y = table()
    with pytest.raises(ValueError, match="one output for each row"):
        quick(2, network=nn.Linear(8, 3)).fit(X, y)
    with pytest.raises(ValueError, match="network must be None, a torch module"):
        quick(2, network=3).fit(X, y)
    with pytest.raises(ValueError, match="must return a torch module"):
        quick(2, network=lambda n_in, n_out: None).fit(X, y)
    with pytest.raises(ValueError, match=r"torch.nn.Linear that reads the 8 columns"):
        SequentialLassoSelector(2, network=Fields(False)).fit(X, y)
    with pytest.raises(ValueError, match="network must be 'linear', 'mlp'"):
        SequentialLassoSelector(2, network="tree").fit(X, y)


def test_networks_of_other_precisions_and_frozen_ones():
    X, y = table()
    network = nn.Linear(8, 1).double()
    orders = [quick(3, network=n).fit(X, y).order_.tolist() for n in (network, network)]
    assert orders[0] == orders[1]
    assert network.weight.dtype == torch.float64
    assert network.weight.grad is None
    network.requires_grad_(False)
    assert len(quick(3, network=network).fit(X, y).order_) == 3


def test_the_mask_of_the_rest_sums_to_one():
    from vitalfew.neural.feature_selection import SoftmaxMask

    mask = SoftmaxMask(5)
    mask.free[[1, 3]] = False
    with torch.no_grad():
        mask.logits.copy_(torch.tensor([0.0, 9.0, 1.0, 9.0, 2.0]))
    weights = mask.weights()
    free = torch.exp(torch.tensor([0.0, 1.0, 2.0]))
    torch.testing.assert_close(weights[[0, 2, 4]], free / free.sum())
    assert weights[[1, 3]].tolist() == [1.0, 1.0]
    mask.free[:] = False
    assert mask.weights().tolist() == 5 * [1.0]


def test_a_perceptron_masks_its_weights_instead_of_its_inputs():
    from vitalfew.neural.feature_networks import perceptron

    for hidden in ((), (5,), (5, 4)):
        network = perceptron(7, 2, hidden, 0)
        x = torch.randn(11, 7, generator=torch.Generator().manual_seed(0))
        weights = torch.linspace(0, 1, 7, requires_grad=True)
        results = []
        for outputs in (network(x * weights), network.masked(x, weights)):
            loss = outputs.square().sum()
            gradients = torch.autograd.grad(loss, [weights, *network.parameters()])
            results.append([outputs.detach(), *gradients])
        for plain, masked in zip(*results, strict=True):
            torch.testing.assert_close(masked, plain, rtol=1e-4, atol=1e-5)


# -- data ------------------------------------------------------------------------------


def test_constant_columns_come_last():
    X, y = table()
    X[:, [0, 5]] = [3.0, 0.1]
    selector = quick(8).fit(X, y)
    assert set(selector.order_[-2:]) == {0, 5}
    assert quick(2).fit(np.ones((20, 3)), np.arange(20.0)).order_.tolist() == [0, 1]


def test_one_column_and_many_classes():
    X, y = table()
    assert quick(1).fit(X[:, :1], y).order_.tolist() == [0]
    names = np.array([f"row {i}" for i in range(12)])
    selector = quick(2, task="classification").fit(X[:12], names)
    assert len(selector.support_) == 2
    assert len(selector.classes_) == 12


def test_sparse_is_as_dense_and_units_do_not_matter():
    X, y = table()
    X[np.abs(X) < 0.8] = 0
    dense = quick(5).fit(X, y)
    for kind in (scipy.sparse.csr_matrix, scipy.sparse.csc_array):
        sparse = quick(5).fit(kind(X), y)
        assert sparse.order_.tolist() == dense.order_.tolist()
        assert sparse.transform(kind(X)).shape == (120, 5)
    units = 2.0 ** np.arange(-400, 400, 100)
    assert quick(5).fit(X * units, y).order_.tolist() == dense.order_.tolist()
    for numbers in (1e6 * y + 5, 2.0**900 * y, 2.0**-900 * y):
        assert quick(5).fit(X, numbers).order_.tolist() == dense.order_.tolist()


def test_scaling_and_held_out_rows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 4)) * [1, 1e-200, 1e200, 0]
    center, scale, constant = _moments(X)
    np.testing.assert_allclose(center, X.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scale[0], X[:, 0].std(), rtol=1e-12)
    np.testing.assert_allclose(
        scale[1:3] * [1e200, 1e-200],
        [(X[:, 1] * 1e200).std(), (X[:, 2] / 1e200).std()],
        rtol=1e-12,
    )
    assert constant.tolist() == [False, False, False, True]
    y = np.repeat([0, 1, 2], [30, 16, 4])
    train, held = _split(y, True, 0.25, 0)
    assert sorted([*train, *held]) == list(range(50))
    assert np.bincount(y[held]).tolist() == [7, 4, 1]
    assert not len(_split(np.arange(9), True, 0.5, 0)[1])


def test_held_out_rows_do_not_scale():
    X, y = table()
    train, held = _split(y, False, 0.125, int(np.random.default_rng(0).integers(2**31)))
    assert len(held) == 15
    settings = {"early_stopping": False, "dropout": 0.0}
    plain = quick(8, **settings).fit(X, y)
    X[held] *= 1e3
    assert quick(8, **settings).fit(X, y).order_.tolist() == plain.order_.tolist()
    X[train[0]] *= 1e3
    assert quick(8, **settings).fit(X, y).ranking_.tolist() != plain.ranking_.tolist()


def test_a_network_that_overfits_gets_its_inputs_dropped():
    from vitalfew.neural import feature_selection

    rng = np.random.default_rng(0)
    dropped = []

    class Run(feature_selection._Run):
        def _answer(self, ending):
            dropped.append(self.dropout)
            return super()._answer(ending)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_selection, "_Run", Run)
        wide = rng.standard_normal((400, 100)), rng.standard_normal(400)
        for X, y in (wide, table(n=400)):
            quick(1, steps_per_round=60, warm_up=0.6, hidden_sizes=32).fit(X, y)
    assert dropped == [feature_selection.DROPPED, 0.0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_features_to_select": 9}, "from 1 to 8"),
        ({"n_features_to_select": 0}, "from 1 to 8"),
        ({"per_round": 0}, "per_round must be"),
        ({"steps_per_round": "many"}, "steps_per_round must be 'auto'"),
        ({"steps_per_round": 0}, "steps_per_round must be"),
        ({"schedule": "naive"}, "schedule must be one of"),
        ({"task": "ranking"}, "task must be one of"),
        ({"warm_up": 1.0}, "warm_up must be a share below 1"),
        ({"validation_fraction": 1}, "validation_fraction must be below 1"),
        ({"dropout": 1.0}, "dropout must be below 1"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"device": "abacus"}, "device must be 'auto' or one that torch can use"),
        ({"hidden_sizes": (4, 0)}, "hidden_sizes must be"),
        ({"groups": [0, 1]}, "one label for each of the 8 columns"),
        ({"learning_rate": -1}, "learning_rate must be"),
        ({"attention_rate": np.nan}, "mask_rate must be"),
    ],
)
def test_settings_that_cannot_be(changed, message):
    X, y = table()
    with pytest.raises(ValueError, match=message):
        quick().set_params(**changed).fit(X, y)


def test_data_that_cannot_be_used():
    X, y = table()
    words = np.array([["a", "b", "c"]] * 9, object)
    with pytest.raises(ValueError, match="could not convert string"):
        quick().fit(words, np.arange(9.0))
    assert quick().fit(X.astype(object), y).order_.tolist() == (
        quick().fit(X, y).order_.tolist()
    )
    with pytest.raises(ValueError, match="one class"):
        quick().fit(X, np.full(len(X), "a"))
    with pytest.raises(ValueError, match="NaN"):
        quick().fit(np.where(X > 2, np.nan, X), y)


# -- the sequential lasso --------------------------------------------------------------


def correlated(seed, n=80, p=24):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) @ (np.eye(p) + 0.3 * rng.standard_normal((p, p)))
    z = X[:, :6] @ rng.standard_normal(6) * 2 + rng.standard_normal(n)
    return X, z, np.c_[z, X[:, 9] + rng.standard_normal(n)]


def omp_order(selector, X, y, classes=False):
    """Picks of `OMP` on the very objective of a selector."""
    labels, names = selector._atoms(X.shape[1])
    objective = selector._objective(X, np.asarray(y), classes)
    structure = Groups(labels, len(names)).on(objective.shape)
    fit = structure.refit(objective, structure.empty(objective.like), None)
    solver = OMP(tol=0.0)
    state = solver.init(objective, structure, fit, np.random.default_rng(0))
    for _ in range(selector.n_features_to_select):
        state = solver.step(objective, structure, state)
    return names[solver.point(state).support.atoms].tolist()


@pytest.mark.parametrize("form", ["lasso", "mask"])
@pytest.mark.parametrize("kind", ["numbers", "groups", "outputs", "two", "three"])
def test_on_a_linear_model_it_picks_as_omp_does(form, kind):
    for seed in range(2):
        X, z, both = correlated(seed)
        y = {
            "outputs": both,
            "two": (z > 0).astype(int),
            "three": np.digitize(z, [-3.0, 3.0]),
        }.get(kind, z)
        groups = np.repeat(np.arange(8), 3) if kind == "groups" else None
        selector = SequentialLassoSelector(5, form=form, groups=groups, random_state=0)
        selector.fit(X, y)
        order = selector.order_ if groups is None else selector.groups_
        expected = omp_order(selector, X, y, kind in ("two", "three"))
        assert order.tolist() == expected


@pytest.mark.parametrize("loss", [LeastSquares, Logistic])
def test_the_mask_under_two_penalties_is_the_lasso(loss):
    rng = np.random.default_rng(1)
    several = 0
    for seed in range(3):
        X, z, _ = correlated(seed)
        y = (z > 0).astype(float) if loss is Logistic else z
        objective = loss(X, y, l2=1e-3, fit_intercept=True)
        structure = Groups(np.repeat(np.arange(12), 2), 12).on(objective.shape)
        fit = structure.refit(objective, structure.support([3]), None)
        slopes = np.sqrt(structure.scores(fit.gradient))
        slopes[3] = 0
        lasso = lasso_entrants(objective, structure, fit, 0.2 * slopes.max())
        several += len(lasso) > 1
        mask = mask_entrants(objective, structure, fit, 0.2 * slopes.max(), rng)
        assert set(mask) == set(lasso)
        assert mask[0] == lasso[0]
        # just below the largest gradient one enters, and it is that one
        first, second = np.sort(slopes)[::-1][:2]
        alone = mask_entrants(
            objective, structure, fit, first - 0.02 * (first - second), rng
        )
        assert alone.tolist() == [int(np.argmax(slopes))]
    assert several


def test_several_at_a_time_and_columns_that_tell_nothing():
    X, z, _ = correlated(0)
    for per_round in (1, 2, 5, 24):
        selector = SequentialLassoSelector(24, per_round=per_round).fit(X, z)
        assert sorted(selector.order_) == list(range(24))
    assert len(SequentialLassoSelector(7, per_round=3).fit(X, z).order_) == 7
    X[:, 4] = 1.0
    X[:, 5] = X[:, 6]
    order = SequentialLassoSelector(24).fit(X, z).order_.tolist()
    assert set(order[-2:]) in ({4, 5}, {4, 6})
    flat = SequentialLassoSelector(3).fit(np.ones((10, 4)), np.arange(10.0))
    assert flat.order_.tolist() == [0, 1, 2]


def test_no_lasso_lets_in_what_no_gradient_favours():
    X, z, _ = correlated(0)
    objective = LeastSquares(X, np.zeros(len(z)), l2=1e-8)
    structure = Groups(np.arange(24), 24).on(objective.shape)
    fit = structure.refit(objective, structure.empty(objective.like), None)
    assert next_atoms(objective, structure, fit, 3).tolist() == [0, 1, 2]


def test_the_lasso_in_a_network():
    X, y = table(n=300)
    settings = {"hidden_sizes": 8, "batch_size": 64, "random_state": 0}
    selector = SequentialLassoSelector(
        2, network="mlp", steps_per_round=150, **settings
    ).fit(X, y)
    assert set(selector.support_) == {1, 4}
    for per_round in (1, 2, 3):
        selector = SequentialLassoSelector(
            5, network="mlp", per_round=per_round, steps_per_round=2, **settings
        ).fit(X, y)
        assert len(selector.order_) == 5


def test_its_penalty_is_that_of_both_factors():
    from vitalfew.neural.feature_selection import LassoMask

    layer = nn.Linear(4, 3)
    mask = LassoMask(layer, np.array([0, 1, 0, 2]), 3, 0.5)
    mask.free[1] = False
    with torch.no_grad():
        mask.factors.copy_(torch.tensor([2.0, 3.0, -1.0]))
    W = layer.weight.detach()
    theta = torch.stack([W[:, [0, 2]].norm(), W[:, 1].norm(), W[:, 3].norm()])
    expected = 0.25 * (4 + 1 + theta[0] ** 2 + theta[2] ** 2)
    torch.testing.assert_close(mask.penalty().detach(), expected)
    torch.testing.assert_close(
        mask.scores().detach(), torch.tensor([2.0, 3.0, 1.0]) * theta
    )


def test_the_callback_may_stop_a_linear_model():
    X, z, _ = correlated(0)
    seen = []
    selector = SequentialLassoSelector(
        5, callback=lambda order: seen.append(order) or len(order) == 2
    ).fit(X, z)
    assert seen == [selector.order_[:1].tolist(), selector.order_[:2].tolist()]
    assert selector.n_picked_ == 2
    assert len(set(selector.order_)) == 5


def test_settings_of_the_lasso_that_cannot_be():
    X, y = table()
    for changed, message in (
        ({"form": "ridge"}, "form must be one of"),
        ({"alpha": -1, "network": "mlp"}, "alpha must be"),
        ({"l2": "none"}, "l2 must be"),
        ({"per_round": 0}, "per_round must be"),
        ({"n_features_to_select": 9}, "from 1 to 8"),
    ):
        with pytest.raises(ValueError, match=message):
            SequentialLassoSelector(2).set_params(**changed).fit(X, y)


@pytest.mark.slow
def test_softmax_on_a_linear_model_agrees_with_omp_for_the_most_part():
    agreed = []
    for seed in range(20):
        X, z, _ = correlated(seed, n=400)
        lasso = SequentialLassoSelector(5).fit(X, z)
        assert lasso.order_.tolist() == omp_order(lasso, X, z)
        soft = SequentialAttentionSelector(
            5, hidden_sizes=(), batch_size=400, dropout=0.0, random_state=seed
        ).fit(X, z)
        agreed.append(len(set(lasso.support_) & set(soft.support_)) / 5)
    # far above the 5/24 of columns drawn at random, and far from all
    assert 0.7 < np.mean(agreed) < 0.95
