"""One sample, one rejected record, or one long text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError, NevaPrepError
from ..look.excerpt import name_of
from ..look.html import Limits
from .query import Query
from .site import TABS, CachedPictures, Site, number_of, shown_of, switches_of

TEXT = 20_000
"""Characters on a page of a long text."""


def sample(site: Site, index: int, asked: Mapping[str, str]) -> str:
    """One sample, at one of its stops.

    Raises:
        NevaPrepError: there is no such sample, or it cannot be read.
    """
    query = Query.from_address(asked)
    record = site.looked.record(index)
    shown = shown_of(asked)
    tab = asked.get("tab", "")
    if tab not in dict(TABS):
        tab = "record" if record.findings else "sample"
    views: dict[str, Any] = {"sample": None, "tokens": None, "error": None, "roles": ()}
    try:
        if tab == "sample":
            views["sample"] = site.flow.sample(index)
        if tab == "tokens":
            views["tokens"] = site.flow.tokens(index)
            views["roles"] = _roles(site, index)
    except NevaPrepError as error:
        views["error"] = str(error)
    here = f"{site.base}/sample/{index}"

    def link(place: str, **more: Any) -> str:
        address = query.address(**(shown | more))
        return f"{place}?{address}" if address else place

    before, after = site.catalogue.neighbours(query, index)
    batch = link(f"{site.base}/batch", back=index)
    return site.render(
        "one.html",
        title=name_of(record.id, 80),
        section="samples",
        arrows=False,
        record=record,
        tab=tab,
        tabs=[
            (name, label, link(here, tab=name), str(number))
            for number, (name, label) in enumerate(TABS, start=1)
        ]
        + [("pack", "Pack", batch, "4"), ("batch", "Batch", f"{batch}&tab=batch", "5")],
        before=None if before is None else link(f"{site.base}/sample/{before}", tab=tab),
        after=None if after is None else link(f"{site.base}/sample/{after}", tab=tab),
        up=f"{site.base}/?{query.address()}" if not query.is_all else f"{site.base}/",
        limits=Limits(characters=8_000, edge=672),
        pictures=CachedPictures(site, f"sample/{index}"),
        read_on=lambda part: f"{site.base}/text/looked/{index}/{part}",
        start=number_of(asked.get("from")),
        token_pages=lambda start: link(here, tab=tab, **{"from": start or None}),
        **views,
        **switches_of(asked),
    )


def rejected(site: Site, n: int) -> str:
    """One rejected record.

    Raises:
        NevaPrepError: there is none.
    """
    record = site.rejected.record(n)
    return site.render(
        "one.html",
        title=name_of(record.id, 80),
        section="quarantine",
        arrows=False,
        record=record,
        tab="record",
        tabs=[],
        before=f"{site.base}/rejected/{n - 1}" if n else None,
        after=f"{site.base}/rejected/{n + 1}" if n + 1 < len(site.rejected) else None,
        up=f"{site.base}/quarantine",
        error=None,
        sample=None,
        tokens=None,
        limits=Limits(characters=8_000),
        read_on=lambda part: f"{site.base}/text/rejected/{n}/{part}",
    )


def text(site: Site, which: str, index: int, part: str, asked: Mapping[str, str]) -> str:
    """A page of a long text: of the record, or of a turn given by its number.

    Raises:
        NevaPrepError: there is no such text.
    """
    looked = site.rejected if which == "rejected" else site.looked
    if part == "record":
        whole, heading = looked.record(index).text, f"Record {index}"
    else:
        turns = looked.sample(index).turns
        if not part.isdecimal() or int(part) >= len(turns):
            raise ConfigError(f"record {index}: has no turn {part}; it has {len(turns)}")
        turn = turns[int(part)]
        whole, heading = turn.text, f"{turn.role} {part} of record {index}"
    pages = max(1, -(-len(whole) // TEXT))
    page = min(number_of(asked.get("page")), pages - 1)
    return site.render(
        "text.html",
        title=heading,
        section="quarantine" if which == "rejected" else "samples",
        arrows=False,
        heading=heading,
        part=whole[page * TEXT : (page + 1) * TEXT],
        start=page * TEXT,
        size=len(whole),
        page=page,
        pages=pages,
        up=f"{site.base}/{'rejected' if which == 'rejected' else 'sample'}/{index}",
    )


def _roles(site: Site, index: int) -> tuple[str, ...]:
    try:
        return tuple(turn.role for turn in site.looked.sample(index).turns)
    except NevaPrepError:
        return ()  # What is wrong with it stands beside its tokens.
