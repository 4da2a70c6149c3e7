"""A real browser. Every page that a test opens must load nothing from anywhere and say nothing on its console."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.patience import LONGEST

if TYPE_CHECKING:  # importing it takes longer than collecting these tests
    from playwright.sync_api import Browser, Locator, Page, Route

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
)

Open = Callable[..., "Page"]


def expect(shown: Page | Locator) -> Any:
    """Playwright's assertions about a page or a part of it, which wait until they hold."""
    from playwright import sync_api

    sync_api.expect.set_options(timeout=LONGEST * 1000)  # milliseconds; a page that is ready is not waited for
    return sync_api.expect(shown)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium as the system has it; nothing is downloaded. For a module at a time: while it is there an event loop runs."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("these tests need a browser: install chromium")
        pytest.skip("there is no chromium on this machine")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=FLAGS.split(), timeout=LONGEST * 1000) as browser,
    ):
        yield browser


@contextmanager
def opened(browser: Browser, path: Path, fragment: str, options: dict[str, Any]) -> Iterator[Page]:
    said: list[str] = []
    asked: list[str] = []
    with browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options}) as context:
        context.set_default_timeout(LONGEST * 1000)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))

        def let(route: Route) -> None:
            if route.request.url.partition("#")[0] == path.as_uri():
                route.continue_()
            else:
                asked.append(route.request.url)
                route.abort()

        page.route("**/*", let)
        page.goto(path.as_uri() + fragment)
        yield page
        assert not said
        assert not asked


@pytest.fixture
def show(browser: Browser) -> Iterator[Open]:
    """Opens a file (at a `fragment`) as `options` of a browser context say."""
    with ExitStack() as stack:
        yield lambda path, fragment="", **options: stack.enter_context(opened(browser, path, fragment, options))
