"""The list of samples, and what was rejected."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from ..reasons import REJECTIONS
from .query import OF_TOKENS, SORTS, STATES, Query
from .rows import image_finder
from .site import Site, number_of

CARDS = 60
"""Samples on a page of the list."""
REJECTED = 20
"""Records on a page of the quarantine."""


def grid(site: Site, asked: Mapping[str, str]) -> str:
    """The list of samples."""
    query = Query.from_address(asked)
    progress = site.catalogue.progress
    found = site.catalogue.count(query)
    pages = max(1, -(-found // CARDS))
    page = min(number_of(asked.get("page")), pages - 1)
    suffix = query.address()
    return site.render(
        "grid.html",
        title="Samples",
        section="samples",
        arrows=True,
        query=query,
        cards=site.catalogue.cards(query, page * CARDS, CARDS),
        found=found,
        page=page,
        pages=pages,
        progress=progress,
        splits=[(name, f"{name} ({count:,})") for name, count in site.looked.splits.items()],
        states=_states(site),
        sorts=[
            (name, label)
            for name, (label, *_) in SORTS.items()
            if site.flow.has_tokens or name not in ("tokens", "short", "trained")
        ],
        has_tokens=site.flow.has_tokens,
        of_source=site.looked.kind == "source",
        has_pictures=site.has_pictures,
        suffix=f"?{suffix}" if suffix else "",
    )


def quarantine(site: Site, asked: Mapping[str, str]) -> str:
    """What was rejected, by reason."""
    found = site.catalogue.reasons()
    reason = asked.get("reason", "")
    counts = {name: count for name, count in found}
    count = counts.get(reason, 0) if reason else sum(counts.values())
    pages = max(1, -(-count // REJECTED))
    page = min(number_of(asked.get("page")), pages - 1)
    rows = site.catalogue.rejected(reason, page * REJECTED, REJECTED)
    of_source = site.looked.kind == "source"
    source = "looked" if of_source or site.looked.kind == "quarantine" else "rejected"
    return site.render(
        "quarantine.html",
        title="Quarantine",
        section="quarantine",
        arrows=False,
        reasons=[(name, times, REJECTIONS.get(name, "")) for name, times in found],
        reason=reason,
        count=sum(counts.values()),
        of_source=of_source,
        has_pictures=site.has_pictures,
        finds_images=image_finder(site.looked) is not None,
        progress=site.catalogue.progress,
        views=[(n, site.rejected.record(n)) for n in rows],
        source=source,
        link=lambda n: (
            f"{site.base}/sample/{n}" if source == "looked" else f"{site.base}/rejected/{n}"
        ),
        page=page,
        pages=pages,
        address=lambda to: f"reason={quote(reason)}&page={to}",
    )


def _states(site: Site) -> list[tuple[str, str]]:
    """States that can be asked for here."""
    states = [
        (name, label)
        for name, (label, _) in STATES.items()
        if site.flow.has_tokens or name not in OF_TOKENS
    ]
    return [("", "any"), *states]
