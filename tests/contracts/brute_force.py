"""The best answer by trying everything, for problems of a dozen columns."""

import itertools

import numpy as np

from vitalfew.structures import NM, Joint


def feasible_sets(structure):
    """All sets of atoms within the budget that hold what is kept."""
    atoms = range(structure.n_atoms)
    for size in range(structure.n_atoms + 1):
        for some in itertools.combinations(atoms, size):
            if set(structure.keep) <= set(some) and within(structure, some):
                yield some


def within(structure, some):
    """Whether some atoms obey the rule of a structure, one by one."""
    if isinstance(structure, NM):
        return within_runs(structure, some)
    if isinstance(structure, Joint):
        return within_parts(structure, some)
    return structure.size_of(np.array(some, int)) <= structure.budget + 1e-9


def within_runs(structure, some):
    marks = np.zeros(structure.shape)
    marks.ravel()[list(some)] = 1
    lines = np.atleast_2d(marks.reshape(len(marks), -1) if marks.ndim > 1 else marks)
    for line in lines if structure.axis in (-1, 1) else lines.T:
        for first in range(0, len(line), structure.m):
            if line[first : first + structure.m].sum() > structure.n:
                return False
    return True


def within_parts(structure, some):
    taken, first = 0, 0
    shared = structure.n_atoms_allowed is not None or structure.density is not None
    for part in structure.parts:
        own = [a - first for a in some if first <= a < first + part.n_atoms]
        first += part.n_atoms
        taken += max(len(own), min(structure.at_least, part.n_atoms))
        if (isinstance(part, NM) or not shared) and not within(part, own):
            return False
    return not shared or taken <= structure.budget


def maximal_sets(structure):
    """Feasible sets to which nothing can be added: one of them is the best."""
    every = {frozenset(some) for some in feasible_sets(structure)}
    for some in every:
        others = set(range(structure.n_atoms)) - some
        if not any(some | {more} in every for more in others):
            yield sorted(some)


def optimum(objective, structure):
    """Smallest value on the structure."""
    sets = maximal_sets(structure)
    return min(objective.refit(structure.support(some)).value for some in sets)
