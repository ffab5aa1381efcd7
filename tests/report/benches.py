"""Records of benchmarks of every sort that the report must draw."""

import math
from dataclasses import replace
from typing import Any

from tests.report.examples import SCRIPT
from tests.report.examples import hostile as hostile_selection
from vitalfew.records import RunRecord

HOSTILE = [c["name"] for c in hostile_selection().data["columns"]]


def engine(name: str, latency: Any, **changes: Any) -> dict:
    return {
        "engine": name,
        "latency": latency,
        "median": latency,
        "cpu": latency,
        "throughput": 16.0,
        "difference": 1.2e-7,
        "precision": name.split()[1] if " " in name else "float32",
        "dense": not name.startswith("vitalfew"),
        "over_torch": 2.0,
        "over_dense": 1.5,
    } | changes


def layer(name: str, **changes: Any) -> dict:
    return {
        "name": name,
        "shape": [3072, 768],
        "pattern": "16x1",
        "density": 0.2,
        "kernel": "16x1 float32",
        "before": 1200.5,
        "after": 300.25,
    } | changes


def explanation(layers: list[dict], **changes: Any) -> dict:
    return {
        "layers": layers,
        "operators": {"layer_norm": 25, "view": 48},
        "segments": 36,
        "before": 60000.0,
        "after": 21000.0,
        "difference": 2e-7,
        "reason": "",
    } | changes


def transformer() -> RunRecord:
    """A whole run on a transformer, with two sizes."""
    layers = [layer(f"encoder.layer.{i}.output.dense") for i in range(3)]
    layers.append(
        layer("pooler", density=1.0, pattern="none", kernel="torch", after=1200.5)
    )
    runs = [
        {
            "inputs": {"input_ids": f"int64 {batch} x 128"},
            "batch": batch,
            "threads": 1,
            "rounds": 20,
            "interrupted": False,
            "engines": [
                engine("torch", 0.06 * batch, over_torch=1.0, over_dense=0.75),
                engine("torch bfloat16", 0.05 * batch, difference=4.1e-3),
                engine("openvino", 0.045 * batch, over_torch=1.33, over_dense=1.0),
                engine("vitalfew", 0.021 * batch, over_torch=2.857, over_dense=2.143),
            ],
            "missing": {
                "onnxruntime": "onnx is not installed: pip install 'vitalfew[bench]'"
            },
            "explanations": {
                "vitalfew": explanation(layers),
                "vitalfew bfloat16": explanation(layers, reason="no graph"),
            },
        }
        for batch in (1, 16)
    ]
    return RunRecord(
        kind="bench",
        created="2026-11-20T07:14:00+00:00",
        versions={"vitalfew": "0.1.0", "python": "3.11.7", "openvino": "2026.4"},
        settings={
            "model": "/models/bert-pruned",
            "batch": [1, 16],
            "tokens": None,
            "image": None,
            "engine": [],
            "threads": 1,
            "rounds": 20,
            "seed": 0,
        },
        data={
            "source": "bert-pruned",
            "model": "BertForMaskedLM",
            "n_parameters": 110_000_000,
            "n_weights": 85_000_000,
            "n_nonzero": 17_000_000,
            "dtype": "bfloat16",
            "machine": {
                "processor": "AMD EPYC",
                "system": "Linux x86_64",
                "cores": 2,
                "instructions": "avx512_bf16",
            },
            "notes": ["the weights are stored as bfloat16"],
        },
        results={"runs": runs},
    )


def compiled() -> RunRecord:
    """A network that only our engine can run: nothing to compare with."""
    record = transformer()
    none = {"over_torch": None, "over_dense": None, "difference": None}
    run = record.results["runs"][0] | {
        "engines": [engine("vitalfew", 0.021, **none)],
        "missing": {},
    }
    return replace(record, results={"runs": [run]})


def many_layers() -> RunRecord:
    """1200 layers."""
    record = transformer()
    told = explanation([layer(f"blocks.{i}") for i in range(1200)])
    run = record.results["runs"][0] | {"explanations": {"vitalfew": told}}
    return replace(record, results={"runs": [run]})


def hostile() -> RunRecord:
    """Names that would break a page that trusts them."""
    record = transformer()
    told = explanation(
        [layer(name, pattern=name, kernel=name) for name in HOSTILE],
        operators=dict.fromkeys(HOSTILE, SCRIPT),
        reason=SCRIPT,
    )
    run = {
        "inputs": dict.fromkeys(HOSTILE, SCRIPT),
        "engines": [engine(name, 0.1, precision=SCRIPT) for name in HOSTILE],
        "missing": dict.fromkeys(HOSTILE, SCRIPT),
        "explanations": dict.fromkeys(HOSTILE, told),
    }
    return replace(
        record,
        settings=dict.fromkeys(record.settings, SCRIPT),
        data={
            "source": SCRIPT,
            "model": SCRIPT,
            "dtype": SCRIPT,
            "machine": dict.fromkeys(record.data["machine"], SCRIPT),
            "notes": HOSTILE,
        },
        results={"runs": [run]},
    )


def extreme() -> RunRecord:
    """Numbers from the ends of what floats hold, and what is not a number."""
    values = [1e308, -1e308, 5e-324, 0.0, -0.0, math.nan, math.inf, None, 10**400, "x"]
    keys = ("median", "cpu", "throughput", "difference", "over_torch", "over_dense")
    run = {
        "batch": 10**400,
        "engines": [
            engine(f"engine {i}", v, **dict.fromkeys(keys, v))
            for i, v in enumerate(values)
        ],
        "explanations": {
            "vitalfew": explanation(
                [
                    layer(f"{i}", shape=[v, v], density=v, before=v, after=v)
                    for i, v in enumerate(values)
                ],
                segments=math.nan,
                before=10**400,
            )
        },
    }
    return replace(transformer(), results={"runs": [run]})


def empty() -> RunRecord:
    """A record with nothing in it."""
    return RunRecord(kind="bench", created="")


BENCHES = {
    f"bench_{f.__name__}": f
    for f in (transformer, compiled, many_layers, hostile, extreme, empty)
}
