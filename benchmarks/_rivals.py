"""How each other library is asked, by its documented interface.

A driver takes a problem, imports its library and returns a function without arguments
that does the whole work, conversions of X included: what `fit` returns is a vector of
coefficients or, for path problems, the path (p, n_alphas) and its strengths. Methods
with a penalty walk a grid of strengths, each fit from the one before, and stop at the
first with at least k nonzeros (groups): what asking a lasso for k columns costs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._scores import DELTA

Fit = Callable[[], Any]
Driver = Callable[[dict[str, Any], int], Fit]  # problem, threads


def strengths(data: dict[str, Any], count: int = 100, ratio: float = 0.01) -> Any:
    """Return strengths, from the least at which zero is the answer.

    Parameters
    ----------
    data : dict
        A problem whose loss is not Cox's.
    count : int
        How many.
    ratio : float
        The last over the first.

    Returns
    -------
    array of shape (count,)
        Descending.
    """
    X, y, size = data["X"], data["y"], data["group_size"]
    slope = {
        "squares": lambda: y,
        "logistic": lambda: y - 0.5,
        "huber": lambda: np.clip(y, -DELTA, DELTA),
    }[data["loss"]]()
    gradient = X.T @ slope / len(y)
    most = np.linalg.norm(gradient.reshape(-1, size), axis=1).max()
    return most * np.geomspace(1, ratio, count)


def walk(fit_at: Callable[[float], Any], alphas: Any, data: dict[str, Any]) -> Any:
    """Return the first coefficients with at least k nonzeros (groups)."""
    for alpha in alphas:
        coef = np.array(fit_at(alpha), dtype=np.float64).ravel()
        if enough(coef, data):
            break
    return coef


def enough(coef: Any, data: dict[str, Any]) -> bool:
    """Say whether at least k groups (columns) are not zero."""
    used = np.any(coef.reshape(-1, data["group_size"]) != 0, axis=1)
    return int(used.sum()) >= data["k"]


def column_major(X: Any) -> Any:
    """Return X by columns, as coordinate descent wants it."""
    return np.asfortranarray(X) if isinstance(X, np.ndarray) else X.tocsc()


def _signs(data: dict[str, Any]) -> Any:
    return 2 * data["y"] - 1 if data["loss"] == "logistic" else data["y"]


# -- scikit-learn ----------------------------------------------------------------------


def sklearn_omp(data: dict[str, Any], threads: int) -> Fit:
    """Orthogonal matching pursuit."""
    from sklearn.linear_model import OrthogonalMatchingPursuit

    model = OrthogonalMatchingPursuit(n_nonzero_coefs=data["k"], fit_intercept=False)
    return lambda: model.fit(data["X"], data["y"]).coef_


def sklearn_lasso(data: dict[str, Any], threads: int) -> Fit:
    """Coordinate descent."""
    from sklearn.linear_model import Lasso

    def fit() -> Any:
        X = column_major(data["X"])
        model = Lasso(fit_intercept=False, warm_start=True, copy_X=False)

        def at(alpha: float) -> Any:
            return model.set_params(alpha=alpha).fit(X, data["y"]).coef_

        return walk(at, strengths(data), data)

    return fit


def sklearn_liblinear(data: dict[str, Any], threads: int) -> Fit:
    """l1-penalised logistic regression by liblinear, which has no warm start."""
    import warnings

    from sklearn.linear_model import LogisticRegression

    warnings.filterwarnings("ignore", category=FutureWarning)
    common = {"solver": "liblinear", "fit_intercept": False, "penalty": "l1"}

    def fit() -> Any:
        n = data["X"].shape[0]

        def at(alpha: float) -> Any:
            model = LogisticRegression(C=1 / (n * alpha), **common)
            return model.fit(data["X"], data["y"]).coef_

        return walk(at, strengths(data, 25, 0.03), data)

    return fit


def sklearn_path(l1_ratio: float, tol: float | None = None) -> Driver:
    """Lasso and elastic-net path."""

    def make(data: dict[str, Any], threads: int) -> Fit:
        from sklearn.linear_model import enet_path

        more = {} if tol is None else {"tol": tol}

        def fit() -> Any:
            alphas = strengths(data) / l1_ratio
            X, y = data["X"], data["y"]
            _, coefs, _ = enet_path(X, y, l1_ratio=l1_ratio, alphas=alphas, **more)
            return coefs, alphas

        return fit

    return make


# -- celer -----------------------------------------------------------------------------


def celer_lasso(data: dict[str, Any], threads: int) -> Fit:
    """Lasso, group lasso or sparse logistic regression by celer's working sets."""
    import celer

    def fit() -> Any:
        X, n = column_major(data["X"]), data["X"].shape[0]
        common = {"fit_intercept": False, "warm_start": True}
        logistic = data["loss"] == "logistic"
        if logistic:
            model = celer.LogisticRegression(**common)
        elif data["group_size"] > 1:
            model = celer.GroupLasso(groups=data["group_size"], **common)
        else:
            model = celer.Lasso(**common)

        def at(alpha: float) -> Any:
            strength = {"C": 1 / (n * alpha)} if logistic else {"alpha": alpha}
            return model.set_params(**strength).fit(X, _signs(data)).coef_

        alphas = strengths(data, 50, 0.03) if logistic else strengths(data)
        return walk(at, alphas, data)

    return fit


