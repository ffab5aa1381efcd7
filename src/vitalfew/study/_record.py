"""From a finished study to plain data."""

import platform
from typing import Any

import numpy as np
import scipy
import sklearn

import vitalfew
from vitalfew._solve import describe
from vitalfew.study._columns import Coded, Columns
from vitalfew.study._model import ridge_of
from vitalfew.study._scores import MAIN, summary
from vitalfew.study._study import MODELS, Study

MOST_COLUMNS = 2000
MOST_RUNNERS_UP, LEAST_STABILITY = 15, 0.1


def versions() -> dict[str, str]:
    """Return the versions of what did the work."""
    return {
        "vitalfew": vitalfew.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
    }


def settings_of(study: Study, split_by: str | None) -> dict[str, Any]:
    """Return what was asked for.

    Parameters
    ----------
    study : Study
        After `run`.
    split_by : str or None
        Name of the column of blocks.

    Returns
    -------
    dict
        Plain data.
    """
    s = study.settings
    return {
        "n_nonzero": "auto" if s.n_nonzero is None else s.n_nonzero,
        "solver": None if s.solver is None else describe(s.solver),
        "criterion": s.criterion,
        "cv_folds": len(study.folds),
        "outer_folds": study.n_judging or s.outer_folds,
        "resamples": s.resamples,
        "certify": "asked for" if s.certify else None,
        "seed": s.seed,
        "seconds": s.seconds,
        "split_by": split_by,
        "l2": ridge_of(study.given.outcome, s.l2),
        "loss": type(study.model.objective).__name__,
    }


def describe_columns(columns: Columns, kinds: dict[str, str]) -> list[dict[str, Any]]:
    """Return name, kind, missing entries and levels of the first columns.

    Parameters
    ----------
    columns : Columns
        The table.
    kinds : dict of str to str
        Kind of each column.

    Returns
    -------
    list of dict
        Plain data.
    """
    return [
        {"name": name, "kind": kinds[name], **_facts(columns, name)}
        for name in list(kinds)[:MOST_COLUMNS]
    ]


def _facts(columns: Columns, name: str) -> dict[str, int | None]:
    if name not in columns:
        return {"missing": None, "levels": None}
    column = columns.column(name)
    if isinstance(column, Coded):
        missing = int(np.count_nonzero(column.codes < 0))
        return {"missing": missing, "levels": len(column.levels)}
    return {"missing": int(np.count_nonzero(np.isnan(column))), "levels": None}


def results_of(study: Study) -> dict[str, Any]:
    """Return what a study found.

    Parameters
    ----------
    study : Study
        After `run`.

    Returns
    -------
    dict
        Plain data.
    """
    solution = study.model.solution
    name, higher = MAIN[study.given.outcome.task]
    intercept = solution.intercept
    return {
        "status": {"name": solution.status.name, "message": str(solution.status)},
        "solver": solution.solver,
        "interrupted": study.clock.interrupted,
        "seconds": study.seconds,
        "metric": {"name": name, "higher_is_better": higher},
        "path": _path(study),
        "n_chosen": len(solution.support),
        "n_resampled": study.n_resampled,
        "chosen_by": _chosen_by(study),
        "chosen": _chosen(study),
        "intercept": None if intercept is None else _intercept(study),
        "errors": [
            {"model": model, "metrics": summary(study.scores[model][: study.n_judged])}
            for model in MODELS
            if study.n_judged
        ],
        "runner_up_stability": _runners_up(study),
        "certificate": study.certificate,
        "cut_short": study.cut_short,
    }


def _chosen_by(study: Study) -> str:
    """What chose the number of columns in the end: time may be short for folds."""
    if study.settings.n_nonzero is not None:
        return "asked for"
    return study.settings.criterion if study.model.path.scores is not None else "bic"


def _path(study: Study) -> list[dict[str, Any]]:
    """One entry for each number of columns that was reached."""
    found, names = study.model.path, study.encoder.group_names_
    entries: list[dict[str, Any]] = []
    for i, solution in enumerate(found.solutions):
        atoms = solution.support
        entry = {
            "n_columns": len(atoms),
            "cv_mean": None if found.scores is None else float(found.scores[i]),
            "cv_se": None if found.spread is None else float(found.spread[i]),
            "train_loss": study.model.objective.loss_at(solution.x, solution.intercept),
            "columns": [names[int(a)] for a in atoms],
        }
        if entries and entries[-1]["n_columns"] == len(atoms):
            if i != study.model.index:
                continue
            entries.pop()
        entries.append(entry)
    return entries


def _intercept(study: Study) -> Any:
    """The intercept of the model in the units of the encoded columns."""
    return np.asarray(study.model.solution.intercept).tolist()


def _stability(study: Study) -> Any:
    if not study.n_resampled:
        return [None] * len(study.encoder.group_names_)
    return (study.counts / study.n_resampled).tolist()


def _chosen(study: Study) -> list[dict[str, Any]]:
    """The chosen columns, those with the largest effect first."""
    encoder, model = study.encoder, study.model
    x = np.asarray(model.solution.x)
    x = x.reshape(len(x), -1)  # (n_outputs, 1 or n_classes), per standard deviation
    stability = _stability(study)
    entries = []
    for atom in (int(a) for a in model.solution.support):
        ids = np.flatnonzero(encoder.groups_ == atom)
        entries.append(
            (
                float(np.linalg.norm(x[ids])),
                {
                    "column": encoder.group_names_[atom],
                    "kind": _kind(study, atom),
                    "effect": _effect(study, ids, x),
                    "effects": [e for i in ids for e in _effects(study, int(i), x[i])],
                    "stability": stability[atom],
                    "near_ties": study.ties.get(atom, []),
                },
            )
        )
    entries.sort(key=lambda entry: -entry[0])
    return [entry for _, entry in entries]


def _kind(study: Study, atom: int) -> str:
    members = study.encoder.group_columns_[atom]
    if len(members) > 1:
        return "group"
    return "category" if members[0] in study.given.features.coded else "numeric"


def _effect(study: Study, ids: Any, x: Any) -> float | None:
    """The one number that says it all, where there is one.

    Per standard deviation for a number; against the reference for two levels.
    """
    told = [e for i in ids for e in _effects(study, int(i), x[i])]
    numeric = [i for i in ids if study.encoder.numeric_[i]]
    if x.shape[1] > 1:
        return None
    if len(numeric) == 1 and len({study.encoder.sources_[i] for i in ids}) == 1:
        return float(x[numeric[0], 0])
    return told[0]["value"] if len(told) == 1 else None


def _effects(study: Study, i: int, row: Any) -> list[dict[str, Any]]:
    """Effects of one encoded column: per standard deviation, or of an indicator."""
    encoder, classes = study.encoder, study.given.outcome.classes
    unit = 1.0 if encoder.numeric_[i] else float(study.model.scale[i])
    name = encoder.feature_names_[i]
    if len(row) == 1:
        return [{"name": name, "class": None, "value": float(row[0]) / unit}]
    return [
        {"name": name, "class": label, "value": float(value) / unit}
        for label, value in zip(classes or (), row, strict=True)
    ]


def _runners_up(study: Study) -> list[dict[str, Any]]:
    """Columns not chosen that resamples often chose."""
    if not study.n_resampled:
        return []
    share = study.counts / study.n_resampled
    share[study.model.solution.support] = 0.0
    ranked = np.argsort(-share, kind="stable")[:MOST_RUNNERS_UP]
    return [
        {"column": study.encoder.group_names_[a], "stability": float(share[a])}
        for a in ranked
        if share[a] >= LEAST_STABILITY
    ]
