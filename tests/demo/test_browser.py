"""The page in a real browser: example, upload, recording, question, play head, filters, and a wrong file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coat_core.corpus.audio import write_flac
from coat_core.demo.app import make_app
from coat_core.demo.items import SavedItems
from coat_core.demo.models import DemoModels
from tests.demo.conftest import LIMITS
from tests.testing.app_server import app_server
from tests.testing.browser import chromium, violations
from tests.testing.chain_runs import HANG_S
from tests.testing.services import needs_browser

pytestmark = needs_browser
EXAMPLE = "test-music-2"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(browser: Any, models: DemoModels, saved: SavedItems) -> Iterator[str]:
    with app_server(make_app(models, saved, LIMITS, host="127.0.0.1")) as address:
        yield address


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page whose scripts have started; an error in a script, or a request to another server, fails the test."""
    from playwright.sync_api import expect

    expect.set_options(timeout=1000 * HANG_S)
    page = browser.new_page(viewport={"width": 1240, "height": 900})
    page.set_default_timeout(1000 * HANG_S)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    # The browser itself writes to the console that a request was refused.
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" and "status of 4" not in line.text else None)
    page.on("request", lambda request: None if request.url.startswith((address, "blob:", "data:")) else problems.append(request.url))
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    yield page
    page.close()
    assert problems == []


def _ask(page: Any) -> None:
    from playwright.sync_api import expect

    page.click("#send")
    expect(page.locator("#status")).to_have_text("done")
    expect(page.locator("#problem")).to_have_text("")
    expect(page.locator(".answer h2")).to_contain_text(["base", "sft", "coat"])
    for card in page.locator(".answer").all():
        expect(card).to_contain_text(re.compile(r"first token\s*\d.*total\s*\d.*tokens\s*\d", re.DOTALL))


def test_an_example_is_asked_and_the_play_head_follows_the_player(page: Any) -> None:
    from playwright.sync_api import expect

    page.select_option("#sample", EXAMPLE)
    expect(page.locator("#question")).to_have_value("What do you hear?")
    expect(page.locator("#choices")).to_have_value("a bell\na horn\na drum\na flute")
    _ask(page)
    expect(page.locator(".answer").first).to_contain_text("verdict")
    expect(page.locator("#plot canvas")).to_have_count(12)
    drawn = (
        "canvas => { const d = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data; return new Set(d).size > 4; }"
    )
    assert all(canvas.evaluate(drawn) for canvas in page.locator("#plot canvas").all())
    head, canvas = page.locator("#plot .head"), page.locator("#plot canvas").first
    width = canvas.bounding_box()["width"]
    canvas.click(position={"x": 0.5 * width, "y": 10})
    assert float(head.get_attribute("data-time")) == pytest.approx(0.4, abs=0.01)
    expect(page.locator("#play-time")).to_have_text("0.40 s")
    assert page.locator("#player").evaluate("player => player.currentTime") == pytest.approx(0.4, abs=0.01)
    assert head.bounding_box()["x"] == pytest.approx(canvas.bounding_box()["x"] + 0.5 * width, abs=2.0)
    page.click("#play")
    expect(head).to_have_attribute("data-time", "0.800")
    expect(page.locator("#play")).to_have_text("Play")


