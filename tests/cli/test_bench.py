"""``vitalfew bench`` from the outside: models, engines, inputs, errors, Ctrl-C."""

import importlib.util
import json
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("jinja2")
torch = pytest.importorskip("torch")
typer_testing = pytest.importorskip("typer.testing")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

from tests.cli.models import write_bert, write_gpt2  # noqa: E402
from vitalfew import pruning, runtime  # noqa: E402
from vitalfew.cli._app import app  # noqa: E402
from vitalfew.pruning.files import read  # noqa: E402
from vitalfew.records import RunRecord  # noqa: E402
from vitalfew.runtime import _bench  # noqa: E402
from vitalfew.structures import Blocks  # noqa: E402

QUICK = ("--rounds", "2", "--tokens", "5")


def run(*arguments):
    return typer_testing.CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Where a result may go that is not told where to."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of models; no test may change them."""
    folder = tmp_path_factory.mktemp("models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_bert(folder / "bert")
        write_gpt2(folder / "gpt2")
        model = read(folder / "gpt2")
        pruning.prune(model, Blocks((4, 1), density=0.25))
        pruning.save(model, folder / "pruned")
        transformers.ResNetForImageClassification(
            transformers.ResNetConfig(
                embedding_size=8,
                hidden_sizes=[8, 16],
                depths=[1, 1],
                layer_type="basic",
            )
        ).save_pretrained(folder / "resnet")
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def contents(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def benched(folder, tmp_path, *options):
    """Measure, and return record and what was printed, checked for agreement."""
    out = tmp_path / "out"
    result = run("bench", folder, *QUICK, *options, "--out", out, "--overwrite")
    assert result.exit_code == 0, result.output
    record = RunRecord.from_json((out / "result.json").read_text(encoding="utf-8"))
    assert record.kind == "bench"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    for found in record.results["runs"]:
        for engine in found["engines"]:
            assert 0 < engine["latency"] <= engine["median"]
            assert engine["throughput"] == found["batch"] / engine["latency"]
            assert f">{engine['engine']}<" in page
            assert engine["engine"].split()[0] in result.stdout
        for engine, why in found["missing"].items():
            assert engine in result.stderr
            assert why in result.stderr
    return record, result


def fails(*arguments):
    """Message and hint of a run that must fail without a traceback."""
    result = run("bench", *arguments)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    (message,) = [line for line in lines if line.startswith("error: ")]
    assert lines[-1].startswith("hint: ")
    assert "Traceback" not in result.output
    assert not result.stdout
    return message, lines[-1]


def stand_in(seconds=1e-3, off=0.0, seen=None):
    """An engine that takes its time and is wrong by as much as told."""

    def build(job):
        if seen is not None:
            seen.append(dict(job.given))
        found = job.model(*job.args, **job.kwargs)
        (logits,) = [x for x in found.values() if torch.is_tensor(x)]
        wrong = logits + off * logits.abs().max()

        def call():
            until = time.process_time() + seconds
            while time.process_time() < until:
                pass
            return [wrong.numpy()]

        return call

    return build


def missing(name):
    def build(job):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    return build


@pytest.fixture
def engines(monkeypatch):
    """Engines that need nothing to be installed and no time to be prepared."""
    found = {
        "torch": _bench.ENGINES["torch"],
        "openvino": stand_in(4e-3, off=0.25),
        "onnxruntime": missing("onnxscript"),
        "vitalfew": stand_in(1e-3),
        "vitalfew int8": stand_in(2e-3),
    }
    monkeypatch.setattr(_bench, "ENGINES", found)
    return found


# -- answers ---------------------------------------------------------------------------


def test_torch_beside_our_own(models, tmp_path):
    record, result = benched(
        models / "pruned",
        tmp_path,
        *("--engine", "torch", "--engine", "vitalfew", "--batch", "1", "--batch", "3"),
    )
    assert [r["batch"] for r in record.results["runs"]] == [1, 3]
    model = read(models / "pruned")
    names = {name for name, _ in model.named_modules()}
    for found in record.results["runs"]:
        by_name = {e["engine"]: e for e in found["engines"]}
        assert list(by_name) == ["torch", "vitalfew"]
        assert by_name["torch"]["difference"] == 0
        assert 0 <= by_name["vitalfew"]["difference"] < 1e-4
        ratio = by_name["torch"]["cpu"] / by_name["vitalfew"]["cpu"]
        assert by_name["vitalfew"]["over_torch"] == ratio
        assert by_name["vitalfew"]["over_dense"] == ratio
        assert found["rounds"] == 2
        assert found["missing"] == {}
        told = found["explanations"]["vitalfew"]
        assert {layer["name"] for layer in told["layers"]} <= names
    inputs = record.results["runs"][1]["inputs"]
    assert inputs == {"input_ids": "int64 3 x 5", "attention_mask": "int64 3 x 5"}
    assert "batch 3" in result.stdout
    counts = pruning.sparsity_report(model)
    assert record.data["n_weights"] == sum(x.n_weights for x in counts.layers)
    assert record.data["n_nonzero"] == sum(x.n_nonzero for x in counts.layers)
    assert record.data["machine"]["cores"] >= 1
    assert {"vitalfew", "torch", "transformers"} <= set(record.versions)


@pytest.mark.parametrize(("threads", "by"), [(1, "cpu"), (2, "latency")])
def test_ratios_are_against_the_quickest_dense_engine(
    models, tmp_path, engines, threads, by
):
    engines["openvino"] = stand_in(2e-4)
    engines["openvino bfloat16"] = stand_in(1e-4)
    engines["torch"] = stand_in(8e-3)
    record, _ = benched(models / "gpt2", tmp_path, "--threads", threads)
    (found,) = record.results["runs"]
    by_name = {e["engine"]: e for e in found["engines"]}
    times = {name: e[by] for name, e in by_name.items()}
    for name, e in by_name.items():
        assert e["over_torch"] == times["torch"] / times[name]
    # an engine of less precision is no rival of one of more
    single = min(times["torch"], times["openvino"])
    assert by_name["vitalfew"]["over_dense"] == single / times["vitalfew"]
    dense = min(single, times["openvino bfloat16"])
    assert by_name["vitalfew int8"]["over_dense"] == dense / times["vitalfew int8"]


def test_differences_and_what_is_not_installed_are_told(models, tmp_path, engines):
    def broken(job):
        raise RuntimeError("no \x1b[96mkernel\x1b[0m\nfor this")

    engines["torch bfloat16"] = broken
    record, _ = benched(models / "bert", tmp_path)
    (found,) = record.results["runs"]
    differences = {e["engine"]: e["difference"] for e in found["engines"]}
    assert differences["openvino"] == pytest.approx(0.25, abs=1e-6)
    assert differences["vitalfew"] == 0
    assert found["missing"] == {
        "onnxruntime": "onnxscript is not installed: pip install 'vitalfew[bench]'",
        "torch bfloat16": "RuntimeError: no kernel for this",
    }
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "RuntimeError: no kernel for this" in page


def test_an_engine_with_fewer_results_is_not_measured(models, tmp_path, engines):
    engines["openvino"] = lambda job: list
    record, _ = benched(models / "bert", tmp_path)
    (found,) = record.results["runs"]
    assert found["missing"]["openvino"] == "it gives 0 results, not 1"


def test_inputs_are_the_same_each_time_and_of_the_model(models, tmp_path, engines):
    seen = []
    engines.clear()
    engines.update(
        {"torch": stand_in(0, seen=seen), "vitalfew": stand_in(0, seen=seen)}
    )
    for seed in (1, 1, 2):
        benched(models / "bert", tmp_path, "--seed", seed)
    ids = [given["input_ids"] for given in seen]
    same = [torch.equal(ids[0], other) for other in ids]
    assert same == [True, True, True, True, False, False]
    every = torch.cat(ids)
    assert every.shape == (6, 5)
    assert int(every.min()) > 0  # 0 is what stands for no word
    assert int(every.max()) < 20
    assert (seen[0]["attention_mask"] == 1).all()


def test_as_many_tokens_as_the_model_takes(models, tmp_path, engines):
    out = tmp_path / "out"
    result = run("bench", models / "gpt2", "--rounds", "1", "--out", out)
    assert result.exit_code == 0, result.output
    record = json.loads((out / "result.json").read_text())
    assert record["results"]["runs"][0]["inputs"]["input_ids"] == "int64 1 x 16"


def test_images(models, tmp_path, engines):
    out = tmp_path / "out"
    words = ("bench", models / "resnet", "--rounds", "1", "--out", out)
    result = run(*words, "--image", "3x32x24", "--batch", "2")
    assert result.exit_code == 0, result.output
    record = json.loads((out / "result.json").read_text())
    inputs = {"pixel_values": "float32 2 x 3 x 32 x 24"}
    assert record["results"]["runs"][0]["inputs"] == inputs


def test_weights_of_half_precision_are_widened(models, tmp_path, engines):
    read(models / "gpt2").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    record, result = benched(tmp_path / "half", tmp_path)
    assert record.data["dtype"] == "bfloat16"
    assert "note: the weights are stored as bfloat16" in result.stderr


def test_json_is_all_that_is_printed(models, tmp_path):
    words = ("bench", models / "gpt2", *QUICK, "--engine", "torch", "--json")
    code = "from vitalfew.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    record = RunRecord.from_json(done.stdout)
    written = tmp_path / "here" / "gpt2-bench" / "result.json"
    assert record == RunRecord.from_json(written.read_text("utf-8"))
    assert "Warning" not in done.stderr
    assert "measuring ..." in done.stderr


def test_quiet_says_nothing_on_the_way(models, tmp_path, engines):
    _, result = benched(models / "gpt2", tmp_path, "--quiet", "--engine", "torch")
    assert result.stderr == ""


# -- compiled networks -----------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(models, tmp_path_factory):
    """A compiled model of transformers, and one of images."""
    folder = tmp_path_factory.mktemp("compiled")
    ids = torch.arange(10).reshape(2, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = read(models / "pruned")
        model.config.use_cache = False
        runtime.compile(model, {"input_ids": ids}).save(folder / "words")
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU()
        ).eval()
        runtime.compile(net, torch.ones(2, 3, 8, 8)).save(folder / "images")
    return folder


def test_a_compiled_network_is_measured_by_itself(compiled, tmp_path):
    record, result = benched(compiled / "words", tmp_path, "--batch", "4")
    (found,) = record.results["runs"]
    (engine,) = found["engines"]
    assert engine["engine"] == "vitalfew"
    assert engine["difference"] is None
    assert engine["over_torch"] is None
    assert found["inputs"] == {"input_ids": "int64 4 x 5"}
    assert found["explanations"]["vitalfew"]["layers"]
    assert "other engines cannot run it" in result.stderr


def test_a_compiled_network_of_images(compiled, tmp_path):
    record, _ = benched(compiled / "images", tmp_path, "--image", "3x6x10")
    (inputs,) = [found["inputs"] for found in record.results["runs"]]
    assert inputs == {"0": "float32 1 x 3 x 6 x 10"}
    said, hint = fails(compiled / "images", "--out", tmp_path / "other")
    assert "size of images" in said
    assert "--image" in hint


def test_a_compiled_network_has_no_other_engines(compiled, tmp_path):
    said, _ = fails(compiled / "words", "--engine", "torch")
    assert "runs in 'vitalfew' alone" in said


def test_random_inputs_are_what_the_network_takes():
    from vitalfew.runtime._inputs import random_inputs

    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(7, 4)
            self.kinds = torch.nn.Embedding(2, 4)
            self.out = torch.nn.Linear(4, 3)

        def forward(self, ids, kinds, mask, more):
            x = self.words(ids[:, None].squeeze(1)) + self.kinds(kinds)
            return self.out(x * mask[..., None] + more)

    example = (
        torch.zeros(2, 6, dtype=torch.long),
        torch.zeros(2, 6, dtype=torch.long),
        torch.ones(2, 6, dtype=torch.long),
        torch.ones(2, 6, 4),
    )
    fast = runtime.compile(Words().eval(), example)
    ids, kinds, mask, more = random_inputs(fast, 50, 9, None, 0)
    assert set(ids.ravel()) == set(range(7))
    assert set(kinds.ravel()) == {0, 1}
    assert (mask == 1).all()
    assert more.shape == (50, 9, 4)
    assert more.dtype == np.float32
    fast(*map(torch.from_numpy, (ids, kinds, mask, more)))


# -- bad input -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--engine", "openvin"), "none of that name", "openvino?"),
        (("--engine", "vitalfew-int4"), "none of that name", "vitalfew-int8"),
        (("--tokens", "17"), "takes 16 at most", "--tokens 16"),
        (("--tokens", "0"), "tokens", "help"),
        (("--image", "3x8x8"), "takes no images", "leave --image out"),
        (("--image", "3x8"), "channels, height and width", "3x224x224"),
        (("--image", "0x8x8"), "channels, height and width", "3x224x224"),
        (("--batch", "0"), "batch", "help"),
        (("--threads", "0"), "threads", "help"),
        (("--rounds", "0"), "rounds", "help"),
        (("--seed", "-1"), "seed", "help"),
    ],
)
def test_wrong_options(models, tmp_path, options, message, hint):
    said, advice = fails(models / "gpt2", *options)
    assert message in said
    assert hint in advice
    assert list((tmp_path / "here").iterdir()) == []


