"""How figures are put into words, the same on a terminal and on a page."""

from __future__ import annotations

from typing import NamedTuple

from .result import DatasetStats, Frequent, Spread

FORECAST_HINT = (
    "No token lengths and no packing forecast: they depend on the tokenizer. Give --tokenizer DIR, "
    "and --template NAME where the tokenizer has none of its own."
)


def totals(found: DatasetStats) -> list[tuple[str, str]]:
    """Names and values of the most important figures."""
    rows = []
    left_out = found.seen - found.counted
    note = f"  ({left_out:,} of {found.seen:,} left out)" if left_out else ""
    rows.append(("records", f"{found.counted:,}{note}"))
    if found.splits:
        splits = ", ".join(f"{name} {count:,}" for name, count in found.splits.items())
        rows.append(("splits", splits + (f"; only {found.split} here" if found.split else "")))
    if found.quarantined:
        rows.append(("in quarantine", f"{sum(found.quarantined.values()):,}"))
    for name, count in (
        ("text only", found.text_only),
        ("one image", found.one_image),
        ("several images", found.multi_image),
    ):
        rows.append((name, f"{count:,}  ({share(count, found.counted)})"))
    rows.append(("images", _images(found)))
    rows.append(("turns", f"{found.turns.total:,}"))
    if found.kind == "source":
        rows.append(("source", number_of_bytes(found.num_bytes)))
        return rows
    rows.append((f"{found.shards:,} shards", number_of_bytes(found.num_bytes)))
    rows.append(("records as JSON", number_of_bytes(found.record_bytes.total)))
    return rows


class SpreadRow(NamedTuple):
    """A spread and what it is about."""

    title: str
    unit: str
    """Of the numbers."""
    of: str
    """What is counted."""
    spread: Spread

    @property
    def name(self) -> str:
        """Title and unit on one line."""
        return self.title if self.title == self.unit else f"{self.title}, {self.unit}"


def spread_rows(found: DatasetStats) -> list[SpreadRow]:
    """The spreads that are known, those of tokens first."""
    rows: list[tuple[str, str, str, Spread | None]] = []
    if tokens := found.tokens:
        rows += [
            ("text", "tokens", "samples", tokens.text),
            ("with images", "positions", "samples", tokens.positions),
            ("trained", "tokens", "samples", tokens.trained),
            ("trained", "% of text", "samples", tokens.trained_percent),
        ]
    rows += [
        ("turns", "turns", "records", found.turns),
        ("images", "images", "records", found.images),
        ("question", "characters", "questions", found.question_chars),
        ("answer", "characters", "answers", found.answer_chars),
        ("record", "bytes", "records", found.record_bytes),
        ("image", "bytes", "images", found.image_bytes),
        ("image width", "pixels", "images", found.widths),
        ("image height", "pixels", "images", found.heights),
        ("width", "% of height", "images", found.aspects),
    ]
    return [SpreadRow(*row[:3], row[3]) for row in rows if row[3] is not None]


def forecast_rows(found: DatasetStats) -> list[tuple[str, list[str]]]:
    """Names and values of the packing forecast, a value for each pack length."""
    rows = found.forecasts
    table = [
        ("pack length", [f"{row.pack_length:,}" for row in rows]),
        ("full", [f"{row.efficiency:.2%}" for row in rows]),
        ("packs", [f"{row.packs:,}" for row in rows]),
        ("samples a pack", [f"{row.samples_per_pack:.2f}" for row in rows]),
        ("most samples", [f"{row.most_samples:,}" for row in rows]),
        ("images a pack", [f"{row.images_per_pack:.2f}" for row in rows]),
        ("most images", [f"{row.most_images:,}" for row in rows]),
        ("samples too long", [f"{row.oversize:,}" for row in rows]),
    ]
    steps = [row.steps_per_epoch for row in rows if row.steps_per_epoch is not None]
    if steps:
        size = rows[0].global_batch_size
        table.append((f"steps of {size:,} packs", [f"{count:,}" for count in steps]))
    return table


def uncertainty(frequent: Frequent) -> str:
    """How many there are, and how sure the counts are."""
    total = f"{frequent.total:,} in all"
    if frequent.different is not None:
        return f"{total}, {frequent.different:,} different"
    return (
        f"{total}, too many different ones to tell all apart; counts may be up to "
        f"{frequent.max_undercount:,} too low"
    )


def share(part: int, whole: int) -> str:
    """A share in percent; one that is not zero never looks like zero.

    Example:
        >>> share(1, 3), share(1, 100_000)
        ('33.3 %', '< 0.1 %')
    """
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    return "< 0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"


def short_number(number: float) -> str:
    """A number in seven characters at most.

    Example:
        >>> short_number(4.65), short_number(86_400), short_number(1_234_567)
        ('4.7', '86,400', '1.23 M')
    """
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:,.3g} {unit}"
    return f"{number:,.1f}" if isinstance(number, float) and number < 1000 else f"{number:,.0f}"


def one_line(text: str, most: int) -> str:
    """A text on one line, cut where it is longer."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def number_of_bytes(count: int) -> str:
    """Bytes in a unit that suits them.

    Example:
        >>> number_of_bytes(512), number_of_bytes(2_500_000)
        ('512 B', '2.5 MB')
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} B" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _images(found: DatasetStats) -> str:
    files = found.image_files
    text = f"{files.total:,}"
    if files.different is None:
        text += "  (too many different paths to tell how many are repeated)"
    elif files.repeats:
        text += f"  ({files.different:,} different, {files.repeats:,} repeated uses)"
    if found.unmeasured_images and not found.formats_are_claimed:
        text += f"  ({found.unmeasured_images:,} of unknown size)"
    return text
