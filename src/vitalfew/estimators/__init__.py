"""Scikit-learn classes over `vitalfew.solve`.

`SparseRegressor`, `SparseClassifier` and `SparseCox` fit a linear model on few columns;
`SparseSelector` passes the columns on in a pipeline, and so do those chosen by a
network: `SequentialAttentionSelector` and `SequentialLassoSelector`; `ScoringSystem` is
a card of whole points to add up. To add an estimator, write its file, export it here,
and add it to the list of `tests/test_estimators.py`, where scikit-learn's own checks
run on it.
"""

from vitalfew.estimators.classifier import SparseClassifier
from vitalfew.estimators.cox import SparseCox
from vitalfew.estimators.regressor import SparseRegressor
from vitalfew.estimators.scoring_system import ScoringSystem
from vitalfew.estimators.selector import SparseSelector
from vitalfew.estimators.sequential_attention import SequentialAttentionSelector
from vitalfew.estimators.sequential_lasso import SequentialLassoSelector

__all__ = [
    "ScoringSystem",
    "SequentialAttentionSelector",
    "SequentialLassoSelector",
    "SparseClassifier",
    "SparseCox",
    "SparseRegressor",
    "SparseSelector",
]
