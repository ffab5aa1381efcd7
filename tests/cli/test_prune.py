"""``vitalfew prune`` from the outside: models, files, errors, interruptions."""

import contextlib
import gzip
import html
import json
import re
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("jinja2")
torch = pytest.importorskip("torch")
typer_testing = pytest.importorskip("typer.testing")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("transformers")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from tests.cli.models import write_bert, write_gpt2, write_text  # noqa: E402
from vitalfew import pruning  # noqa: E402
from vitalfew.cli import _progress  # noqa: E402
from vitalfew.cli._app import app  # noqa: E402
from vitalfew.neural import prunable_layers  # noqa: E402
from vitalfew.pruning.files import read  # noqa: E402
from vitalfew.records import RunRecord  # noqa: E402
from vitalfew.structures import NM, Cardinality  # noqa: E402


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
    """Folders of models, and a text; no test may change them."""
    folder = tmp_path_factory.mktemp("models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_bert(folder / "bert")
        write_gpt2(folder / "gpt2")
    write_text(folder / "text.txt")
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def contents(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def pruned(folder, tmp_path, *options):
    """Prune, and return record, model and what was printed, checked for agreement."""
    out = tmp_path / "out"
    result = run("prune", folder, *options, "--out", out, "--overwrite")
    assert result.exit_code == 0, result.output
    record = RunRecord.from_json((out / "result.json").read_text(encoding="utf-8"))
    assert record.kind == "prune"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    model = read(out)
    results = record.results
    names = [layer["name"] for layer in results["layers"]]
    layers = {layer.name: layer for layer in prunable_layers(model, ["*", *names])[0]}
    assert names
    for said in results["layers"]:
        weight = layers[said["name"]].weight
        assert tuple(said["shape"]) == tuple(weight.shape)
        assert said["n_nonzero"] == int(torch.count_nonzero(weight))
        assert said["kept"] <= said["asked"]
    for name in ("asked", "kept", "n_nonzero"):
        assert results[name] == sum(layer[name] for layer in results["layers"])
    written = sum(p.stat().st_size for p in out.glob("*.safetensors"))
    assert results["bytes_after"] == written
    return record, model, result


def fails(*arguments):
    """Message and hint of a run that must fail without a traceback."""
    result = run("prune", *arguments)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    (message,) = [line for line in lines if line.startswith("error: ")]
    assert lines[-1].startswith("hint: ")
    assert "Traceback" not in result.output
    assert not result.stdout
    return message, lines[-1]


# -- answers ---------------------------------------------------------------------------


def test_blocks_of_a_masked_model(models, tmp_path):
    record, model, result = pruned(
        models / "bert",
        tmp_path,
        *("--structure", "blocks:4x1", "--sparsity", "0.8"),
        *("--calibration", models / "text.txt", "--samples", "6", "--method", "obs"),
    )
    results = record.results
    assert results["method"] == "obs"
    n_blocks = sum(x["shape"][0] * x["shape"][1] // 4 for x in results["layers"])
    assert results["n_atoms"] == n_blocks
    assert results["asked"] == results["kept"] == n_blocks // 5
    weights = {layer.name: layer.weight for layer in prunable_layers(model)[0]}
    for layer in results["layers"]:
        weight = weights[layer["name"]]
        blocks = weight.reshape(weight.shape[0] // 4, 4, weight.shape[1])
        assert int((blocks != 0).any(dim=1).sum()) == layer["kept"]
        assert layer["error"] >= 0
        assert layer["n_tokens"] == 6 * 16
        assert layer["macs"] == 16 * weight.numel()
    assert results["bytes_after"] < results["bytes_before"]
    calibration = record.data["calibration"]
    assert calibration["arguments"] == ["input_ids"]
    assert calibration["samples"] == 6
    assert calibration["tokens"] == 96
    assert "cls.predictions.decoder" in results["left"]
    for layer in results["layers"]:
        assert f"{layer['kept']} of {layer['n_atoms']}" in result.stdout
    assert f"{results['bytes_after']:,} after" in result.stdout
    assert "left dense: cls.predictions.decoder" in result.stderr


@pytest.mark.parametrize(
    ("structure", "budget", "kept"),
    [
        ("unstructured", ("--sparsity", "0.9"), 0.1),
        ("unstructured", ("--density", "0.25"), 0.25),
        ("UNSTRUCTURED", ("--sparsity", "0"), 1.0),
        ("blocks:2x2", ("--sparsity", "0.7"), 0.3),
        ("channels", ("--sparsity", "0.5"), 0.5),
        ("channels:in", ("--sparsity", "0.5"), 0.5),
    ],
)
def test_the_budget_is_met(models, tmp_path, structure, budget, kept):
    record, _, _ = pruned(models / "gpt2", tmp_path, "--structure", structure, *budget)
    n = record.results["n_atoms"]
    assert record.results["kept"] == int(kept * n + 1e-9)
    assert record.results["method"] == "magnitude"
    assert record.data["calibration"] is None


@pytest.mark.parametrize("structure", ["2:4", "nm:2:4"])
def test_two_of_four(models, tmp_path, structure):
    record, model, _ = pruned(models / "gpt2", tmp_path, "--structure", structure)
    for layer in prunable_layers(model)[0]:
        if layer.name in {x["name"] for x in record.results["layers"]}:
            assert NM(2, 4).on(layer.shape).contains(layer.weight)
    assert record.results["sparsity"] == 0.5


def test_a_difference_of_decimals_is_exact():
    from vitalfew.cli._prune_options import Asked, density_of

    for tenths in range(10):
        asked = Asked(
            **dict.fromkeys(Asked.__dataclass_fields__, None)
            | {"sparsity": tenths / 10}
        )
        assert density_of(asked) == float(f"{(10 - tenths) / 10}")


def test_labels_come_with_the_text_of_a_causal_model(models, tmp_path):
    record, _, _ = pruned(
        models / "gpt2",
        tmp_path,
        *("--sparsity", "0.5", "--method", "fisher", "--length", "8"),
        *("--calibration", models / "text.txt", "--samples", "3"),
    )
    calibration = record.data["calibration"]
    assert calibration["arguments"] == ["input_ids", "labels"]
    assert calibration["tokens_each"] == 8


def test_a_dense_folder_is_one_for_from_pretrained(models, tmp_path):
    import transformers

    options = ("--sparsity", "0.9", "--dense")
    record, model, _ = pruned(models / "gpt2", tmp_path, *options)
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    for (name, p), (other, q) in zip(
        again.named_parameters(), model.named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(p, q)
    assert record.results["bytes_after"] > record.results["bytes_before"] / 2
    # the tokenizer went along, and the result can be pruned again
    assert read_tokens(tmp_path / "out") == read_tokens(models / "gpt2")


def read_tokens(folder):
    from vitalfew.pruning.files import read_tokenizer

    return read_tokenizer(folder)("the old cat sat")["input_ids"]


def test_what_was_pruned_can_be_pruned_again(models, tmp_path):
    first, _, _ = pruned(models / "gpt2", tmp_path, "--sparsity", "0.5")
    (tmp_path / "out").rename(tmp_path / "half")
    second, _, _ = pruned(tmp_path / "half", tmp_path, "--sparsity", "0.9")
    assert second.results["n_nonzero"] < first.results["n_nonzero"]
    assert second.results["bytes_after"] < second.results["bytes_before"]


def test_a_layer_that_shares_its_weight_with_an_embedding_is_named(models, tmp_path):
    out = tmp_path / "out"
    words = ("--sparsity", "0.5", "--include", "lm_head", "--out", out, "--quiet")
    result = run("prune", models / "gpt2", *words)
    assert result.exit_code == 0, result.stderr
    record = RunRecord.from_json((out / "result.json").read_text())
    assert [layer["name"] for layer in record.results["layers"]] == ["lm_head"]


def test_include_and_exclude(models, tmp_path):
    record, _, _ = pruned(
        models / "bert",
        tmp_path,
        *("--sparsity", "0.5", "--include", "*.query", "--include", "*.key"),
        *("--exclude", "*.1.*"),
    )
    names = [layer["name"].rsplit(".")[-1] for layer in record.results["layers"]]
    assert names == ["query", "key"]


def test_min_blocks_leaves_small_layers(models, tmp_path):
    options = ("--sparsity", "0.5", "--structure", "blocks:16x1", "--min-blocks", "20")
    record, _, _ = pruned(models / "bert", tmp_path, *options)
    assert {tuple(x["shape"]) for x in record.results["layers"]} == {(32, 16), (16, 32)}
    assert "fewer than --min-blocks 20" in str(record.results["left"].values())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bert", ("--exclude", "*.query")),
        ("bert", ("--exclude", "*.query", "--dense")),
        ("bert", ("--structure", "blocks:4x1", "--include", "*dense")),
        ("gpt2", ("--include", "lm_head")),  # and with it the embedding of words
        ("half", ("--include", "*.c_fc")),  # the others have zeros from before
        ("gpt2", ()),
    ],
)
def test_it_says_what_stays_dense(models, tmp_path, name, options):
    folder = models / name
    if name == "half":
        folder = tmp_path / name
        pruned(models / "gpt2", tmp_path, "--sparsity", "0.8")
        (tmp_path / "out").rename(folder)
    record, model, result = pruned(folder, tmp_path, "--sparsity", "0.9", *options)
    weights = {f"{layer['name']}.weight" for layer in record.results["layers"]}
    if "lm_head.weight" in weights:
        weights.add("transformer.wte.weight")
    # what the file holds, tensor by tensor
    held = {}
    (path,) = (tmp_path / "out").glob("*.safetensors")
    with safe_open(path, framework="np") as file:
        for key in file.keys():  # noqa: SIM118
            tensor = key.removesuffix(".bits").removesuffix(".values")
            held[tensor] = held.get(tensor, 0) + file.get_tensor(key).nbytes
    counts = {"embeddings": 0, "other layers": 0, "biases, norms and the rest": 0}
    n_bytes = 0
    for parameter, p in model.named_parameters():
        if parameter in weights:
            continue
        n_bytes += held[parameter]
        kind = "biases, norms and the rest"
        if re.search(r"_embeddings\.weight|\.w[tp]e\.", parameter):
            kind = "embeddings"
        elif p.ndim == 2:
            kind = "other layers"
        counts[kind] += p.numel()
    share = n_bytes / path.stat().st_size
    parts = ", ".join(f"{kind} ({n:,})" for kind, n in counts.items() if n)
    assert (
        f"stays dense: {sum(counts.values()):,} parameters, {n_bytes:,} bytes, "
        f"{share:.1%} of the file after not pruned: {parts}"
    ) in " ".join(result.stdout.split())
    assert record.results["not_pruned"]["bytes"] == n_bytes
    assert (counts["other layers"] > 0) == bool(options)


def test_kinds_of_what_stays_dense():
    from vitalfew.cli._prune_record import _not_pruned

    class Codes(torch.nn.Module):  # as in quantisers: says how many, has no weight
        def __init__(self):
            super().__init__()
            self.num_embeddings = 2
            self.table = torch.nn.Parameter(torch.ones(2, 3))

    model = torch.nn.ModuleDict(
        {
            "words": torch.nn.Embedding(4, 3),
            "codes": Codes(),
            "first": torch.nn.Linear(3, 5),
            "second": torch.nn.Linear(5, 2, bias=False).double(),
        }
    )
    report = pruning.prune(model, Cardinality(density=0.4), exclude="second")
    done = SimpleNamespace(
        model=model,
        report=report,
        counts=pruning.sparsity_report(model, report=report),
        asked=SimpleNamespace(dense=False),
    )
    n_bytes = 4 * (4 * 3 + 2 * 3 + 5) + 8 * 5 * 2
    expected = {"embeddings": 12, "layers": 10, "others": 2 * 3 + 5, "bytes": n_bytes}
    assert _not_pruned(done) == expected


def test_a_model_pruned_as_a_whole_has_no_such_line():
    from vitalfew.cli._prune_tables import _not_pruned

    found = {"embeddings": 0, "layers": 0, "others": 0, "bytes": 0}
    assert _not_pruned(found, 100) == []


def test_reasons_name_options_of_the_command(models, tmp_path):
    record, _, result = pruned(models / "gpt2", tmp_path, "--structure", "2:4")
    why = "its weight is an embedding's too; name it in --include to prune"
    assert record.results["left"]["lm_head"] == why
    assert f"left dense: lm_head: {why}" in result.stderr
    for name in ("recipe.json", "report.html", "result.json"):
        text = html.unescape((tmp_path / "out" / name).read_text(encoding="utf-8"))
        assert "name it in --include to prune" in text
        assert "include=" not in text
    said, _ = fails(models / "gpt2", "--structure", "2:4", "--min-blocks", "9999")
    assert "--min-blocks 9999" in said
    assert "min_blocks" not in said


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ("give calibration=batches, or", "give --calibration FILE, or"),
        ("give calibration= to estimate", "give --calibration to estimate"),
        ("fewer than min_blocks=4; x", "fewer than --min-blocks 4; x"),
        ("method='local-search' takes", "--method 'local-search' takes"),
        ("(allocation='global')", "(--allocation 'global')"),
        ("keep them with exclude='a.b-0'", "keep them with --exclude 'a.b-0'"),
        ("my_include=3 loss=...", "my_include=3 loss=..."),
    ],
)
def test_arguments_become_options(said, own):
    from vitalfew.cli._prune_work import in_own_terms

    assert in_own_terms(said) == own


def test_the_same_command_gives_the_same_model(models, tmp_path):
    options = ("--sparsity", "0.6", "--method", "random", "--quiet")
    found = []
    for seed in ("1", "1", "2"):
        record, model, result = pruned(
            models / "gpt2", tmp_path, *options, "--seed", seed
        )
        assert result.stderr == ""
        found.append(model.state_dict())
        assert record.settings["seed"] == int(seed)
    same = [all(torch.equal(found[0][k], f[k]) for k in found[0]) for f in found]
    assert same == [True, True, False]


def test_json_is_all_that_is_printed(models, tmp_path):
    out = tmp_path / "out"
    words = ("prune", models / "gpt2", "--structure", "2:4", "--out", out, "--json")
    code = "from vitalfew.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    record = RunRecord.from_json(done.stdout)
    assert record == RunRecord.from_json((out / "result.json").read_text("utf-8"))
    assert "Warning" not in done.stderr
    assert "%|" not in done.stderr  # no bars of other libraries


def test_the_default_folder_is_beside_you(models, tmp_path):
    assert run("prune", models / "gpt2", "--structure", "2:4").exit_code == 0
    assert (tmp_path / "here" / "gpt2-pruned" / "report.html").is_file()


# -- latency ---------------------------------------------------------------------------


@pytest.fixture
def compiled(monkeypatch):
    """Stands in for compiling; what it was called with."""
    from vitalfew import runtime

    seen = []

    def compile(model, inputs):
        seen.append(inputs)
        if isinstance(compile.failure, BaseException):
            raise compile.failure
        names = [layer.name for layer in prunable_layers(model)[0]]
        layers = [
            runtime.LayerChoice(name, (16, 16), "16x1", 0.5, "torch", 40.0, 20.0)
            for name in names[1:]
        ]
        found = runtime.Explanation(tuple(layers), {}, 1, 1234.0, 617.0, 0.0)
        return SimpleNamespace(explain=lambda: found)

    compile.failure = None
    monkeypatch.setattr(runtime, "compile", compile)
    compile.seen = seen
    return compile


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_latency_of_a_sample(models, tmp_path, compiled, name):
    options = ("--sparsity", "0.5", "--calibration", models / "text.txt", "--latency")
    record, _, result = pruned(models / name, tmp_path, *options, "--samples", "3")
    (inputs,) = compiled.seen
    assert inputs["input_ids"].shape == (1, 16)
    assert inputs.get("use_cache", name) in (False, "bert")
    assert "labels" not in inputs
    latency = record.results["latency"]
    assert latency == {
        "before": 1234.0,
        "after": 617.0,
        "threads": torch.get_num_threads(),
    }
    first, *others = record.results["layers"]
    assert first["latency"] is None
    times = {"before": 40.0, "after": 20.0, "kernel": "torch"}
    assert all(layer["latency"] == times for layer in others)
    assert all(layer["macs"] for layer in record.results["layers"])
    assert (
        "a sample takes 1,234 µs by torch, 617 µs compiled by vitalfew.runtime, 2.00 "
        "times as fast" in " ".join(result.stdout.split())
    )
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "1.23 ms" in page
    assert record.settings["latency"] is True


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (RuntimeError("no such\noperator"), "RuntimeError: no such"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_model_is_written_without_its_latency(
    models, tmp_path, compiled, failure, said
):
    compiled.failure = failure
    options = ("--sparsity", "0.5", "--calibration", models / "text.txt", "--latency")
    record, _, result = pruned(models / "bert", tmp_path, *options)
    assert record.results["latency"] is None
    assert record.data["notes"][-1] == f"latency was not measured: {said}"
    assert f"note: latency was not measured: {said}" in result.stderr
    assert all(layer["macs"] for layer in record.results["layers"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Nothing on this page is a measurement of speed." in page


# -- calibration -----------------------------------------------------------------------


def arrays(n=10, length=6):
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 20, (n, length)).astype(np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": ids}


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_arrays(models, tmp_path, kind):
    path = tmp_path / f"data.{kind}"
    if kind == "npz":
        np.savez(path, **arrays())
    else:
        save_file({k: torch.tensor(v) for k, v in arrays().items()}, path)
    record, _, _ = pruned(
        models / "bert",
        tmp_path,
        *("--sparsity", "0.5", "--method", "taylor", "--calibration", path),
    )
    calibration = record.data["calibration"]
    assert calibration["samples"] == 10
    assert set(calibration["arguments"]) == set(arrays())
    record, _, _ = pruned(
        models / "bert",
        tmp_path,
        *("--sparsity", "0.5", "--calibration", path, "--samples", "3"),
        *("--include", "*.query", "--method", "wanda"),
    )
    assert record.data["calibration"]["samples"] == 3
    assert record.data["notes"] == ["3 of 10 samples were used"]
    assert record.results["layers"][0]["n_tokens"] == 18


def test_a_gzipped_text_gives_the_same(models, tmp_path):
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress((models / "text.txt").read_bytes()))
    options = ("--sparsity", "0.5", "--method", "wanda", "--samples", "4")
    found = []
    for file in (models / "text.txt", path):
        _, model, _ = pruned(models / "gpt2", tmp_path, *options, "--calibration", file)
        found.append(model.state_dict())
    assert all(torch.equal(v, found[1][k]) for k, v in found[0].items())


def test_sequences_are_spread_and_whole(models):
    from vitalfew.cli._calibration import read_calibration
    from vitalfew.pruning.files import read_tokenizer

    model = read(models / "bert")
    tokenizer = read_tokenizer(models / "bert")
    found = read_calibration(models / "text.txt", model, tokenizer, 5, 10)
    rows = found.arrays["input_ids"]
    assert rows.shape[1] == 10
    assert (rows[:, 0] == 2).all()  # each begins and ends as a sentence of its own
    assert (rows[:, -1] == 3).all()
    steps = np.diff(found.chosen)
    assert len(found.chosen) == 5
    assert steps.max() - steps.min() <= 1
    assert found.chosen[-1] + steps.max() >= len(rows) - 1


def test_a_long_text_is_read_all_over():
    from vitalfew.cli._calibration import _thinned

    text = "".join(f"{i:06d} " for i in range(100_000))
    short = _thinned(text, 7_000, 10)
    assert len(short) < 7_100
    seen = [int(word) for word in short.split() if len(word) == 6]
    counts, _ = np.histogram(seen, bins=10, range=(0, 100_000))
    assert (counts > 50).all()
    assert _thinned("short", 7_000, 10) == "short"


def test_a_short_text_is_one_sequence(models, tmp_path):
    path = write_text(tmp_path / "short.txt", n_words=7)
    record, _, _ = pruned(
        models / "gpt2",
        tmp_path,
        *("--sparsity", "0.5", "--method", "wanda", "--calibration", path),
    )
    assert record.data["calibration"]["tokens"] == 7
    assert "7 tokens only" in record.data["notes"][0]


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"input_ids": None}, "does not suit", "arguments"),
        ({"words": np.ones((10, 6))}, "words", "input_ids, attention_mask"),
        ({"labels": np.zeros((9, 6), np.int64)}, "different numbers", "first axis"),
        ({"input_ids": np.full((10, 6), 20)}, "tokens from 20 to 20", "tokenizer"),
        ({"labels": np.array(3)}, "no samples", "first axis"),
        ({"labels": np.full((10, 6), "a")}, "not numbers", "integers"),
        ({"input_ids": np.zeros((10, 99), np.int64)}, "does not suit", "arguments"),
        ({"attention_mask": np.full((10, 6), np.nan)}, "must be finite", "data"),
    ],
)
def test_arrays_that_do_not_fit(models, tmp_path, change, message, hint):
    data = {k: v for k, v in (arrays() | change).items() if v is not None}
    path = tmp_path / "data.npz"
    np.savez(path, **data)
    said, advice = fails(
        models / "bert",
        *("--sparsity", "0.5", "--calibration", path, "--out", tmp_path / "out"),
    )
    assert message in said
    assert hint in advice
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "no text"),
        ("a.txt", b"\xff\xfe\x00a", "no UTF-8"),
        ("a.txt.gz", b"not gzip", "damaged gzip"),
        ("a.npz", b"nothing", "cannot be read"),
        ("a.npz", b"", "cannot be read"),
        ("a.safetensors", b"\xff" * 20, "cannot be read"),
        ("a.csv", b"a,b\n", "ending"),
    ],
)
def test_damaged_calibration(models, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    said, _ = fails(models / "gpt2", "--sparsity", "0.5", "--calibration", path)
    assert message in said


def test_arrays_that_unpack_to_far_more_than_their_file(models, tmp_path, monkeypatch):
    monkeypatch.setattr("vitalfew.cli._calibration.MOST_BYTES", 100_000)
    np.savez_compressed(tmp_path / "a.npz", input_ids=np.zeros((2000, 50), np.int64))
    words = ("--sparsity", "0.5", "--calibration", tmp_path / "a.npz")
    said, hint = fails(models / "gpt2", *words)
    assert "unpack to" in said
    assert "numpy.savez" in hint


def test_a_label_that_the_model_does_not_know(models, tmp_path):
    data = arrays()
    data["labels"] = data["labels"].copy()
    data["labels"][9, 3] = 20  # not in the batch that is tried first
    np.savez(tmp_path / "a.npz", **data)
    words = ("--sparsity", "0.5", "--calibration", tmp_path / "a.npz")
    said, hint = fails(models / "bert", *words, "--method", "taylor")
    assert "does not suit BertForMaskedLM" in said
    assert "labels" in hint


def test_pickled_arrays_are_not_read(models, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, input_ids=np.array([{"a": 1}], dtype=object))
    said, hint = fails(models / "gpt2", "--sparsity", "0.5", "--calibration", path)
    assert "cannot be read" in said
    assert "unpickled" in hint


def test_a_masked_model_needs_labels_for_gradients(models, tmp_path):
    words = ("--sparsity", "0.5", "--calibration", models / "text.txt")
    said, hint = fails(models / "bert", *words, "--method", "fisher")
    assert "--method fisher needs the loss" in said
    assert "labels" in hint
    said, hint = fails(models / "bert", *words, "--allocation", "dynamic-programme")
    assert "--allocation dynamic-programme needs the loss" in said


def test_a_text_without_a_tokenizer(models, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_gpt2(tmp_path / "bare", tokenizer=False)
    said, hint = fails(
        tmp_path / "bare", "--sparsity", "0.5", "--calibration", models / "text.txt"
    )
    assert "no tokenizer" in said
    assert ".npz" in hint


# -- bad input -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ((), "needs one of --sparsity and --density", "--sparsity 0.9"),
        (("--sparsity", "0.5", "--density", "0.5"), "needs one of", "--sparsity"),
        (("--sparsity", "1"), "from 0 to below 1", "--sparsity 0.9"),
        (("--sparsity", "-0.1"), "from 0 to below 1", "--sparsity 0.9"),
        (("--sparsity", "nan"), "from 0 to below 1", "--sparsity 0.9"),
        (("--density", "0"), "above 0", "--density 0.1"),
        (("--density", "1.5"), "above 0", "--density 0.1"),
        (("--structure", "2:4", "--sparsity", "0.5"), "by itself", "leave"),
        (("--structure", "5:4"), "5 of every 4", "2:4"),
        (("--structure", "0:4"), "0 of every 4", "2:4"),
        (("--structure", "blocks:0x4", "--density", "1"), "no rows", "16x1"),
        (("--structure", "blocks:4", "--density", "1"), "no such structure", "blocks:"),
        (("--structure", "2:4", "--method", "wandas"), "none of that", "wanda?"),
        (("--structure", "2:4", "--method", "obs"), "needs data", "--calibration"),
        (("--structure", "2:4", "--method", "movement"), "training", "MovementSums"),
        (("--structure", "2:4", "--allocation", "erc"), "none of that", "erk?"),
        (
            ("--structure", "2:4", "--allocation", "dynamic-programme"),
            "measures losses",
            "--calibration",
        ),
        (
            ("--structure", "2:4", "--include", "nothing"),
            "no module matches",
            "pattern",
        ),
        (("--structure", "2:4", "--min-blocks", "9999"), "no layer", "--min-blocks"),
        (("--structure", "2:4", "--calibration", "nowhere.txt"), "no such file", ""),
        (("--structure", "2:4", "--samples", "0"), "samples", "help"),
        (("--structure", "2:4", "--seed", "-1"), "seed", "help"),
        (("--structure", "2:4", "--latency"), "--latency measures", "--calibration"),
    ],
)
def test_wrong_options(models, tmp_path, options, message, hint):
    said, advice = fails(models / "gpt2", *options)
    assert message in said
    assert hint in advice
    assert list((tmp_path / "here").iterdir()) == []


