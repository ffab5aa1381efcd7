"""The report in a real browser: quiet, offline, readable on a phone and on a desk."""

import pytest

from tests.report.benches import BENCHES
from tests.report.examples import EXAMPLES, regression
from tests.report.prunings import PRUNINGS, transformer
from vitalfew.report import write_report

RECORDS = EXAMPLES | PRUNINGS | BENCHES
WIDTHS = [400, 1400]
SCHEMES = ["light", "dark"]

# Everything that can be seen and is wider than the page, or outside of it, and not in
# a box that scrolls by itself.
OUTSIDE = """() => [...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll > *') && !e.closest('.skip') && e.checkVisibility())
  .filter(e => { const r = e.getBoundingClientRect();
                 return r.width && (r.right > innerWidth + 1 || r.left < -1); })
  .map(e => e.tagName + ': ' + e.textContent.slice(0, 60))"""

# Contrast of every visible text to what is behind it, as WCAG 2 defines it.
CONTRAST = """() => {
  const rgba = c => { const m = c.match(/[\\d.]+/g).map(Number);
                      return m.length > 3 ? m : [...m, 1]; };
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) {
      const c = rgba(getComputedStyle(e).backgroundColor);
      if (c[3] === 1) return c; }
    return [255, 255, 255, 1]; };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode());) {
    const e = node.parentElement;
    if (!node.data.trim() || !e.checkVisibility()) continue;
    if (['TITLE', 'DESC', 'STYLE'].includes(e.tagName.toUpperCase())) continue;
    const style = getComputedStyle(e);
    const ink = e instanceof SVGElement ? style.fill : style.color;
    const pair = [light(rgba(ink)), light(behind(e))].sort((a, b) => b - a);
    found.push([(pair[0] + 0.05) / (pair[1] + 0.05), node.data.trim().slice(0, 60)]);
  }
  return found; }"""

# The labels of each visible plot: how high their letters are, and where they lie.
LABELS = """() => [...document.querySelectorAll('svg.chart')]
  .filter(s => s.checkVisibility())
  .map(s => { const f = s.getBoundingClientRect();
    const scale = f.width / s.viewBox.baseVal.width;
    return { frame: [f.left, f.top, f.right, f.bottom],
      labels: [...s.querySelectorAll('text')].map(t => {
        const r = t.getBoundingClientRect();
        return { text: t.textContent, box: [r.left, r.top, r.right, r.bottom],
                 size: scale * parseFloat(getComputedStyle(t).fontSize) }; }) }; })"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The reports of all examples."""
    folder = tmp_path_factory.mktemp("reports")
    for name, record in RECORDS.items():
        write_report(record(), folder / f"{name}.html")
    return folder


@pytest.fixture
def visit(browser, folder):
    """Open a report; in the end nothing may have been said or fetched."""
    said, fetched, contexts = [], [], []

    def visit(name, width, scheme):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto((folder / f"{name}.html").as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in fetched)
    assert len([url for url in fetched if url.startswith("file:")]) == len(contexts)


def test_the_browser_is_seen_to_speak(browser):
    """The listeners that the other tests rely on do hear."""
    said, fetched = [], []
    page = browser.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: fetched.append(request.url))
    page.set_content(
        "<script>console.error('hello')</script><img src='http://[::1]:1'>"
    )
    page.close()
    assert "hello" in said
    assert fetched == ["http://[::1]:1/"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", RECORDS)
def test_the_page_never_scrolls_sideways(visit, name, width):
    page = visit(name, width, "light")
    page.wait_for_load_state("networkidle")  # here, so that nothing is fetched later
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "name",
    [
        *("regression", "multiclass", "interrupted", "prune_transformer"),
        *("prune_hostile", "bench_transformer", "bench_hostile"),
    ],
)
def test_all_text_has_contrast(visit, name, scheme, width):
    page = visit(name, width, scheme)
    page.eval_on_selector_all("details", "all => all.forEach(d => d.open = true)")
    found = page.evaluate(CONTRAST)
    assert len(found) > 50
    assert [pair for pair in found if pair[0] < 4.5] == []


def test_light_and_dark_differ(visit):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = visit("regression", 1400, "light").evaluate(paper)
    dark = visit("regression", 1400, "dark").evaluate(paper)
    assert light == "rgb(253, 253, 251)"
    assert dark == "rgb(20, 24, 27)"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["regression", "multiclass", "many_columns"])
def test_labels_of_plots_are_readable(visit, name, width):
    plots = visit(name, width, "light").evaluate(LABELS)
    assert len(plots) == 2
    for plot in plots:
        left, top, right, bottom = plot["frame"]
        labels = plot["labels"]
        for label in labels:
            box = label["box"]
            assert label["size"] >= 12, label
            assert left - 1 <= box[0] < box[2] <= right + 1, label
            assert top - 1 <= box[1] < box[3] <= bottom + 1, label
        for i, one in enumerate(labels):
            for other in labels[i + 1 :]:
                a, b = one["box"], other["box"]
                wide = min(a[2], b[2]) - max(a[0], b[0])
                high = min(a[3], b[3]) - max(a[1], b[1])
                assert wide <= 1 or high <= 3, (one["text"], other["text"])


def test_tables_come_before_plots_and_all_is_there(visit):
    page = visit("regression", 1400, "light")
    assert page.title() == "8 columns to predict progression"
    assert page.locator("h1").inner_text() == (
        "vitalfew chose 8\u00a0of\u00a064\u00a0columns to predict progression"
    )
    tops = "all => all.map(e => e.getBoundingClientRect().top)"
    tables = page.eval_on_selector_all("table:not(details *)", tops)
    plots = page.eval_on_selector_all("svg.chart.wide", tops)
    assert max(tables) < min(plots)


def test_readers_of_the_screen_find_their_way(visit):
    page = visit("regression", 400, "light")
    for landmark in ("banner", "main", "contentinfo", "navigation"):
        assert page.get_by_role(landmark).count() == 1
    table = page.get_by_role("table", name="Chosen columns, their effects")
    assert table.count() == 1  # also where its rows are folded
    assert table.get_by_role("rowheader").count() == len(regression().results["chosen"])
    images = page.get_by_role("img", include_hidden=False)
    assert images.count() == 2
    assert page.get_by_role("img", name="How often each column is chosen").count() == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_masks_are_seen_and_have_names(visit, width):
    page = visit("prune_transformer", width, "dark")
    layers = transformer().results["layers"]
    table = page.get_by_role("table", name="Pruned layers")
    assert table.get_by_role("rowheader").count() == len(layers)
    for layer in layers:
        mask = page.get_by_role("img", name=f"Weights kept in {layer['name']}")
        assert mask.count() == 1
        box = mask.bounding_box()
        assert box["width"] >= 100
        assert box["height"] >= 100


def test_folded_parts_open_without_a_script(visit):
    page = visit("regression", 400, "light")
    behind = page.get_by_text("loss on fitted rows", exact=False)
    assert not behind.first.is_visible()
    page.get_by_text("The numbers, and which").click()
    assert behind.first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_on_paper_it_is_black_on_white(visit):
    page = visit("regression", 700, "dark")
    page.emulate_media(media="print")
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    assert not page.get_by_role("navigation").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
