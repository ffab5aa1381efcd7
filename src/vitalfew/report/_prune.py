"""The page of a `prune` run: what the template is filled with, in reading order."""

from dataclasses import dataclass
from typing import Any

from vitalfew.records import RunRecord
from vitalfew.report import _reading as read
from vitalfew.report._effects import Bar
from vitalfew.report._facts import Fact, moment, sentences, versions
from vitalfew.report._mask_picture import MaskPicture, mask_picture
from vitalfew.report._numbers import (
    NOTHING,
    clipped,
    count,
    counted,
    duration,
    fixed,
    number,
)

PICTURES = 240  # layers that are drawn
_NOTES = 10  # notes shown for one layer
_SETTINGS = {
    "structure": "Structure asked for",
    "sparsity": "Fraction to remove",
    "density": "Fraction to keep",
    "method": "Method asked for",
    "allocation": "Allocation asked for",
    "include": "Layers included",
    "exclude": "Layers excluded",
    "min_blocks": "Fewest blocks of a layer",
    "samples": "Samples asked for",
    "length": "Tokens in a sequence asked for",
    "seed": "Seed",
    "dense": "Zeros stored as well",
    "latency": "Latency measured",
}


@dataclass(frozen=True)
class LayerRow:
    """A line of the table of layers."""

    name: str
    facts: str
    kept: str
    kept_bar: Bar | None
    counts: str
    error: str
    error_bar: Bar | None
    notes: list[str]


@dataclass(frozen=True)
class SpeedRow:
    """A line of the table of times."""

    name: str
    kernel: str
    before: str
    before_bar: Bar
    after: str
    after_bar: Bar


@dataclass(frozen=True)
class LeftRow:
    """A layer that stayed dense, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class PrunePage:
    """What the template is filled with."""

    title: str
    model: str
    headline: str
    achieved: str
    counted_over: str
    created: str
    created_iso: str
    source: str
    version: str
    atoms: str
    layers: list[LayerRow]
    left: list[LeftRow]
    pictures: list[MaskPicture]
    not_drawn: str
    sizes: list[Fact]
    speed: list[Fact]
    times: list[SpeedRow]
    data: list[Fact]
    notes: list[str]
    run: list[Fact]
    versions: list[Fact]


def page(record: RunRecord) -> PrunePage:
    """Read a record into the page's parts."""
    data, results = read.mapping(record.data), read.mapping(record.results)
    layers = read.mappings(results.get("layers"))
    atoms = clipped(_text(results.get("atoms"), "weights"), 40)
    source = clipped(read.name(data.get("source")), 80)
    kept, n_atoms = read.whole(results.get("kept")), read.whole(results.get("n_atoms"))
    if kept is None or n_atoms is None:
        headline = f"some {atoms}"
    else:
        headline = f"{count(kept)} of {count(n_atoms)} {atoms}"
    pictures = _pictures(layers[:PICTURES])
    rest = len(layers) - PICTURES
    return PrunePage(
        title=f"{source}: {headline} kept",
        model=source,
        headline=headline,
        achieved=_achieved(results, read.mapping(record.settings), atoms),
        counted_over=_counted_over(data, results, layers),
        created=moment(record.created),
        created_iso=str(record.created),
        source=source,
        version=str(read.mapping(record.versions).get("vitalfew", "")),
        atoms=atoms,
        layers=_rows(layers, atoms),
        left=[
            LeftRow(read.name(name), (sentences([why]) or [NOTHING])[0])
            for name, why in read.mapping(results.get("left")).items()
        ],
        pictures=pictures,
        not_drawn=(
            f"{counted(rest, 'more layer')} are not drawn; result.json has them."
            if rest > 0
            else ""
        ),
        sizes=_sizes(results),
        speed=_speed(results),
        times=_times(layers),
        data=_data(data),
        notes=sentences(
            [*read.items(data.get("notes")), *read.items(results.get("notes"))]
        ),
        run=_run(record),
        versions=versions(record),
    )


# -- headline --------------------------------------------------------------------------


