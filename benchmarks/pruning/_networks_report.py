"""The page of `benchmarks.pruning.networks`."""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import _pages
from benchmarks._pages import number
from benchmarks._runs import Results, Row

TITLES = {"mlp": "MLP 784-40-20-10, MNIST", "resnet": "ResNet-14, CIFAR-10"}
COLOURS = {
    "magnitude": "#c44536",
    "magnitude, uniform": "#d98e04",
    "magnitude, erk": "#b5a642",
    "magnitude, lamp": "#8d6a9f",
    "fisher": "#1f4e79",
    "mfac": "#3aafa9",
    "mfac, 1 stage": "#8fd0cc",
    "chita": "#0b6e4f",
    "chita, 1 stage": "#79b89f",
    "obs": "#5c4033",
    "admm": "#222222",
    "local-search": "#999999",
    "magnitude, fitted": "#e39a8d",
    "magnitude, fitted in stages": "#7d2a20",
    "random": "#cccccc",
}

INTRODUCTION = """\
Up to three networks of each kind are trained from the real data with different seeds
and pruned to the same number of weights, or blocks, with the same training examples to
calibrate with, 10,000 of MNIST and 2,000 of CIFAR-10. Batch norms are estimated again
on these examples in every arm. Numbers are mean test accuracies in per cent, with the
least and the greatest in brackets; CPU seconds include training. *magnitude*, *fisher*
(diagonal) and *random* keep the weights as they were; *obs*, *admm* and *local-search*
change the kept ones by least squares, layer by layer, without labels. *chita* follows
the gradient of the loss on the labelled examples at every stage, so it trains on them
as it prunes, and setting it against plain magnitude compares training with none.
*fitted* arms are therefore shown beside it: magnitude, and 1,500 steps of Adam on the
same examples, after pruning or spread over five stages of it. *gradual* arms train on
the whole training set after each of five stages. The budget is one for all layers
(*global*) unless another allocation is named. The residual network saw 10,000 of the
50,000 images and stays far below the 91 % that is published for all of them.
"""


