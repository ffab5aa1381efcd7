"""The best answer by trying everything, for problems of a dozen columns."""

import itertools

import numpy as np


def feasible_sets(structure):
    """All sets of atoms within the budget that hold what is kept."""
    atoms = range(structure.n_atoms)
    for size in range(structure.n_atoms + 1):
        for some in itertools.combinations(atoms, size):
            if set(structure.keep) <= set(some) and (
                structure.size_of(np.array(some, int)) <= structure.budget + 1e-9
            ):
                yield some


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