def _achieved(results: dict[str, Any], settings: dict[str, Any], atoms: str) -> str:
    """Return the sentence on what was asked for and what came of it."""
    structure = clipped(
        _text(results.get("structure"), _text(settings.get("structure"), "")), 120
    )
    asked = read.whole(results.get("asked"))
    said = f"Asked: {structure}" if structure else "Asked: not recorded"
    said += f", at most {count(asked)} {atoms}. " if asked is not None else ". "
    nonzero, n = (
        read.whole(results.get("n_nonzero")),
        read.whole(results.get("n_weights")),
    )
    if nonzero is None or not n:
        return said + "How many weights stay was not recorded."
    return said + (
        f"Achieved: {_percent(1 - nonzero / n)} of the weights are zero, "
        f"{_percent(nonzero / n)} are not."
    )


def _counted_over(
    data: dict[str, Any], results: dict[str, Any], layers: list[dict[str, Any]]
) -> str:
    n, everything = (
        read.whole(results.get("n_weights")),
        read.whole(data.get("n_parameters")),
    )
    if n is None:
        return ""
    said = f"Counted over the {count(n)} weights of {counted(len(layers), 'layer')}"
    if everything is None or everything < n:
        return said + "."
    return said + (
        f"; the other {count(everything - n)} parameters of the model, biases, norms, "
        "embeddings and layers left dense, are not counted."
    )


# -- layers ----------------------------------------------------------------------------


def _rows(layers: list[dict[str, Any]], atoms: str) -> list[LayerRow]:
    errors = [_error(layer) for layer in layers]
    largest = max((e for e in errors if e), default=0.0)
    rows = []
    for layer, error in zip(layers, errors, strict=True):
        density = _density(layer)
        method = clipped(_text(layer.get("method"), ""), 40)
        facts = ", ".join(
            f for f in (_shape(layer), f"by {method}" * bool(method)) if f
        )
        rows.append(
            LayerRow(
                name=read.name(layer.get("name")),
                facts=facts,
                kept=NOTHING if density is None else _percent(density),
                kept_bar=None if density is None else _bar(density),
                counts=_counts(layer, atoms),
                error=number(error),
                error_bar=_bar(error / largest)
                if error is not None and largest
                else None,
                notes=sentences(read.items(layer.get("notes"))[:_NOTES]),
            )
        )
    return rows


def _density(layer: dict[str, Any]) -> float | None:
    found = read.number(layer.get("density"))
    return None if found is None else min(1.0, max(0.0, found))


def _error(layer: dict[str, Any]) -> float | None:
    found = read.number(layer.get("error"))
    return None if found is None or found < 0 else found


def _shape(layer: dict[str, Any]) -> str:
    sides = [read.whole(side) for side in read.items(layer.get("shape"))]
    known = [count(side) for side in sides if side is not None]
    return " × ".join(known[:4]) if known else ""  # noqa: RUF001


def _counts(layer: dict[str, Any], atoms: str) -> str:
    kept, n = read.whole(layer.get("kept")), read.whole(layer.get("n_atoms"))
    if kept is None or n is None:
        return ""
    return f"{count(kept)} of {count(n)} {atoms}"


def _bar(share: float) -> Bar:
    return Bar(0.0, round(100 * min(1.0, share), 1), 0.0)


def _pictures(layers: list[dict[str, Any]]) -> list[MaskPicture]:
    found = []
    for i, layer in enumerate(layers):
        density = _density(layer)
        kept = "Weights kept" if density is None else f"{_percent(density)} kept"
        picture = mask_picture(layer, f"mask-{i}", kept, _shape(layer))
        if picture is not None:
            found.append(picture)
    return found


# -- facts -----------------------------------------------------------------------------


def _sizes(results: dict[str, Any]) -> list[Fact]:
    before = read.whole(results.get("bytes_before"))
    after = read.whole(results.get("bytes_after"))
    macs, left = (
        read.whole(results.get("macs")),
        read.whole(results.get("macs_nonzero")),
    )
    facts = [
        Fact("File of weights before", _bytes(before)),
        Fact("File of weights after", _bytes(after, before)),
    ]
    if macs is not None:
        facts += [
            Fact("Multiplications of a sample in all such layers", count(macs)),
            Fact("Of these, not by zero", _of(left, macs)),
        ]
    return facts