def write(results: Results, folder: Path) -> None:
    """Write ``pruning_networks.rst`` and its figure from the results there are.

    Parameters
    ----------
    results : Results
        All runs.
    folder : Path
        Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in results.rows if "error" not in row]
    (folder / "pruning_networks.rst").write_text("\n".join(_page(results, rows)))
    if rows:
        _draw(rows, folder / "pruning_networks_accuracy.svg")


def _pick(rows: list[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row["cell"][k] == v for k, v in wanted.items())]


def _values(rows: list[Row], key: str) -> list[Any]:
    """Return the values of one part of the cells, in the order they were first run."""
    return list(dict.fromkeys(row["cell"][key] for row in rows))


def _page(results: Results, rows: list[Row]) -> Iterator[str]:
    yield _pages.heading("Pruning image classifiers")
    yield INTRODUCTION
    yield _pages.machines(results)
    if not rows:
        return
    yield from _claims(rows)
    yield _pages.figure("pruning_networks", "accuracy", "Accuracy against sparsity")
    for network in _values(rows, "network"):
        own = _pick(rows, network=network)
        yield _pages.heading(TITLES[network], "-")
        dense = {row["cell"]["seed"]: row["dense"] for row in own}
        yield f"Dense: {_range(list(dense.values()))}.\n"
        for pattern in _values(own, "pattern"):
            yield _pages.heading(pattern.capitalize(), "~")
            yield _table(_pick(own, pattern=pattern))
    failures = [row for row in results.rows if "error" in row]
    if failures:
        yield _pages.heading("What could not be run", "-")
        told = {f"- {_name(row)}: {row['error']}" for row in failures}
        yield "\n".join(sorted(told)) + "\n"


def _name(row: Row) -> str:
    cell = row["cell"]
    return f"{cell['arm']} on {cell['network']}, {cell['pattern']}"


def _range(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def _table(rows: list[Row]) -> str:
    sparsities = sorted(_values(rows, "sparsity"))
    lines = []
    for arm in _values(rows, "arm"):
        own = _pick(rows, arm=arm)
        cells = []
        for sparsity in sparsities:
            found = [row["accuracy"] for row in _pick(own, sparsity=sparsity)]
            cells.append(_range(found) if found else "")
        seconds = mean(row["cpu"] + row["train_cpu"] for row in own)
        lines.append([arm, *cells, number(seconds, 2)])
    header = ["arm", *(f"{100 * s:g} %" for s in sparsities), "CPU s"]
    return _pages.table(header, lines)


def _means(rows: list[Row], **wanted: Any) -> dict[str, float]:
    found = _pick(rows, **wanted)
    return {
        arm: mean(row["accuracy"] for row in _pick(found, arm=arm))
        for arm in _values(found, "arm")
        if not arm.startswith("gradual")
    }


def _claims(rows: list[Row]) -> Iterator[str]:
    """Say what the numbers say, for and against."""
    yield _pages.heading("What comes out", "-")
    lines = [*_targets(rows), *_winners(rows)]
    missed = [
        row for row in rows if row["nonzero"] != round(row["density"] * row["weights"])
    ]
    over = [row for row in rows if row["kept"] != row["asked"]]
    lines.append(
        f"Of {len(rows)} runs, {len(rows) - len(over)} keep exactly as many weights, "
        f"blocks or channels as asked"
        + (f"; {len(missed)} reports differ from the model" if missed else "")
        + "."
    )
    yield "\n".join(f"- {line}" for line in lines) + "\n"


def _targets(rows: list[Row]) -> Iterator[str]:
    at = {"network": "mlp", "pattern": "unstructured"}
    for sparsity in (0.95, 0.98):
        found = _means(rows, **at, sparsity=sparsity)
        if "chita" not in found or "magnitude" not in found:
            continue
        dense = mean(
            r["dense"] for r in _pick(rows, **at, sparsity=sparsity, arm="chita")
        )
        ahead = found["chita"] - found["magnitude"]
        told = (
            f"MLP, {100 * sparsity:g} % of single weights removed: chita "
            f"{found['chita']:.1f}, magnitude {found['magnitude']:.1f} ({ahead:+.1f} "
            f"points for chita), dense {dense:.1f} ({dense - found['chita']:.1f} above "
            "chita)."
        )
        fitted = {arm: found[arm] for arm in found if "fitted" in arm}
        if fitted:
            arm = max(fitted, key=lambda name: fitted[name])
            told += (
                f" With training on the same labelled examples, {arm}: "
                f"{fitted[arm]:.1f}, which leaves chita "
                f"{found['chita'] - fitted[arm]:+.1f} points."
            )
        else:
            told += " Of this, what training on the labels does was not measured."
        yield told
    pairs = [
        (_means(rows, **_but_arm(row)), row)
        for row in _pick(rows, arm="magnitude", seed=0)
    ]
    both = [m for m, _ in pairs if "magnitude, uniform" in m]
    better = sum(m["magnitude"] > m["magnitude, uniform"] for m in both)
    if both:
        yield (
            f"One budget for all layers beats a uniform one in {better} of {len(both)} "
            "settings, by magnitude."
        )


def _but_arm(row: Row) -> Row:
    return {k: row["cell"][k] for k in ("network", "pattern", "sparsity")}


def _winners(rows: list[Row]) -> Iterator[str]:
    """Say in which settings magnitude is at most a point behind the best."""
    enough, settings = [], 0
    for row in _pick(rows, arm="magnitude", seed=0):
        where = _but_arm(row)
        found = _means(rows, **where)
        if len(found) < 2:
            continue
        settings += 1
        best = max(found, key=lambda arm: found[arm])
        if found["magnitude"] >= found[best] - 1:
            enough.append(
                f"{where['network']} {where['pattern']} {100 * where['sparsity']:g} %"
            )
    if settings:
        where_told = f": {', '.join(enough)}" if enough else ""
        yield (
            f"Magnitude is the best or within a point of it in {len(enough)} of "
            f"{settings} settings{where_told}."
        )


def _draw(rows: list[Row], file: Path) -> None:
    panels = [
        (network, pattern)
        for network in _values(rows, "network")
        for pattern in _values(_pick(rows, network=network), "pattern")
        if pattern != "2:4"
    ]
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    figure, axes = _pages.new_figure(lines, columns, width=4.2, height=3.0)
    handles: dict[str, Any] = {}
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, (network, pattern) in zip(axes.flat, panels, strict=False):
        own = _pick(rows, network=network, pattern=pattern)
        for arm in _values(own, "arm"):
            if arm in COLOURS:
                _line(ax, arm, _pick(own, arm=arm), handles)
        ax.axhline(mean(row["dense"] for row in own), color="#bbbbbb", lw=0.8, ls=":")
        ax.set_title(
            f"{TITLES[network].split(',')[0]}, {pattern}", loc="left", fontsize=9
        )
        ax.set_xlabel("weights removed (%)")
        ax.set_ylabel("test accuracy (%)")
        ax.set_ylim(0, 100)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    _pages.save(figure, file)


def _line(ax: Any, arm: str, rows: list[Row], handles: dict[str, Any]) -> None:
    x = sorted(_values(rows, "sparsity"))
    found = [[r["accuracy"] for r in _pick(rows, sparsity=s)] for s in x]
    percent = [100 * s for s in x]
    colour = COLOURS[arm]
    ax.fill_between(
        percent, [min(v) for v in found], [max(v) for v in found],
        color=colour, alpha=0.12, lw=0,
    )  # fmt: skip
    (line,) = ax.plot(percent, [mean(v) for v in found], "o-", ms=3, color=colour)
    handles.setdefault(arm, line)