def test_a_length_that_does_not_suit(models, tmp_path):
    words = ("--structure", "2:4", "--calibration")
    said, _ = fails(models / "gpt2", *words, models / "text.txt", "--length", "17")
    assert "16 tokens at most" in said
    np.savez(tmp_path / "a.npz", **arrays())
    said, _ = fails(models / "gpt2", *words, tmp_path / "a.npz", "--length", "8")
    assert "for texts" in said
    # two tokens are what begins and ends a sequence: there is no room for a word
    said, _ = fails(models / "bert", *words, models / "text.txt", "--length", "2")
    assert "adds 2 tokens" in said


def test_folders_that_hold_no_model(tmp_path, models):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickle").mkdir()
    config = (models / "gpt2" / "config.json").read_text()
    (tmp_path / "pickle" / "config.json").write_text(config)
    (tmp_path / "pickle" / "pytorch_model.bin").write_bytes(b"")
    for name, message in (
        ("nowhere", "not a folder"),
        ("empty", "no folder of a model"),
        ("pickle", "a pickle"),
    ):
        said, hint = fails(tmp_path / name, "--structure", "2:4")
        assert message in said
        assert "MODEL_DIR" in hint


def test_changed_shapes_are_not_stored_dense(models, tmp_path):
    model = read(models / "bert")
    module = model.bert.encoder.layer[0].attention.self
    module.num_attention_heads = 1
    module.attention_head_size = 16
    pruning.save(model, tmp_path / "changed")
    said, hint = fails(tmp_path / "changed", "--structure", "2:4", "--dense")
    assert "shapes of this model were changed" in said
    assert "leave --dense out" in hint