def _speed(results: dict[str, Any]) -> list[Fact]:
    """Return how long a sample takes, if it was measured."""
    found = read.mapping(results.get("latency"))
    before, after = _pair(found)
    if before is None or after is None:
        return []
    facts = [
        Fact("A sample by torch", _time(before)),
        Fact("Compiled by vitalfew.runtime", _time(after)),
    ]
    ratio = read.number(before / after) if after else None
    if ratio is not None:
        facts.append(Fact("That is", f"{number(ratio)} times as fast"))
    return [*facts, Fact("Threads", count(read.whole(found.get("threads"))))]


def _times(layers: list[dict[str, Any]]) -> list[SpeedRow]:
    """Return the layers of which times are known; bars share one scale."""
    found = []
    for layer in layers:
        own = read.mapping(layer.get("latency"))
        before, after = _pair(own)
        if before is not None and after is not None:
            found.append((layer, own, before, after))
    longest = max((max(b, a) for *_, b, a in found), default=0.0) or 1.0
    return [
        SpeedRow(
            name=read.name(layer.get("name")),
            kernel=clipped(_text(own.get("kernel"), NOTHING), 60),
            before=_time(before),
            before_bar=_bar(before / longest),
            after=_time(after),
            after_bar=_bar(after / longest),
        )
        for layer, own, before, after in found
    ]


def _pair(found: dict[str, Any]) -> tuple[float | None, float | None]:
    """Return times before and after, if they are times."""
    before, after = read.number(found.get("before")), read.number(found.get("after"))
    known = before is not None and after is not None and before >= 0 and after >= 0
    return (before, after) if known else (None, None)


def _time(microseconds: float) -> str:
    for unit, size in (("µs", 1.0), ("ms", 1e3)):
        if microseconds < 1e3 * size:
            return f"{number(microseconds / size)} {unit}"
    return f"{number(microseconds / 1e6)} s"


def _bytes(n: int | None, whole: int | None = None) -> str:
    if n is None:
        return NOTHING
    return f"{count(n)} bytes" + (f" ({_percent(n / whole)})" if whole else "")


def _of(n: int | None, whole: int | None) -> str:
    if n is None or not whole:
        return count(n)
    return f"{count(n)} ({_percent(n / whole)})"


def _data(data: dict[str, Any]) -> list[Fact]:
    facts = [
        Fact("Model", read.words(data.get("source"))),
        Fact("Class", read.words(data.get("model")), code=True),
        Fact("Parameters", count(read.whole(data.get("n_parameters")))),
        Fact("Type of its numbers", read.words(data.get("dtype"))),
    ]
    given = read.mapping(data.get("calibration"))
    if not given:
        return [*facts, Fact("Calibration", "none: chosen by the weights alone")]
    facts += [
        Fact("Calibration", read.words(given.get("source"))),
        Fact("SHA-256 of it", read.words(given.get("sha256")), code=True),
        Fact("Samples", count(read.whole(given.get("samples")))),
        Fact("Given to the model", read.words(given.get("arguments"))),
    ]
    tokens = read.whole(given.get("tokens"))
    if tokens is not None:
        each = read.whole(given.get("tokens_each"))
        facts.append(Fact("Tokens", f"{count(tokens)}, {count(each)} in each sample"))
    return facts


def _run(record: RunRecord) -> list[Fact]:
    results, settings = read.mapping(record.results), read.mapping(record.settings)
    norms = len(read.items(results.get("recalibrated")))
    facts = [
        Fact("Method that ran", read.words(results.get("method"))),
        Fact("Structure", read.words(results.get("structure"))),
        Fact("Budget of layers", read.words(results.get("allocation"))),
        Fact(
            "Batch norms estimated again",
            count(norms) if norms else "none",
        ),
        Fact("Time taken", duration(read.number(results.get("seconds")))),
        Fact("Finished", moment(record.created)),
    ]
    for key, label in _SETTINGS.items():
        value = settings.get(key)
        if value is None or value == []:
            continue
        shown = str(value) if key == "seed" else read.words(value)
        facts.append(Fact(label, shown))
    return facts


def _text(value: Any, otherwise: str) -> str:
    found = "" if value is None else str(value)
    return found if found.strip() else otherwise


def _percent(share: float) -> str:
    """Return a share to two places: what was asked for is met exactly."""
    return f"{fixed(100 * share, 2)}%"
