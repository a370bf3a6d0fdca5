"""Views in notebooks: the page of `--html`, in a frame that cannot reach the notebook."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .view import BatchView, PackView

_MAX_BYTES = 4_000_000


def batch_html(batch: BatchView) -> str:
    """A batch as a page within the page."""
    from .page import render_page

    facts = [("step", str(batch.step)), ("samples", f"{len(batch.keys):,}")]
    page = render_page("batch", facts, (), [batch], weight=1, max_bytes=_MAX_BYTES)
    # No allow-same-origin: scripts of the page run, and see neither the notebook nor its server.
    return (
        f'<iframe sandbox="allow-scripts" style="width:100%;height:40em;border:1px solid" '
        f'srcdoc="{html.escape(page)}"></iframe>'
    )


def pack_html(pack: PackView) -> str:
    """A bar of a pack."""
    from ...templates.show_html import bar, facts

    known = {
        "positions": f"{pack.capacity:,}",
        "filled": f"{pack.fill:.1%}",
        "samples": ", ".join(segment.key for segment in pack.segments),
    }
    parts = [(s.key, s.end - s.start, s.padded_end - s.end) for s in pack.segments]
    return facts("pack", known) + bar(parts)
