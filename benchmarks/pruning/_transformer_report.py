"""The page of `benchmarks.pruning.transformer`."""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks import _pages
from benchmarks._pages import number
from benchmarks._runs import Results, Row

TARGETS = {0.5: 0.85, 0.6: 0.80, 0.7: 0.80, 0.8: 0.80, 0.9: 0.80}
MOST_TIME = 3.0  # times that of OBS
COLOURS = {
    "magnitude": "#c44536",
    "wanda": "#d98e04",
    "obs": "#1f4e79",
    "admm": "#0b6e4f",
    "iht": "#8d6a9f",
    "local-search": "#222222",
}

INTRODUCTION = """\
The error of a layer is the squared change of its outputs over its squared outputs, on
16,384 tokens of articles. *Layers*: each of the 36 linear layers of all-MiniLM-L6-v2 is
pruned by itself with the inputs of the dense model, and every answer, whatever method
it is from, is refitted on its support in the same way. Numbers are medians over the
layers, then means over draws of the text, least and greatest in brackets where there is
more than one. *Other text* is the same error on sequences of other articles. *Models*
are pruned layer after layer, each with the inputs that the pruned layers before it
give, at the same density in every layer. A GPT of 1.8 million weights, trained on
characters of Shakespeare, is judged by its test perplexity; the encoder by the cosine
of its embeddings of 1,000 headlines with the dense ones, and by a linear classifier of
their topics.
"""


