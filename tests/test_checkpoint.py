"""Runs that are stored and taken up again."""

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitalfew import _solve, solve, solvers
from vitalfew._arrays import to_host
from vitalfew.contracts import Penalty
from vitalfew.objectives import LeastSquares, Logistic
from vitalfew.penalties import L1, GroupL2
from vitalfew.solution import Status
from vitalfew.structures import Cardinality, Groups

STRUCTURES = {
    "Cardinality": Cardinality(5, keep=(2,)),
    "Groups": Groups(np.arange(20) % 7, 3),
    "Groups, costs": Groups(np.arange(20) % 7, costs=np.arange(1.0, 8), max_cost=11),
}


def data(seed=5):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((60, 20)) @ (
        np.eye(20) + 0.3 * rng.standard_normal((20, 20))
    )
    y = X[:, [1, 4, 8]] @ np.array([1.0, -1.0, 2.0]) + rng.standard_normal(60)
    return X, y


def interrupt(at):
    def callback(n, fit):
        if n == at:
            raise KeyboardInterrupt

    return callback


def check_same(one, other):
    assert one.status is other.status
    assert one.value == pytest.approx(other.value, rel=1e-12)
    np.testing.assert_array_equal(one.support, other.support)
    np.testing.assert_allclose(to_host(one.x), to_host(other.x), rtol=1e-9)
    assert one.n_iter == other.n_iter
    np.testing.assert_allclose(one.history, other.history, rtol=1e-12)


NAMES = [n for n in solvers.__all__ if getattr(solvers, n).accepts is not Penalty]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_goes_on_to_the_same_answer(name, structure, tmp_path):
    f, structure = LeastSquares(*data()), STRUCTURES[structure]
    solver = getattr(solvers, name)()
    whole = solve(f, structure, solver)
    for at in range(1, min(whole.n_iter, 4) + 1):
        path = tmp_path / f"{at}.npz"
        part = solve(f, structure, solver, checkpoint=path, callback=interrupt(at))
        assert part.status is Status.INTERRUPTED
        steps = []
        resumed = solve(
            LeastSquares(*data()),
            structure,
            solver,
            checkpoint=path,
            callback=lambda n, fit, steps=steps: steps.append(n),
        )
        # nothing that was done before the interruption is done again
        assert steps == list(range(at + 1, whole.n_iter + 1))
        check_same(resumed, whole)


def test_stages_are_resumed_where_they_stood(tmp_path):
    f, structure = LeastSquares(*data()), Cardinality(5)
    whole = solve(f, structure)  # GraSP, then LocalSearch
    for at in range(1, whole.n_iter + 1):
        path = tmp_path / f"{at}.npz"
        solve(f, structure, checkpoint=path, callback=lambda n, fit, at=at: n == at)
        check_same(solve(f, structure, checkpoint=path), whole)


