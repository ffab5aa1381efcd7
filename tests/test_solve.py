"""The loop: limits, callbacks, starts, statuses and the answer."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.backends import BACKENDS, Backend
from vitalfew import Solution, solve, solvers
from vitalfew._solve import describe
from vitalfew.contracts import HasCurvature, Penalty
from vitalfew.exceptions import IncompatibleError
from vitalfew.objectives import LeastSquares, Logistic, Multinomial, Smooth
from vitalfew.penalties import L1
from vitalfew.solution import Status
from vitalfew.structures import Cardinality, Groups, Rows


@pytest.fixture
def f(rng):
    X = rng.standard_normal((60, 20)) @ (
        np.eye(20) + 0.3 * rng.standard_normal((20, 20))
    )
    y = X[:, [1, 4, 8]] @ np.array([1.0, -1.0, 2.0]) + rng.standard_normal(60)
    return LeastSquares(X, y)


# -- limits ----------------------------------------------------------------------------


def test_no_steps_allowed(f):
    solution = solve(f, Cardinality(3), max_iter=0)
    assert solution.status is Status.MAX_ITER
    assert not solution.status.ok
    assert solution.n_iter == 0
    assert not solution.x.any()
    assert solution.history == [pytest.approx(f.zero_value)]


def test_no_time_allowed(f):
    solution = solve(f, Cardinality(3), max_seconds=0)
    assert solution.status is Status.MAX_SECONDS
    assert solution.n_iter == 0


def test_the_limit_holds_over_all_stages(f):
    full = solve(f, Cardinality(3), solvers.LocalSearch(), start=solvers.OMP())
    for limit in range(1, full.n_iter):
        part = solve(
            f,
            Cardinality(3),
            solvers.LocalSearch(),
            start=solvers.OMP(),
            max_iter=limit,
        )
        assert part.n_iter == limit
        assert part.history == full.history[: limit + 1]
        assert part.value <= min(part.history) * (1 + 1e-12)
        assert part.status is Status.MAX_ITER
    assert full.status is Status.CONVERGED


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_iter": -1}, "max_iter.*-1"),
        ({"max_seconds": -0.5}, "max_seconds.*-0.5"),
        ({"max_seconds": "a"}, "max_seconds.*'a'"),
        ({"max_iter": 2.5}, "max_iter.*2.5"),
        ({"max_seconds": float("nan")}, "max_seconds.*nan"),
        ({"rng": "x"}, "rng.*'x'"),
    ],
)
def test_bad_limits(f, options, words):
    with pytest.raises(ValueError, match=words):
        solve(f, Cardinality(3), **options)


# -- callbacks -------------------------------------------------------------------------


def test_callback_sees_every_step_and_may_stop(f):
    seen = []

    def callback(n, fit):
        seen.append((n, fit.value))
        return n == 2

    solution = solve(f, Cardinality(5), solvers.OMP(), callback=callback)
    assert solution.status is Status.STOPPED
    assert [n for n, _ in seen] == [1, 2]
    assert [v for _, v in seen] == solution.history[1:]
    assert len(solution.support) == 2


def test_only_true_stops(f):
    values = [None, 0, 1, "stop", np.array([1])]
    solution = solve(f, Cardinality(3), callback=lambda n, fit: values[n % 5])
    assert solution.status is Status.CONVERGED


def test_interrupt_returns_the_best_so_far(f):
    def callback(n, fit):
        if n == 3:
            raise KeyboardInterrupt

    solution = solve(f, Cardinality(5), solvers.OMP(), callback=callback)
    assert solution.status is Status.INTERRUPTED
    assert len(solution.support) == 3
    assert solution.value == pytest.approx(f.refit(solution.fit.support).value)


def test_other_errors_of_a_callback_are_not_hidden(f):
    def callback(n, fit):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        solve(f, Cardinality(5), callback=callback)


# -- starts ----------------------------------------------------------------------------


def test_start_as_fit_solution_and_solver(f):
    first = solve(f, Cardinality(4), solvers.GraSP())
    for start in (first, first.fit):
        again = solve(f, Cardinality(4), solvers.LocalSearch(), start=start)
        assert again.history[0] == pytest.approx(first.value, rel=1e-12)
        assert again.value <= first.value * (1 + 1e-12)
    both = solve(f, Cardinality(4), solvers.LocalSearch(), start=solvers.GraSP())
    assert both.value == pytest.approx(again.value, rel=1e-12)
    assert both.solver == "GraSP, then LocalSearch"


def test_start_of_another_budget(f):
    for k in (1, 3, 6):
        start = solve(f, Cardinality(k))
        for wanted in (0, 2, 4, 8):
            solution = solve(f, Cardinality(wanted), solvers.LocalSearch(), start=start)
            assert len(solution.support) <= wanted
            assert Cardinality(wanted).contains(solution.x)
            assert solution.history[0] >= solution.value


def test_start_of_another_structure(f):
    start = solve(f, Cardinality(4))
    structure = Groups(np.arange(20) // 4, 2, keep=(0,))
    solution = solve(f, structure, solvers.OMPR(), start=start)
    assert structure.contains(solution.x)
    penalised = solve(f, L1(0.1), start=start)
    assert penalised.status is Status.CONVERGED
    back = solve(f, Cardinality(4), solvers.LocalSearch(), start=penalised)
    assert len(back.support) == 4


def test_start_from_another_library_or_precision(backend, dtype, rng):
    X = rng.standard_normal((60, 8))
    y = (X[:, 0] + rng.logistic(size=60) > 0).astype(float)
    f = Logistic(backend.array(X, dtype), y, fit_intercept=True)
    for name in BACKENDS:
        for other in ("float64", "float32"):
            g = Logistic(Backend.load(name).array(X, other), y, fit_intercept=True)
            for structure in (Cardinality(2), L1(0.05)):
                start = solve(g, structure, max_iter=20)
                solution = solve(f, structure, start=start, max_iter=20)
                assert type(solution.x) is type(f.like)
                assert solution.x.dtype == f.like.dtype
                # both are near the optimum, in seven digits
                assert solution.value == pytest.approx(start.value, rel=1e-4)


@pytest.mark.parametrize("structure", [Cardinality(2), L1(0.1)])
def test_starts_that_do_not_fit(f, structure, rng):
    other = LeastSquares(rng.standard_normal((9, 3)), rng.standard_normal(9))
    with pytest.raises(ValueError, match=r"start.*\(20,\).*\(3,\)"):
        solve(f, structure, start=solve(other, Cardinality(1)))
    with pytest.raises(ValueError, match=r"start must be a Fit.*ndarray"):
        solve(f, structure, start=np.zeros(20))


def test_the_default_solver(f, rng):
    assert solve(f, Cardinality(3)).solver == "GraSP, then LocalSearch"
    tall = LeastSquares(rng.standard_normal((400, 3)), rng.standard_normal(400))
    assert solve(tall, Cardinality(2)).solver == "LocalSearch"
    assert solve(f, L1(0.1)).solver == "CoordinateDescent"


def test_describe_names_changed_settings():
    assert describe(solvers.OMP()) == "OMP"
    assert describe(solvers.GraSP(widen=3.0)) == "GraSP(widen=3.0)"


# -- what can go wrong -----------------------------------------------------------------


class _Breaking:
    """Squares of unequal weight whose value turns into `bad` after some evaluations."""

    def __init__(self, after, bad):
        self.count, self.after, self.bad = 0, after, bad
        self.weight = np.arange(1.0, 9.0)
        self.objective = Smooth(self.value, 8, gradient=self.gradient)

    def value(self, x):
        self.count += 1
        broken = self.count > self.after
        return self.bad if broken else float((self.weight * (x - 1) ** 2).sum())

    def gradient(self, x):
        return 2 * self.weight * (x - 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in solvers.__all__
        if getattr(solvers, name).accepts is not Penalty
        and HasCurvature not in getattr(solvers, name).needs
    ],
)
def test_an_objective_that_stops_being_finite(name, bad):
    solver = getattr(solvers, name)()
    sound, counts = _Breaking(np.inf, bad), []
    solve(
        sound.objective,
        Cardinality(4),
        solver,
        callback=lambda n, fit: counts.append(sound.count),
    )
    for after in np.linspace(5, sound.count - 1, 8).astype(int):
        breaking = _Breaking(after, bad)
        solution = solve(breaking.objective, Cardinality(4), solver)
        assert np.isfinite(solution.value)
        assert np.all(np.isfinite(solution.x))
        assert len(solution.support) <= 4
        # an infinite value is worse than any, and steps shorter than that may be found
        if np.isnan(bad) and after < counts[-1]:
            assert solution.status is Status.NOT_FINITE


def test_not_finite_at_the_start():
    with pytest.raises(ValueError, match=r"finite at zero.*nan"):
        Smooth(lambda x: np.nan, 3, gradient=lambda x: x)


def test_separated_classes(rng):
    X = rng.standard_normal((40, 8))
    y = (X[:, 2] > 0).astype(float)
    for solver in (
        solvers.OMP(),
        solvers.GraSP(),
        solvers.LocalSearch(),
        solvers.IHT(),
    ):
        solution = solve(Logistic(X, y, fit_intercept=True), Cardinality(2), solver)
        if solver == solvers.IHT():  # steps along the gradient do not get that far
            continue
        assert solution.status is Status.SEPARATED
        assert not solution.status.ok
        assert np.all(np.isfinite(solution.x))
        assert 2 in solution.support
    damped = solve(Logistic(X, y, fit_intercept=True, l2=0.01), Cardinality(2))
    assert damped.status.ok
    labels = np.digitize(X[:, 2], [-0.5, 0.5]).astype(float)
    several = solve(Multinomial(X, labels, fit_intercept=True), Rows(2))
    assert several.status is Status.SEPARATED


def test_an_unbound_structure_is_not_changed(f):
    structure = Cardinality(3)
    solve(f, structure)
    assert structure.shape is None


def test_kept_atoms_are_in_the_answer(f):
    for solver in (None, solvers.OMP(), solvers.IHT(), solvers.GraSP(), solvers.OMPR()):
        solution = solve(f, Cardinality(3, keep=(0, 19)), solver)
        assert {0, 19} <= set(solution.support.tolist())
        assert len(solution.support) <= 3


# -- functions of the user's own -------------------------------------------------------


def test_smooth_by_torch_agrees_with_its_gradient(rng):
    torch = pytest.importorskip("torch")
    A, b = rng.standard_normal((30, 8)), rng.standard_normal(30)
    tA, tb = torch.from_numpy(A), torch.from_numpy(b)
    by_torch = Smooth(lambda x: ((tA @ x - tb) ** 4).mean(), 8)
    by_hand = Smooth(
        lambda x: np.mean((A @ x - b) ** 4),
        8,
        gradient=lambda x: 4 * A.T @ (A @ x - b) ** 3 / 30,
    )
    one, other = solve(by_torch, Cardinality(3)), solve(by_hand, Cardinality(3))
    assert isinstance(one.x, torch.Tensor)
    assert not one.x.requires_grad
    np.testing.assert_array_equal(one.support, other.support)
    np.testing.assert_allclose(one.x.numpy(), other.x, atol=1e-5)  # L-BFGS


def test_smooth_of_a_matrix_and_of_numpy_integers():
    middle = np.arange(6.0).reshape(2, 3)
    f = Smooth(
        lambda x: ((x - middle) ** 2).sum(), (2, 3), gradient=lambda x: 2 * (x - middle)
    )
    x = solve(f, Cardinality(2)).x
    np.testing.assert_allclose(x, [[0, 0, 0], [0, 4, 5]], atol=1e-6)
    small = Smooth(lambda x: (x * x).sum(), np.int64(3), gradient=lambda x: 2 * x)
    assert small.shape == (3,)


def test_smooth_says_what_is_wrong():
    with pytest.raises(TypeError, match=r"callable.*int"):
        Smooth(3, 2)
    with pytest.raises(ValueError, match=r"gradient.*\(3,\).*\(2,\)"):
        Smooth(lambda x: 0.0, 3, gradient=lambda x: x[:2])
    pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"torch tensor.*float.*gradient="):
        Smooth(lambda x: 0.0, 3)


# -- the answer ------------------------------------------------------------------------


def test_solution_is_whole(f):
    solution = solve(f, Cardinality(3))
    assert isinstance(solution, Solution)
    assert solution.seconds >= 0
    assert len(solution.history) == solution.n_iter + 1
    assert solution.intercept is None
    assert solution.lower_bound is None
    for part in ("x=", "history"):
        assert part not in repr(solution)
    record = json.loads(json.dumps(solution.to_record()))
    assert record["message"] == str(Status.CONVERGED)
    assert record["value"] == solution.value


def test_record_of_a_penalised_run(f):
    solution = solve(f, L1(0.3))
    record = json.loads(json.dumps(solution.to_record()))
    assert record["support"] == np.flatnonzero(solution.x).tolist()
    assert record["shape"] == [20]


def test_plot(f):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    solution = solve(f, Cardinality(3))
    ax = solution.plot()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), solution.history)
    _, mine = plt.subplots()
    assert solution.plot(mine) is mine
    plt.close("all")


def test_every_status_is_a_sentence():
    for status in Status:
        assert len(str(status)) > 10
    assert {s for s in Status if s.ok} == {Status.CONVERGED, Status.FEWER}


def test_importing_is_light():
    code = (
        "import sys, vitalfew\n"
        "heavy = {'scipy', 'sklearn', 'torch', 'pandas', 'matplotlib', 'typer'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print(all(hasattr(vitalfew, name) for name in vitalfew.__all__))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split("\n")[:2] == ["[]", "True"]


def test_unknown_names_are_attribute_errors():
    import vitalfew

    with pytest.raises(AttributeError, match="no_such_thing"):
        vitalfew.no_such_thing  # noqa: B018
    assert issubclass(IncompatibleError, TypeError)