def test_nothing_of_yours_is_replaced(models, tmp_path):
    out = tmp_path / "out"
    words = ("--structure", "2:4", "--out", out)
    out.mkdir()
    (out / "diary.txt").write_text("dear")
    assert "--overwrite" in fails(models / "gpt2", *words)[1]
    assert "another folder" in fails(models / "gpt2", *words, "--overwrite")[1]
    assert [p.name for p in out.iterdir()] == ["diary.txt"]
    for place in (models / "gpt2", models):
        said, _ = fails(
            models / "gpt2", "--structure", "2:4", "--out", place, "--overwrite"
        )
        assert "replace the model itself" in said
    said, _ = fails(
        models / "gpt2", "--structure", "2:4", "--checkpoint", models / "gpt2" / "c"
    )
    assert "--checkpoint" in said


def test_an_earlier_result_is_replaced_when_asked(models, tmp_path):
    pruned(models / "gpt2", tmp_path, "--structure", "2:4", "--dense")
    (tmp_path / "out" / "diary.txt").write_text("dear")
    pruned(models / "gpt2", tmp_path, "--sparsity", "0.9")
    assert (tmp_path / "out" / "diary.txt").read_text() == "dear"
    assert not (tmp_path / "out" / "model.safetensors").exists()
    said, _ = fails(models / "gpt2", "--structure", "2:4", "--out", tmp_path / "out")
    assert "already holds" in said