def write(results: Results, folder: Path) -> None:
    """Write ``pruning_transformer.rst`` and its figure from the results there are.

    Parameters
    ----------
    results : Results
        All runs.
    folder : Path
        Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in results.rows if "error" not in row]
    (folder / "pruning_transformer.rst").write_text("\n".join(_page(results, rows)))
    if _pick(rows, kind="layers"):
        _draw(_pick(rows, kind="layers"), folder / "pruning_transformer_layers.svg")


def _pick(rows: list[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row["cell"][k] == v for k, v in wanted.items())]


def _values(rows: list[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row["cell"][key] for row in rows))


def _page(results: Results, rows: list[Row]) -> Iterator[str]:
    yield _pages.heading("Pruning transformers")
    yield INTRODUCTION
    yield _pages.machines(results)
    layers = _pick(rows, kind="layers")
    if layers:
        yield _pages.heading("What comes out", "-")
        yield "\n".join(f"- {line}" for line in _said(rows)) + "\n"
        yield _pages.heading("Errors of layers", "-")
        yield _pages.figure(
            "pruning_transformer", "layers", "Error of a layer against sparsity"
        )
        yield _table(layers, _error, 3)
        yield "On other text:\n"
        yield _table(layers, _other_error, 3)
        yield "CPU seconds for all layers, without the common refit:\n"
        yield _table(layers, lambda row: float(row["cpu"]), 2)
    for kind, title, key in (
        ("gpt", "Perplexity of the GPT", "perplexity"),
        ("minilm", "Cosine of embeddings with the dense ones", "cosine"),
        ("minilm", "Accuracy of topics from embeddings (%)", "accuracy"),
    ):
        own = _pick(rows, kind=kind)
        if own:
            yield _pages.heading(title, "-")
            if "dense" in own[0] and key != "cosine":
                yield f"Dense: {_range(_of_seeds(own), 3)}.\n"
            yield _table(own, lambda row, key=key: float(row[key]), 3)
    failures = [row for row in results.rows if "error" in row]
    if failures:
        yield _pages.heading("What could not be run", "-")
        told = {f"- {row['cell']['method']}: {row['error']}" for row in failures}
        yield "\n".join(sorted(told)) + "\n"


def _of_seeds(rows: list[Row]) -> list[float]:
    return list({row["cell"]["seed"]: row["dense"] for row in rows}.values())


def _error(row: Row) -> float:
    return median(row["refitted"])


def _other_error(row: Row) -> float:
    return median(row["other"])


def _range(values: list[float], digits: int) -> str:
    if len(values) == 1:
        return number(values[0], digits)
    low, high = number(min(values), digits), number(max(values), digits)
    return f"{number(mean(values), digits)} ({low}-{high})"


def _columns(rows: list[Row]) -> list[tuple[str, float]]:
    return list(
        dict.fromkeys((row["cell"]["pattern"], row["cell"]["sparsity"]) for row in rows)
    )


def _column_name(pattern: str, sparsity: float) -> str:
    return pattern if ":" in pattern else f"{pattern} {100 * sparsity:g} %"


def _table(rows: list[Row], value: Any, digits: int) -> str:
    methods = _values(rows, "method")
    lines = []
    for pattern, sparsity in _columns(rows):
        cells = []
        for method in methods:
            own = _pick(rows, pattern=pattern, sparsity=sparsity, method=method)
            cells.append(_range([value(row) for row in own], digits) if own else "")
        lines.append([_column_name(pattern, sparsity), *cells])
    return _pages.table(["pattern", *methods], lines)


def _means(rows: list[Row], value: Any, **wanted: Any) -> dict[str, float]:
    own = _pick(rows, **wanted)
    return {
        method: mean(value(row) for row in _pick(own, method=method))
        for method in _values(own, "method")
    }


def _said(rows: list[Row]) -> Iterator[str]:
    """Say what the numbers say, for and against."""
    layers = _pick(rows, kind="layers")
    for pattern, sparsity in _columns(layers):
        where = {"pattern": pattern, "sparsity": sparsity}
        errors = _means(layers, _error, **where)
        seconds = _means(layers, lambda row: row["cpu"], **where)
        if "obs" not in errors:
            continue
        best = min(errors, key=lambda method: errors[method])
        ratio = errors[best] / errors["obs"]
        longer = seconds[best] / max(seconds["obs"], 1e-9)
        told = (
            f"{_column_name(pattern, sparsity)}: {best} has the lowest error, "
            f"{ratio:.3f} of that of OBS, and takes {number(longer, 2)} times as long"
        )
        if pattern == "unstructured" and sparsity in TARGETS:
            goal = TARGETS[sparsity]
            quick = [m for m in errors if seconds[m] <= MOST_TIME * seconds["obs"]]
            within = min(errors[m] / errors["obs"] for m in quick)
            told += (
                f"; within {MOST_TIME:g} times its time the lowest is "
                f"{within:.3f}, so the goal of {goal} is "
                f"{'met' if within <= goal else 'missed'}"
            )
        yield told + "."
    for kind, key, better in (("gpt", "perplexity", min), ("minilm", "cosine", max)):
        own = _pick(rows, kind=kind)
        close = []
        for pattern, sparsity in _columns(own):
            where = {"pattern": pattern, "sparsity": sparsity}
            found = _means(own, lambda row, key=key: row[key], **where)
            if not {"magnitude", "obs", "admm"} <= set(found):
                continue
            best = better(found.values())
            if abs(found["magnitude"] / best - 1) <= 0.01:
                close.append(_column_name(pattern, sparsity))
        if own:
            name = "GPT" if kind == "gpt" else "encoder"
            told = ", ".join(close) if close else "no setting"
            yield f"{name}, {key}: magnitude is within 1 % of the best at {told}."
    infeasible = [row for row in layers if not row["feasible"]]
    yield (
        f"{len(layers) - len(infeasible)} of {len(layers)} answers keep to their "
        "structure exactly."
    )


def _draw(rows: list[Row], file: Path) -> None:
    patterns = [p for p in ("unstructured", "16x1") if _pick(rows, pattern=p)]
    if not patterns:
        return
    figure, axes = _pages.new_figure(1, len(patterns), width=4.2, height=3.2)
    handles: dict[str, Any] = {}
    for ax, pattern in zip(axes.flat, patterns, strict=True):
        own = _pick(rows, pattern=pattern)
        for method in _values(own, "method"):
            x = sorted(_values(_pick(own, method=method), "sparsity"))
            found = [
                [_error(r) for r in _pick(own, method=method, sparsity=s)] for s in x
            ]
            percent = [100 * s for s in x]
            (line,) = ax.plot(
                percent, [mean(v) for v in found], "o-", ms=3, color=COLOURS[method]
            )
            handles.setdefault(method, line)
        ax.set_yscale("log")
        ax.set_title(pattern, loc="left", fontsize=10)
        ax.set_xlabel("weights removed (%)")
        ax.set_ylabel("error, refitted")
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=6,
        frameon=False,
        fontsize=8,
    )
    _pages.save(figure, file)
