"""The page of a pruning renders for every record, and its pictures are the masks."""
# ruff: noqa: RUF001 (the report writes true minus signs, dashes and crosses)

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.examples import SCRIPT
from tests.report.prunings import PRUNINGS, changed, hostile, layer, transformer
from tests.report.test_report import Page, anything, check, loose, names, numbers
from vitalfew.records import RunRecord
from vitalfew.report import render

MASK = re.compile(r"<svg class=\"mask\".*?</svg>", re.DOTALL)
RUN = re.compile(r"M(\d+) (\d+)h(\d+)")


@pytest.mark.parametrize("name", PRUNINGS)
def test_every_record_renders(name):
    record = PRUNINGS[name]()
    html = render(record)
    check(html)
    assert "http://" not in html
    assert "https://" not in html
    assert render(RunRecord.from_json(record.to_json())) == html
    for drawing in MASK.findall(html):
        root = ElementTree.fromstring(drawing)
        _, _, width, height = (float(v) for v in root.attrib["viewBox"].split())
        assert 1 <= width <= 64
        assert 1 <= height <= 64
        for path in root.iter("path"):
            assert RUN.sub("", path.attrib["d"]) == ""
            for x, y, run in RUN.findall(path.attrib["d"]):
                assert int(x) + int(run) <= width
                assert int(y) < height


def test_the_answer_comes_first():
    text = check(render(transformer())).text
    results = transformer().results
    assert (
        f"vitalfew kept {results['kept']:,} of {results['n_atoms']:,} blocks of "
        "tiny-bert" in text
    )
    assert "Asked: Blocks(size=(16, 1), density=0.1), at most" in text
    share = 100 * results["n_nonzero"] / results["n_weights"]
    assert f"Achieved: {100 - share:.2f}% of the weights are zero" in text
    rest = 4_400_000 - results["n_weights"]
    assert f"Counted over the {results['n_weights']:,} weights of 8 layers" in text
    assert f"the other {rest:,} parameters" in text
    headings = [t for tag, t in Page(render(transformer())).texts if tag == "h2"]
    assert headings == [
        *("Layers", "Left dense", "Masks", "Size", "Model and data", "Run")
    ]


def test_the_facts_are_stated():
    text = check(render(transformer())).text
    for said in (
        "128 × 128, by admm",
        "96 tokens for 128 inputs: the damping decides the rest.",
        "embeddings.word_embeddings An embedding.",
        "pooler.dense Excluded.",
        "16,100,000 bytes (91.48%)",
        "20,000,000 (10.00%)",
        "65,536, 512 in each sample",
        "Seed 0",
        "Layers excluded *.pooler.*",
        "torch 2.13.0",
        "20 November 2026, 07:14 UTC",
        "Nothing on this page is a measurement of speed.",
    ):
        assert said in text, said


def test_without_data_no_errors_are_claimed():
    page = check(render(PRUNINGS["prune_by_magnitude"]()))
    assert "none: chosen by the weights alone" in page.text
    assert "Multiplications" not in page.text
    assert "Nothing: every layer with a matrix of weights was pruned." in page.text


def painted(drawing):
    """Opacity of each cell of a picture, as a browser would fill it."""
    root = ElementTree.fromstring(drawing)
    _, _, width, height = (int(v) for v in root.attrib["viewBox"].split())
    cells = np.zeros((height, width))
    for path in root.iter("path"):
        for x, y, run in RUN.findall(path.attrib["d"]):
            there = cells[int(y), int(x) : int(x) + int(run)]
            assert (there == 0).all()  # no cell is painted twice
            there[:] = float(path.attrib["stroke-opacity"])
    return cells


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("as_text", [False, True])
def test_pictures_show_the_masks(seed, as_text):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 30, 2)
    grid = rng.choice([0, 1, 12, 13, 50, 99, 100], shape)
    rows = [" ".join(map(str, r)) for r in grid] if as_text else grid.tolist()
    record = changed({"layers": [layer("one", *shape.tolist(), picture=rows)]})
    (drawing,) = MASK.findall(render(record))
    cells = painted(drawing)
    assert cells.shape == grid.shape
    assert ((cells == 0) == (grid == 0)).all()
    assert ((cells == 1) == (grid > 87.5)).all()
    assert (cells >= grid / 100).all()
    assert (cells < grid / 100 + 0.125).all()
    told = f"{(grid == 0).sum()} empty, {(grid == 100).sum()} full"
    assert told in drawing


def test_times_are_stated_where_they_were_measured():
    html = render(PRUNINGS["prune_with_times"]())
    page = check(html)
    for said in (
        "A sample by torch 1.23 ms",
        "Compiled by vitalfew.runtime 456 µs",
        "2.71 times as fast",
        "Threads 2",
    ):
        assert said in page.text, said
    assert "Nothing on this page is a measurement of speed." not in page.text
    assert "Speed" in [t for tag, t in page.texts if tag == "h2"]
    # by the layers that have times: 40, 80, ... 280 and 12.5 of at most 280
    assert page.text.count("16x1 float32") == 7
    assert html.count('width="4.5"') == 7
    assert 'width="14.3"' in html
    without = check(render(transformer()))
    assert "Speed" not in [t for tag, t in without.texts if tag == "h2"]


def test_long_tables_are_folded_and_cut():
    html = render(PRUNINGS["prune_many_layers"]())
    page = check(html)
    assert "The next 240 layers" in page.text
    assert "Times of the next 240 layers" in page.text
    assert "3.00 s" in page.text
    assert "3,000 times as fast" in page.text
    assert "the first 1,000 of 1,100" in page.text
    assert "The next 216 masks" in page.text
    assert "60 more layers are not drawn; result.json has them." in page.text
    assert len(MASK.findall(html)) == 240
    assert len(html) < 9_000_000


def test_names_are_escaped():
    html = render(hostile())
    page = check(html)
    assert SCRIPT not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "onerror=alert(1)>" not in html
    assert "{{ 7 * 7 }}" in page.text
    assert "\x00" not in html


layers = loose(
    name=names,
    shape=st.lists(numbers, max_size=3),
    method=names,
    n_atoms=numbers,
    kept=numbers,
    density=numbers,
    error=numbers,
    notes=st.lists(names, max_size=3),
    latency=loose(before=numbers, after=numbers, kernel=names),
    picture=st.lists(st.one_of(names, st.lists(numbers, max_size=4)), max_size=3),
)
results = loose(
    method=names,
    structure=names,
    allocation=names,
    atoms=names,
    asked=numbers,
    kept=numbers,
    n_atoms=numbers,
    n_weights=numbers,
    n_nonzero=numbers,
    layers=st.lists(layers, max_size=3),
    left=st.dictionaries(names, names, max_size=2),
    recalibrated=st.lists(names, max_size=2),
    notes=st.lists(names, max_size=2),
    seconds=numbers,
    macs=numbers,
    macs_nonzero=numbers,
    latency=loose(before=numbers, after=numbers, threads=numbers),
    bytes_before=numbers,
    bytes_after=numbers,
)
data = loose(
    source=names,
    model=names,
    n_parameters=numbers,
    dtype=names,
    calibration=loose(
        source=names, sha256=names, samples=numbers, arguments=names, tokens=numbers
    ),
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
    for drawing in MASK.findall(html):
        ElementTree.fromstring(drawing)
