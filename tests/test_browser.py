"""The report in a real browser: opened from disk with the network off, looked at in light, dark and on a phone."""

import contextlib
import itertools
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

import bakeoff
from bakeoff.reporting import refresh_report
from bakeoff.store.files import write_jsonl
from tests.test_report import HOSTILE

pytestmark = pytest.mark.usefixtures("figures")

SCREENSHOTS = Path(__file__).parent.parent / "build/screenshots"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    """Chromium, or a skip where there is none."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine and none could be installed: apt-get install chromium")
    with sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, of few examples."""
    few = {"data.train_limit": 32, "data.validation_limit": 8, "data.test_limit": 10, "protocol.evaluate_every": 2,
           "generation.max_new_tokens": 8, "output": str(tmp_path_factory.mktemp("browser") / "demo")}  # fmt: skip
    return bakeoff.run(Path(bakeoff.__file__).parent / "assets/demo.yaml", few, display="none")


@pytest.fixture(scope="module")
def report(demo):
    """Its page, after all documents and an entry's outputs have become ones that try to be markup."""
    folder = demo.folder
    examples = [json.loads(line) for line in folder.examples_file("test").read_text().splitlines()]
    write_jsonl(folder.examples_file("test"), [{**e, "document": f"{HOSTILE} {e['document']}"} for e in examples])
    run = folder.run(next(r.id for r in folder.runs() if r.entry == "lora"))
    scores = [{"rougeL": {**row.row()["rougeL"], "f": (7 * i % 10) / 10}} for i, row in enumerate(run.predictions())]
    rows = zip(run.predictions(), scores, strict=True)
    hostile = [row.row() | {"output": f"{HOSTILE} {row.output}"} | score for row, score in rows]
    write_jsonl(run.predictions_file, hostile)
    run.write_result(run.result())
    return refresh_report(folder.path)


def predictions(demo, *entries):
    """Yield each entry's, or baseline's, outputs with their scores."""
    for name in entries:
        yield demo.folder.run(next(r.id for r in demo.folder.runs() if r.entry == name)).predictions()


@contextlib.contextmanager
def opened(browser, report, **settings):
    """Yield the page, opened offline; fail on any console message, error, dialog or request but for the file itself."""
    context = browser.new_context(offline=True, **{"viewport": {"width": 1360, "height": 900}, **settings})
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: complaints.append(request.url))
    page.goto(report.as_uri())
    yield page
    context.close()
    assert [c for c in complaints if not c.startswith((report.as_uri(), "blob:"))] == []


def names(page) -> list[str]:
    """Return the first column of the table of results as it stands."""
    return [text.split("\n")[0].strip() for text in page.locator("#results tbody th").all_inner_texts()]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("light", {"color_scheme": "light"}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "has_touch": True}),
    ],
)
def test_it_is_drawn_in_light_dark_and_on_a_phone(browser, report, name, settings):
    with opened(browser, report, **settings) as page:
        boxes = [d.bounding_box() for d in page.locator(".drawing svg").all() if d.is_visible()]
        assert len(boxes) == 1 + 3 + 2 + 5
        assert all(box["width"] > 200 and box["height"] > 60 for box in boxes)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (name != "dark")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"report-{name}.png", full_page=True)


def test_the_table_is_sorted_by_click_and_by_key(browser, report, demo):
    losses = {n: row.metrics["test/loss"].mean for n, row in demo.entries.items()}
    levels = {
        n: row.metrics["test/loss"].mean if "test/loss" in row.metrics else None
        for n, row in demo.document.baselines.items()
    }
    measured = {n: v for n, v in (losses | levels).items() if v is not None}
    with opened(browser, report) as page:
        before = names(page)
        heading = page.get_by_role("columnheader", name="test loss").first
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == "ascending"
        assert names(page)[: len(measured)] == sorted(measured, key=measured.get)
        heading.get_by_role("button").press("Enter")
        assert names(page)[: len(measured)] == sorted(measured, key=measured.get, reverse=True)
        assert set(names(page)) == set(before)
        assert names(page)[-2:] == [n for n in before if n not in measured]  # what was not measured stays last


