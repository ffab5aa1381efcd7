"""The page of a benchmark renders for every record, and says what was measured."""
# ruff: noqa: RUF001 (the report writes true minus signs, dashes and crosses)

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.benches import BENCHES, hostile, transformer
from tests.report.examples import SCRIPT
from tests.report.test_report import Page, anything, check, loose, names, numbers
from vitalfew.records import RunRecord
from vitalfew.report import render

BAR = re.compile(r'<rect class="fill" x="0" y="1" width="([\d.]+)"')


@pytest.mark.parametrize("name", BENCHES)
def test_every_record_renders(name):
    record = BENCHES[name]()
    html = render(record)
    check(html)
    assert "http://" not in html
    assert "https://" not in html
    assert render(RunRecord.from_json(record.to_json())) == html
    assert all(0 <= float(width) <= 100 for width in BAR.findall(html))


def test_the_answer_comes_first():
    html = render(transformer())
    text = check(html).text
    assert "bert-pruned: 21.0 ms a call of 1 example by vitalfew" in text
    assert (
        "On 16 examples, vitalfew is 2.14 times as fast as the quickest dense engine "
        "and 2.86 times as fast as torch." in text
    )
    headings = [t for tag, t in Page(html).texts if tag == "h2"]
    assert headings == ["Engines", "Layers", "Model", "Machine", "Run"]


def test_the_facts_are_stated():
    text = check(render(transformer())).text
    for said in (
        "Engines on input_ids (int64 16 x 128)",
        "onnxruntime Onnx is not installed: pip install 'vitalfew[bench]'.",
        "3,072 × 768, zeros in 16x1",
        "Left to torch: 25 layer_norm, 48 view.",
        "a call took 60,000 µs in torch and 21,000 µs compiled",
        "Compiled by parts: no graph.",
        "17,000,000 (20.00%)",
        "Processor AMD EPYC",
        "Rounds measured 20, 20",
        "The weights are stored as bfloat16.",
        "openvino 2026.4",
        "20 November 2026, 07:14 UTC",
    ):
        assert said in text, said


def test_bars_are_latencies_on_one_scale():
    record = transformer()
    run = record.results["runs"][0] | {"explanations": {}}
    html = render(replace(record, results={"runs": [run]}))
    latencies = [e["latency"] for e in run["engines"]]
    wanted = [100 * t / max(latencies) for t in latencies]
    assert [float(w) for w in BAR.findall(html)] == pytest.approx(wanted, abs=0.06)


def test_our_own_engines_are_marked():
    html = render(transformer())
    marked = re.findall(r'<tr class="mark">\s*<th scope="row"><bdi>(.*?)</bdi>', html)
    assert marked == ["vitalfew", "vitalfew"]


def test_without_others_no_ratio_is_claimed():
    text = check(render(BENCHES["bench_compiled"]())).text
    assert "times as fast as the" not in text.replace(
        "how many times as fast as torch, and as the quickest", ""
    )
    assert "Not measured" not in text


def test_long_tables_are_folded_and_cut():
    text = check(render(BENCHES["bench_many_layers"]())).text
    assert "The next 940 layers" in text
    assert "200 more are in the run's record" in text


def test_names_are_escaped():
    html = render(hostile())
    page = check(html)
    assert SCRIPT not in html
    assert "onerror=alert(1)>" not in html
    assert "{{ 7 * 7 }}" in page.text
    assert "\x00" not in html


engines = loose(
    engine=names,
    precision=names,
    dense=st.one_of(st.booleans(), names),
    latency=numbers,
    median=numbers,
    cpu=numbers,
    throughput=numbers,
    difference=numbers,
    over_torch=numbers,
    over_dense=numbers,
)
layers = loose(
    name=names,
    shape=st.lists(numbers, max_size=3),
    pattern=names,
    density=numbers,
    kernel=names,
    before=numbers,
    after=numbers,
)
explanations = loose(
    layers=st.lists(layers, max_size=3),
    operators=st.dictionaries(names, numbers, max_size=2),
    segments=numbers,
    before=numbers,
    after=numbers,
    reason=names,
)
runs = loose(
    inputs=st.dictionaries(names, names, max_size=2),
    batch=numbers,
    rounds=numbers,
    engines=st.lists(engines, max_size=3),
    missing=st.dictionaries(names, names, max_size=2),
    explanations=st.dictionaries(names, explanations, max_size=2),
)
results = loose(runs=st.lists(runs, max_size=2))
data = loose(
    source=names,
    model=names,
    n_parameters=numbers,
    n_weights=numbers,
    n_nonzero=numbers,
    machine=loose(processor=names, cores=numbers),
    notes=st.lists(names, max_size=2),
)


@given(results=results, data=data, settings=anything, created=names)
def test_any_record_renders(results, data, settings, created):
    record = replace(
        transformer(),
        created=created,
        settings=settings if isinstance(settings, dict) else {},
        data=data if isinstance(data, dict) else {},
        results=results if isinstance(results, dict) else {},
    )
    html = render(record)
    assert SCRIPT not in html
    page = Page(html)
    assert "script" not in [tag for tag, _ in page.tags]
