"""The page of a `bench` run: what the template is filled with, in reading order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitalfew.records import RunRecord
from vitalfew.report import _reading as read
from vitalfew.report._effects import Bar
from vitalfew.report._facts import Fact, moment, sentences, versions
from vitalfew.report._numbers import (
    NOTHING,
    aligned,
    clipped,
    count,
    counted,
    fixed,
    number,
)

_SETTINGS = {
    "batch": "Examples of a call",
    "tokens": "Tokens of an example asked for",
    "image": "Images asked for",
    "engine": "Engines asked for",
    "threads": "Threads of each engine",
    "rounds": "Rounds asked for",
    "seed": "Seed of the inputs",
}


@dataclass(frozen=True)
class EngineRow:
    """A line of the table of engines."""

    name: str
    precision: str
    own: bool
    latency: str
    bar: Bar | None
    median: str
    cpu: str
    throughput: str
    over_torch: str
    over_dense: str
    difference: str


@dataclass(frozen=True)
class MissingRow:
    """An engine that was not measured, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class LayerRow:
    """What computes a layer."""

    name: str
    facts: str
    density: str
    density_bar: Bar | None
    kernel: str
    before: str
    after: str
    bar: Bar | None


@dataclass(frozen=True)
class Layers:
    """The layers of a network that was compiled, and what is left of it."""

    title: str
    rows: list[LayerRow]
    summary: str


@dataclass(frozen=True)
class Run:
    """Engines on inputs of one size."""

    title: str
    inputs: str
    rows: list[EngineRow]
    missing: list[MissingRow]


@dataclass(frozen=True)
class BenchPage:
    """What the template is filled with."""

    title: str
    headline: str
    strong: str
    model: str
    sentences: list[str]
    created: str
    created_iso: str
    source: str
    version: str
    runs: list[Run]
    layers: list[Layers]
    data: list[Fact]
    notes: list[str]
    machine: list[Fact]
    run: list[Fact]
    versions: list[Fact]


def page(record: RunRecord) -> BenchPage:
    """Read a record into the page's parts."""
    data, results = read.mapping(record.data), read.mapping(record.results)
    runs = read.mappings(results.get("runs"))
    source = clipped(read.name(data.get("source")), 80)
    said = [_sentence(run) for run in runs]
    strong, headline = _headline(runs)
    return BenchPage(
        title=f"{source}: {strong} {headline}".strip(),
        headline=headline,
        strong=strong,
        model=source,
        sentences=[s for s in said if s],
        created=moment(record.created),
        created_iso=str(record.created),
        source=source,
        version=str(read.mapping(record.versions).get("vitalfew", "")),
        runs=[_run(run) for run in runs],
        layers=[found for run in runs for found in _layers(run)],
        data=_data(data),
        notes=sentences(read.items(data.get("notes"))),
        machine=_machine(read.mapping(data.get("machine"))),
        run=_asked(record),
        versions=versions(record),
    )


# -- headline --------------------------------------------------------------------------


