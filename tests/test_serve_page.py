"""The server's page in a real browser: outputs side by side as they stream, by mouse and keyboard, light and dark."""

import contextlib

import pytest

from tests.serving import DOCUMENT, Gate, call, served
from tests.test_browser import SCREENSHOTS, browser  # noqa: F401 - a fixture

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def server(shared):
    with served(shared[1].folder.path, rows=8) as running:
        yield running


@contextlib.contextmanager
def opened(browser, server, allowed=(), **settings):  # noqa: F811
    """Yield the page; fail on any message of the console, error, dialog or request to another place."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **settings})
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: None if request.url.startswith(server.url) else complaints.append(request.url))
    page.goto(server.url)
    yield page
    context.close()
    assert [c for c in complaints if not any(part in c for part in ("data:,", *allowed))] == []


def write(page, text=DOCUMENT):
    """Type a document, write it with all entries, and wait for the outputs."""
    for box in page.locator("#chips input").all():
        box.check(force=True)
    page.fill("#document", text)
    page.click("#go")
    page.locator("#told", has_text="done").wait_for()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("light", {"color_scheme": "light"}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "has_touch": True}),
    ],
)
def test_entries_are_written_side_by_side(browser, server, name, settings):  # noqa: F811
    with opened(browser, server, **settings) as page:
        page.wait_for_selector("#chips label")
        assert page.locator("#chips :checked").count() == 2  # the recommended entry and the base
        assert not page.is_visible("#key")
        write(page)
        titles = page.locator("#outputs h2").all_inner_texts()
        assert sorted(titles) == sorted(n for n in server.models if "/" in n)
        for title, text, cost in zip(
            titles, page.locator("#outputs .text").all_inner_texts(), page.locator("#outputs .cost").all_inner_texts(),
            strict=True,
        ):  # fmt: skip
            found = call(server, "POST", "/v1/completions", {"model": title, "prompt": DOCUMENT})[2]
            assert text.removesuffix("\n") == (found["choices"][0]["text"] or "(empty)")
            assert f"{found['usage']['completion_tokens']} token" in cost
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"serve-{name}.png", full_page=True)


def test_texts_stay_text_and_what_is_cut_is_said(browser, server):  # noqa: F811
    with opened(browser, server) as page:
        page.wait_for_selector("#chips label")
        write(page, f"{HOSTILE} {DOCUMENT} " * 10)
        assert "of the document cut" in page.locator("#outputs .cost").first.inner_text()
        assert page.locator("#outputs img").count() == 0


def test_the_keyboard_writes_and_stops(browser, server):  # noqa: F811
    with opened(browser, server) as page, Gate(server.opened.engine):
        page.wait_for_selector("#chips label")
        page.focus("#document")
        page.keyboard.press("Control+Enter")
        page.locator("#told", has_text="Type a document first.").wait_for()
        page.keyboard.type(DOCUMENT)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#outputs .writing")
        assert page.is_disabled("#go")
        page.keyboard.press("Escape")
        page.locator("#told", has_text="Stopped.").wait_for()
        assert all(text.startswith("stopped after") for text in page.locator("#outputs .cost").all_inner_texts())
        for _ in range(4):  # from the document on, by Tab: entries, settings, the button
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.tagName") in ("INPUT", "SUMMARY")


def test_a_refusal_is_shown_where_the_output_would_be(browser, server):  # noqa: F811
    with opened(browser, server, allowed=("400 (Bad Request)",)) as page:
        page.wait_for_selector("#chips label")
        page.fill("#document", DOCUMENT)
        page.click("summary")
        page.fill("#most", "1000")
        page.click("#go")
        page.wait_for_selector("#outputs .bad")
        assert "do not fit after a prompt of" in page.locator("#outputs .bad").first.inner_text()


def test_a_key_is_asked_for(browser, shared, tmp_path):  # noqa: F811
    (tmp_path / "keys").write_text("a key of many letters\n")
    with (
        served(shared[1].folder.path, api_key_file=tmp_path / "keys") as server,
        opened(browser, server, allowed=("401 (Unauthorized)",)) as page,
    ):
        page.wait_for_selector("#key:visible")
        page.fill("#key", "a key of many letters")
        page.keyboard.press("Tab")
        page.wait_for_selector("#chips label")
        write(page)
        assert page.locator("#outputs .bad").count() == 0
