"""A plan's page as people meet it: read, filtered, walked through by keyboard, printed, and attacked."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from policyctl.plan.fleet import EnvironmentResult, FleetResult
from policyctl.plan.safety import Review
from policyctl.report.fleet import FleetView, planned
from policyctl.report.plan_html import fleet_html, plan_html
from policyctl.report.plan_view import PlanView
from tests.browser import plans
from tests.browser.conftest import Open, expect
from tests.conftest import Policyctl, Project
from tests.patience import LONGEST

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

PageOf = Callable[[Callable[[], Review]], Path]


@pytest.fixture(scope="module")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> PageOf:
    """The file with a plan's page, written once."""
    folder = tmp_path_factory.mktemp("pages")

    def write(make: Callable[[], Review]) -> Path:
        path = folder / f"{make.__name__}.html"
        if not path.exists():
            path.write_text(plan_html(PlanView(make(), "https://api.example.test/instances/1")), "utf-8")
        return path

    return write


@pytest.fixture
def mixed(page_of: PageOf, show: Open) -> Page:
    return show(page_of(plans.mixed))


def change(page: Page, name: str) -> Locator:
    return page.locator("details.change", has=page.get_by_role("heading", name=name, exact=True))


def expect_shown(page: Page, names: list[str]) -> None:
    """These are the changes that can be seen, from top to bottom."""
    expect(page.locator("details.change:not([hidden]) h3")).to_have_text(names)
    expect(page.locator("details.change[hidden]").locator("visible=true")).to_have_count(0)


def test_the_summary_shows_how_much_how_risky_and_whether_the_rules_let_it_pass(mixed: Page) -> None:
    expect(mixed).to_have_title("Plan for dev: 1 to add, 4 to update, 2 to remove")
    tiles = [re.sub(r"\s+", " ", tile) for tile in mixed.locator(".tiles li").all_inner_texts()]
    assert tiles == ["+1 to add", "~4 to update", "−2 to remove", "▼1 worse"]
    expect(mixed.locator(".headline")).to_contain_text("refused by 1 safety rule")
    expect(mixed.locator(".headline")).to_contain_text("anygem google/gemini-2.0-flash 75% → 50%")
    expect(mixed.locator(".headline")).to_contain_text("assistant served 100% → ")
    expect(mixed.locator(".notices li").first).to_contain_text("refused virtual-policy/old-router is protected")
    expect(mixed.locator("footer")).to_contain_text("https://api.example.test/instances/1")
    expect(mixed.locator("footer")).to_contain_text(re.compile("sha256:[0-9a-f]{64}"))
    expect(mixed.locator("footer")).to_contain_text("portkey-1.15.2")


def test_the_riskiest_change_is_first_and_linked_from_the_summary(mixed: Page) -> None:
    expect(mixed.locator("details.change h3").first).to_have_text("assistant")
    first = change(mixed, "assistant")
    first.locator("summary").click()
    expect(first).not_to_have_attribute("open", "")
    mixed.get_by_role("link", name="assistant").click()
    expect(first).to_have_attribute("open", "")
    expect(first.locator("summary")).to_be_focused()


def test_a_change_shows_fields_shares_outages_and_bounds_before_and_after(mixed: Page) -> None:
    one = change(mixed, "anygem")
    one.locator("summary").click()
    expect(one.locator(".fields")).to_contain_text("policy.targets[google/gemini-2.0-flash].weight")
    expect(one.locator(".fields div").first).to_contain_text("0.75 → 0.5")
    traffic = one.get_by_role("row", name="google/gemini-2.0-flash 75% → 50%", exact=True)
    expect(traffic).to_be_visible()
    wide = traffic.locator("td.bars").evaluate("cell => cell.getBoundingClientRect().width")
    bars = traffic.locator("rect").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert [bar / bars[0] for bar in bars] == pytest.approx([1, 0.5 / 0.75], abs=0.01)
    assert 0 < bars[0] < wide
    outages = one.get_by_role("table", name="Requests served while one of these is down with")
    expect(outages.get_by_role("columnheader", name="any failure")).to_be_visible()
    expect(outages.get_by_role("row", name="google/gemini-2.0-flash-lite worse: ▼ 75% → 50%")).to_be_visible()
    expect(one.locator(".worst")).to_contain_text("latency, every call taking its whole timeout61 s")