def _headline(runs: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Return what the page is about: a latency, and what it is of."""
    for run in runs:
        engine = _main(run)
        if engine is not None:
            name = clipped(read.name(engine.get("engine")), 40)
            return _ms(engine.get("latency")), f"a call of {_batch(run)} by {name}"
    return "nothing", "was measured"


def _main(run: dict[str, Any]) -> dict[str, Any] | None:
    """Return the engine that a run is about: the first of our own, else the first."""
    engines = read.mappings(run.get("engines"))
    own = [e for e in engines if e.get("dense") is False]
    return next(iter(own or engines), None)


def _sentence(run: dict[str, Any]) -> str:
    """Compare our engine with the others in words."""
    engine = _main(run)
    if engine is None or engine.get("dense") is not False:
        return ""
    name = clipped(read.name(engine.get("engine")), 40)
    ratios = [
        (read.number(engine.get("over_dense")), "the quickest dense engine"),
        (read.number(engine.get("over_torch")), "torch"),
    ]
    said = [f"{number(r, 3)} times as fast as {who}" for r, who in ratios if r]
    if not said:
        return ""
    return f"On {_batch(run)}, {name} is {' and '.join(said)}."


def _batch(run: dict[str, Any]) -> str:
    n = read.whole(run.get("batch"))
    return "some examples" if n is None else counted(n, "example")


def _ms(seconds: Any) -> str:
    return f"{number(_scaled(seconds, 1e3))} ms"


# -- engines ---------------------------------------------------------------------------


def _run(run: dict[str, Any]) -> Run:
    engines = read.mappings(run.get("engines"))
    columns = {
        key: aligned([_scaled(e.get(key), 1e3) for e in engines])
        for key in ("latency", "median", "cpu")
    }
    largest = max((_latency(e) or 0.0 for e in engines), default=0.0)
    given = read.mapping(run.get("inputs"))
    return Run(
        title=f"{_batch(run)[:1].upper()}{_batch(run)[1:]} a call",
        inputs=", ".join(f"{k} ({read.words(v)})" for k, v in given.items()),
        rows=[
            EngineRow(
                name=read.name(e.get("engine")),
                precision=_precision(e),
                own=e.get("dense") is False,
                latency=columns["latency"][i],
                bar=_bar(_latency(e), largest),
                median=columns["median"][i],
                cpu=columns["cpu"][i],
                throughput=number(read.number(e.get("throughput"))),
                over_torch=_ratio(e.get("over_torch")),
                over_dense=_ratio(e.get("over_dense")),
                difference=number(read.number(e.get("difference")), 2),
            )
            for i, e in enumerate(engines)
        ],
        missing=[
            MissingRow(read.name(name), (sentences([why]) or [NOTHING])[0])
            for name, why in read.mapping(run.get("missing")).items()
        ],
    )


def _precision(engine: dict[str, Any]) -> str:
    """Return the precision of an engine whose name does not tell it."""
    found = clipped(read.words(engine.get("precision")), 40)
    return "" if found in read.name(engine.get("engine")) else found


def _latency(engine: dict[str, Any]) -> float | None:
    found = read.number(engine.get("latency"))
    return None if found is None or found < 0 else found


def _scaled(value: Any, factor: float) -> float | None:
    found = read.number(value)
    return None if found is None else read.number(factor * found)


def _ratio(value: Any) -> str:
    found = read.number(value)
    if found is None or not 0.01 <= found < 1e5:
        return number(found)
    return fixed(found, 2)


def _bar(value: float | None, largest: float) -> Bar | None:
    if value is None or not largest or value < 0:
        return None
    return Bar(0.0, round(100 * min(1.0, value / largest), 1), 0.0)


# -- layers ----------------------------------------------------------------------------


def _layers(run: dict[str, Any]) -> list[Layers]:
    found = []
    for engine, told in read.mapping(run.get("explanations")).items():
        told = read.mapping(told)
        rows = read.mappings(told.get("layers"))
        found.append(
            Layers(
                title=f"{clipped(read.name(engine), 40)}, {_batch(run)} a call",
                rows=_layer_rows(rows),
                summary=_summary(told),
            )
        )
    return found


def _layer_rows(layers: Sequence[dict[str, Any]]) -> list[LayerRow]:
    before = [read.number(layer.get("before")) for layer in layers]
    after = [read.number(layer.get("after")) for layer in layers]
    largest = max((t for t in after if t), default=0.0)
    columns = aligned(before), aligned(after)
    rows = []
    for i, layer in enumerate(layers):
        density = _share(layer.get("density"))
        pattern = clipped(read.words(layer.get("pattern")), 40)
        shape = [read.whole(side) for side in read.items(layer.get("shape"))[:4]]
        sides = " × ".join(count(side) for side in shape)  # noqa: RUF001
        zeros = "" if pattern in ("none", NOTHING) else f"zeros in {pattern}"
        rows.append(
            LayerRow(
                name=read.name(layer.get("name")),
                facts=", ".join(f for f in (sides, zeros) if f),
                density=NOTHING if density is None else f"{fixed(100 * density, 1)}%",
                density_bar=_bar(density, 1.0),
                kernel=clipped(read.words(layer.get("kernel")), 40),
                before=columns[0][i],
                after=columns[1][i],
                bar=_bar(after[i], largest),
            )
        )
    return rows


def _share(value: Any) -> float | None:
    found = read.number(value)
    return None if found is None else min(1.0, max(0.0, found))


def _summary(told: dict[str, Any]) -> str:
    """Say what the layers come to, and what is left to torch."""
    left = read.mapping(told.get("operators"))
    names = [f"{read.words(n)} {clipped(str(name), 60)}" for name, n in left.items()]
    more = f" and {count(len(names) - 40)} more" if len(names) > 40 else ""
    times = [number(read.number(told.get(key))) for key in ("before", "after")]
    said = [
        f"when kernels were chosen, a call took {times[0]} µs in torch and {times[1]} "
        "µs compiled",
        f"segments that run in one call: {read.words(told.get('segments'))}",
        f"left to torch: {', '.join(names[:40]) + more or 'nothing'}",
    ]
    if told.get("reason"):
        said.append(f"compiled by parts: {clipped(read.words(told['reason']), 400)}")
    return " ".join(sentences(said))


# -- facts -----------------------------------------------------------------------------


def _data(data: dict[str, Any]) -> list[Fact]:
    n, nonzero = read.whole(data.get("n_weights")), read.whole(data.get("n_nonzero"))
    share = ""
    if n and nonzero is not None and nonzero <= n:
        share = f" ({fixed(100 * nonzero / n, 2)}%)"
    return [
        Fact("Model", read.words(data.get("source"))),
        Fact("Class", read.words(data.get("model")), code=True),
        Fact("Parameters", count(read.whole(data.get("n_parameters")))),
        Fact("Weights of layers with matrices", count(n)),
        Fact("Of these, not zero", count(nonzero) + share),
        Fact("Type of its numbers", read.words(data.get("dtype"))),
    ]


def _machine(machine: dict[str, Any]) -> list[Fact]:
    return [
        Fact("Processor", read.words(machine.get("processor"))),
        Fact("System", read.words(machine.get("system"))),
        Fact("Logical cores", count(read.whole(machine.get("cores")))),
        Fact(
            "Instructions of vitalfew's kernels",
            read.words(machine.get("instructions")),
        ),
    ]


def _asked(record: RunRecord) -> list[Fact]:
    settings = read.mapping(record.settings)
    runs = read.mappings(read.mapping(record.results).get("runs"))
    facts = [
        Fact("Rounds measured", read.words([run.get("rounds") for run in runs])),
        Fact("Finished", moment(record.created)),
    ]
    for key, label in _SETTINGS.items():
        value = settings.get(key)
        if value is None or value == []:
            continue
        facts.append(Fact(label, str(value) if key == "seed" else read.words(value)))
    return facts