def test_an_upload_is_asked_and_another_clip_clears_its_answers(page: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    write_flac(tmp_path / "my <b>tone.flac", (0.3 * np.sin(np.arange(24_000) / 5)).astype(np.float32))
    page.set_input_files("#file", tmp_path / "my <b>tone.flac")
    expect(page.locator("#clip-name")).to_have_text("my <b>tone.flac")
    expect(page.locator("#player")).to_have_js_property("duration", 1.5)
    page.fill("#question", "What do you hear?")
    _ask(page)
    expect(page.locator("#read-out")).to_be_visible()
    page.select_option("#sample", EXAMPLE)
    expect(page.locator(".answer")).to_have_count(0)
    expect(page.locator("#read-out")).to_be_hidden()


def test_a_recording_is_asked(page: Any) -> None:
    from playwright.sync_api import expect

    page.click("#record")
    # A part of the recording has arrived; how long it is does not matter.
    expect(page.locator("#record")).to_contain_text("Stop ·")
    page.click("#record")
    expect(page.locator("#clip-name")).to_have_text("Recording")
    expect(page.locator("#record")).to_have_text("Record")
    page.fill("#question", "What do you hear?")
    _ask(page)


def test_wrong_files_and_missing_fields_have_clear_messages(page: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    problem = page.locator("#problem")
    page.click("#send")
    expect(problem).to_contain_text("choose an example")
    (tmp_path / "letter.wav").write_text("this is a letter, not a sound " * 9)
    page.set_input_files("#file", tmp_path / "letter.wav")
    page.click("#send")
    expect(problem).to_contain_text("write a question first")
    page.fill("#question", "What do you hear?")
    page.click("#send")
    expect(problem).to_contain_text("the audio file")
    expect(page.locator("#send")).to_be_enabled()
    (tmp_path / "large.wav").write_bytes(b"x" * 900_000)
    page.set_input_files("#file", tmp_path / "large.wav")
    expect(problem).to_contain_text("allowed: 0.7 MB")
    (tmp_path / "empty.wav").write_bytes(b"")
    page.set_input_files("#file", tmp_path / "empty.wav")
    expect(problem).to_contain_text("empty")
    write_flac(tmp_path / "long.flac", (0.3 * np.sin(np.arange(96_000) / 5)).astype(np.float32))
    page.set_input_files("#file", tmp_path / "long.flac")
    page.click("#send")
    expect(problem).to_contain_text("6")
    expect(problem).to_contain_text("the audio file")
    page.select_option("#sample", EXAMPLE)
    expect(problem).to_have_text("")


def test_saved_responses_are_filtered_and_played(page: Any) -> None:
    from playwright.sync_api import expect

    page.click("text=Saved responses")
    status, items = page.locator("#items-status"), page.locator(".item")
    expect(status).to_have_text("10 questions")
    page.select_option("[name=family]", "music")
    expect(status).to_have_text("2 questions")
    expect(items.first).to_contain_text("right answer: a horn")
    expect(items.first.locator("tr")).to_contain_text(["arm", "a bell", "a horn", "a horn"])
    page.select_option("[name=arm]", "base")
    page.select_option("[name=verdict]", "right")
    expect(status).to_have_text("0 questions")
    page.click("text=Clear")
    expect(status).to_have_text("10 questions")
    page.select_option("[name=difference]", "coat>sft")
    expect(status).to_have_text("2 questions")
    page.select_option("[name=seed]", "2")
    expect(status).to_have_text("10 questions")
    page.fill("[name=text]", "test-music-2")
    expect(status).to_have_text("1 question")
    player = items.first.locator("audio")
    player.evaluate("player => player.play()")
    expect(player).to_have_js_property("ended", True)
    assert player.evaluate("player => player.duration") == pytest.approx(0.8, abs=0.01)
    page.click("text=Ask about this clip")
    expect(page.locator("#ask")).to_be_visible()
    expect(page.locator("#clip-name")).to_contain_text(EXAMPLE)


def test_a_narrow_page_does_not_scroll_sideways(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    for view in ("Ask", "Saved responses"):
        page.locator("#views").get_by_text(view, exact=True).click()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390


def test_both_views_are_accessible(page: Any) -> None:
    from playwright.sync_api import expect

    page.select_option("#sample", EXAMPLE)
    _ask(page)
    expect(page.locator("#plot canvas")).to_have_count(12)
    assert violations(page) == []
    page.click("text=Saved responses")
    expect(page.locator("#items-status")).to_have_text("10 questions")
    assert violations(page) == []