def celer_path(l1_ratio: float, tol: float = 1e-4) -> Driver:
    """Lasso and elastic-net path."""

    def make(data: dict[str, Any], threads: int) -> Fit:
        import celer

        def fit() -> Any:
            alphas = strengths(data) / l1_ratio
            X = column_major(data["X"])
            more = {"l1_ratio": l1_ratio, "tol": tol, "prune": True, "max_iter": 100}
            found = celer.celer_path(X, data["y"], "lasso", alphas=alphas, **more)
            return found[1], alphas

        return fit

    return make


# -- skglm -----------------------------------------------------------------------------


def skglm_estimator(name: str) -> Driver:
    """One of skglm's estimators."""

    def make(data: dict[str, Any], threads: int) -> Fit:
        import skglm

        groups = {"groups": data["group_size"]} if name == "GroupLasso" else {}

        def fit() -> Any:
            X = column_major(data["X"])
            model = getattr(skglm, name)(fit_intercept=False, warm_start=True, **groups)

            def at(alpha: float) -> Any:
                model.alpha = alpha
                return model.fit(X, _signs(data)).coef_

            logistic = data["loss"] == "logistic"
            alphas = strengths(data, 50, 0.03) if logistic else strengths(data)
            return walk(at, alphas, data)

        return fit

    return make


def skglm_huber(penalty: str) -> Driver:
    """Huber's loss with a penalty, by the general estimator."""

    def make(data: dict[str, Any], threads: int) -> Fit:
        from skglm import GeneralizedLinearEstimator, datafits, penalties, solvers

        def fit() -> Any:
            X = column_major(data["X"])
            cost = {"L1": (1.0,), "MCPenalty": (1.0, 3.0)}[penalty]
            model = GeneralizedLinearEstimator(
                datafits.Huber(DELTA),
                getattr(penalties, penalty)(*cost),
                solvers.AndersonCD(fit_intercept=False, warm_start=True),
            )

            def at(alpha: float) -> Any:
                model.penalty.alpha = alpha
                return model.fit(X, data["y"]).coef_

            return walk(at, strengths(data), data)

        return fit

    return make


def skglm_cox(data: dict[str, Any], threads: int) -> Fit:
    """l1-penalised Cox regression by proximal Newton steps."""
    from skglm.datafits import Cox
    from skglm.penalties import L1
    from skglm.solvers import ProxNewton
    from skglm.utils.jit_compilation import compiled_clone

    def fit() -> Any:
        X, y = column_major(data["X"]), data["y"]
        datafit, penalty = compiled_clone(Cox()), L1(1.0)
        datafit.initialize(X, y)
        solver = ProxNewton(fit_intercept=False, warm_start=True)
        coef = np.zeros(X.shape[1])
        most = np.abs(X.T @ datafit.raw_grad(y, np.zeros(len(X)))).max()

        def at(alpha: float) -> Any:
            nonlocal coef
            penalty.alpha = alpha
            start = coef, X @ coef
            coef = solver.solve(X, y, datafit, compiled_clone(penalty), *start)[0]
            return coef

        return walk(at, most * np.geomspace(1, 0.01, 100), data)

    return fit


