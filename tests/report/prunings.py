"""Records of prunings of every sort that the report must draw."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from tests.report.examples import SCRIPT
from tests.report.examples import hostile as hostile_selection
from vitalfew.records import RunRecord

HOSTILE = [c["name"] for c in hostile_selection().data["columns"]]


def layer(name: str, rows: int, cols: int, seed: int = 0, **changes: Any) -> dict:
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 101, (min(rows, 64), min(cols, 64))).tolist()
    return {
        "name": name,
        "shape": [rows, cols],
        "method": "admm",
        "n_atoms": rows * cols // 16,
        "asked": rows * cols // 160,
        "kept": rows * cols // 160,
        "n_nonzero": rows * cols // 160 * 16,
        "density": (rows * cols // 160 * 16) / (rows * cols),
        "error": 0.01 * (seed + 1),
        "n_tokens": 4096,
        "notes": [],
        "picture": [" ".join(map(str, row)) for row in cells],
        "macs": 512 * rows * cols,
        "macs_nonzero": 51 * rows * cols,
    } | changes


def transformer() -> RunRecord:
    """A whole run on a transformer of two blocks."""
    layers = [
        layer(f"encoder.layer.{i}.{part}", rows, cols, seed)
        for i in range(2)
        for seed, (part, rows, cols) in enumerate(
            [
                ("attention.query", 128, 128),
                ("attention.output.dense", 128, 128),
                ("intermediate.dense", 512, 128),
                ("output.dense", 128, 512),
            ]
        )
    ]
    layers[0]["notes"] = ["96 tokens for 128 inputs: the damping decides the rest"]
    return RunRecord(
        kind="prune",
        created="2026-11-20T07:14:00+00:00",
        versions={"vitalfew": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        settings={
            "model": "/models/tiny-bert",
            "structure": "blocks:16x1",
            "sparsity": 0.9,
            "density": None,
            "calibration": "text.txt",
            "method": "auto",
            "allocation": "global",
            "include": [],
            "exclude": ["*.pooler.*"],
            "min_blocks": 1,
            "samples": None,
            "length": None,
            "seed": 0,
            "checkpoint": None,
            "dense": False,
        },
        data={
            "source": "tiny-bert",
            "model": "BertModel",
            "n_parameters": 4_400_000,
            "dtype": "float32",
            "calibration": {
                "source": "text.txt",
                "sha256": "2d711642b726b044" * 4,
                "kind": "text",
                "arguments": ["input_ids"],
                "samples": 128,
                "tokens_each": 512,
                "tokens": 65536,
            },
            "notes": [],
        },
        results={
            "method": "admm",
            "structure": "Blocks(size=(16, 1), density=0.1)",
            "allocation": "global",
            "atoms": "blocks",
            **{
                key: sum(found[key] for found in layers)
                for key in ("asked", "kept", "n_atoms", "n_nonzero")
            },
            "n_weights": sum(a["shape"][0] * a["shape"][1] for a in layers),
            "density": 0.1,
            "sparsity": 0.9,
            "layers": layers,
            "left": {
                "embeddings.word_embeddings": "an embedding",
                "pooler.dense": "excluded",
            },
            "recalibrated": [],
            "notes": [],
            "seconds": 12.3,
            "macs": 200_000_000,
            "macs_nonzero": 20_000_000,
            "bytes_before": 17_600_000,
            "bytes_after": 16_100_000,
        },
    )


def changed(results: dict[str, Any], data: dict[str, Any] | None = None) -> RunRecord:
    record = transformer()
    return replace(
        record, results=record.results | results, data=record.data | (data or {})
    )


def by_magnitude() -> RunRecord:
    """No data: no errors of outputs, no multiplications."""
    layers = [layer("0", 40, 784, error=None), layer("2", 10, 40, error=None)]
    for found in layers:  # as lists, as `PruneReport.to_record` has them
        found["picture"] = [[int(v) for v in row.split()] for row in found["picture"]]
    return changed(
        {
            "method": "magnitude",
            "layers": layers,
            "left": {},
            "macs": None,
            "macs_nonzero": None,
        },
        {"calibration": None, "source": "mlp", "notes": ["nothing was given"]},
    )


def with_times() -> RunRecord:
    """Measured, but for one layer that is left to torch."""
    layers = transformer().results["layers"]
    for i, found in enumerate(layers[1:], 1):
        found["latency"] = {"before": 40.0 * i, "after": 12.5, "kernel": "16x1 float32"}
    layers[0]["latency"] = None
    return changed(
        {
            "layers": layers,
            "latency": {"before": 1234.5, "after": 456.0, "threads": 2},
        }
    )


def many_layers() -> RunRecord:
    """300 layers, none of them drawn twice."""
    times = {"before": 3.0, "after": 1.0, "kernel": "torch"}
    layers = [
        layer(f"blocks.{i}.mlp", 64, 64, seed=i % 7, latency=times) for i in range(300)
    ]
    left = {f"embedding.{i}": "an embedding" for i in range(1100)}
    latency = {"before": 3e6, "after": 1e3, "threads": 1}
    return changed({"layers": layers, "left": left, "latency": latency})


def hostile() -> RunRecord:
    """Names that would break a page that trusts them."""
    layers = [
        layer(
            name,
            *(3, 5),
            method=name,
            notes=HOSTILE,
            picture=[name, [name, 7, None]],
            latency={"before": 1.0, "after": 2.0, "kernel": SCRIPT},
        )
        for name in HOSTILE
    ]
    record = changed(
        {
            "method": SCRIPT,
            "structure": SCRIPT,
            "allocation": SCRIPT,
            "atoms": SCRIPT,
            "layers": layers,
            "left": dict.fromkeys(HOSTILE, SCRIPT),
            "notes": HOSTILE,
            "latency": {"before": 1.0, "after": 1.0, "threads": SCRIPT},
        },
        {"source": SCRIPT, "model": SCRIPT, "dtype": SCRIPT, "notes": HOSTILE},
    )
    settings = dict.fromkeys(record.settings, SCRIPT)
    calibration = {"source": SCRIPT, "sha256": SCRIPT, "arguments": HOSTILE}
    return replace(
        record, settings=settings, data=record.data | {"calibration": calibration}
    )


def extreme() -> RunRecord:
    """Numbers from the ends of what floats hold, and what is not a number."""
    values = [1e308, -1e308, 5e-324, 0.0, -0.0, math.nan, math.inf, None, 10**400, "x"]
    layers = [
        layer(
            f"layer {i}",
            *(1, 1),
            density=v,
            error=v,
            kept=v,
            n_atoms=v,
            shape=[v, v],
            picture=[[v] * 70, "1e9 -1 nan 100 \u0663", [v]],
            latency={"before": v, "after": values[-1 - i], "kernel": v},
        )
        for i, v in enumerate(values)
    ]
    return changed(
        {
            "layers": layers,
            "kept": 1e308,
            "n_atoms": 10**400,
            "n_nonzero": 10**300,
            "n_weights": 1,
            "bytes_before": 0,
            "bytes_after": math.inf,
            "macs": -1,
            "seconds": 1e9,
            "latency": {"before": 1e308, "after": 5e-324, "threads": math.nan},
        },
        {"n_parameters": math.nan},
    )


def empty() -> RunRecord:
    """A record with nothing in it."""
    return RunRecord(kind="prune", created="")


PRUNINGS = {
    f"prune_{f.__name__}": f
    for f in (
        *(transformer, by_magnitude, with_times, many_layers),
        *(hostile, extreme, empty),
    )
}
