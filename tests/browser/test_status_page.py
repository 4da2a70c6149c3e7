"""The status page of a watch, in a browser: as people use it, wide and narrow, and without a script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from policyctl.watch.http import StatusServer, WatchSite
from tests.browser.conftest import expect
from tests.patience import LONGEST
from tests.watch.boards import NOW, fleet

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture
def url() -> Iterator[str]:
    with StatusServer("127.0.0.1", 0, WatchSite(fleet(2000), lambda: 0.0, now=lambda: NOW)) as server:
        yield server.url


@pytest.fixture(params=[1280, 390])
def page(browser: Browser, request: pytest.FixtureRequest, url: str) -> Iterator[Page]:
    said: list[str] = []
    with browser.new_context(viewport={"width": request.param, "height": 844}, java_script_enabled=False) as context:
        context.set_default_timeout(LONGEST * 1000)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.goto(url)
        yield page
    assert [one for one in said if "favicon" not in one and "404" not in one] == []


def test_the_page_fits_and_shows_problems_first(page: Page) -> None:
    expect(page.locator("h1")).to_have_text("7 of 2,000 environments need a look")
    box = page.locator("main").bounding_box()
    size = page.viewport_size
    assert box is not None
    assert size is not None
    assert box["width"] <= size["width"]
    for part in page.locator("main table, header ul, form").all():
        inner = part.bounding_box()
        assert inner is not None
        assert inner["x"] + inner["width"] <= size["width"] + 1
    expect(page.locator("tbody tr").first).to_contain_text("tenant-0250")


def test_a_person_filters_by_state_and_text(page: Page) -> None:
    page.get_by_role("link", name="drifted").click()
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_role("searchbox").fill("tenant-05")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.get_by_role("searchbox")).to_have_value("tenant-05")
    page.get_by_role("link", name="show all").click()
    expect(page.locator("tbody tr")).to_have_count(208)
    page.get_by_role("link", name="show every row").click()
    expect(page.locator("tbody tr")).to_have_count(2000)
