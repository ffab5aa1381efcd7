"""Data to try things on: problems whose answer is known, and checked files.

The generators plant a sparse model and return it beside the data. `load` finds the
files of the table `FACTS` in the folder named by ``VITALFEW_DATA``; nothing is
downloaded.
"""

from vitalfew.datasets._facts import FACTS, Facts
from vitalfew.datasets._load import Dataset, load
from vitalfew.datasets._planted import (
    Planted,
    PlantedGroups,
    PlantedSurvival,
    make_correlated_blocks,
    make_group_regression,
    make_sparse_classification,
    make_sparse_regression,
    make_sparse_survival,
)

__all__ = [
    "FACTS",
    "Dataset",
    "Facts",
    "Planted",
    "PlantedGroups",
    "PlantedSurvival",
    "load",
    "make_correlated_blocks",
    "make_group_regression",
    "make_sparse_classification",
    "make_sparse_regression",
    "make_sparse_survival",
]