def skglm_path(l1_ratio: float, tol: float | None = None) -> Driver:
    """Lasso and elastic-net path."""

    def make(data: dict[str, Any], threads: int) -> Fit:
        from skglm.estimators import ElasticNet, Lasso

        more: dict[str, Any] = {"fit_intercept": False}
        more |= {} if tol is None else {"tol": tol}

        def fit() -> Any:
            alphas, X = strengths(data) / l1_ratio, column_major(data["X"])
            model = Lasso(**more) if l1_ratio == 1 else ElasticNet(0.5, **more)
            model.l1_ratio = l1_ratio
            return model.path(X, data["y"], alphas)[1], alphas

        return fit

    return make


# -- adelie ----------------------------------------------------------------------------


def adelie_walk(data: dict[str, Any], threads: int) -> Fit:
    """Its path, stopped by its own hook once there are k groups (columns)."""
    import adelie
    import scipy.sparse

    def fit() -> Any:
        X, y, loss = data["X"], data["y"], data["loss"]
        if isinstance(X, np.ndarray):
            X = np.asfortranarray(X)
        else:
            X = adelie.matrix.sparse(X.tocsc(), method="naive", n_threads=threads)
        if loss == "cox":
            zeros = np.zeros(len(y))
            glm = adelie.glm.cox(stop=y[:, 0], status=y[:, 1], start=zeros)
        else:
            kinds = {"squares": "gaussian", "logistic": "binomial"}
            glm = getattr(adelie.glm, kinds[loss])(y)
        groups = np.arange(0, data["X"].shape[1], data["group_size"])

        def last(betas: Any) -> Any:
            return betas[betas.shape[0] - 1].toarray().ravel()

        state = adelie.grpnet(
            X,
            glm,
            groups=groups,
            intercept=False,
            min_ratio=0.01,
            lmda_path_size=100,
            n_threads=threads,
            early_exit=False,
            progress_bar=False,
            exit_cond=lambda s: s.betas.shape[0] and enough(last(s.betas), data),
        )
        betas = scipy.sparse.csr_matrix(state.betas)
        rows = (betas[i].toarray().ravel() for i in range(betas.shape[0]))
        return next((row for row in rows if enough(row, data)), last(betas))

    return fit


def adelie_gram(data: dict[str, Any], threads: int) -> Fit:
    """Its path on ``X^T X``, for many rows."""
    import adelie
    import scipy.sparse

    def fit() -> Any:
        X, n = data["X"], len(data["y"])
        state = adelie.gaussian_cov(
            np.asfortranarray(X.T @ X / n),
            X.T @ data["y"] / n,
            min_ratio=0.01,
            lmda_path_size=100,
            n_threads=threads,
            early_exit=False,
            progress_bar=False,
            exit_cond=lambda s: (
                s.betas.shape[0] and s.betas[-1].count_nonzero() >= data["k"]
            ),
        )
        return scipy.sparse.csr_matrix(state.betas)[-1].toarray().ravel()

    return fit


def adelie_path(l1_ratio: float, tol: float | None = None) -> Driver:
    """Lasso and elastic-net path."""

    def make(data: dict[str, Any], threads: int) -> Fit:
        import adelie
        import scipy.sparse

        more = {} if tol is None else {"tol": tol}

        def fit() -> Any:
            alphas = strengths(data) / l1_ratio
            state = adelie.grpnet(
                np.asfortranarray(data["X"]),
                adelie.glm.gaussian(data["y"]),
                alpha=l1_ratio,
                lmda_path=alphas,
                intercept=False,
                n_threads=threads,
                early_exit=False,
                progress_bar=False,
                **more,
            )
            return scipy.sparse.csr_matrix(state.betas).toarray().T, alphas

        return fit

    return make


