"""What ``vitalfew prune`` writes and tells once a model is pruned."""

from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from vitalfew.cli._folder import NAMES
from vitalfew.cli._printable import printable
from vitalfew.cli._prune_work import Pruned, in_own_terms
from vitalfew.records import RunRecord
from vitalfew.study._hints import data_error


def written(done: Pruned, folder: Path, overwrite: bool) -> RunRecord:
    """Write model, record and report together, all or nothing.

    Parameters
    ----------
    done : Pruned
        What there is to write.
    folder : Path
        Where to.
    overwrite : bool
        Whether an earlier result may be replaced.

    Returns
    -------
    RunRecord
        What was written as result.json.

    Raises
    ------
    DataError
        If the folder cannot be written to.
    """
    from vitalfew.pruning import save
    from vitalfew.pruning._folder import whole
    from vitalfew.report import render

    plain = _plain(done.report)
    layers = [{k: v for k, v in x.items() if k != "picture"} for x in plain["layers"]]
    failure: Exception | None = None
    try:
        with whole(folder, overwrite) as new:
            save(
                done.model,
                new,
                report={**plain, "layers": layers},
                tokenizer=done.tokenizer,
                dense=done.asked.dense,
            )
            record = _record(done, plain, _bytes(done.asked.model), _bytes(new))
            (new / NAMES[0]).write_text(record.to_json() + "\n", encoding="utf-8")
            try:
                (new / NAMES[1]).write_text(render(record), encoding="utf-8")
            except Exception as error:  # a model is not lost with its report
                failure = error
    except OSError as error:
        raise data_error(
            f"the model cannot be written to {folder}: {error.strerror or error}",
            "free some space, or use another folder with `--out`",
        ) from error
    if failure is not None:
        raise failure
    return record


def _plain(report: Any) -> dict[str, Any]:
    """Return a report as plain data, in the command's terms."""
    plain: dict[str, Any] = report.to_record()
    for part in (plain, *plain["layers"]):
        part["notes"] = [in_own_terms(note) for note in part["notes"]]
    plain["left"] = {name: in_own_terms(why) for name, why in plain["left"].items()}
    return plain


def _bytes(folder: Path) -> int:
    """Size of the files of weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _record(done: Pruned, plain: dict[str, Any], before: int, after: int) -> RunRecord:
    counts, calibration = done.counts, done.calibration
    macs = {layer.name: layer for layer in counts.layers}
    for layer in plain["layers"]:
        # one line of text for each row of a picture, not one for each of its cells
        layer["picture"] = [" ".join(map(str, row)) for row in layer["picture"]]
        layer["macs"] = macs[layer["name"]].macs
        layer["macs_nonzero"] = macs[layer["name"]].macs_nonzero
        layer["latency"] = _latency(macs[layer["name"]])
    return RunRecord(
        kind="prune",
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        versions=_versions(),
        settings=done.asked.settings(),
        data={
            "source": done.asked.model.resolve().name,
            "model": type(done.model).__name__,
            "n_parameters": sum(p.numel() for p in done.model.parameters()),
            "dtype": str(done.model.dtype).removeprefix("torch."),
            "calibration": calibration.facts if calibration else None,
            "notes": [*(calibration.notes if calibration else ()), *done.notes],
        },
        results={
            **plain,
            "sparsity": done.report.sparsity,
            "macs": counts.macs,
            "macs_nonzero": counts.macs_nonzero,
            "latency": _latency(counts),
            "not_pruned": _not_pruned(done),
            "bytes_before": before,
            "bytes_after": after,
        },
    )


def _latency(found: Any) -> dict[str, Any] | None:
    """Return microseconds of a layer or of the network, if they were measured."""
    if found.latency_before is None:
        return None
    plain = {"before": found.latency_before, "after": found.latency_after}
    if hasattr(found, "kernel"):
        return {**plain, "kernel": found.kernel}
    return {**plain, "threads": found.threads}


def _not_pruned(done: Pruned) -> dict[str, int]:
    """Count the parameters outside the pruned layers, and their bytes in the file."""
    from vitalfew.pruning.files import bytes_in_a_file

    modules = dict(done.model.named_modules())
    pruned = {id(modules[layer.name].weight) for layer in done.report.layers}
    layers = {id(modules[layer.name].weight): layer for layer in done.counts.layers}
    # torch's embeddings say how many they hold; others that do may have no weight
    embeddings = {
        id(getattr(module, "weight", None))
        for module in modules.values()
        if hasattr(module, "num_embeddings")
    }
    found = {"embeddings": 0, "layers": 0, "others": 0, "bytes": 0}
    for p in done.model.parameters():
        if id(p) in pruned:
            continue
        size = p.numel() * p.element_size()
        if id(p) in layers:
            kind, packed = "layers", layers[id(p)].bytes_packed
        else:
            kind = "embeddings" if id(p) in embeddings else "others"
            packed = bytes_in_a_file(p.detach().flatten(1)) if p.ndim > 1 else size
        found[kind] += p.numel()
        found["bytes"] += size if done.asked.dense else packed
    return found


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from vitalfew.study._record import versions

    others = ("torch", "transformers", "safetensors")
    found = {k: v for k, v in versions().items() if k in ("vitalfew", "python")}
    return {**found, **{name: version(name) for name in ("numpy", *others)}}


def say(record: RunRecord, folder: Path) -> None:
    """Tell on stderr what was assumed, what stayed dense, and where the result is.

    Parameters
    ----------
    record : RunRecord
        Of the run.
    folder : Path
        Where its result is.
    """
    results = record.results
    lines = [f"note: {note}" for note in [*record.data["notes"], *results["notes"]]]
    reasons: dict[str, list[str]] = {}
    for name, why in results["left"].items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"left dense: {', '.join(names[:3])}{more}: {why}")
    lines += [f"wrote {path}" for path in sorted(folder.glob("*.safetensors"))]
    lines += [f"wrote {folder / name}" for name in NAMES]
    for line in lines:
        typer.echo(printable(line), err=True)