def test_images_have_no_tokens(models):
    said, hint = fails(models / "resnet", "--tokens", "5")
    assert "takes no tokens" in said
    assert "leave --tokens out" in hint


def test_images_that_do_not_suit(models):
    said, hint = fails(models / "resnet", "--image", "5x8x8")
    assert "cannot be called with random inputs" in said
    assert "--image" in hint


def test_folders_that_hold_no_model(tmp_path, compiled):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "compiled.json").write_text("{}")
    for name, message, advice in (
        ("nowhere", "not a folder", "MODEL_DIR"),
        ("empty", "no folder of a model", "MODEL_DIR"),
        ("broken", "holds no compiled network", "compile it again"),
    ):
        said, hint = fails(tmp_path / name)
        assert message in said
        assert advice in hint


def test_when_no_engine_runs(models, engines, tmp_path):
    said, hint = fails(models / "bert", "--engine", "onnxruntime")
    assert "onnxscript is not installed: pip install 'vitalfew[bench]'" in said
    assert "--engine" in hint
    assert list((tmp_path / "here").iterdir()) == []


def test_nothing_of_yours_is_replaced(models, tmp_path, engines):
    out = tmp_path / "out"
    words = (models / "gpt2", *QUICK, "--engine", "torch", "--out")
    assert run("bench", *words, out).exit_code == 0
    before = (out / "result.json").read_bytes()
    assert "--overwrite" in fails(*words, out)[1]
    assert (out / "result.json").read_bytes() == before
    for place in (models / "gpt2", models / "pruned"):
        said, _ = fails(*words, place, "--overwrite")
        assert "holds a model" in said