# -- glmnet ----------------------------------------------------------------------------


def glmnet_walk(data: dict[str, Any], threads: int) -> Fit:
    """Its whole path: the wrapper cannot stop at k."""
    import glmnet

    def fit() -> Any:
        kind = glmnet.LogitNet if data["loss"] == "logistic" else glmnet.ElasticNet
        model = kind(
            n_splits=0,
            fit_intercept=False,
            standardize=False,
            n_lambda=100,
            min_lambda_ratio=0.01,
        )
        X = data["X"] if isinstance(data["X"], np.ndarray) else data["X"].tocsc()
        model.fit(X, data["y"])
        coefs = model.coef_path_.reshape(X.shape[1], -1).T
        return next((c for c in coefs if enough(c, data)), coefs[-1])

    return fit


def glmnet_path(l1_ratio: float, tol: float | None = None) -> Driver:
    """Lasso and elastic-net path."""

    def make(data: dict[str, Any], threads: int) -> Fit:
        import glmnet

        more: dict[str, Any] = {"fit_intercept": False, "standardize": False}
        more |= {} if tol is None else {"tol": tol}

        def fit() -> Any:
            alphas = strengths(data) / l1_ratio
            model = glmnet.ElasticNet(
                alpha=l1_ratio, n_splits=0, lambda_path=alphas, **more
            )
            model.fit(data["X"], data["y"])
            return model.coef_path_, alphas[: model.coef_path_.shape[1]]

        return fit

    return make


# -- abess -----------------------------------------------------------------------------


