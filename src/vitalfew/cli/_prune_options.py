"""The options of ``vitalfew prune``: what they say, as objects of the library."""

import re
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vitalfew.study._hints import data_error

PATTERNS = "it is unstructured, blocks:ROWSxCOLS, N:M, channels or channels:in"
BLOCKS = re.compile(r"blocks:(\d{1,6})x(\d{1,6})")
RUNS = re.compile(r"(?:nm:)?(\d{1,6}):(\d{1,6})")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the options say."""

    model: Path
    structure: str
    sparsity: float | None
    density: float | None
    calibration: Path | None
    method: str
    allocation: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    min_blocks: int
    samples: int | None
    length: int | None
    seed: int
    checkpoint: Path | None
    dense: bool
    latency: bool = False

    def settings(self) -> dict[str, Any]:
        """Return plain data.

        Returns
        -------
        dict
            Each option with what was given for it.
        """
        found = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}
        return {**found, "include": list(self.include), "exclude": list(self.exclude)}


def structure_of(asked: Asked) -> Any:
    """Return the structure that `--structure` and its budget name.

    Parameters
    ----------
    asked : Asked
        The options.

    Returns
    -------
    Structure
        One of `vitalfew.structures`.

    Raises
    ------
    DataError
        If there is none such, or its budget is missing or given twice.
    """
    from vitalfew.structures import NM, Blocks, Cardinality, Channels

    name = asked.structure.strip().casefold()
    runs, blocks = RUNS.fullmatch(name), BLOCKS.fullmatch(name)
    if runs:
        n, m = int(runs[1]), int(runs[2])
        if not 0 < n <= m:
            raise data_error(
                f"--structure {asked.structure}: {n} of every {m} cannot stay",
                "as in `--structure 2:4`, two of every four",
            )
        if asked.sparsity is not None or asked.density is not None:
            raise data_error(
                f"--structure {asked.structure} says by itself how many weights stay",
                "leave --sparsity and --density out",
            )
        return NM(n, m)
    density = density_of(asked)
    if blocks:
        rows, cols = int(blocks[1]), int(blocks[2])
        if not rows or not cols:
            raise data_error(
                f"--structure {asked.structure}: a block has no rows or no columns",
                "as in `--structure blocks:16x1`",
            )
        return Blocks((rows, cols), density=density)
    if name == "unstructured":
        return Cardinality(density=density)
    if name in ("channels", "channels:out", "channels:in"):
        return Channels(density=density, axis=int(name == "channels:in"))
    raise data_error(
        f"--structure {asked.structure}: there is no such structure", PATTERNS
    )


def density_of(asked: Asked) -> float:
    """Return the fraction to keep, without the rounding of a difference.

    Parameters
    ----------
    asked : Asked
        The options.

    Returns
    -------
    float
        Above 0 and at most 1.

    Raises
    ------
    DataError
        If not just one of `--sparsity` and `--density` is given, or it is no fraction.
    """
    sparsity, density = asked.sparsity, asked.density
    if (sparsity is None) == (density is None):
        raise data_error(
            f"--structure {asked.structure} needs one of --sparsity and --density",
            "as in `--sparsity 0.9`, which removes 90 %",
        )
    if sparsity is not None:
        if not 0 <= sparsity < 1:
            raise data_error(
                f"--sparsity {sparsity:g}: it must be from 0 to below 1",
                "as in `--sparsity 0.9`, which removes 90 %",
            )
        return float(1 - Decimal(repr(sparsity)))
    assert density is not None
    if not 0 < density <= 1:
        raise data_error(
            f"--density {density:g}: it must be above 0 and at most 1",
            "as in `--density 0.1`, which keeps 10 %",
        )
    return density


def method_of(asked: Asked) -> Any:
    """Return the method that `--method` names.

    Parameters
    ----------
    asked : Asked
        The options.

    Returns
    -------
    Criterion, Reconstruction, NetworkMethod or None
        None for auto.

    Raises
    ------
    DataError
        If there is none of that name, or it needs what is not there.
    """
    from vitalfew.pruning import NetworkMethod, methods

    if asked.method.casefold() == "auto":
        return None
    method = _named("--method", asked.method, methods(), "it is auto or one of ")
    if "movement" in method.needs:
        raise data_error(
            f"--method {asked.method} sums the movement of weights while training",
            "use `vitalfew.pruning.MovementSums` and `prune` from Python",
        )
    if asked.calibration is None and (
        method.needs or isinstance(method, NetworkMethod)
    ):
        raise data_error(
            f"--method {asked.method} needs data",
            "give `--calibration FILE`, or use `--method magnitude`",
        )
    return method


def allocation_of(asked: Asked) -> Any:
    """Return the allocation that `--allocation` names.

    Parameters
    ----------
    asked : Asked
        The options.

    Returns
    -------
    Allocation
        How layers share the budget.

    Raises
    ------
    DataError
        If there is none of that name, or it needs data that are not there.
    """
    from vitalfew.pruning import allocations

    found = _named("--allocation", asked.allocation, allocations(), "it is one of ")
    if found.measures and asked.calibration is None:
        raise data_error(
            f"--allocation {asked.allocation} measures losses", "give --calibration"
        )
    return found


def _named(option: str, name: str, known: dict[str, Any], these: str) -> Any:
    if name.casefold() in known:
        return known[name.casefold()]()
    near = get_close_matches(name.casefold(), known, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise data_error(
        f"{option} {name}: there is none of that name",
        f"{these}{', '.join(sorted(known))}{meant}",
    )


def check_folders(asked: Asked, folder: Path, overwrite: bool) -> None:
    """Make sure that the result replaces nothing that it must not.

    Parameters
    ----------
    asked : Asked
        The options.
    folder : Path
        Where the result will go.
    overwrite : bool
        Whether an earlier result may be replaced.

    Raises
    ------
    DataError
        If it would, or there is no folder of a model, or no data for `--latency`.
    """
    if asked.latency and asked.calibration is None:
        raise data_error(
            "--latency measures what a sample of the calibration data takes",
            "give `--calibration FILE` as well",
        )
    if not asked.model.is_dir():
        raise data_error(
            f"{asked.model} is not a folder",
            "MODEL_DIR is a folder that `save_pretrained` or `vitalfew prune` wrote",
        )
    source, result = asked.model.resolve(), folder.resolve()
    if result == source or result in source.parents:
        raise data_error(
            f"--out {folder} would replace the model itself", "use another folder"
        )
    if asked.checkpoint is not None:
        kept = asked.checkpoint.resolve()
        if {result, source} & {kept, *kept.parents}:
            raise data_error(
                f"--checkpoint {asked.checkpoint} lies in the folder of a model",
                "use a folder of its own",
            )
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise data_error(
            f"{folder} already holds files",
            "use `--overwrite` to replace an earlier result, or another folder with "
            "`--out`",
        )
    if not (folder / "recipe.json").is_file():
        raise data_error(
            f"{folder} holds files, and no model that was pruned",
            "use another folder with `--out`",
        )
