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
        SparseRegressor(loss="huber", cv=2),
        SparseRegressor(positive=True, criterion="ebic"),
        SparseRegressor(loss="poisson", criterion="gic"),
        SparseClassifier(),
        SparseClassifier(criterion="bic", ordered=True),
        SparseCox(cv=2),
        SparseCox(1),
        ScoringSystem(),
        SparseSelector(criterion="bic"),
        SparseSelector(1),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
