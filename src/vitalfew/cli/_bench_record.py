"""What ``vitalfew bench`` writes and tells once engines are measured."""

import os
import platform
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitalfew.cli._bench_work import Measured
from vitalfew.cli._folder import NAMES
from vitalfew.cli._printable import LONGEST, printable
from vitalfew.records import RunRecord

LIBRARIES = ("torch", "transformers", "openvino", "onnxruntime", "onnx", "onnxscript")

LEAST_SHARE = 0.8  # of a core, that one thread has on a quiet machine


def record_of(done: Measured) -> RunRecord:
    """Return what was measured as plain data.

    Parameters
    ----------
    done : Measured
        By ``vitalfew bench``.

    Returns
    -------
    RunRecord
        Of the kind ``"bench"``.
    """
    return RunRecord(
        kind="bench",
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        versions=_versions(),
        settings=done.asked.settings(),
        data={
            "source": done.asked.model.resolve().name,
            "model": "compiled network" if done.compiled else type(done.model).__name__,
            **_counts(done),
            "dtype": done.dtype,
            "machine": _machine(),
            "notes": [*done.notes, *_busy(done)],
        },
        results={
            "runs": [
                {"inputs": inputs, **_run(report)}
                for inputs, report in zip(done.inputs, done.reports, strict=True)
            ]
        },
    )


def _busy(done: Measured) -> list[str]:
    """Warn where a thread waited for others of the machine even at its best."""
    shares = [
        times.cpu / times.latency for report in done.reports for times in report.times
    ]
    if done.asked.threads > 1 or min(shares) > LEAST_SHARE:
        return []
    return [
        f"the machine was busy: an engine had {min(shares):.0%} of a core at best; "
        "ratios are by processor time, which is in the report"
    ]


def _run(report: Any) -> dict[str, Any]:
    return {
        "batch": report.batch,
        "threads": report.threads,
        "rounds": report.rounds,
        "interrupted": report.interrupted,
        "engines": [
            {
                **asdict(times),
                "precision": times.precision,
                "dense": times.dense,
                "over_torch": report.over_torch(times.engine),
                "over_dense": report.over_dense(times.engine),
            }
            for times in report.times
        ],
        "missing": dict(report.missing),
        "explanations": {
            engine: asdict(explanation)
            for engine, explanation in report.explanations.items()
        },
    }


def _counts(done: Measured) -> dict[str, Any]:
    """Count parameters, and of the layers with matrices the weights that are there."""
    if done.compiled:
        layers = done.model.explain().layers
        sizes = [(_product(layer.shape), layer.density) for layer in layers]
        return {
            "n_parameters": None,
            "n_weights": sum(n for n, _ in sizes),
            "n_nonzero": sum(round(n * density) for n, density in sizes),
        }
    from vitalfew.neural import prunable_layers

    weights = [layer.weight for layer in prunable_layers(done.model)[0]]
    return {
        "n_parameters": sum(p.numel() for p in done.model.parameters()),
        "n_weights": sum(w.numel() for w in weights),
        "n_nonzero": sum(int((w != 0).sum()) for w in weights),
    }


def _product(shape: Any) -> int:
    found = 1
    for n in shape:
        found *= n
    return found


def _machine() -> dict[str, Any]:
    from vitalfew._native._blocksparse import levels

    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "instructions": levels()[0],
    }


def _processor() -> str:
    """Return the name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _versions() -> dict[str, str]:
    from vitalfew.study._record import versions

    found = {
        k: v for k, v in versions().items() if k in ("vitalfew", "python", "numpy")
    }
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def print_tables(record: RunRecord) -> None:
    """Print what each engine took, on stdout.

    Parameters
    ----------
    record : RunRecord
        Of ``vitalfew bench``.
    """
    console = Console()
    for run in record.results["runs"]:
        console.print(_table(run))
    given = ", ".join(
        f"{k} {v}" for k, v in record.results["runs"][-1]["inputs"].items()
    )
    console.print(
        _text(
            f"ms: least latency of {run['rounds']} rounds, {run['threads']} "
            f"thread{'' if run['threads'] == 1 else 's'}; random inputs, seed "
            f"{record.settings['seed']}: {given}"
        )
    )
    console.print(
        _text(
            "x torch, x dense: times as fast as torch, and as the quickest dense "
            "engine of the same precision or a higher one, by "
            f"{'processor time' if run['threads'] == 1 else 'latency'}; differs: "
            "largest difference from torch's results over their largest"
        )
    )


def _table(run: dict[str, Any]) -> Table:
    table = Table()
    table.add_column(f"batch {run['batch']}", overflow="fold")
    for title in ("ms", "a second", "x torch", "x dense", "differs"):
        table.add_column(title, justify="right", no_wrap=True)
    for times in run["engines"]:
        table.add_row(
            _text(times["engine"]),
            f"{1e3 * times['latency']:.3f}",
            f"{times['throughput']:,.1f}",
            *(_ratio(times[key]) for key in ("over_torch", "over_dense")),
            "-" if times["difference"] is None else f"{times['difference']:.1e}",
        )
    return table


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _text(text: str) -> Text:
    return Text(printable(text, LONGEST))


def say(record: RunRecord, folder: Path) -> None:
    """Tell on stderr what was not measured and why, and where the result is.

    Parameters
    ----------
    record : RunRecord
        Of the run.
    folder : Path
        Where its result is.
    """
    lines = [f"note: {note}" for note in record.data["notes"]]
    told: dict[str, list[str]] = {}
    for run in record.results["runs"]:
        for engine, why in run["missing"].items():
            if engine not in told.setdefault(why, []):
                told[why].append(engine)
    lines += [f"not measured: {', '.join(names)}: {w}" for w, names in told.items()]
    lines += [f"wrote {folder / name}" for name in NAMES]
    for line in lines:
        typer.echo(printable(line), err=True)