def test_axes_are_chosen_and_entries_leave_the_figures(browser, report):
    with opened(browser, report) as page:
        shown = page.locator(".axes figure:visible")
        assert shown.get_attribute("data-axes") == "rougeL trainable"
        page.get_by_label("test loss", exact=True).check(force=True)
        page.get_by_label("training time, s", exact=True).press("Space")
        assert shown.get_attribute("data-axes") == "loss train-seconds"
        marks = page.locator("figure:visible :is([fill='var(--entry-2)'], [stroke='var(--entry-2)']):visible")
        panels = page.locator("#loss-curves figure:visible")
        assert (marks.count() > 5, panels.count()) == (True, 3)
        page.get_by_role("checkbox", name="lora").press("Space")
        assert (marks.count(), panels.count()) == (0, 2)
        page.get_by_role("checkbox", name="lora").press("Space")
        assert panels.count() == 3


def test_a_mark_says_what_it_is(browser, report):
    with opened(browser, report) as page:
        mark = page.locator(".axes figure:visible [data-tip^='lora']")
        mark.scroll_into_view_if_needed()
        mark.hover()
        results = json.loads((report.parent / "results.json").read_text())
        score = results["entries"]["lora"]["metrics"]["test/rougeL"]
        assert page.locator(".hint").inner_text().startswith(f"lora: {score['mean']:.3f} (95 %")


def test_outputs_are_sorted_by_disagreement_and_stay_text(browser, report, demo):
    with opened(browser, report) as page:
        page.get_by_label("Compare").select_option(label="lora")
        page.get_by_label("with", exact=True).select_option(label="base")
        gaps = [abs(int(text.split()[0])) for text in page.locator("article:visible .gap").all_inner_texts()]
        first, second = ([row.score("rougeL") for row in rows] for rows in predictions(demo, "lora", "base"))
        points = sorted((abs(100 * (a - b)) for a, b in zip(first, second, strict=True)), reverse=True)
        assert gaps == [pytest.approx(gap, abs=0.51) for gap in points[:8]]
        page.get_by_role("button", name="Show 2 more of 2").click()
        assert page.locator("article:visible").count() == 10
        article = page.locator("article:visible").first
        assert HOSTILE in article.locator(".document p").inner_text()
        shown = article.locator("li:visible")
        assert [text.split()[0] for text in shown.locator("h4").all_inner_texts()] == ["lora", "base"]
        assert HOSTILE in shown.locator("p").first.inner_text()
        assert page.locator("script").count() == 1
        page.get_by_label("all entries").check()
        assert shown.count() == 7


def test_figures_are_downloaded_from_the_page_alone(browser, report, tmp_path):
    alone = shutil.copy(report, tmp_path / "alone.html")
    with opened(browser, Path(alone)) as page:
        page.locator("#costs figure summary").first.click()
        files = {}
        for kind in ("SVG", "CSV"):
            with page.expect_download() as waiting:
                page.locator("#costs figure").first.get_by_role("link", name=kind).click()
            files[waiting.value.suggested_filename] = Path(waiting.value.path()).read_text()
    assert list(files) == ["cost-train-seconds.svg", "cost-train-seconds.csv"]
    drawing, table = files.values()
    assert "var(" not in drawing
    assert ElementTree.fromstring(drawing).tag.endswith("svg")
    assert table == (report.parent / "figures/cost-train-seconds.csv").read_text()


def test_it_reads_without_a_script_and_prints_on_white(browser, report):
    with opened(browser, report, java_script_enabled=False, color_scheme="dark") as page:
        assert page.locator(".axes figure:visible").count() == 1
        assert page.locator("article:visible").count() == 8
        assert page.locator(".compare:visible, #more:visible").count() == 0
        assert page.locator("article:visible").first.locator("li:visible").count() == 7
        page.emulate_media(media="print", color_scheme="dark")
        assert page.locator(".chips:visible, nav:visible").count() == 0
    with opened(browser, report, color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        ink = page.evaluate("getComputedStyle(document.body).color")
        assert ink == "rgb(27, 31, 36)"
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.pdf(path=SCREENSHOTS / "report.pdf")


def test_every_control_and_figure_has_a_name(browser, report):
    with opened(browser, report) as page:
        assert page.get_by_role("img", name=re.compile(r"\w")).count() == 1 + 3 + 2 + 5
        for role in ("checkbox", "radio", "combobox", "button", "link", "region", "columnheader"):
            controls = page.get_by_role(role)
            assert controls.count() == page.get_by_role(role, name=re.compile(r"\w|%")).count() > 0
        headings = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(h => Number(h.tagName[1]))")
        assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
