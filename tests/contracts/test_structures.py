"""Laws that every exported structure obeys."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.backends import Backend
from tests.contracts.brute_force import feasible_sets
from vitalfew import structures
from vitalfew._arrays import to_host
from vitalfew.contracts import HasAtoms, Structure, follows
from vitalfew.structures import (
    NM,
    Blocks,
    Bounded,
    Cardinality,
    Channels,
    Groups,
    Joint,
    Rows,
)

UNEQUAL = [0, 0, 0, 1, 2, 2, 3, 3, 3]
INTERLEAVED = [1, 0, 2, 1, 3, 0, 2, 1, 1]
COSTS = [3.0, 2.0, 4.0, 1.0]
REAL_COSTS = [0.3, 0.2, 0.1, 0.25]
LAYERS = (
    Blocks((2, 1), 1).on((3, 2)),
    NM(1, 2).on((1, 3)),
    Cardinality(1).on((2,)),
)
COSTLY = (Groups([1, 0, 1], costs=[2.0, 1.0], max_cost=2.5).on((3,)), *LAYERS[1:])

# (what the structure is made by, shape it is used on)
CASES = {
    "Cardinality": (lambda **o: Cardinality(3, **o), (9,)),
    "Cardinality of none": (lambda **o: Cardinality(len(o.get("keep", ())), **o), (9,)),
    "Cardinality of all": (lambda **o: Cardinality(9, **o), (9,)),
    "Cardinality, density": (lambda **o: Cardinality(density=0.4, **o), (9,)),
    "Cardinality of a matrix": (lambda **o: Cardinality(4, **o), (3, 3)),
    "Groups, unequal": (lambda **o: Groups(UNEQUAL, 2, **o), (9,)),
    "Groups, interleaved": (lambda **o: Groups(INTERLEAVED, 2, **o), (9,)),
    "Groups, density": (lambda **o: Groups(UNEQUAL, density=0.5, **o), (9,)),
    "Groups of rows": (lambda **o: Groups([0, 1, 1, 2], 2, **o), (4, 2)),
    "Groups of entries": (
        lambda **o: Groups([[0, 1, 1], [2, 0, 3], [3, 3, 0]], 2, **o),
        (3, 3),
    ),
    "Groups, costs": (
        lambda **o: Groups(INTERLEAVED, costs=COSTS, max_cost=5.0, **o),
        (9,),
    ),
    "Rows": (lambda **o: Rows(2, **o), (4, 3)),
    "Rows of a vector": (lambda **o: Rows(2, **o), (5,)),
    "Rows, density": (lambda **o: Rows(density=0.5, **o), (5, 2)),
    "Blocks": (lambda **o: Blocks((2, 2), 2, **o), (4, 4)),
    "Blocks, ragged": (lambda **o: Blocks((2, 3), 2, **o), (3, 7)),
    "Blocks, density": (lambda **o: Blocks((3, 1), density=0.4, **o), (7, 3)),
    "Blocks of a kernel": (lambda **o: Blocks((3, 3), 3, **o), (4, 2, 2, 2)),
    "Blocks of a vector": (lambda **o: Blocks((4, 2), 2, **o), (7,)),
    "Blocks of one entry": (lambda **o: Blocks((1, 1), 3, **o), (2, 4)),
    "NM": (lambda **o: NM(2, 4, **o), (1, 8)),
    "NM, ragged": (lambda **o: NM(1, 3, **o), (2, 5)),
    "NM, outputs": (lambda **o: NM(1, 2, axis=0, **o), (3, 3)),
    "NM of a kernel": (lambda **o: NM(2, 3, **o), (2, 2, 2, 1)),
    "NM of a vector": (lambda **o: NM(2, 3, **o), (8,)),
    "NM of all": (lambda **o: NM(3, 3, **o), (2, 4)),
    "NM, long": (lambda **o: NM(2, 9, **o), (2, 4)),
    "Channels": (lambda **o: Channels(2, **o), (4, 3)),
    "Channels, inputs": (lambda **o: Channels(2, axis=1, **o), (2, 5)),
    "Channels of a kernel": (
        lambda **o: Channels(density=0.5, axis=1, **o),
        (3, 4, 2, 2),
    ),
    "Channels, wide": (lambda **o: Channels(2, axis=1, width=2, **o), (2, 8)),
    "Joint": (lambda **o: Joint(LAYERS, 4, **o), (11,)),
    "Joint, density": (lambda **o: Joint(LAYERS, density=0.5, **o), (11,)),
    "Joint, at least one": (lambda **o: Joint(LAYERS, 4, at_least=1, **o), (11,)),
    "Joint, at least two": (lambda **o: Joint(LAYERS, 7, at_least=2, **o), (11,)),
    "Joint, own budgets": (lambda **o: Joint(LAYERS, **o), (11,)),
    "Joint, costs": (lambda **o: Joint(COSTLY, **o), (8,)),
    # bounds that nothing here meets: what they change is in tests/test_bounded.py
    "Bounded": (lambda **o: Bounded(Cardinality(3, **o), -50, 50), (9,)),
    "Bounded groups": (
        lambda **o: Bounded(Groups(INTERLEAVED, 2, **o), -50, np.full(9, 50)),
        (9,),
    ),
    "Bounded rows": (lambda **o: Bounded(Rows(2, **o), -math.inf), (4, 3)),
}
KEEP = {"nothing kept": (), "kept": (2,)}
# budgets that may be any number of atoms, or any cost
ANY_BUDGET = [
    name
    for name in CASES
    if not name.startswith("NM")
    and name
    not in (
        "Joint, at least one",
        "Joint, at least two",
        "Joint, own budgets",
        "Joint, costs",
    )
]


def test_every_exported_structure_is_tested():
    tested = {type(make()) for make, _ in CASES.values()}
    exported = [getattr(structures, name) for name in structures.__all__]
    # a class that tested ones derive from is a base, and tested through them
    missing = [
        c.__name__ for c in exported if not any(issubclass(t, c) for t in tested)
    ]
    assert not missing, (
        f"add {missing} to the table in tests/contracts/test_structures.py"
    )


def made(name, kept):
    make, shape = CASES[name]
    return make(keep=KEEP[kept]), shape


@pytest.fixture(params=[(c, k) for c in CASES for k in KEEP], ids=": ".join)
def case(request):
    return made(*request.param)


def nearest(structure, x):
    """Smallest squared distance of a feasible point to `x`, by enumeration."""
    host = np.ravel(to_host(x)).astype(float)
    total = np.sum(host**2)
    return min(
        total - np.sum(host[structure.support(some).ids] ** 2)
        for some in feasible_sets(structure)
    )


def test_projection_is_feasible_idempotent_and_nearest(case, backend, dtype, rng):
    structure, shape = case
    assert follows(structure, Structure)
    bound = structure.on(shape)
    points = [rng.standard_normal(shape), np.zeros(shape), np.ones(shape)]
    points.append(np.round(rng.standard_normal(shape)))  # ties and zeros
    for host in points:
        x = backend.array(host, dtype)
        projected = bound.project(x)
        assert projected.dtype == x.dtype
        assert tuple(projected.shape) == shape
        assert bound.contains(projected)
        assert bound.allows(bound.largest(x))
        again = bound.project(projected)
        np.testing.assert_array_equal(to_host(again), to_host(projected))
        np.testing.assert_array_equal(to_host(structure.project(x)), to_host(projected))
        squared = np.sum((to_host(projected).astype(float) - to_host(x)) ** 2)
        # sums of at most nine squares in another order
        assert squared == pytest.approx(nearest(bound, x), abs=1e-12)


def test_largest_is_best_first_and_holds_what_is_kept(case, rng):
    structure, shape = case
    bound = structure.on(shape)
    x = rng.standard_normal(shape)
    atoms = bound.largest(x).atoms
    assert set(structure.keep) <= set(atoms.tolist())
    free = [a for a in atoms if a not in structure.keep]
    assert np.all(np.diff(bound.scores(x)[free]) <= 0)
    empty = bound.empty(x)
    np.testing.assert_array_equal(np.sort(empty.atoms), np.sort(structure.keep))


def test_supports_span_their_atoms(case, backend, rng):
    bound = case[0].on(case[1])
    table = bound.table
    owned = [table[a][table[a] >= 0] for a in range(bound.n_atoms)]
    assert sorted(np.concatenate(owned).tolist()) == list(range(math.prod(case[1])))
    chosen = rng.permutation(bound.n_atoms)[:3]
    support = bound.support(chosen)
    np.testing.assert_array_equal(
        support.ids, np.concatenate([owned[a] for a in chosen])
    )
    np.testing.assert_array_equal(bound.members(chosen[0]), owned[chosen[0]])
    z = backend.array(rng.standard_normal(len(support.ids)), "float64")
    x = support.embed(z)
    np.testing.assert_array_equal(to_host(support.restrict(x)), to_host(z))
    assert np.count_nonzero(to_host(x)) == len(support.ids)
    # restrict is the transpose of embed
    g = backend.array(rng.standard_normal(case[1]), "float64")
    inner = np.sum(to_host(support.restrict(g)) * to_host(z))
    assert inner == pytest.approx(np.sum(to_host(g) * to_host(x)), rel=1e-12)


def test_contains_and_allows_agree_with_the_enumeration(case):
    bound = case[0].on(case[1])
    allowed = {frozenset(some) for some in feasible_sets(bound)}
    for size in range(bound.n_atoms + 1):
        for some in itertools.combinations(range(bound.n_atoms), size):
            support = bound.support(some)
            assert bound.allows(support) == (frozenset(some) in allowed)
            x = support.embed(np.ones(len(support.ids)))
            # kept atoms count even where they are zero
            full = frozenset(some) | set(bound.keep)
            assert bound.contains(x) == (full in allowed)


def test_strongest_joins_within_the_budget(case, backend, rng):
    bound = case[0].on(case[1])
    gradient = backend.array(rng.standard_normal(case[1]), "float64")
    support = bound.empty(gradient)
    while True:
        ranked = bound.strongest(gradient, support, bound.n_atoms)
        may = {
            a
            for a in range(bound.n_atoms)
            if a not in support.atoms
            and bound.allows(bound.join(support, bound.support([a])))
        }
        assert set(ranked.atoms.tolist()) == may
        appeal = bound.scores(gradient)
        if getattr(bound, "costs", None) is not None:
            appeal = appeal / bound.costs
        assert np.all(np.diff(appeal[ranked.atoms]) <= 0)
        few = bound.strongest(gradient, support, 2)
        np.testing.assert_array_equal(few.atoms, ranked.atoms[:2])
        if not len(ranked):
            break
        joined = bound.join(support, bound.pick(ranked, 0))
        np.testing.assert_array_equal(joined.atoms, [*support.atoms, ranked.atoms[0]])
        support = joined


def test_join_never_doubles_an_atom(case):
    bound = case[0].on(case[1])
    some, other = bound.support([2, 0]), bound.support([0, 1])
    np.testing.assert_array_equal(bound.join(some, other).atoms, [2, 0, 1])
    np.testing.assert_array_equal(bound.join(some, some).atoms, [2, 0])


def test_trim_is_the_projection_within_a_support(case, backend, rng):
    bound = case[0].on(case[1])
    wide = bound.support(rng.permutation(bound.n_atoms))
    z = rng.standard_normal(len(wide.ids))
    trimmed = bound.trim(wide, backend.array(z, "float64"))
    assert bound.allows(trimmed)
    projected = bound.largest(wide.embed(z))
    assert set(trimmed.atoms.tolist()) == set(projected.atoms.tolist())
    part = bound.support(wide.atoms[:2])
    assert set(bound.trim(part, z[: len(part.ids)]).atoms) <= set(part.atoms)


def test_without_takes_the_weakest_and_never_a_kept_atom(case, rng):
    bound = case[0].on(case[1])
    support = bound.support([0, 2, 1])
    z = rng.standard_normal(len(support.ids))
    free = [a for a in (0, 2, 1) if a not in bound.keep]
    assert bound.n_free(support) == len(free)
    weight = bound.scores(support.embed(z))
    ranked = sorted(free, key=lambda a: weight[a])
    for position, atom in enumerate(ranked):
        left = bound.without(support, z, position)
        np.testing.assert_array_equal(left.atoms, [a for a in (0, 2, 1) if a != atom])
    np.testing.assert_array_equal(bound.drop(support, 1).atoms, [0, 1])


def test_exchange_and_what_may_be_exchanged(case):
    bound = case[0].on(case[1])
    support = bound.support([2, 0])
    outside = [a for a in range(bound.n_atoms) if a not in (2, 0)]
    if not follows(bound, HasAtoms):
        pytest.skip("solvers find its exchanges by refits")
    allowed = bound.exchangeable(support)
    for out, into in itertools.product(range(2), outside):
        new = bound.exchange(support, out, into)
        assert set(new.atoms.tolist()) == ({2, 0} - {int(support.atoms[out])}) | {into}
        if bound.allows(support):
            assert (allowed is None or allowed[out, into]) == bound.allows(new)


def test_step_is_the_projected_gradient_step(case, rng):
    bound = case[0].on(case[1])

    class Here:
        x = rng.standard_normal(case[1])
        gradient = rng.standard_normal(case[1])

    support, z = bound.step(Here, 0.3)
    expected = bound.project(Here.x - 0.3 * Here.gradient)
    np.testing.assert_array_equal(support.embed(z), expected)


def test_widened_is_wider_as_far_as_there_are_atoms(case):
    bound = case[0].on(case[1])
    for factor in (1.0, 2.0, 1e3):
        wide = bound.widened(factor)
        assert (
            bound.budget <= wide.budget <= max(factor * bound.budget, len(bound.keep))
        )
    everything = np.arange(bound.n_atoms)
    if bound.budget:
        assert wide.allows(wide.support(everything))


@pytest.mark.parametrize("kept", KEEP)
@pytest.mark.parametrize("name", ANY_BUDGET)
def test_with_budget(name, kept):
    case = made(name, kept)
    bound = case[0].on(case[1])
    least = bound.size_of(np.array(bound.keep, int))
    narrow = bound.with_budget(int(least))
    np.testing.assert_array_equal(
        narrow.largest(np.ones(case[1])).atoms, np.array(bound.keep, int)
    )
    assert bound.budget == case[0].on(case[1]).budget  # the old one is as it was
    with pytest.raises(ValueError, match=r"-1|keep"):
        bound.with_budget(-1)
    if bound.keep:
        with pytest.raises(ValueError, match="keep must fit"):
            bound.with_budget(0)
    if getattr(bound, "costs", None) is None:
        with pytest.raises(ValueError, match=f"0 to {bound.n_atoms}.*999"):
            bound.with_budget(999)


def test_runs_take_the_budgets_that_some_n_allows():
    bound = NM(2, 4).on((3, 10))  # runs of 4, 4 and 2
    assert bound.budget == 3 * (2 + 2 + 2)
    for n, budget in enumerate([0, 9, 18, 24, 30]):
        other = bound.with_budget(budget)
        assert other.budget == budget
        assert other.n == n
    for budget in (-1, 1, 17, 31, 999):
        with pytest.raises(ValueError, match=rf"budget.*0, 9, 18, 24.*got {budget}"):
            bound.with_budget(budget)
    with pytest.raises(ValueError, match="keep must fit"):
        NM(1, 2, keep=(0,)).on((4,)).with_budget(0)


def test_parts_with_budgets_of_their_own_have_no_other():
    bound = Joint(LAYERS)
    assert bound.with_budget(4).budget == 4
    with pytest.raises(ValueError, match=r"budget must be 4.*999.*n_atoms_allowed"):
        bound.with_budget(999)


def test_a_shared_budget_leaves_room_for_all_parts():
    bound = Joint(LAYERS, 7, at_least=1)
    assert bound.with_budget(3).budget == 3
    with pytest.raises(ValueError, match=r"at_least.*3 parts.*budget of 2"):
        bound.with_budget(2)


@given(st.integers(1, 60), st.floats(1e-3, 1))
def test_density_is_never_exceeded(n, density):
    budget = Cardinality(density=density).on((n,)).budget
    assert budget == max(1, math.floor(density * n + 1e-9))
    assert budget == 1 or budget <= density * n + 1e-9
    groups = Groups(np.arange(n) // 2, density=density).on((n,))
    assert groups.budget == max(1, math.floor(density * groups.n_atoms + 1e-9))


@given(
    hnp.arrays(np.float64, st.integers(1, 12), elements=st.integers(-3, 3)), st.data()
)
def test_cardinality_is_nearest_whatever_the_ties(x, data):
    k = data.draw(st.integers(0, len(x)))
    projected = Cardinality(k).project(x)
    assert np.count_nonzero(projected) <= k
    kept = np.sort(x**2)[::-1][:k].sum()
    assert np.sum(projected**2) == kept
    assert np.all((projected == 0) | (projected == x))


ANY_SHAPE = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5)
SMALL = st.integers(-3, 3)


@given(
    hnp.arrays(np.float64, ANY_SHAPE, elements=SMALL),
    st.integers(1, 6),
    st.integers(1, 6),
    st.data(),
)
def test_blocks_hold_what_a_grid_of_slices_does(x, rows, cols, data):
    blocks = Blocks((rows, cols), 0).on(x.shape)
    matrix = x.reshape(1, -1) if x.ndim == 1 else x.reshape(len(x), -1)
    place = np.arange(x.size).reshape(matrix.shape)
    cut = [
        (slice(i, i + rows), slice(j, j + cols))
        for i in range(0, matrix.shape[0], rows)
        for j in range(0, matrix.shape[1], cols)
    ]
    assert blocks.n_atoms == len(cut)
    np.testing.assert_array_equal(
        blocks.scores(x), [np.sum(matrix[block] ** 2) for block in cut]
    )
    some = data.draw(st.permutations(range(len(cut))))
    np.testing.assert_array_equal(
        blocks.support(some).ids, np.concatenate([place[cut[a]].ravel() for a in some])
    )


@given(hnp.arrays(np.float64, ANY_SHAPE, elements=SMALL), st.integers(1, 7), st.data())
def test_runs_are_nearest_whatever_the_ties(x, m, data):
    n, axis = data.draw(st.integers(0, m)), data.draw(st.integers(-2, 1))
    projected = NM(n, m, axis=axis).project(x)
    assert np.all((projected == 0) | (projected == x))
    lines = x.reshape(1, -1) if x.ndim == 1 else x.reshape(len(x), -1)
    new = projected.reshape(lines.shape)
    if axis in (0, -2):
        lines, new = lines.T, new.T
    for line, after in zip(lines, new, strict=True):
        for first in range(0, len(line), m):
            run, left = line[first : first + m], after[first : first + m]
            assert np.count_nonzero(left) <= n
            order = sorted(range(len(run)), key=lambda i: (-abs(run[i]), i))[:n]
            expected = np.zeros(len(run))
            expected[order] = run[order]
            np.testing.assert_array_equal(left, expected)


@given(
    hnp.arrays(np.float64, 12, elements=st.floats(-10, 10, width=16)),
    st.lists(st.integers(0, 4), min_size=7, max_size=7),
    st.lists(st.integers(1, 9), min_size=5, max_size=5),
    st.integers(0, 30),
)
def test_integer_costs_are_projected_exactly(x, more, costs, budget):
    labels = np.array([0, 1, 2, 3, 4, *more])
    structure = Groups(labels, costs=costs, max_cost=budget).on(x.shape)
    projected = structure.project(x)
    assert structure.contains(projected)
    squared = np.sum((projected - x) ** 2)
    assert squared <= nearest(structure, x) + 1e-9 * np.sum(x * x)


def test_real_costs_are_feasible_and_as_good_as_greedy(rng):
    for _ in range(50):
        x = rng.standard_normal(9)
        structure = Groups(INTERLEAVED, costs=REAL_COSTS, max_cost=0.5).on((9,))
        projected = structure.project(x)
        assert structure.contains(projected)
        scores = structure.scores(x)
        left, kept = 0.5, 0.0
        for atom in np.argsort(-scores / structure.costs):
            if structure.costs[atom] <= left:
                left, kept = left - structure.costs[atom], kept + scores[atom]
        assert np.sum(projected**2) >= kept - 1e-12


def test_costs_that_fill_the_budget_but_for_rounding_fit():
    structure = Groups([0, 1, 2], costs=[0.1, 0.2, 9.0], max_cost=0.3).on((3,))
    assert 0.1 + 0.2 > 0.3  # in binary
    support = structure.largest(np.ones(3))
    np.testing.assert_array_equal(np.sort(support.atoms), [0, 1])
    assert structure.allows(support)
    assert structure.contains(np.array([1.0, 1.0, 0.0]))


def test_ties_go_to_the_smaller_number(backend):
    x = backend.array([1.0, -1.0, 1.0, 1.0], "float32")
    np.testing.assert_array_equal(Cardinality(2).on((4,)).largest(x).atoms, [0, 1])


def test_structures_that_agree_where_they_should(rng):
    x = rng.standard_normal((6, 4, 3))
    for one, other in [
        (Blocks((1, 1), 20), Cardinality(20)),
        (Blocks((1, 99), 2), Rows(2)),
        (Channels(2), Rows(2)),
        (Blocks((99, 3), 2), Channels(2, axis=1)),
        (NM(5, 100), NM(5, 12)),
        (NM(2, 99, axis=0), NM(2, 6, axis=-2)),
        (Joint([Cardinality(1).on((72,))], 9), Cardinality(9)),
    ]:
        point = x.ravel() if isinstance(one, Joint) else x
        np.testing.assert_array_equal(one.project(point), other.project(point))


def test_sums_of_squares_do_not_overflow_in_single_precision(backend):
    x = backend.array([[1e30, 2e30], [1e-30, 3e-30]], "float32")
    assert Blocks((1, 1), 3).on((2, 2)).largest(x).atoms.tolist() == [1, 0, 3]
    assert Channels(1).on((2, 2)).scores(x)[1] > 0


def test_rows_of_a_vector_are_cardinality(rng):
    x = rng.standard_normal(20)
    np.testing.assert_array_equal(Rows(4).project(x), Cardinality(4).project(x))
    one_each = Groups(np.arange(20), 4)
    np.testing.assert_array_equal(one_each.project(x), Cardinality(4).project(x))


def test_numpy_is_not_left_for_other_devices():
    x = Backend.load("torch").array(np.arange(4.0), "float32")
    projected = Cardinality(2).project(x)
    assert type(projected) is type(x)
    assert projected.device == x.device


BAD = {
    "both budgets": (lambda: Cardinality(2, density=0.5), "exactly one"),
    "no budget": (lambda: Rows(), "exactly one"),
    "no group budget": (lambda: Groups([0, 1]), "exactly one"),
    "negative": (lambda: Cardinality(-1).on((4,)), "n_nonzero.*-1"),
    "more than there are": (lambda: Cardinality(5).on((4,)), "n_nonzero.*0 to 4.*5"),
    "fraction": (lambda: Cardinality(1.5).on((4,)), "n_nonzero.*1.5"),
    "true": (lambda: Cardinality(True).on((4,)), "n_nonzero.*True"),
    "too many groups": (lambda: Groups([0, 1], 3).on((2,)), "n_groups.*3"),
    "too many rows": (lambda: Rows(9).on((4, 2)), "n_rows.*9"),
    "no dense": (lambda: Cardinality(density=0.0).on((4,)), "density.*0.0"),
    "density above one": (lambda: Rows(density=1.5).on((4,)), "density.*1.5"),
    "density NaN": (lambda: Rows(density=math.nan).on((4,)), "density.*nan"),
    "label gap": (lambda: Groups([0, 2], 1), "group 1 is empty"),
    "huge label": (lambda: Groups([0, 2**60], 1), "group 1 is empty"),
    "negative label": (lambda: Groups([0, -1], 1), "labels.*-1"),
    "real labels": (lambda: Groups([0.0, 1.0], 1), "labels.*float64"),
    "no labels": (lambda: Groups([], 1), "labels"),
    "too few labels": (lambda: Groups([0, 1], 1).on((3,)), r"labels.*\(3,\).*\(2,\)"),
    "kept twice": (lambda: Cardinality(3, keep=(1, 1)).on((4,)), "keep"),
    "kept outside": (lambda: Cardinality(3, keep=(4,)).on((4,)), "keep.*0 to 3"),
    "kept half": (lambda: Cardinality(3, keep=(0.5,)).on((4,)), r"keep.*0\.5"),
    "kept too many": (
        lambda: Cardinality(1, keep=(0, 1)).on((4,)),
        "keep.*budget of 1",
    ),
    "costs alone": (lambda: Groups([0, 1], 1, costs=[1, 2]), "costs and max_cost"),
    "cost count": (lambda: Groups([0, 1], costs=[1], max_cost=1), "costs.*2 groups"),
    "zero cost": (lambda: Groups([0, 1], costs=[1, 0], max_cost=1), "costs.*positive"),
    "NaN cost": (lambda: Groups([0, 1], costs=[1, math.nan], max_cost=1), "costs"),
    "negative budget": (
        lambda: Groups([0, 1], costs=[1, 1], max_cost=-1),
        "max_cost.*-1",
    ),
    "NaN budget": (lambda: Groups([0, 1], costs=[1, 1], max_cost=math.nan), "max_cost"),
    "no dimensions": (lambda: Rows(0).on(()), "dimension"),
    "no rows of a block": (lambda: Blocks((0, 1), 1), r"size\[0\].*at least 1.*0"),
    "less than a column": (lambda: Blocks((1, -2), 1), r"size\[1\].*-2"),
    "half a block": (lambda: Blocks((1.5, 2), 1), r"size\[0\].*1\.5"),
    "one size": (lambda: Blocks((4,), 1), r"size must be two.*\(4,\)"),
    "a number as size": (lambda: Blocks(4, 1), "size must be two.*4"),
    "too many blocks": (lambda: Blocks((2, 2), 3).on((3, 2)), "n_blocks.*0 to 2.*3"),
    "no block budget": (lambda: Blocks((2, 2)), "exactly one of n_blocks"),
    "blocks of nothing": (lambda: Blocks((1, 1), 0).on((0, 3)), r"shape.*\(0, 3\)"),
    "blocks of a number": (lambda: Blocks((1, 1), 0).on(()), "dimension"),
    "n above m": (lambda: NM(3, 2), "n must be.*0 to 2.*3"),
    "negative n": (lambda: NM(-1, 2), "n must be.*-1"),
    "no run": (lambda: NM(0, 0), "m must be.*0"),
    "half an n": (lambda: NM(0.5, 2), r"n must be.*0\.5"),
    "a third axis": (lambda: NM(1, 2, axis=2), "axis.*2"),
    "runs of nothing": (lambda: NM(1, 2).on((3, 0)), r"shape.*\(3, 0\)"),
    "kept too many in a run": (
        lambda: NM(1, 2, keep=(0, 1)).on((4,)),
        "keep must fit",
    ),
    "channels of a third axis": (lambda: Channels(1, axis=2), "axis.*0 to 1.*2"),
    "channels counted back": (lambda: Channels(1, axis=-1), "axis.*-1"),
    "channels that do not divide": (
        lambda: Channels(1, axis=1, width=3).on((2, 4)),
        "width.*4 entries.*3",
    ),
    "no width": (lambda: Channels(1, width=0), "width.*0"),
    "inputs of a vector": (lambda: Channels(1, axis=1).on((4,)), "axis.*1 dim.*1"),
    "too many channels": (lambda: Channels(5).on((4, 2)), "n_channels.*5"),
    "channels of nothing": (lambda: Channels(0).on((0, 2)), r"shape.*\(0, 2\)"),
    "no parts": (lambda: Joint(()), "parts.*none"),
    "a part without a shape": (lambda: Joint((Cardinality(2),)), r"parts.*\.on\("),
    "a part that is none": (lambda: Joint((3,)), "parts.*3"),
    "one part alone": (lambda: Joint(LAYERS[0], 2), "parts must"),
    "joint parts": (lambda: Joint((Joint(LAYERS),)), "parts.*not Joint"),
    "bounded parts": (
        lambda: Joint((Bounded(Cardinality(1)).on((2,)),)),
        "parts must be structures over coordinates",
    ),
    "two joint budgets": (lambda: Joint(LAYERS, 3, density=0.5), "at most one"),
    "too many joint atoms": (lambda: Joint(LAYERS, 10), "n_atoms_allowed.*0 to 9.*10"),
    "a right without a budget": (lambda: Joint(LAYERS, at_least=1), "at_least needs"),
    "rights above the budget": (
        lambda: Joint(LAYERS, 2, at_least=1),
        "at_least.*3 parts.*budget of 2.*1",
    ),
    "a negative right": (lambda: Joint(LAYERS, 2, at_least=-1), "at_least.*-1"),
    "kept outside all parts": (lambda: Joint(LAYERS, 3, keep=(9,)), "keep.*0 to 8"),
    "kept half of a part": (lambda: Joint(LAYERS, 3, keep=(0.5,)), r"keep.*0\.5"),
    "kept more than a part may": (lambda: Joint(LAYERS, keep=(0, 1)), "keep must fit"),
    "a matrix of parts": (lambda: Joint(LAYERS).on((11, 1)), r"shape.*\(11,\)"),
}


@pytest.mark.parametrize("keep", [[0, 2], np.array([0, 2]), range(0, 3, 2)])
def test_any_sequence_of_atoms_can_be_kept(keep):
    structure = Cardinality(3, keep=keep).on((4,))
    assert structure.keep == (0, 2)
    assert structure.exchangeable(structure.support([0, 1, 2])).sum() == 4


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_name_the_argument(name):
    make, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        make()
