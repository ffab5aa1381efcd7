"""The report renders for every record, escapes all of it, and loads nothing."""
# ruff: noqa: RUF001 (the report writes true minus signs and dashes)

import builtins
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.examples import (
    EXAMPLES,
    SCRIPT,
    changed,
    hostile,
    interrupted,
    many_columns,
    multiclass,
    nothing_chosen,
    regression,
)
from vitalfew.exceptions import MissingDependencyError
from vitalfew.records import RunRecord
from vitalfew.report import render, write_report

VOID = {"meta", "link", "br", "img", "input", "hr"}
LOADING = {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}


class Page(HTMLParser):
    """A strict reader: every tag is closed, in order; remembers what it saw."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} repeats an attribute"
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self) -> str:
        """What is read on the page, its spaces made equal."""
        found = " ".join(t for tag, t in self.texts if tag != "style")
        return " ".join(found.split())

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


def check(html: str) -> Page:
    """What holds for every report."""
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", html)
    html.encode("utf-8")
    page = Page(html)
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "img", "iframe", "object", "embed", "form"} & set(tags)
    for name in ("html", "head", "header", "main", "footer", "h1"):
        assert tags.count(name) == 1
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        assert not [a for a in attrs if a.startswith("on")], f"{tag} has a handler"
        for a in LOADING & set(attrs):
            assert attrs[a] == "data:," or attrs[a][1:] in ids, (
                f"{tag} loads {attrs[a]}"
            )
        for label in attrs.get("aria-labelledby", "").split():
            assert label in ids
        if tag == "svg":
            assert attrs.get("role") == "img" or attrs.get("aria-hidden") == "true"
        if tag == "th":
            assert attrs.get("scope") in ("row", "col", "rowgroup")
    assert len(page.named("table")) == len(page.named("caption"))
    style = "".join(text for tag, text in page.texts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"\b(nan|inf|None|undefined)\b", page.text)
    for drawing in re.findall(r"<svg class=\"chart.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(drawing)
        assert not re.search(r"=\"[^\"]*\b(nan|inf)\b", drawing)
    return page


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_record_renders(name):
    check(render(EXAMPLES[name]()))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_record_read_back_gives_the_same_page(name):
    record = EXAMPLES[name]()
    again = RunRecord.from_json(record.to_json())
    assert render(again) == render(record)


def test_the_answer_comes_first():
    text = check(render(regression())).text
    assert "vitalfew chose 8 of 64 columns to predict progression" in text
    assert (
        "Choosing this way gives RMSE 55.7 ± 2.6 on held-out rows, against 60.2 ± 3.6 "
        "with all 64 columns and 77.1 ± 5.3 with no columns; lower is better." in text
    )
    order = ["Chosen columns", "Honest error", "How many columns", "Stability", "Data"]
    page = Page(render(regression()))
    headings = [text for tag, text in page.texts if tag == "h2"]
    assert headings == [*order, "Run", "What was cut short"]


def test_the_facts_are_stated():
    record = regression()
    text = check(render(record)).text
    assert record.data["sha256"] in text
    for said in (
        "demo.csv",
        "440 (2 left out)",
        "The solver's own criterion was met.",
        "Solver that ran GraSP(), then LocalSearch()",
        "Seed 0",
        "13 s",
        "numpy 2.4.6",
        "20 November 2026, 07:14 UTC",
        "2 rows without a target were left out.",
        "Nothing: every part of the run was carried to its end.",
        "Fold by fold, the chosen columns did better than all columns in 5 of 5 "
        "and than no columns in 5 of 5.",
    ):
        assert said in text


def test_near_ties_and_stability_are_shown():
    text = check(render(regression())).text
    assert "s4 correlation 0.66, loss +0.54%" in text
    assert "s3 correlation −0.20, loss +0.58%" in text
    assert "s6² 22%" in text


def test_the_chosen_and_the_lowest_are_marked():
    html = render(regression())
    assert html.count("chosen: 8 columns, 1,479") == 2  # for wide and narrow screens
    assert html.count("lowest: 12 columns, 1,427") == 2


def test_an_information_criterion_is_called_that():
    record = regression()
    text = check(render(replace(record, settings={"criterion": "ebic"}))).text
    assert "The information criterion EBIC for each number of columns" in text
    assert "held-out loss" not in text


def test_levels_and_classes_have_a_table():
    page = check(render(multiclass()))
    for word in ("setosa", "versicolor", "virginica", "east", "length is missing"):
        assert word in page.text
    assert [a["rowspan"] for a in page.named("th") if "rowspan" in a] == ["4", "2"]


def test_an_interrupted_run_says_so_first_and_what_it_lacks():
    text = check(render(interrupted())).text
    assert text.index("This run was interrupted.") < text.index("The columns of the")
    assert text.count("The error on held-out rows was not measured in this run.") == 2
    assert "The stability of the choice was not measured in this run." in text
    assert "The path was stopped at 3 columns." in text
    assert "No resamples." in text


def test_nothing_chosen_is_an_answer():
    text = check(render(nothing_chosen())).text
    assert "vitalfew chose none of 1 column" in text
    assert "No column was chosen: the model predicts the same for every row." in text


def test_a_choice_no_better_than_none_is_called_that():
    errors = [
        {"model": m, "metrics": {"rmse": {"mean": v, "sd": 0.1, "folds": [v]}}}
        for m, v in (("chosen columns", 2.0), ("no columns", 1.9))
    ]
    said = "the chosen columns predict no better than no columns at all"
    assert said in check(render(changed({}, {"errors": errors}))).text
    assert said not in check(render(regression())).text
    higher = {"errors": errors, "metric": {"name": "rmse", "higher_is_better": True}}
    assert said not in check(render(changed({}, higher))).text


def test_long_tables_are_folded_and_cut():
    html = render(many_columns())
    page = check(html)
    assert "The next 940 chosen columns" in page.text
    assert "500 more are in the run's record, result.json." in page.text
    assert "the first 1,000 of 2,000" in page.text
    assert "Left out, as less often chosen: 1,470 chosen columns and 490" in page.text
    assert len(html) < 2_000_000


def test_names_are_escaped():
    html = render(hostile())
    page = check(html)
    assert SCRIPT not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "onerror=alert(1)>" not in html
    assert "{{ 7 * 7 }}" in page.text
    assert "\x00" not in html


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_is_fetched(name):
    html = render(EXAMPLES[name]())
    assert "http://" not in html
    assert "https://" not in html
    assert "default-src 'none'" in html


names = st.one_of(
    st.text(st.characters(codec=None), max_size=30), st.just(SCRIPT), st.just("")
)
numbers = st.one_of(st.floats(), st.none(), st.integers(), st.booleans(), names)
anything = st.recursive(
    st.one_of(numbers, names),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)
    ),
    max_leaves=8,
)


def loose(**keys):
    """Records with these keys, each of which may be missing or anything at all."""
    return st.fixed_dictionaries(
        {}, optional={k: st.one_of(v, anything) for k, v in keys.items()}
    )


effects = loose(**{"name": names, "class": st.one_of(st.none(), names)}, value=numbers)
chosen = loose(
    column=names,
    kind=names,
    effect=numbers,
    effects=st.lists(effects, max_size=4),
    stability=numbers,
    near_ties=st.lists(
        loose(column=names, correlation=numbers, loss_increase=numbers), max_size=7
    ),
)
steps = loose(
    n_columns=st.one_of(st.integers(0, 2**70), numbers),
    cv_mean=numbers,
    cv_se=numbers,
    train_loss=numbers,
    columns=st.lists(names, max_size=9),
)
scores = loose(mean=numbers, sd=numbers, folds=st.lists(numbers, max_size=4))
models = st.sampled_from(["chosen columns", "all columns", "no columns"])
results = loose(
    status=loose(name=names, message=names),
    interrupted=st.booleans(),
    seconds=numbers,
    metric=loose(name=names, higher_is_better=st.booleans()),
    path=st.lists(steps, max_size=5),
    n_chosen=numbers,
    chosen=st.lists(chosen, max_size=4),
    intercept=numbers,
    errors=st.lists(
        loose(model=models, metrics=st.dictionaries(names, scores, max_size=3)),
        max_size=3,
    ),
    runner_up_stability=st.lists(loose(column=names, stability=numbers), max_size=4),
    cut_short=st.lists(names, max_size=2),
    n_resampled=numbers,
)
data = loose(
    source=names,
    sha256=names,
    n_rows=numbers,
    n_rows_used=numbers,
    n_columns=numbers,
    n_features=numbers,
    target=names,
    task=st.sampled_from(["regression", "binary", "multiclass", "count", "survival"]),
    classes=st.lists(names, max_size=3),
    notes=st.lists(names, max_size=2),
    columns=st.lists(
        loose(name=names, kind=names, missing=numbers, levels=numbers), max_size=3
    ),
)


@given(results=results, data=data, settings=anything, created=names)
def test_any_record_renders(results, data, settings, created):
    record = RunRecord(
        kind="select",
        created=created,
        versions={"vitalfew": SCRIPT},
        settings=settings if isinstance(settings, dict) else {},
        data=data if isinstance(data, dict) else {},
        results=results if isinstance(results, dict) else {},
    )
    html = render(record)
    assert SCRIPT not in html
    page = Page(html)
    assert "script" not in [tag for tag, _ in page.tags]
    for drawing in re.findall(r"<svg class=\"chart.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(drawing)


numbered = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "n_columns": st.integers(0, 10**10),
                "cv_mean": numbered,
                "cv_se": numbered,
                "train_loss": numbered,
            }
        ),
        min_size=1,
    )
)
def test_any_path_is_drawn_inside_its_frame(path):
    html = render(changed({}, {"path": path}))
    for drawing in re.findall(r"<svg class=\"chart.*?</svg>", html, re.DOTALL):
        root = ElementTree.fromstring(drawing)
        width, height = (float(v) for v in root.attrib["viewBox"].split()[2:])
        for node in root.iter("circle"):
            assert 0 <= float(node.attrib["cx"]) <= width
            assert 0 <= float(node.attrib["cy"]) <= height
        for node in root.iter("text"):
            assert 0 <= float(node.attrib["x"]) <= width


def test_the_file_is_written_whole(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("before")
    write_report(hostile(), path)
    assert path.read_text("utf-8") == render(hostile())
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(OSError, match="nowhere"):
        write_report(regression(), tmp_path / "nowhere" / "report.html")


def test_other_kinds_are_refused():
    with pytest.raises(
        ValueError, match=r"kind must be one of \['bench', 'prune', 'select'\]"
    ):
        render(RunRecord(kind="dance", created=""))


def test_without_jinja_the_remedy_is_named(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vitalfew\[cli\]'"):
        render(regression())