# -- Ctrl-C ----------------------------------------------------------------------------


def pressing(at, seconds=1e-3):
    """An engine at whose call of that number somebody presses Ctrl-C."""
    calls = []

    def build(job):
        inner = stand_in(seconds)(job)

        def call():
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            return inner()

        return call

    return build


def test_rounds_that_were_complete_are_kept(models, tmp_path, engines):
    # one call when it is prepared, three that tell how long it takes, one a round
    engines["vitalfew"] = pressing(4 + 3, seconds=6e-3)
    record, result = benched(models / "gpt2", tmp_path, "--rounds", "9")
    (found,) = record.results["runs"]
    assert found["interrupted"]
    assert found["rounds"] == 2
    assert "interrupted: 2 of 9 rounds of batch 1" in result.stderr


@pytest.mark.parametrize("at", [1, 4, 5])
def test_nothing_is_kept_before_that(models, tmp_path, engines, at):
    engines["vitalfew"] = pressing(at, seconds=6e-3)
    result = run("bench", models / "gpt2", *QUICK)
    assert result.exit_code == 1
    assert "nothing was written" in result.stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_a_batch_that_was_complete_is_kept(models, tmp_path, engines):
    engines["vitalfew"] = pressing(4 + 2 + 1, seconds=6e-3)
    record, result = benched(models / "gpt2", tmp_path, "--batch", "1", "--batch", "2")
    assert [found["batch"] for found in record.results["runs"]] == [1]
    assert "interrupted before batch 2 was measured" in result.stderr