@pytest.mark.parametrize("penalty", [L1(0.05), GroupL2(np.arange(20) // 4, 0.05)])
def test_penalised_runs_are_resumed(penalty, tmp_path):
    X, y = data()
    f = Logistic(X, (y > 0).astype(float), fit_intercept=True)
    whole = solve(f, penalty)
    path = tmp_path / "run.npz"
    solve(f, penalty, checkpoint=path, callback=interrupt(7))
    check_same(solve(f, penalty, checkpoint=path), whole)


def test_every_backend(backend, dtype, tmp_path):
    X, y = (backend.array(a, dtype) for a in data())
    f = LeastSquares(X, y, fit_intercept=True)
    path = tmp_path / "run.npz"
    whole = solve(f, Cardinality(4), solvers.OMPR())
    solve(f, Cardinality(4), solvers.OMPR(), checkpoint=path, callback=interrupt(2))
    resumed = solve(f, Cardinality(4), solvers.OMPR(), checkpoint=path)
    assert type(resumed.x) is type(whole.x)
    assert resumed.x.dtype == whole.x.dtype
    np.testing.assert_array_equal(resumed.support, whole.support)
    assert resumed.value == pytest.approx(whole.value, rel=1e-5)


def test_a_finished_run_is_read_back(tmp_path):
    f, path = LeastSquares(*data()), tmp_path / "run.npz"
    first = solve(f, Cardinality(4), checkpoint=path)
    again = solve(
        f,
        Cardinality(4),
        checkpoint=path,
        callback=lambda n, fit: pytest.fail("a step"),
    )
    check_same(first, again)


def test_a_larger_limit_goes_on(tmp_path):
    f, path = LeastSquares(*data()), tmp_path / "run.npz"
    part = solve(f, Cardinality(5), solvers.OMP(), checkpoint=path, max_iter=2)
    assert part.status is Status.MAX_ITER
    check_same(
        solve(f, Cardinality(5), solvers.OMP(), checkpoint=str(path)),
        solve(f, Cardinality(5), solvers.OMP()),
    )


def test_stored_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(_solve, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    path, seen = tmp_path / "run.npz", []
    solve(
        LeastSquares(*data()),
        Cardinality(4),
        solvers.OMP(),
        checkpoint=path,
        callback=lambda n, fit: seen.append([p.name for p in tmp_path.iterdir()]),
    )
    assert seen[1:] == [["run.npz"]] * (len(seen) - 1)  # and no temporary files


def test_any_generator(tmp_path):
    f, path = LeastSquares(*data()), tmp_path / "run.npz"
    for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox):
        rng = np.random.Generator(kind(3))
        solve(f, Cardinality(3), checkpoint=path, max_iter=1, rng=rng)
        expected = np.random.Generator(kind(3)).random(4)
        later = np.random.Generator(kind(9))
        solve(f, Cardinality(3), checkpoint=path, rng=later)
        # no solver here draws; the stored stream must be the one that goes on
        np.testing.assert_array_equal(later.random(4), expected)
        path.unlink()


# -- files that do not fit -------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "run.npz"
    solve(
        LeastSquares(*data()),
        Cardinality(4),
        solvers.OMP(),
        checkpoint=path,
        max_iter=2,
    )
    return path


def others():
    X, y = data()
    f, structure, solver = LeastSquares(X, y), Cardinality(4), solvers.OMP()
    weight = np.arange(1.0, 61)
    return {
        "y": (LeastSquares(X, y + 1), structure, solver),
        "rows": (LeastSquares(X[:50], y[:50]), structure, solver),
        "columns": (LeastSquares(X[:, :19], y), structure, solver),
        "weights": (LeastSquares(X, y, sample_weight=weight), structure, solver),
        "ridge": (LeastSquares(X, y, l2=0.1), structure, solver),
        "intercept": (LeastSquares(X, y, fit_intercept=True), structure, solver),
        "objective": (Logistic(X, (y > 0) * 1.0), structure, solver),
        "budget": (f, Cardinality(5), solver),
        "kept": (f, Cardinality(4, keep=(0,)), solver),
        "structure": (f, Groups(np.arange(20), 4), solver),
        "settings": (f, structure, solvers.OMP(ahead=5)),
        "solver": (f, structure, solvers.OMPR()),
    }


@pytest.mark.parametrize("name", others())
def test_another_problem_is_refused(name, stored):
    before = stored.read_bytes()
    with pytest.raises(ValueError, match="another problem"):
        solve(*others()[name], checkpoint=stored)
    assert stored.read_bytes() == before


def test_labels_costs_and_group_weights_count(tmp_path):
    f, path = LeastSquares(*data()), tmp_path / "a.npz"
    pairs = [
        (Groups(np.arange(20) // 4, 2), Groups(np.arange(20) % 5, 2)),
        (
            Groups(np.arange(20) // 4, costs=[1, 2, 3, 4, 5], max_cost=5),
            Groups(np.arange(20) // 4, costs=[5, 4, 3, 2, 1], max_cost=5),
        ),
        (
            GroupL2(np.arange(20) // 4, 0.1, weights=[1, 2, 3, 4, 5]),
            GroupL2(np.arange(20) // 4, 0.1, weights=[5, 4, 3, 2, 1]),
        ),
        (L1(0.1), L1(0.2)),
    ]
    for one, other in pairs:
        solve(f, one, checkpoint=path, max_iter=1)
        with pytest.raises(ValueError, match="another problem"):
            solve(f, other, checkpoint=path)
        path.unlink()


def run_on(path):
    return solve(LeastSquares(*data()), Cardinality(4), solvers.OMP(), checkpoint=path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", b"PK\x03\x04", b"\x93NUMPY\x01\x00junk"],
    ids=["empty", "text", "zip head", "npy head"],
)
def test_files_that_are_no_checkpoint(content, tmp_path):
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run.npz.*remove"):
        run_on(path)
    assert path.read_bytes() == content


def test_pickles_are_never_loaded(tmp_path):
    path = tmp_path / "run.npz"

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code from the file was run",))

    with open(path, "wb") as file:
        np.savez(file, tree=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError, match="cannot be read"):
        run_on(path)


def test_an_array_or_a_folder_instead(tmp_path):
    path = tmp_path / "run.npz"
    with open(path, "wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(ValueError, match="cannot be read"):
        run_on(path)
    with pytest.raises(ValueError, match="cannot be read"):
        run_on(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint.*existing folder"):
        run_on(tmp_path / "nowhere" / "run.npz")


def rewrite(path, change):
    """Store a changed tree of a good checkpoint, its fingerprint intact."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    tree = json.loads(arrays.pop("tree").tobytes())
    tree = change(tree, arrays) or tree
    text = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    with open(path, "wb") as file:
        np.savez(file, tree=text, **arrays)


def _set(*keys, to):
    def change(tree, arrays):
        inner = tree
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return change


def _array(name, to):
    def change(tree, arrays):
        arrays[name] = np.array(to)

    return change


def _generator(**changes):
    def change(tree, arrays):
        state = json.loads(tree["extra"]["rng"]) | changes
        tree["extra"]["rng"] = json.dumps(state)

    return change


def _nest(tree, depth):
    for _ in range(depth):
        tree["state"] = {"tuple": [tree["state"]]}


HOSTILE = {
    "stage below": _set("extra", "stage", to=-1),
    "steps below": _set("extra", "n_iter", to=-1),
    "endless steps": _set("extra", "n_iter", to=float("inf")),
    "depth in the generator": _set("extra", "rng", to="[" * 100_000),
    "generator out of range": _generator(state={"state": -1, "inc": 1}),
    "generator of another class": _generator(bit_generator="seed"),
    "generator beyond its buffer": _generator(
        bit_generator="MT19937", state={"key": [0] * 624, "pos": 10**6}
    ),
    "depth in the state": lambda tree, arrays: _nest(tree, 300),
    "huge float": _set("state", to={"float": "0x1p99999"}),
    "nothing for a record": _set("state", "tuple", 0, to=None),
    "nothing for a fit": _set("state", "tuple", 0, "record", "fit", to=None),
    "nothing for the best": _set("state", "tuple", 1, to=None),
    "array for a fit": _set("state", "tuple", 0, "record", "fit", to={"array": "a1"}),
    "fit for a record": _set("state", "tuple", 0, to={"fit": ["a0", "a1"]}),
    "array for a flag": _set("state", "tuple", 0, "record", "done", to={"array": "a1"}),
    "no extra": _set("extra", to=None),
    "no stage": _set("extra", to={}),
    "stage outside": _set("extra", "stage", to=7),
    "text for a number": _set("extra", "n_iter", to="x"),
    "history of text": _set("extra", "history", to=["x"]),
    "history of numbers": _set("extra", "history", to=[1]),
    "generator": _set("extra", "rng", to="{}"),
    "generator of text": _set("extra", "rng", to="x"),
    "state of nothing": _set("state", to=None),
    "state of a number": _set("state", to=3),
    "state of a list": _set("state", to=[1, 2]),
    "empty record": _set("state", to={}),
    "two kinds": _set("state", to={"float": "0x1p0", "fit": ["a0", "a1"]}),
    "unknown kind": _set("state", to={"class": "os.system"}),
    "short tuple": _set("state", to={"tuple": []}),
    "wrong fields": _set("state", "tuple", 0, to={"record": {"x": 1}}),
    "dunder fields": _set("state", "tuple", 0, to={"record": {"__class__": 1}}),
    "record for a fit": _set(
        "state", "tuple", 0, "record", "fit", to={"record": {"value": 1}}
    ),
    "number for a fit": _set("state", "tuple", 0, "record", "fit", to=4),
    "text for a flag": _set("state", "tuple", 0, "record", "done", to="no"),
    "number for the best": _set("state", "tuple", 1, to=4),
    "missing array": _set("state", "tuple", 1, "fit", to=["a0", "nowhere"]),
    "atoms outside": _array("a0", [0, 99]),
    "atoms below": _array("a0", [-1, 3]),
    "atoms twice": _array("a0", [3, 3]),
    "atoms of reals": _array("a0", [0.5, 1.5]),
    "atoms of text": _array("a0", ["a", "b"]),
    "matrix of atoms": _array("a0", [[0], [1]]),
    "too few coefficients": _array("a1", [1.0]),
    "coefficients of text": _array("a1", ["a", "b"]),
    "coefficients of dates": _array("a1", np.zeros(2, "M8[s]")),
    "complex coefficients": _array("a1", [1j, 2j]),
    "coefficients that are not finite": _array("a3", [np.nan, np.inf]),
    "coefficients that overflow": _array("a3", [1e300, 1e300]),
    "matrix of coefficients": _array("a1", [[1.0], [2.0]]),
    "best over the budget": lambda tree, arrays: arrays.update(
        a2=np.arange(6), a3=np.ones(6)
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, stored):
    rewrite(stored, HOSTILE[name])
    with pytest.raises(ValueError, match=r"checkpoint.*damaged"):
        run_on(stored)


NUMBERS = [None, "x", [], float("inf"), {"float": "nan"}, {"tuple": []}]


@pytest.mark.parametrize("to", [*NUMBERS, {"array": "a0"}, {"fit": ["a0", "a1"]}])
@pytest.mark.parametrize("field", ["ahead", "momentum", "step_size"])
def test_hostile_states_of_penalised_runs_are_refused(field, to, tmp_path):
    f, path = LeastSquares(*data()), tmp_path / "run.npz"
    solve(f, L1(0.05), checkpoint=path, max_iter=2)
    if field == "ahead" and to == {"array": "a0"}:
        to = {"array": "tree"}  # of another length
    rewrite(path, _set("state", "tuple", 0, "record", field, to=to))
    with pytest.raises(ValueError, match=r"checkpoint.*damaged"):
        solve(f, L1(0.05), checkpoint=path)


def test_small_files_that_unfold_to_large_ones_are_refused(stored):
    with np.load(stored) as file:
        arrays = {name: file[name] for name in file.files}
    with open(stored, "wb") as file:
        np.savez_compressed(file, **arrays, bomb=np.zeros(10**6))
    with pytest.raises(ValueError, match="cannot be read"):
        run_on(stored)


def test_a_rewritten_file_that_is_sound_is_read(stored):
    rewrite(stored, lambda tree, arrays: None)
    assert run_on(stored).n_iter > 2


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "run.npz"
    solve(
        LeastSquares(*data()),
        Cardinality(4),
        solvers.OMP(),
        checkpoint=path,
        max_iter=2,
    )
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(position=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_bytes_never_crash(position, byte, cut, sound, tmp_path):
    content = bytearray(sound)
    position %= len(content)
    if cut:
        content = content[:position]
    else:
        content[position] = byte
    path = tmp_path / "run.npz"
    path.write_bytes(bytes(content))
    with contextlib.suppress(ValueError):  # any other error fails the test
        assert len(run_on(path).support) <= 4  # the byte did not matter


def test_a_failed_write_leaves_the_old_file_and_no_other(stored, monkeypatch):
    before = stored.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("vitalfew._disk.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        run_on(stored)
    assert stored.read_bytes() == before
    assert [p.name for p in stored.parent.iterdir()] == ["run.npz"]


def test_the_file_is_plain_npz(stored):
    with zipfile.ZipFile(io.BytesIO(stored.read_bytes())) as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())
    with np.load(stored, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_states_of_unknown_kinds_are_refused():
    from vitalfew._checkpoint import save

    with pytest.raises(TypeError, match="cannot hold a set"):
        save(None, "", {1, 2}, {})
