"""One structure over several arrays: global budgets, rights, runs, parts of parts."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.brute_force import feasible_sets, optimum, within
from vitalfew import solve
from vitalfew._arrays import to_host
from vitalfew.objectives import LeastSquares
from vitalfew.solvers import IHT, OMP, BranchAndBound, GraSP, LocalSearch
from vitalfew.structures import NM, Blocks, Cardinality, Channels, Groups, Joint, Rows


def pieces(draw):
    """A few small parts of any kind, bound to their shapes."""
    made = []
    for kind in draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)):
        shape = draw(st.sampled_from([(2,), (3,), (2, 2), (1, 3), (2, 1, 2)]))
        part = [
            lambda: Cardinality(1),
            lambda: NM(1, 2),
            lambda: Blocks((2, 1), 1),
            lambda: Channels(1),
            lambda: Rows(1),
        ][kind]()
        made.append(part.on(shape))
    return made


@given(st.data())
def test_the_projection_is_nearest_whatever_the_parts(data):
    parts = pieces(data.draw)
    n = sum(part.n_atoms for part in parts)
    shared = data.draw(st.booleans())
    if shared:
        at_least = data.draw(st.integers(0, 2))
        least = sum(min(at_least, part.n_atoms) for part in parts)
        joint = Joint(parts, data.draw(st.integers(least, n)), at_least=at_least)
    else:
        joint = Joint(parts)
    size = joint.shape[0]
    values = st.lists(st.integers(-3, 3), min_size=size, max_size=size)
    x = np.array(data.draw(values), float)
    projected = joint.project(x)
    assert joint.contains(projected)
    best = max(np.sum(x[joint.support(some).ids] ** 2) for some in feasible_sets(joint))
    assert np.sum(projected**2) == best
    support = joint.largest(x)
    assert within(joint, support.atoms.tolist())
    if shared:
        rights = [
            min(at_least, p.budget if isinstance(p, NM) else p.n_atoms) for p in parts
        ]
        assert np.all(joint.counts(support) >= rights)


def test_split_gives_each_part_its_own(rng):
    parts = [Blocks((2, 2), 1).on((3, 4)), Rows(1).on((3, 2)), NM(1, 3).on((7,))]
    joint = Joint(parts)
    atoms = rng.permutation(joint.n_atoms)[:9]
    support = joint.support(atoms)
    x = support.embed(rng.standard_normal(len(support.ids)))
    own = joint.split(support)
    np.testing.assert_array_equal(joint.counts(support), [len(s) for s in own])
    first = first_id = 0
    for part, part_support in zip(parts, own, strict=True):
        here = [a - first for a in atoms if first <= a < first + part.n_atoms]
        np.testing.assert_array_equal(part_support.atoms, here)
        assert part_support.shape == part.shape
        size = math.prod(part.shape)
        piece = x[first_id : first_id + size].reshape(part.shape)
        back = part_support.embed(part_support.restrict(piece))
        np.testing.assert_array_equal(back, piece)
        first, first_id = first + part.n_atoms, first_id + size


@pytest.mark.parametrize("seed", range(3))
def test_a_shared_budget_is_that_of_one_long_vector(seed, backend):
    rng = np.random.default_rng(seed)
    sizes = [(300, 40), (70,), (5, 8, 3, 3)]
    joint = Joint([Cardinality(0).on(s) for s in sizes], density=0.1)
    x = rng.standard_normal(joint.shape) * np.repeat([1, 3, 0.1], [12000, 70, 360])
    projected = to_host(joint.project(backend.array(x, "float32")))
    largest = np.sort(np.abs(x))[::-1][: joint.budget]
    assert joint.budget == 1243
    np.testing.assert_allclose(np.sort(np.abs(projected))[::-1][:1243], largest, 1e-6)
    assert np.count_nonzero(projected) == 1243


def test_each_part_gets_what_it_has_a_right_to_even_of_zeros():
    parts = [
        Cardinality(0).on((4,)),
        Cardinality(0).on((2,)),
        Blocks((2, 2), 0).on((2, 4)),
    ]
    joint = Joint(parts, 7, at_least=3)
    x = np.concatenate(([1.0, 2, 3, 4], np.zeros(2), 1e-6 * np.ones(8)))
    support = joint.largest(x)
    np.testing.assert_array_equal(joint.counts(support), [3, 2, 2])
    np.testing.assert_array_equal(support.atoms[:3], [3, 2, 1])
    wide = joint.with_budget(8).largest(x)
    np.testing.assert_array_equal(joint.counts(wide), [4, 2, 2])
    # room is left for the others while a support grows
    full = joint.support([0, 1, 2])
    assert joint.allows(full)
    assert not joint.allows(joint.join(full, joint.support([3])))
    assert 3 not in joint.strongest(x, full, 99).atoms


def test_parts_keep_what_they_keep():
    parts = [Cardinality(2, keep=(1,)).on((3,)), NM(1, 2, keep=(0,)).on((4,))]
    for joint in (Joint(parts), Joint(parts, 3), Joint(parts, 3, keep=(5,))):
        assert {1, 3} <= set(joint.keep)
        x = np.array([5.0, 0, 4, 0, 9, 1, 1])
        atoms = set(joint.largest(x).atoms.tolist())
        assert set(joint.keep) <= atoms
        assert 4 not in atoms  # its run is taken
        assert set(joint.empty(x).atoms) == set(joint.keep)
        assert joint.n_free(joint.largest(x)) == len(atoms) - len(joint.keep)


def test_runs_stay_under_a_shared_budget(rng):
    joint = Joint([NM(1, 4).on((3, 8)), Cardinality(0).on((10,))], 8)
    x = np.concatenate((10 + rng.random(24), rng.random(10)))
    projected = joint.project(x)
    runs = np.count_nonzero(projected[:24].reshape(-1, 4), axis=1)
    np.testing.assert_array_equal(runs, np.ones(6))
    assert np.count_nonzero(projected[24:]) == 2


PROBLEMS = {
    "runs": NM(1, 2),
    "runs, kept": NM(1, 3, keep=(7,)),
    "shared": Joint([NM(1, 2).on((4,)), Groups([0, 1, 0, 2], 1).on((4,))], 3),
    "rights": Joint([Cardinality(0).on((5,)), Cardinality(0).on((3,))], 3, at_least=1),
    "own": Joint([Blocks((1, 2), 1).on((1, 4)), Cardinality(1).on((4,))]),
}


def correlated(seed, l2):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((30, 8)) @ (np.eye(8) + 0.6 * rng.standard_normal((8, 8)))
    return LeastSquares(X, X @ rng.standard_normal(8), l2=l2)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("solver", [IHT(), OMP(), LocalSearch(), GraSP()])
def test_solvers_obey_budgets_that_are_many(name, solver, seed):
    f = correlated(seed, 0.05)
    structure = PROBLEMS[name].on(f.shape)
    solution = solve(f, structure, solver)
    assert structure.contains(solution.x)
    assert structure.allows(solution.fit.support)
    assert solution.value >= optimum(f, structure) - 1e-9


# on most of these seeds a proof that knows only the sum of the budgets is wrong
@pytest.mark.parametrize("instance", [4, 16, 37, 41, 49])
@pytest.mark.parametrize("l2", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("name", PROBLEMS)
def test_proofs_know_of_all_budgets(name, l2, instance):
    f = correlated(instance, l2)
    structure = PROBLEMS[name].on(f.shape)
    solution, best = solve(f, structure, BranchAndBound()), optimum(f, structure)
    assert structure.contains(solution.x)
    assert solution.value == pytest.approx(best, rel=1e-5)
    assert solution.lower_bound <= best + 1e-9


def test_exchanges_between_parts_are_allowed_where_they_fit():
    joint = PROBLEMS["rights"]
    support = joint.support([0, 1, 5])
    allowed = joint.exchangeable(support)
    for out, into in itertools.product(range(3), [2, 3, 4, 6, 7]):
        new = joint.exchange(support, out, into)
        assert allowed[out, into] == within(joint, new.atoms.tolist())


def test_checkpoints_tell_parts_apart(tmp_path):
    f = correlated(0, 0.05)
    path = tmp_path / "run.npz"

    def run(labels):
        part = Groups(labels, 1).on((4,))
        joint = Joint([part, Cardinality(0).on((4,))], 3)
        return solve(f, joint, OMP(), max_iter=1, checkpoint=path)

    run([0, 1, 0, 1])
    with pytest.raises(ValueError, match="belongs to another"):
        run([0, 0, 1, 1])
