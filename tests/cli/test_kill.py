"""A process killed while it writes leaves whole files or none."""

import os
import signal

import pytest

from tests.report.examples import regression
from vitalfew.records import RunRecord

pytest.importorskip("jinja2")
folder = pytest.importorskip("vitalfew.cli._folder")


def write_and_die(name, count, out):
    """Write in a process that kills itself at a call of the operating system."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        calls, real = [], getattr(os, name)

        def deadly(*args):
            calls.append(args)
            if len(calls) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        setattr(os, name, deadly)
        folder.write(regression(), out, overwrite=True)
    finally:
        os._exit(0)


# Python warns of the threads that other libraries have, which writing does not need
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    ("name", "count"), [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2)]
)
def test_kill_while_writing(tmp_path, name, count, earlier):
    out = tmp_path / "out"
    out.mkdir()
    if earlier:
        for file in ("result.json", "report.html"):
            (out / file).write_text("earlier")
    assert write_and_die(name, count, out) == -signal.SIGKILL
    result, report = out / "result.json", out / "report.html"
    if result.exists() and result.read_text(encoding="utf-8") != "earlier":
        assert RunRecord.from_json(result.read_text(encoding="utf-8")) == regression()
    if report.exists() and report.read_text(encoding="utf-8") != "earlier":
        assert report.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert result.exists() >= earlier
    assert report.exists() >= earlier