# -- from Python -----------------------------------------------------------------------


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())


def test_the_report_prints_as_a_table(engines):
    class Named(torch.nn.Module):
        def forward(self, x):
            return {"logits": x + 1}

    report = runtime.bench(Named(), np.ones((4, 3), np.float32), rounds=1)
    assert isinstance(report, runtime.BenchReport)
    assert report.batch == 4
    text = str(report)
    assert "onnxruntime: onnxscript is not installed" in text
    for times in report.times:
        assert f"{1e3 * times.latency:.3f}" in text
    with pytest.raises(KeyError, match="onnxscript"):
        report.of("onnxruntime")
    with pytest.raises(KeyError, match="not asked for"):
        report.of("torch bfloat16")


def test_the_model_and_the_threads_stay_as_they_are(engines):
    model = small().train()
    before = torch.get_num_threads()
    runtime.bench(model, torch.ones(1, 8), engines=["torch"], threads=2, rounds=1)
    assert model.training
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engines": ["abacus"]}, "engines must be some of"),
        ({"threads": 0}, "threads and rounds"),
        ({"rounds": 0}, "threads and rounds"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        runtime.bench(small(), torch.ones(1, 8), **options)


def test_inputs_go_by_name_or_in_order():
    a, b = torch.ones(1), torch.ones(2)
    given = [("a", a), ("b", b)]
    assert _bench._inputs(given, [("b", {"b"}), ("a", {"x", "a"})]) == [b, a]
    assert _bench._inputs(given, [("b", {"b"})]) == [b]  # the other has no effect
    assert _bench._inputs(given, [("p", {"p"}), ("q", {"q"})]) == [a, b]
    pair = [("a", a), ("a", b)]  # of one argument that is a tuple
    assert _bench._inputs(pair, [("a", {"a"}), ("a_1", {"a_1"})]) == [a, b]
    with pytest.raises(ValueError, match="takes 1 inputs of 2"):
        _bench._inputs(given, [("p", {"p"})])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("folder", ["bert", "gpt2", "resnet"])
def test_engines_of_others(models, tmp_path, name, folder):
    needed = ["openvino"] if name == "openvino" else ["onnxruntime", "onnxscript"]
    if any(importlib.util.find_spec(module) is None for module in needed):
        pytest.skip(f"{name} is not installed: pip install 'vitalfew[bench]'")
    out = tmp_path / "out"
    options = ("--rounds", "2", "--batch", "2", "--engine", name, "--out", out)
    sizes = ("--image", "3x32x32") if folder == "resnet" else ("--tokens", "5")
    result = run("bench", models / folder, *sizes, *options)
    assert result.exit_code == 0, result.output
    record = json.loads((out / "result.json").read_text())
    (engine,) = record["results"]["runs"][0]["engines"]
    assert engine["difference"] < 1e-4
