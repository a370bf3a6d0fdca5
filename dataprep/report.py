"""What happened to every record: counted, with reasons and examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from ..templates.show_html import facts
from .quarantine import Rejected
from .shard import ShardSummary

EXAMPLES_PER_REASON = 3
SCHEMA_VERSION = 1


class ConvertReport(msgspec.Struct, kw_only=True):
    """The result of a conversion. `records == samples + rejected + filtered` always holds."""

    out: str = ""
    dry_run: bool = False
    format: str = ""
    """Of the source: form and container, `llava-json`, `messages-jsonl`, `vqa-csv`, ..."""
    format_why: str = ""
    """What tells so; empty where the user said it."""
    records: int = 0
    """Of the source, or of its first --limit."""
    samples: int = 0
    """Records that are in the dataset."""
    rejected: int = 0
    """Records that are in quarantine.jsonl."""
    filtered: int = 0
    """Records that the options leave out; nothing is wrong with them."""
    images: int = 0
    image_bytes: int = 0
    changed_images: int = 0
    """That were made smaller; all others have the bytes of their files."""
    saved_bytes: int = 0
    """By that."""
    turns: int = 0
    shards: int = 0
    bytes: int = 0
    """Of the tars."""
    splits: dict[str, int] = {}
    """Samples in each."""
    rejections: dict[str, int] = {}
    """Reason -> records."""
    filters: dict[str, int] = {}
    """Expression or option -> records that did not pass it; each counts once, for the first."""
    examples: dict[str, list[str]] = {}
    """Reason -> messages of its first records."""
    repairs: dict[str, int] = {}
    warnings: dict[str, int] = {}
    warning_examples: dict[str, list[str]] = {}
    seconds: dict[str, float] = {}
    """Wall time of each stage; not stored in the dataset."""

    def counts(self) -> dict[str, Any]:
        """What is stored in the dataset: everything but the place and the times."""
        fields = msgspec.to_builtins(self)
        return {name: fields[name] for name in fields if name not in ("out", "dry_run", "seconds")}

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        return {"schema_version": SCHEMA_VERSION, **msgspec.to_builtins(self)}

    def _repr_html_(self) -> str:
        """For notebooks: the totals, and each reason with its first example."""
        names = ("records", "samples", "rejected", "filtered", "images", "turns", "shards")
        totals = {name: f"{getattr(self, name):,}" for name in names}
        shown = facts(self.out or "report", {**totals, **self.splits})
        rejected = {
            f"{reason}: {count:,}": "; ".join(self.examples.get(reason, [])[:1])
            for reason, count in self.rejections.items()
        }
        tables = (
            ("rejected", rejected),
            ("left out", self.filters),
            ("repaired", self.repairs),
            ("noticed", self.warnings),
        )
        return shown + "".join(facts(title, rows) for title, rows in tables if rows)


def add_results(report: ConvertReport, results: Iterable[ShardSummary]) -> None:
    """Count finished shards into a report."""
    splits, repairs, warnings = (
        Counter(report.splits),
        Counter(report.repairs),
        Counter(report.warnings),
    )
    for result in results:
        report.samples += result.samples
        report.images += result.images
        report.image_bytes += result.image_bytes
        report.changed_images += result.changed_images
        report.saved_bytes += result.saved_bytes
        report.turns += result.turns
        report.bytes += result.bytes
        report.shards += result.samples > 0
        splits[result.split] += result.samples
        repairs.update(result.repairs)
        warnings.update(result.warnings)
    report.splits = {name: count for name, count in splits.items() if count}
    report.repairs, report.warnings = dict(sorted(repairs.items())), dict(sorted(warnings.items()))


def tell_empty_splits(report: ConvertReport, names: Iterable[str]) -> None:
    """Name the splits that got no sample, whether none was meant for them or all were rejected.

    Args:
        report: of a dataset whose shards are counted already.
        names: the splits that were asked for.
    """
    empty = [name for name in names if name not in report.splits]
    counts, examples = {**report.warnings}, {**report.warning_examples}
    counts["empty_split"], examples["empty_split"] = len(empty), empty
    report.warnings = {name: count for name, count in sorted(counts.items()) if count}
    report.warning_examples = {name: lines for name, lines in examples.items() if lines}


def add_rejections(report: ConvertReport, rows: Iterable[Rejected]) -> Iterable[Rejected]:
    """Count rejected records as they pass by."""
    for row in rows:
        report.rejected += 1
        report.rejections[row.reason] = report.rejections.get(row.reason, 0) + 1
        examples = report.examples.setdefault(row.reason, [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append(row.message)
        yield row
