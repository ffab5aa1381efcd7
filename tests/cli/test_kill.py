"""A process killed while it writes leaves whole files or none."""

import os
import signal
import subprocess
import sys

import pytest

from tests.report.examples import regression
from vitalfew.records import RunRecord

pytest.importorskip("jinja2")

# Kills itself at the n-th call of one function of the operating system.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from vitalfew.cli._folder import write
from vitalfew.records import RunRecord

name, count, record, folder = sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:])
calls, real = [], getattr(os, name)

def deadly(*args):
    calls.append(args)
    if len(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)

setattr(os, name, deadly)
write(RunRecord.from_json(record.read_text(encoding="utf-8")), folder, overwrite=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    ("name", "count"), [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2)]
)
def test_kill_while_writing(tmp_path, name, count, earlier):
    record, out = tmp_path / "record.json", tmp_path / "out"
    record.write_text(regression().to_json(), encoding="utf-8")
    out.mkdir()
    if earlier:
        for file in ("result.json", "report.html"):
            (out / file).write_text("earlier")
    words = [sys.executable, "-c", SCRIPT, name, str(count), str(record), str(out)]
    killed = subprocess.run(words, env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    result, report = out / "result.json", out / "report.html"
    if result.exists() and result.read_text(encoding="utf-8") != "earlier":
        assert RunRecord.from_json(result.read_text(encoding="utf-8")) == regression()
    if report.exists() and report.read_text(encoding="utf-8") != "earlier":
        assert report.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert result.exists() >= earlier
    assert report.exists() >= earlier