def test_a_policy_is_drawn_with_its_shares_and_is_described_to_those_who_do_not_see_it(mixed: Page) -> None:
    one = change(mixed, "assistant")  # the riskiest, which is open
    for name in ("Before", "After"):
        drawn = one.get_by_role("img", name=name, exact=True)
        expect(drawn).to_be_visible()
        assert sorted(drawn.locator("g.share text").all_text_contents()) == ["0%", "100%", "20%", "80%"]
        assert "loadbalance to openai/gpt-4o 80%" in (drawn.locator("desc").text_content() or "")
        inside = "node => node.getComputedTextLength() < node.parentNode.querySelector('rect').width.baseVal.value"
        assert all(drawn.locator("g:not(.share) > text").evaluate_all(f"nodes => nodes.map({inside})"))
    expect(one.get_by_role("img", name="Before").locator("path.idle")).to_have_css("stroke-dasharray", "3px, 4px")


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        ("GRANITE", ["assistant", "summarizer", "support"]),
        ("granite customers", ["support"]),
        ("on_status_codes", ["assistant"]),
        ("nothing has this", []),
        (" ", ["assistant", "anygem", "code", "old-router", "summarizer", "chat", "support"]),
    ],
)
def test_text_narrows_the_changes_down_to_those_that_have_all_of_its_words(mixed: Page, typed: str, left: list[str]) -> None:
    mixed.get_by_role("searchbox").fill(typed)
    expect_shown(mixed, left)
    said = f"{len(left)} of 7 changes" if len(left) < 7 else "all 7 changes"
    expect(mixed.get_by_role("status")).to_have_text(said)
    expect(mixed.get_by_text("No change matches the filter.")).to_be_visible(visible=not left)


def test_kinds_and_worse_only_narrow_it_down_together(mixed: Page) -> None:
    mixed.get_by_role("radio", name="Update").check()
    expect_shown(mixed, ["assistant", "anygem", "code", "chat"])
    mixed.get_by_role("searchbox").fill("gemini")
    expect_shown(mixed, ["anygem"])
    mixed.get_by_role("searchbox").fill("")
    mixed.get_by_role("checkbox", name="Worse only").check()
    expect_shown(mixed, ["assistant"])
    mixed.get_by_role("radio", name="All").check()
    mixed.get_by_role("searchbox").fill("")
    expect_shown(mixed, ["assistant"])


def test_all_are_opened_and_closed_at_once(mixed: Page) -> None:
    mixed.get_by_role("button", name="Expand all").click()
    expect(mixed.locator("details[open]")).to_have_count(7)
    mixed.get_by_role("button", name="Collapse all").click()
    expect(mixed.locator("details[open]")).to_have_count(0)


def test_it_can_be_used_with_the_keyboard_alone(mixed: Page) -> None:
    keyboard = mixed.keyboard
    keyboard.press("Tab")
    expect(mixed.get_by_role("link", name="Skip to the changes")).to_be_focused()
    keyboard.press("/")
    expect(mixed.get_by_role("searchbox")).to_be_focused()
    keyboard.type("chat/")
    expect(mixed.get_by_role("searchbox")).to_have_value("chat/")
    keyboard.press("Escape")
    expect(mixed.get_by_role("searchbox")).to_have_value("")
    expect(mixed.get_by_role("status")).to_have_text("all 7 changes")
    keyboard.press("Tab")
    keyboard.press("ArrowRight")
    expect(mixed.get_by_role("radio", name="Add")).to_be_checked()
    expect_shown(mixed, ["support"])
    for _ in range(4):
        keyboard.press("Tab")
    expect(change(mixed, "support").locator("summary")).to_be_focused()
    keyboard.press("Enter")
    expect(change(mixed, "support")).to_have_attribute("open", "")


def test_a_link_to_a_change_opens_it(page_of: PageOf, show: Open) -> None:
    page = show(page_of(plans.mixed), "#c1")
    expect(page.locator("#c1")).to_have_attribute("open", "")
    expect(page.locator("#c1 .body")).to_be_in_viewport()


def test_a_link_to_a_change_that_is_filtered_out_shows_it_again(mixed: Page) -> None:
    mixed.get_by_role("searchbox").fill("nothing has this")
    mixed.get_by_role("link", name="anygem").click()
    expect(change(mixed, "anygem")).to_be_visible()
    expect(mixed.get_by_role("status")).to_have_text("all 7 changes")


def test_without_scripts_everything_is_there_but_the_filter(page_of: PageOf, show: Open) -> None:
    page = show(page_of(plans.mixed), java_script_enabled=False)
    expect(page.get_by_role("searchbox")).to_be_hidden()
    expect(page.get_by_text("No change matches the filter.")).to_be_hidden()
    one = change(page, "anygem")
    one.locator("summary").click()
    expect(one.locator(".fields")).to_be_visible()


