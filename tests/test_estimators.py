from sklearn.utils.estimator_checks import parametrize_with_checks

from vitalfew.estimators import (
    ScoringSystem,
    SequentialAttentionSelector,
    SequentialLassoSelector,
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
        SequentialAttentionSelector(1, hidden_sizes=4, steps_per_round=2),
        SequentialLassoSelector(1),
        SequentialLassoSelector(1, network="mlp", hidden_sizes=4, steps_per_round=2),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
