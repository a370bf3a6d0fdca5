"""Who watches a conversion: a progress bar, or nobody."""

from __future__ import annotations


class Watch:
    """Told how far the work is; this one looks away."""

    def note(self, text: str) -> None:
        """Something worth telling; text of the source may be in it."""

    def begin(self, stage: str, records: int | None) -> None:
        """A stage begins: `plan`, `write` or `finish`, over so many records where that is known."""

    def update(self, records: int, written: int, rejected: int) -> None:
        """So many records are done, with so many bytes written and so many rejections."""
