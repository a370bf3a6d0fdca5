"""The web viewer and the HTML file in a real browser, on real data and on hostile data."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_help import WIDTHS, assert_fits, chromium, pictures_loaded, watched
from convert_help import Converted, convert_in, make_source, record, text_record, turns
from handmade import picture
from loader_help import encoder
from PIL import Image
from viewer_help import settings, wait_for

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.demo import draw_demo
from neva_prep.dataprep.look.open import Looked, open_looked
from neva_prep.dataprep.look.page import write_page
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.viewer.serve import running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Looked:
    """The demo, converted: 138 samples, and a dozen records in quarantine."""
    folder = tmp_path_factory.mktemp("demo")
    source = draw_demo(folder, pictures=80)
    convert(
        source.source,
        source.images,
        folder / "shards",
        ConvertOptions(split={"train": 0.8, "val": 0.2}),
    )
    return open_looked(folder / "shards")


@pytest.fixture(scope="module")
def url(looked: Looked, browser: Browser) -> Iterator[str]:
    with running(looked, settings=settings()) as address:
        wait_for(address)
        yield address


@pytest.fixture
def page(url: str, browser: Browser) -> Iterator[Page]:
    with watched(browser, url, viewport={"width": 1280, "height": 900}) as found:
        yield found


def names(page: Page) -> list[str]:
    return page.locator(".card .name").all_inner_texts()


def test_search_filter_open_walk_and_go_to_quarantine(page: Page, url: str, looked: Looked) -> None:
    page.goto(url)
    assert len(names(page)) == 60
    assert pictures_loaded(page)

    # Search, with the keyboard.
    page.keyboard.press("/")
    page.keyboard.type("orange star")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"q=orange\+star"))
    expected = [
        sample.id
        for sample in map(looked.sample, range(len(looked)))
        if "orange star" in " ".join(turn.text.casefold() for turn in sample.turns)
    ]
    assert names(page) == expected and 1 < len(expected) < 60

    # Filter; the address holds what is chosen, and nothing else.
    page.locator("[name=images]").select_option("2")
    page.wait_for_url(re.compile("images=2"))
    assert page.url == f"{url}?q=orange+star&images=2"
    page.get_by_role("link", name="Clear").click()
    # Else the choice may be made on the page that is being left.
    page.wait_for_url(url)
    page.locator("[name=split]").select_option("val")
    page.wait_for_url(re.compile("split=val"))
    in_val = [
        sample.id
        for sample in map(looked.sample, range(len(looked)))
        if sample.place.split == "val"
    ]
    assert names(page) == in_val

    # Open the second one with the keyboard, walk to the third, and back to the list.
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/sample/"))
    assert page.locator("h1").inner_text() == in_val[1]
    assert pictures_loaded(page) % 2 == 0
    page.keyboard.press("j")
    page.locator("h1", has_text=in_val[2]).wait_for()
    page.keyboard.press("Escape")
    page.wait_for_url(f"{url}?split=val")

    # Quarantine, with the broken place marked.
    page.keyboard.press("q")
    page.wait_for_url(f"{url}quarantine")
    page.get_by_role("link", name=re.compile("empty_value")).click()
    page.wait_for_url(re.compile("reason=empty_value"))
    assert page.locator("mark").all_inner_texts() == ['""']


def test_tabs_show_the_sample_at_every_stop_and_the_labels_of_the_encoder(
    page: Page, url: str, looked: Looked
) -> None:
    index = 7
    page.goto(f"{url}sample/{index}")
    page.keyboard.press("1")
    page.wait_for_url(re.compile("tab=record"))
    assert looked.sample(index).id in page.locator(".json").inner_text()
    page.keyboard.press("3")
    page.wait_for_url(re.compile("tab=tokens"))

    made = encoder(packed=True).preparer.tokens(looked.encodable(index)).encoded
    shown: list[list[Any]] = page.locator(".stream .k").evaluate_all(
        "all => all.map(k => [Number(k.dataset.i), !!k.closest('.tr'), k.dataset.l ?? '-100',"
        " getComputedStyle(k).textDecorationLine === 'underline', getComputedStyle(k).color])"
    )
    assert [one[0] for one in shown] == made.tokens.tolist()
    trained = (made.labels != -100).tolist()
    assert [one[1] for one in shown] == trained == [one[3] for one in shown]
    assert [int(one[2]) for one in shown] == [*made.labels[1:].tolist(), -100]
    assert any(trained) and not all(trained)
    colours = {one[4] for one in shown if one[1]}
    assert len(colours) == 1 and not colours & {one[4] for one in shown if not one[1]}

    # Pointing at a token tells about it; the arrow keys walk on.
    page.locator(".stream .k").nth(3).hover()
    assert f"id {made.tokens[3]}" in page.locator(".readout").inner_text()
    page.locator(".stream").focus()
    page.keyboard.press("ArrowRight")
    told = page.locator(".readout").inner_text()
    assert "position 4" in told and f"id {made.tokens[4]}" in told

    # The shift: below each token the label that it predicts, kept in the address.
    first = trained.index(True) - 1
    below = "k => [getComputedStyle(k, '::after').content, k.getBoundingClientRect().height]"
    (before, low), position = page.locator(".stream .k").nth(first).evaluate(below), first
    page.get_by_label("Shift").check()
    after, high = page.locator(".stream .k").nth(position).evaluate(below)
    assert before == "none" and high > 1.5 * low
    assert after.strip('"') == page.locator(".stream .k").nth(first + 1).inner_text().split()[0]
    assert "shift=1" in page.url
    page.reload()
    assert page.get_by_label("Shift").is_checked()

    page.keyboard.press("4")
    page.wait_for_url(re.compile("/batch"))
    assert page.locator(".packbar .bar-sample").count() > 1
    page.keyboard.press("5")
    page.wait_for_url(re.compile("tab=batch"))
    assert "loss_mask" in page.locator(".batch").inner_text()
    page.keyboard.press("j")
    page.wait_for_url(re.compile("step=1"))
    page.keyboard.press("2")
    page.wait_for_url(re.compile(f"/sample/{index}"))


def test_light_or_dark_is_kept_and_follows_the_system_at_first(url: str, browser: Browser) -> None:
    back = "getComputedStyle(document.documentElement).backgroundColor"
    with watched(browser, url, color_scheme="dark") as page:
        page.goto(url)
        dark = page.evaluate(back)
        page.keyboard.press("t")
        light = page.evaluate(back)
        page.goto(f"{url}quarantine")
        assert page.evaluate(back) == light != dark
    with watched(browser, url, color_scheme="light") as page:
        page.goto(url)
        assert page.evaluate(back) == light
        page.keyboard.press("?")
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("Escape")
        assert not page.get_by_role("dialog").is_visible()


def test_everything_can_be_read_and_followed_without_script(url: str, browser: Browser) -> None:
    with watched(browser, url, java_script_enabled=False) as page:
        page.goto(f"{url}?split=val")
        page.locator(".card").first.click()
        page.get_by_role("link", name="Tokens").click()
        assert page.locator(".stream .k").count() > 10


ALL_PAGES = ["", "?q=none", "sample/0", "sample/0?tab=record", "sample/0?tab=tokens&shift=1&ids=1"]
ALL_PAGES += ["batch", "batch?tab=batch&shift=1", "quarantine", "rejected/0"]
ALL_PAGES += ["text/looked/0/record"]


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_scrolls_sideways(url: str, browser: Browser, width: int) -> None:
    with watched(browser, url, viewport={"width": width, "height": 844}) as page:
        for path in ALL_PAGES:
            page.goto(url + path)
            assert_fits(page)


# hostile data

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>"
LINK = "[x](javascript:alert(4)) <a href='javascript:alert(5)'>click</a> javascript:alert(6)"
BIDI = "\u202eevil\u202c \u2066x\u2069 \u200f abc"
ANSI = "\x1b[31mred\x1b[2J\x1b]0;title\x07"
WIDE = "W" * 5000


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    file = io.BytesIO()
    Image.new("RGB", (20_000, 60), "red").save(file, "JPEG")
    tall = io.BytesIO()
    Image.new("RGB", (50, 20_000), "red").save(tall, "PNG")
    huge = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(huge, "PNG")
    nasty = SCRIPT + LINK + BIDI + ANSI + WIDE + "Z\u0351\u036b\u0343" * 200
    rows: list[Any] = [
        record(
            nasty, ["wide.jpg", "tall.png"], conversations=turns("<image><image>" + nasty, nasty)
        ),
        text_record("megabyte", "M" * 1_000_000 + SCRIPT, "\n" * 500_000 + SCRIPT),
        text_record("fields", **{nasty: nasty, "list": [nasty] * 50, "deep": {nasty: {nasty: 1}}}),
        text_record("\u202e" * 300, "{{ 7*7 }} {% raw %}", "</textarea></div></main></html>"),
        record("huge", "huge.png", **{nasty: nasty}),
        record(nasty, "../../../etc/passwd"),
        text_record(nasty, nasty, ""),
        '"' + nasty,
    ]
    images = {"wide.jpg": file.getvalue(), "tall.png": tall.getvalue(), "huge.png": huge.getvalue()}
    return convert_in(tmp_path_factory.mktemp("hostile"), rows, images)


PATHS = ["", "?q=%3Cscript%3E", "quarantine", "batch", "batch?tab=batch", "text/looked/1/0?page=50"]
PATHS += [f"sample/{n}?tab={tab}" for n in range(4) for tab in ("record", "sample", "tokens")]
PATHS += [f"rejected/{n}" for n in range(4)]
MEGABYTE_OF_TOKENS = "sample/1?tab=tokens"


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_records_neither_run_nor_break_the_layout(
    browser: Browser, hostile: Converted, width: int
) -> None:
    assert (hostile.report.samples, hostile.report.rejected) == (4, 4)
    looks = settings(packed_sequence_size=None, seq_length=2**15)
    with (
        running(open_looked(hostile.out), settings=looks) as address,
        watched(browser, address, viewport={"width": width, "height": 844}) as page,
    ):
        for path in PATHS:
            if path == MEGABYTE_OF_TOKENS and width != WIDTHS[0]:
                continue  # Takes seconds.
            page.goto(address + path)
            assert_fits(page)
            pictures_loaded(page)
            assert page.evaluate("document.querySelectorAll('script').length") == 2
            for link in page.locator("a, form").evaluate_all(
                "all => all.map(one => one.href || one.action)"
            ):
                assert link.startswith(address)
            text = page.evaluate("document.documentElement.outerHTML")
            assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b\x07]", text)


def test_the_file_from_disk_runs_nothing_asks_nothing_and_fits(
    browser: Browser, hostile: Converted, tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    looks = settings(packed_sequence_size=None, seq_length=2**15)
    write_page(open_looked(hostile.out), out, count=10, settings=looks, batches=1)
    assert out.stat().st_size < 10_000_000
    for width in WIDTHS:
        with watched(browser, out.as_uri(), viewport={"width": width, "height": 844}) as page:
            page.goto(out.as_uri())
            for name in ("record", "sample", "tokens", "pack", "batch"):
                tabs = page.locator(f"[role=tab][data-tab={name}]")
                assert tabs.count() == (1 if name in ("pack", "batch") else 4)
                tabs.evaluate_all("all => all.forEach((tab) => tab.click())")
                assert_fits(page)
                assert page.locator(f".panel[data-tab={name}]").first.is_visible()
                pictures_loaded(page)
            page.evaluate("scrollTo(0, 0)")
            page.keyboard.press("j")
            page.keyboard.press("1")
            assert page.locator("#s0 .json").is_visible()
            assert not page.locator("#s0 .stream").is_visible()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_source_that_lacks_images_or_ids_fills_no_console_and_fits(
    browser: Browser, tmp_path: Path, is_known: bool
) -> None:
    odd = [SCRIPT + WIDE, BIDI, "\ud800", "a\0b", "", " "]
    rows = [record(name, f"{name}.jpg") for name in odd]
    rows += [record("", id=...), record("b", "cut.jpg"), text_record("c", conversations=SCRIPT)]
    images = {"cut.jpg": b"\xff\xd8\xff", "good.jpg": picture()}
    source = make_source(tmp_path / "apart", rows, images)
    folder = tmp_path / "apart" / "images" if is_known else None
    with running(open_looked(source, images=folder)) as address:
        wait_for(address)
        for width in WIDTHS:
            with watched(browser, address, viewport={"width": width, "height": 844}) as page:
                for path in ("", "quarantine", *(f"sample/{n}" for n in range(len(rows)))):
                    page.goto(address + path)
                    assert_fits(page)
                    pictures_loaded(page)
                    assert page.evaluate("document.querySelectorAll('script').length") == 2
                    heading = page.locator("h1").inner_text()
                    assert heading.strip()
                page.goto(address)
                assert all(name.strip() for name in names(page))
