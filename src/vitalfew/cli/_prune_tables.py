"""What pruning left of each layer, for people."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitalfew.cli._printable import LONGEST, printable
from vitalfew.records import RunRecord

LONGEST_NAME = 120


def print_tables(record: RunRecord) -> None:
    """Print the layers, the totals and the size of the file on stdout.

    Parameters
    ----------
    record : RunRecord
        Of ``vitalfew prune``.
    """
    console, results = Console(), record.results
    console.print(_layers(results))
    before, after = results["bytes_before"], results["bytes_after"]
    console.print(_text(_counted(results)))
    share = f" ({after / before:.1%})" if before else ""
    console.print(
        _text(f"file of weights: {before:,} bytes before, {after:,} after{share}")
    )
    if results["latency"]:
        console.print(_text(_latency(results["latency"])))
    for line in _not_pruned(results["not_pruned"], after):
        console.print(_text(line))


def _layers(results: dict[str, Any]) -> Table:
    atoms = results["atoms"]
    table = Table()
    table.add_column("layer", overflow="fold")
    for title in ("shape", f"{atoms} kept", "sparsity", "error"):
        table.add_column(title, justify="right", no_wrap=True)
    for layer in results["layers"]:
        rows, cols = layer["shape"]
        table.add_row(
            _text(layer["name"], LONGEST_NAME),
            f"{rows} x {cols}",
            f"{layer['kept']:,} of {layer['n_atoms']:,}",
            _percent(1 - layer["density"]),
            "-" if layer["error"] is None else f"{layer['error']:.3g}",
        )
    table.add_section()
    table.add_row(
        Text("all"),
        "",
        f"{results['kept']:,} of {results['n_atoms']:,}",
        _percent(results["sparsity"]),
        "",
    )
    return table


def _counted(results: dict[str, Any]) -> str:
    layers = len(results["layers"])
    measured = any(layer["error"] is not None for layer in results["layers"])
    errors = "; error: |XW - XV|² / |XW|² of the outputs on the calibration data"
    return (
        f"{results['method']}, allocation {results['allocation']}; sparsity is counted "
        f"over the {results['n_weights']:,} weights of {layers} "
        f"layer{'' if layers == 1 else 's'}{errors if measured else ''}"
    )


def _latency(found: dict[str, Any]) -> str:
    before, after, threads = found["before"], found["after"], found["threads"]
    ratio = f", {before / after:.2f} times as fast" if after else ""
    return (
        f"a sample takes {before:,.0f} µs by torch, {after:,.0f} µs compiled by "
        f"vitalfew.runtime{ratio} ({threads} thread{'' if threads == 1 else 's'})"
    )


def _not_pruned(found: dict[str, int], after: int) -> list[str]:
    """Say why a file is larger than the sparsity promises."""
    kinds = {
        "embeddings": "embeddings",
        "layers": "other layers",
        "others": "biases, norms and the rest",
    }
    parts = [f"{name} ({found[k]:,})" for k, name in kinds.items() if found[k]]
    if not parts:
        return []
    n, size = sum(found[kind] for kind in kinds), found["bytes"]
    return [
        f"stays dense: {n:,} parameters, {size:,} bytes, {size / after:.1%} of the "
        "file after",
        f"not pruned: {', '.join(parts)}",
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _text(text: str, longest: int = LONGEST) -> Text:
    return Text(printable(text, longest))