def test_a_report_that_fails_does_not_cost_the_model(models, tmp_path, monkeypatch):
    import vitalfew.report

    def broken(record):
        raise ValueError("no page today")

    monkeypatch.setattr(vitalfew.report, "render", broken)
    words = ("prune", models / "gpt2", "--structure", "2:4", "--out", tmp_path / "o")
    result = run(*words)
    assert result.exit_code == 2
    assert "no page today" in result.stderr
    assert read(tmp_path / "o") is not None
    assert (tmp_path / "o" / "result.json").is_file()


# -- interruptions ---------------------------------------------------------------------


def test_an_interrupted_run_goes_on(models, tmp_path, monkeypatch):
    calls = []
    real = pruning.methods()["obs"].reconstruct

    def counted(self, *args):
        calls.append(args)
        return real(self, *args)

    monkeypatch.setattr(pruning.methods()["obs"], "reconstruct", counted)
    words = [
        *("prune", models / "bert", "--sparsity", "0.5", "--method", "obs"),
        *("--calibration", models / "text.txt", "--samples", "4"),
    ]
    whole = run(*words, "--out", tmp_path / "whole")
    assert whole.exit_code == 0
    n_layers = len(calls)

    @contextlib.contextmanager
    def impatient(quiet):
        def show(part, done, total):
            if part.startswith("pruning") and done == 6:
                raise KeyboardInterrupt

        yield show

    words += ["--out", tmp_path / "out", "--checkpoint", tmp_path / "kept"]
    with monkeypatch.context() as patch:
        patch.setattr(_progress, "shown", impatient)
        result = run(*words)
    assert result.exit_code == 1
    assert "error: interrupted" in result.stderr
    assert f"goes on after the layers that {tmp_path / 'kept'} holds" in result.stderr
    assert not result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "kept", "whole"]
    calls.clear()
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert len(calls) == n_layers - 5
    assert not (tmp_path / "kept").exists()
    one, other = read(tmp_path / "whole"), read(tmp_path / "out")
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_an_interruption_without_a_checkpoint_says_what_would_help(
    models, tmp_path, monkeypatch
):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning, "prune", stop)
    out = tmp_path / "out"
    result = run("prune", models / "gpt2", "--structure", "2:4", "--out", out)
    assert result.exit_code == 1
    assert "--checkpoint DIR" in result.stderr
    assert not out.exists()


def test_the_checkpoint_of_another_run_is_refused(models, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "run.json").write_text(json.dumps({"weights": "other"}))
    said, hint = fails(
        models / "gpt2",
        *("--structure", "2:4", "--checkpoint", tmp_path / "kept"),
        *("--out", tmp_path / "out"),
    )
    assert "belongs to a run with another" in said
    assert "--checkpoint" in hint


# -- methods ---------------------------------------------------------------------------


def test_methods_lists_all_there_are():
    plain = json.loads(run("methods", "--json").stdout)
    assert [m["name"] for m in plain["methods"]] == sorted(pruning.methods())
    assert [a["name"] for a in plain["allocations"]] == sorted(pruning.allocations())
    data = {m["name"]: m["data"] for m in plain["methods"]}
    assert data["magnitude"] == "no data"
    assert data["wanda"] == data["admm"] == "inputs"
    assert data["fisher"] == "inputs and targets"
    table = run("methods").stdout
    assert all(name in table for name in data)
