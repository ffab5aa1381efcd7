"""The honest error of the whole procedure beside all columns and no columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitalfew.report import _reading as read
from vitalfew.report._numbers import NOTHING, aligned, count, spreads
from vitalfew.report._scales import LARGEST, Scale, around

_CHOSEN, _ALL, _NONE = "chosen columns", "all columns", "no columns"
_METRICS = 8  # as many as a table can bear
_NAMES = {
    "r2": "R²",
    "rmse": "RMSE",
    "mse": "mean squared error",
    "mae": "mean absolute error",
}


@dataclass(frozen=True)
class Strip:
    """Where the folds of one model and their mean lie on a line 160 long."""

    folds: list[float]
    mean: float | None


@dataclass(frozen=True)
class ErrorRow:
    """A line of the table of errors."""

    label: str
    size: str
    chosen: bool
    cells: list[str]
    strip: Strip | None


@dataclass(frozen=True)
class ErrorTable:
    """The three models, what they score, and what that says."""

    metrics: list[str]
    better: str
    rows: list[ErrorRow]
    strip_ends: tuple[str, str] | None
    n_folds: int
    headline: str
    warning: str
    fold_by_fold: str


@dataclass(frozen=True)
class _Score:
    mean: float | None
    sd: float | None
    folds: list[float | None]


@dataclass(frozen=True)
class _Model:
    name: str
    scores: dict[str, _Score]


def error_table(
    results: dict[str, Any], n_chosen: int, n_columns: int | None
) -> ErrorTable | None:
    """Return the table, None if no error was measured."""
    models = [_model(m) for m in read.mappings(results.get("errors"))]
    metrics = _metrics(models, results)
    if not metrics:
        return None
    main = metrics[0]
    higher = bool(read.mapping(results.get("metric")).get("higher_is_better"))
    columns = {m: spreads([_pair(model, m) for model in models]) for m in metrics}
    scale, ends = _fold_scale(models, main)
    rows = [
        ErrorRow(
            label=model.name[:1].upper() + model.name[1:],
            size=count(n_columns) if model.name == _ALL and n_columns else "",
            chosen=model.name == _CHOSEN,
            cells=[columns[m][i] for m in metrics],
            strip=_strip(model.scores.get(main), scale),
        )
        for i, model in enumerate(models)
    ]
    texts = {model.name: columns[main][i] for i, model in enumerate(models)}
    return ErrorTable(
        metrics=[metric_name(m) for m in metrics],
        better="higher" if higher else "lower",
        rows=rows,
        strip_ends=ends,
        n_folds=max(len(m.scores[main].folds) for m in models if main in m.scores),
        headline=_headline(texts, main, higher, n_columns),
        warning=_warning(models, main, higher) if n_chosen else "",
        fold_by_fold=_fold_by_fold(models, main, higher),
    )


def metric_name(metric: str) -> str:
    """Return the name of a metric as it is said."""
    return _NAMES.get(metric.lower(), metric.replace("_", " "))


def _model(item: dict[str, Any]) -> _Model:
    scores = {
        str(name): _Score(
            read.number(score.get("mean")),
            None if (sd := read.number(score.get("sd"))) is None else abs(sd),
            [read.number(f) for f in read.items(score.get("folds"))],
        )
        for name, score in read.mapping(item.get("metrics")).items()
        if isinstance(score, dict)
    }
    return _Model(read.name(item.get("model")), scores)


def _metrics(models: Sequence[_Model], results: dict[str, Any]) -> list[str]:
    """Return the metrics measured, the one that the choice was made for first."""
    found = list(dict.fromkeys(name for m in models for name in m.scores))
    main = str(read.mapping(results.get("metric")).get("name"))
    return sorted(found, key=lambda name: name != main)[:_METRICS]


def _pair(model: _Model, metric: str) -> tuple[float | None, float | None]:
    score = model.scores.get(metric)
    return (None, None) if score is None else (score.mean, score.sd)


def _mean(models: Sequence[_Model], name: str, metric: str) -> float | None:
    return next((_pair(m, metric)[0] for m in models if m.name == name), None)


def _headline(
    texts: dict[str, str], metric: str, higher: bool, n_columns: int | None
) -> str:
    """Return the errors of the three models in one line."""
    if texts.get(_CHOSEN, NOTHING) == NOTHING:
        return ""
    of_all = (
        f"all {count(n_columns)} columns" if (n_columns or 0) > 1 else "all columns"
    )
    others = [
        f"{texts[name]} with {said}"
        for name, said in ((_ALL, of_all), (_NONE, "no columns"))
        if texts.get(name, NOTHING) != NOTHING
    ]
    better = "higher" if higher else "lower"
    against = f", against {' and '.join(others)}" if others else ""
    return (
        f"Choosing this way gives {metric_name(metric)} {texts[_CHOSEN]} on held-out "
        f"rows{against}; {better} is better."
    )


def _warning(models: Sequence[_Model], metric: str, higher: bool) -> str:
    """Return what must be said when the choice predicts nothing."""
    chosen, none = _mean(models, _CHOSEN, metric), _mean(models, _NONE, metric)
    if chosen is None or none is None:
        return ""
    if (chosen > none) if higher else (chosen < none):
        return ""
    return (
        "On held-out rows the chosen columns predict no better than no columns at all: "
        "there may be nothing here to find."
    )


def _fold_by_fold(models: Sequence[_Model], metric: str, higher: bool) -> str:
    """Return in how many folds the chosen columns did better than the others."""
    folds = {m.name: m.scores[metric].folds for m in models if metric in m.scores}
    said = []
    for other in (_ALL, _NONE):
        pairs = [
            (a, b)
            for a, b in zip(folds.get(_CHOSEN, []), folds.get(other, []), strict=False)
            if a is not None and b is not None
        ]
        wins = sum((a > b) if higher else (a < b) for a, b in pairs)
        if pairs:
            said.append(f"{other} in {wins} of {len(pairs)}")
    if not said:
        return ""
    return (
        f"Fold by fold, the chosen columns did better than {' and than '.join(said)}."
    )


def _fold_scale(
    models: Sequence[_Model], metric: str
) -> tuple[Scale | None, tuple[str, str] | None]:
    """Return the scale on which all folds lie, and the least and greatest of them."""
    found = [
        fold
        for model in models
        for fold in (model.scores[metric].folds if metric in model.scores else [])
        if fold is not None and abs(fold) < LARGEST
    ]
    if not found:
        return None, None
    low, high = aligned([min(found), max(found)])
    return Scale(*around(found), 4, 156), (low, high)


def _strip(score: _Score | None, scale: Scale | None) -> Strip | None:
    if score is None or scale is None:
        return None
    folds = [scale(f) for f in score.folds if f is not None and abs(f) < LARGEST]
    inside = score.mean is not None and scale.low <= score.mean <= scale.high
    mean = scale(score.mean) if score.mean is not None and inside else None
    return Strip(folds, mean) if folds else None
