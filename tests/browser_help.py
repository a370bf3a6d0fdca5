"""Debian's Chromium, watched: what a page says on the console, asks for, and fails at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTHS = (1280, 390)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser that is installed; the test is skipped where there is none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else list(FLAGS)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched(browser: Browser, host: str, **options: Any) -> Iterator[Page]:
    """A page of a fresh profile. Trouble on the console, or a request elsewhere, fails the test."""
    trouble: list[str] = []
    context = browser.new_context(**options)
    page = context.new_page()

    def check_request(request: Any) -> None:
        if not request.url.startswith(host):
            trouble.append(f"asked {request.url}")

    def check_answer(answer: Any) -> None:
        if answer.status >= 400:
            trouble.append(f"{answer.status} {answer.url}")

    def check_message(message: Any) -> None:
        if message.type in ("error", "warning"):
            trouble.append(f"{message.type}: {message.text}")

    def check_dialog(dialog: Any) -> None:
        trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("request", check_request)
    page.on("response", check_answer)
    page.on("console", check_message)
    page.on("pageerror", lambda error: trouble.append(f"script: {error}"))
    page.on("dialog", check_dialog)
    page.on("popup", lambda other: trouble.append(f"popup: {other.url}"))
    try:
        yield page
    finally:
        context.close()
    assert not trouble


def assert_fits(page: Page) -> None:
    """Nothing makes the page scroll sideways."""
    wide, inner = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= inner, page.url


def pictures_loaded(page: Page) -> int:
    """How many pictures the page has; each must have come."""
    widths: list[int] = page.evaluate("""
        Promise.all([...document.images].map(async (one) => {
            one.loading = "eager";
            if (!one.complete) await new Promise((done) => { one.onload = one.onerror = done; });
            return one.naturalWidth;
        }))
    """)
    assert all(widths)
    return len(widths)