# The contrast of every text with what is behind it, as WCAG 2 counts it.
CONTRAST = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => channels(colour).slice(0, 3)
    .map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const box = one.tagName === "g" && one.querySelector("rect");
      const colour = box ? getComputedStyle(box).fill : getComputedStyle(one).backgroundColor;
      if ((channels(colour)[3] ?? 1) === 1) return colour;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !node.checkVisibility() || /^(SCRIPT|STYLE|title|desc)$/.test(node.tagName)) continue;
    const style = getComputedStyle(node);
    const pair = [light(node instanceof SVGElement ? style.fill : style.color), light(behind(node))].sort((a, b) => b - a);
    found.push([(pair[0] + 0.05) / (pair[1] + 0.05), texts.currentNode.data.trim()]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_in_light_and_in_dark(page_of: PageOf, show: Open, scheme: str) -> None:
    page = show(page_of(plans.mixed), color_scheme=scheme)
    page.get_by_role("button", name="Expand all").click()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (min(ground) > 200) if scheme == "light" else (max(ground) < 60)
    found = page.evaluate(CONTRAST)
    assert len(found) > 200
    assert not [(ratio, text) for ratio, text in found if ratio < 4.5]


def test_in_print_everything_is_open_light_and_without_controls(page_of: PageOf, show: Open) -> None:
    page = show(page_of(plans.mixed), color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    for body in page.locator("details.change .body").all():
        expect(body).to_be_visible()
        assert body.evaluate("body => body.getBoundingClientRect().height") > 50
    expect(page.get_by_role("searchbox")).to_be_hidden()
    expect(page.get_by_role("button", name="Expand all")).to_be_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_in_print_a_thousand_changes_are_a_list_with_what_was_opened(page_of: PageOf, show: Open) -> None:
    """All of them opened would be a thousand pages."""
    page = show(page_of(plans.many))
    page.emulate_media(media="print")
    first, second = (page.locator("details.change").nth(place) for place in (0, 1))
    expect(first.locator(".body")).to_be_visible()
    expect(second.locator("summary")).to_be_visible()
    expect(second.locator(".body")).to_be_hidden()


@pytest.mark.parametrize("make", [plans.mixed, plans.hostile], ids=["mixed", "hostile"])
def test_nothing_is_wider_than_a_phone(page_of: PageOf, show: Open, make: Callable[[], Review]) -> None:
    page = show(page_of(make), viewport={"width": 390, "height": 844})
    page.get_by_role("button", name="Expand all").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    scrolled = []
    for wide in page.locator(".wide").all():
        wide.scroll_into_view_if_needed()
        scrolled.append(wide.evaluate("wide => wide.scrollWidth > wide.clientWidth"))
        expect(wide).to_have_attribute("tabindex", "0" if scrolled[-1] else "-1")
    assert any(scrolled)


def test_what_people_write_is_text_and_nothing_else(page_of: PageOf, show: Open) -> None:
    path = page_of(plans.hostile)
    assert all(char.isprintable() for char in path.read_text("utf-8").replace("\n", ""))
    page = show(path)
    page.get_by_role("button", name="Expand all").click()
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("[document.scripts.length, document.images.length, document.styleSheets.length]") == [1, 0, 1]
    assert page.locator("details.change").count() == 5
    ids = page.evaluate("[...document.querySelectorAll('[id^=c]')].map(node => node.id)")
    assert all(re.fullmatch(r"c\d+|changes|controls|count|collapse", one) for one in ids)
    expect(page.locator("body")).to_contain_text("</details></title></style><script>window.pwned = 1</script>")
    expect(page.locator("body")).to_contain_text("{{ 7 * 7 }}")


def tells(what: str, message: ConsoleMessage) -> bool:
    return what in message.text.lower()


def test_a_script_that_got_in_would_not_run(page_of: PageOf, browser: Browser) -> None:
    text = page_of(plans.mixed).read_text("utf-8")
    path = page_of(plans.mixed).with_name("broken.html")
    attack = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'><p style='color: red'>x</p>"
    path.write_text(text.replace("<main", f"{attack}<main"), "utf-8")
    with browser.new_page() as page:
        page.set_default_timeout(LONGEST * 1000)
        refused: list[str] = []
        page.on("console", lambda message: refused.append(message.text))
        with ExitStack() as told:
            for what in ("inline script", "loading the image", "inline style"):
                told.enter_context(page.expect_console_message(partial(tells, what)))
            page.goto(path.as_uri())
        expect(page.get_by_role("status")).to_have_text("all 7 changes")
        assert page.evaluate("window.pwned") is None
        assert all("Content Security Policy" in text for text in refused)


def test_a_thousand_changes_are_all_there_and_are_filtered(page_of: PageOf, show: Open) -> None:
    path = page_of(plans.many)
    assert path.stat().st_size < 5_000_000
    page = show(path)
    count, text = page.locator("#count"), page.locator("#filter [name=text]")  # by role takes seconds on a page of this size
    expect(count).to_have_text("all 1,000 changes")
    text.fill("team-0599")
    expect(count).to_have_text("1 of 1,000 changes")
    assert page.locator("details.change:not([hidden]) h3").all_text_contents() == ["team-0599"]
    text.fill("")
    page.locator("#filter [value=remove]").check()
    expect(count).to_have_text("100 of 1,000 changes")


def test_a_thousand_changes_are_opened_at_once_and_each_can_be_gone_to(page_of: PageOf, show: Open) -> None:
    """Only what is near is laid out: all of it takes half a minute."""
    page = show(page_of(plans.many))
    page.locator("#expand").click()
    expect(page.locator(".wide[tabindex]").first).to_be_attached()
    page.evaluate("location.hash = '#c500'")
    expect(page.locator("#c500 summary")).to_be_focused()
    expect(page.locator("#c500 .wide").first).to_have_attribute("tabindex", "-1")
    assert page.locator("#c500").evaluate("change => change.getBoundingClientRect().top") < 200
    assert page.locator(".wide[tabindex]").count() < page.locator(".wide").count() / 10


def test_a_plan_without_changes_says_so_and_has_nothing_to_filter(page_of: PageOf, show: Open) -> None:
    def empty() -> Review:
        return plans.reviewed({"a": plans.guarded(plans.GPT)}, {"a": plans.guarded(plans.GPT)})

    page = show(page_of(empty))
    expect(page.get_by_role("heading", name="No changes")).to_be_visible()
    expect(page.get_by_role("searchbox")).to_have_count(0)
    expect(page.locator(".tiles")).to_contain_text("1 unchanged")


def test_the_command_line_leaves_the_page(project: Project, policyctl: Policyctl, show: Open) -> None:
    project.policy("mine", plans.GPT, plans.CLAUDE)
    assert policyctl("plan", "--report", "html=plan.html").code == 0
    page = show(project.folder / "plan.html")
    expect(page.get_by_role("heading", level=1)).to_have_text("Plan for local")
    expect(change(page, "mine")).to_contain_text("policies/mine.yaml")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of four environments: two with the same plan, one with another one, and one that failed."""
    small = plans.reviewed({"only-dev": plans.balanced((plans.FLASH, 1))}, {})
    reviews = {"dev": small, "prod-a": plans.mixed(), "prod-b": plans.mixed()}
    results = [replace(planned(review, name, "local"), review=review) for name, review in reviews.items()]
    failed = EnvironmentResult("prod-c", "failed", 1, "there was no answer")
    path = tmp_path_factory.mktemp("pages") / "several.html"
    path.write_text(fleet_html(FleetView(FleetResult("plan", (*results, failed)))), "utf-8")
    return path


@pytest.mark.parametrize(
    ("typed", "environments", "changes"),
    [
        ("", ["prod-c", "dev", "prod-a", "prod-b"], 8),
        ("prod-a", ["prod-a"], 7),
        ("prod", ["prod-c", "prod-a", "prod-b"], 7),
        ("only-dev", ["dev"], 1),
        ("no answer", ["prod-c"], 0),
        ("nothing like this", [], 0),
    ],
)
def test_on_a_page_of_several_the_filter_finds_changes_and_environments(
    several: Path, show: Open, typed: str, environments: list[str], changes: int
) -> None:
    page = show(several)
    page.locator(".environments").evaluate("each => each.open = true")
    page.get_by_role("searchbox").fill(typed)
    expect(page.locator("#environments tr:not([hidden]) th")).to_have_text(environments)
    expect(page.locator("details.change:not([hidden])")).to_have_count(changes)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_of_several_fits_a_phone(several: Path, show: Open, scheme: str) -> None:
    page = show(several, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    expect(page.locator(".headline")).to_contain_text("none: not every environment has a plan that may be applied")