def abess_splicing(**settings: Any) -> Driver:
    """Splicing at k columns or groups."""

    def make(data: dict[str, Any], threads: int) -> Fit:
        import abess

        kinds = {
            "squares": abess.LinearRegression,
            "logistic": abess.LogisticRegression,
            "cox": abess.CoxPHSurvivalAnalysis,
        }
        p, size = data["X"].shape[1], data["group_size"]
        more = {} if data["loss"] == "cox" else {"fit_intercept": False}
        more |= {"group": np.arange(p) // size} if size > 1 else {}
        model = kinds[data["loss"]](
            support_size=data["k"], thread=threads, **more, **settings
        )
        return lambda: model.fit(data["X"], data["y"]).coef_

    return make


# -- skscope ---------------------------------------------------------------------------


def skscope_solver(name: str) -> Driver:
    """One of skscope's solvers on a function written in JAX."""

    def make(data: dict[str, Any], threads: int) -> Fit:
        import jax.numpy as jnp
        import skscope
        from jax.experimental.sparse import BCOO

        loss = data["loss"]

        def value(params: Any, given: Any) -> Any:
            X, y = given
            e = X @ params
            if loss == "squares":
                return jnp.mean((y - e) ** 2) / 2
            if loss == "logistic":
                return jnp.mean(jnp.logaddexp(0, e) - y * e)
            if loss == "huber":
                r = jnp.abs(y - e)
                inside = r * r / 2
                return jnp.mean(jnp.where(r <= DELTA, inside, DELTA * (r - DELTA / 2)))
            # rows come sorted by time, the latest first
            total = jax_logcumsumexp(e)
            return jnp.mean(y * (total - e))

        def jax_logcumsumexp(e: Any) -> Any:
            top = jnp.max(e)
            return jnp.log(jnp.cumsum(jnp.exp(e - top))) + top

        def fit() -> Any:
            X, y = data["X"], data["y"]
            if loss == "cox":
                order = np.argsort(-y[:, 0], kind="stable")
                X, y = X[order], y[order, 1]
            if isinstance(X, np.ndarray):
                matrix = jnp.asarray(X)
            else:
                matrix = BCOO.from_scipy_sparse(X)
            n, p = X.shape
            size = data["group_size"]
            groups = {"group": np.arange(p) // size} if size > 1 else {}
            solver = getattr(skscope, name)(p, data["k"], sample_size=n, **groups)
            return solver.solve(value, data=(matrix, jnp.asarray(y)), jit=True)

        return fit

    return make


# -- who is asked what -----------------------------------------------------------------

_SQUARES: dict[str, Driver] = {
    "sklearn.OMP": sklearn_omp,
    "sklearn.Lasso->k": sklearn_lasso,
    "abess": abess_splicing(),
    "adelie.lasso->k": adelie_walk,
    "glmnet.lasso->k": glmnet_walk,
    "celer.Lasso->k": celer_lasso,
    "skglm.Lasso->k": skglm_estimator("Lasso"),
    "skglm.MCP->k": skglm_estimator("MCPRegression"),
}
_WIDE = {"important_search": 0, "splicing_type": 1, "exchange_num": 15, "max_iter": 100}
_LOGISTIC: dict[str, Driver] = {
    "abess": abess_splicing(),
    "adelie.binomial->k": adelie_walk,
    "glmnet.logit->k": glmnet_walk,
    "celer.Logistic->k": celer_lasso,
    "skglm.Logistic->k": skglm_estimator("SparseLogisticRegression"),
    "sklearn.liblinear->k": sklearn_liblinear,
}


def _skscope(*names: str) -> dict[str, Driver]:
    return {f"skscope.{name}": skscope_solver(f"{name}Solver") for name in names}


def _paths(l1_ratio: float) -> dict[str, Driver]:
    return {
        "adelie": adelie_path(l1_ratio),
        "adelie.tight": adelie_path(l1_ratio, 1e-10),
        "glmnet": glmnet_path(l1_ratio),
        "glmnet.tight": glmnet_path(l1_ratio, 1e-10),
        "celer": celer_path(l1_ratio),
        "celer.tight": celer_path(l1_ratio, 1e-6),
        "skglm": skglm_path(l1_ratio),
        "skglm.tight": skglm_path(l1_ratio, 1e-6),
        "sklearn": sklearn_path(l1_ratio),
        "sklearn.tight": sklearn_path(l1_ratio, 1e-6),
    }


RIVALS: dict[str, dict[str, Driver]] = {
    "a": {**_SQUARES, **_skscope("Scope", "OMP", "Grasp", "HTP", "IHT")},
    "b": {
        **_SQUARES,
        "abess.wide": abess_splicing(**_WIDE),
        **_skscope("Scope", "OMP", "Grasp", "HTP", "IHT", "Foba"),
    },
    "c": {**_LOGISTIC, **_skscope("Scope", "OMP", "Grasp", "HTP")},
    "d": {
        **_SQUARES,
        "abess.covariance": abess_splicing(covariance_update=True),
        "adelie.gram->k": adelie_gram,
        **_skscope("Scope", "OMP"),
    },
    "e": {
        "abess": abess_splicing(),
        "adelie.group->k": adelie_walk,
        "celer.GroupLasso->k": celer_lasso,
        "skglm.GroupLasso->k": skglm_estimator("GroupLasso"),
        **_skscope("Scope", "OMP", "Grasp", "HTP"),
    },
    "f": _paths(1.0),
    "fe": _paths(0.5),
    "g": {
        "skglm.Huber+L1->k": skglm_huber("L1"),
        "skglm.Huber+MCP->k": skglm_huber("MCPenalty"),
        **_skscope("Scope", "OMP", "Grasp", "HTP", "IHT", "Foba"),
    },
    "x": {
        "adelie.cox->k": adelie_walk,
        "skglm.Cox+L1->k": skglm_cox,
        "abess.Cox": abess_splicing(),
        **_skscope("Scope", "OMP", "Grasp"),
    },
    "h": {
        **{k: v for k, v in _SQUARES.items() if k != "sklearn.OMP"},
        **_skscope("Scope", "OMP"),
    },
    "i": {**_LOGISTIC, **_skscope("Scope", "OMP")},
    "s": {
        "sklearn.OMP": sklearn_omp,
        "abess": abess_splicing(),
        "adelie.lasso->k": adelie_walk,
        "glmnet.lasso->k": glmnet_walk,
        "celer.Lasso->k": celer_lasso,
        "skglm.Lasso->k": skglm_estimator("Lasso"),
        **_skscope("Scope"),
    },
}
