from sklearn.utils.estimator_checks import parametrize_with_checks

from vitalfew.estimators import (
    ScoringSystem,
    SparseClassifier,
    SparseCox,
    SparseRegressor,
    SparseSelector,
)


@parametrize_with_checks(
    [
        SparseRegressor(),
        SparseRegressor(1),
        SparseRegressor(loss="huber"),
        SparseRegressor(positive=True),
        SparseRegressor(loss="poisson"),
        SparseRegressor(criterion="ebic"),
        SparseClassifier(),
        SparseClassifier(criterion="bic"),
        SparseClassifier(ordered=True),
        SparseCox(),
        SparseCox(1),
        ScoringSystem(),
        SparseSelector(),
        SparseSelector(1),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
