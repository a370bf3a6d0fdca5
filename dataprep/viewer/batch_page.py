"""One batch of the training stream: its packs, or its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ..look.html import Limits
from .query import Query
from .site import TABS, CachedPictures, Site, number_of, shown_of, switches_of


def batch(site: Site, asked: Mapping[str, str]) -> str:
    """One batch: its packs, or its numbers.

    Raises:
        NevaPrepError: there is none, or the dataset cannot be streamed.
    """
    if not site.flow.has_tokens:
        return site.render(
            "batches.html", title="Batches", section="batches", arrows=False, view=None
        )
    step, back = number_of(asked.get("step")), asked.get("back", "")
    tab = "batch" if asked.get("tab") == "batch" else "pack"
    query, shown = Query.from_address(asked), shown_of(asked)

    def link(step: int, tab: str, **more: Any) -> str:
        own = {"step": step or None, "tab": tab, "back": back}
        return f"{site.base}/batch?{query.address(**(own | shown | more))}"

    def of_sample(tab: str | None) -> str:
        return f"{site.base}/sample/{back}?{query.address(tab=tab, **shown)}"

    tabs = [("pack", "Pack", link(step, "pack"), "4"), ("batch", "Batch", link(step, "batch"), "5")]
    if back := back if back.isdecimal() else "":
        tabs = [
            (name, label, of_sample(name), str(number))
            for number, (name, label) in enumerate(TABS, start=1)
        ] + tabs
    limits = Limits(tokens=2_000)
    return site.render(
        "batches.html",
        title=f"Batch {step}",
        section="batches",
        arrows=False,
        view=site.batches.at(step),
        module=_module(site),
        tab=tab,
        tabs=tabs,
        back=of_sample(None) if back else "",
        before=link(step - 1, tab) if step else None,
        after=link(step + 1, tab),
        limits=limits,
        pictures=CachedPictures(site, f"batch/{step}"),
        sample_url=lambda segment: f"{site.base}/find?key={quote(segment.key)}",
        start=number_of(asked.get("from")),
        token_pages=lambda start: link(step, tab, **{"from": start or None}),
        **switches_of(asked),
    )


def _module(site: Site) -> str:
    """Class of the data module."""
    source = site.looked.kind == "source"
    return "NevaLazyDataModule" if source else "EnergonMultiModalDataModule"
