"""Which records are wanted: one pass over the source before anything is planned or written.

Left out on purpose is not rejected: `records == samples + rejected + filtered`.

    spans ──workers──▶ a judgement of each record ──▶ repetitions ──▶ which go on, and why not
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import RecordError
from ..loaders.format import DUPLICATES_FILE
from .dedup import MARK, Repeats, find_repeats
from .duplicates import Pair, Place, read_pairs, write_pairs
from .engines.job import Job
from .files import told
from .filter import Filters, refuse_missing
from .judge import Judged, judge_all
from .leakage import Evaluation, Leak, read_evaluations
from .options import ConvertOptions, parse_dedup
from .perceptual import map_array
from .plan import ROW, Chosen
from .source import Source
from .watch import Watch

_EXAMPLES = 3


def chooses(options: ConvertOptions) -> bool:
    """Whether the options may leave out a record."""
    return bool(options.filter or options.dedup or options.exclude)


def choose(
    source: Source, job: Job, watch: Watch, ordinals: np.ndarray | None = None
) -> tuple[np.ndarray, Chosen]:
    """Judge every record of a source, and write duplicates.jsonl where that is asked for.

    Args:
        source: the source.
        job: the same for the workers, with the options.
        watch: told of the progress.
        ordinals: uint64[records], each record's index in the original source; None for 0, 1, 2, ….

    Returns:
        bool[records], whether each goes on: to be written, or to be rejected for what is wrong with
        it; and what is left out.

    Raises:
        ConfigError: an expression names a field that no record of the whole source has, or there is
            no such evaluation set.
        RecordError: the source is broken, or nothing is left of the whole of it.
        ShardError: the machine refuses.
    """
    options = job.options
    rows = _rows(source, options, ordinals)
    watch.begin("choose", len(rows))
    radius = parse_dedup(options.dedup) if options.dedup else None
    evaluation = read_evaluations(options.exclude, radius, job.work)
    found = _gather(job, rows, evaluation, watch)
    is_whole = ordinals is None and len(rows) > 0
    # Where every record is rejected, nothing is known of their fields.
    if is_whole and found.known:
        refuse_missing(found.missing, found.known)
    repeats = find_repeats(*_marks(job.work), radius, job.work)
    keep = found.keep
    keep[repeats.removed] = False
    chosen = _report(found, repeats, options, evaluation, rows)
    if is_whole and not keep.any():
        said = ", ".join(f"{name!r} {count:,}" for name, count in chosen.filtered.items())
        raise RecordError(
            f"{source.name}: all {len(rows):,} records were left out ({said}); ask for less"
        )
    if (options.dedup or options.exclude) and not options.dry_run:
        pairs = _pairs(source, job, rows, found, repeats, evaluation)
        tried = None if ordinals is None else set(ordinals.tolist())
        # It waits for the rest of the dataset: until then the one that is there stays as it is.
        before = read_pairs(job.out / DUPLICATES_FILE)
        write_pairs(job.work / DUPLICATES_FILE, pairs, before=before, tried=tried)
    return keep, chosen


@dataclass(slots=True)
class _Found:
    """What was found of all records, beside the marks, which lie on disk."""

    keep: np.ndarray
    """bool[records]"""
    missing: frozenset[str]
    known: set[str] = field(default_factory=set)
    failed: Counter[int] = field(default_factory=Counter)
    """Number of a filter -> records that do not pass it."""
    unknown: list[int] = field(default_factory=list)
    """Records of which a filter could not say anything."""
    leaks: dict[int, Leak] = field(default_factory=dict)

    def add(self, start: int, judged: Judged) -> None:
        """Add a chunk whose first record has a number."""
        self.missing &= judged.missing
        self.known.update(judged.known)
        self.failed.update(judged.failed.values())
        self.unknown += [start + place for place in judged.unknown]
        self.leaks |= {start + place: leak for place, leak in judged.leaks.items()}
        for place in (*judged.failed, *judged.leaks):
            self.keep[start + place] = False


def _gather(job: Job, rows: np.ndarray, evaluation: Evaluation, watch: Watch) -> _Found:
    found = _Found(np.ones(len(rows), bool), frozenset(Filters(job.options.filter).missing))
    marks, looks = _mark_files(job.work)
    with told(marks), marks.open("wb") as mark_file, looks.open("wb") as look_file:
        for start, judged in judge_all(job, rows, evaluation):
            watch.update(start, 0, 0)
            found.add(start, judged)
            mark_file.write(judged.marks.tobytes())
            look_file.write(judged.looks.tobytes())
    return found


def _report(
    found: _Found,
    repeats: Repeats,
    options: ConvertOptions,
    evaluation: Evaluation,
    rows: np.ndarray,
) -> Chosen:
    filtered = {options.filter[number]: count for number, count in sorted(found.failed.items())}
    whys = Counter(leak.why.removeprefix("exclude_") for leak in found.leaks.values())
    filtered |= {f"--exclude: {what}": whys[what] for what in ("image", "question") if whys[what]}
    if len(repeats.removed):
        filtered[f"--dedup {options.dedup}"] = len(repeats.removed)
    warnings = {
        "filter_unknown": len(found.unknown),
        "exclude_unreadable": evaluation.unreadable,
    }
    first = [f"record {rows['ordinal'][place]}" for place in found.unknown[:_EXAMPLES]]
    return Chosen(
        filtered=filtered,
        warnings={name: count for name, count in warnings.items() if count},
        warning_examples={"filter_unknown": first} if first else {},
    )


def _pairs(
    source: Source,
    job: Job,
    rows: np.ndarray,
    found: _Found,
    repeats: Repeats,
    evaluation: Evaluation,
) -> Iterator[Pair]:
    """Each record that was left out for another's sake, in the order of the source."""
    read = source.reader()

    def place(number: int) -> Place:
        ordinal, offset, length, _ = rows[number].tolist()
        record = read(source.data[offset : offset + length]).record
        return Place(source=job.source_name, index=ordinal, id=record.id)

    by_images = "_images" if job.options.dedup_by == "images" else ""
    leaks = iter(sorted(found.leaks.items()))
    leak = next(leaks, None)
    for removed, kept, bits, is_exact in zip(*(column.tolist() for column in repeats), strict=True):
        while leak is not None and leak[0] < removed:
            yield _leaked(place(leak[0]), leak[1], evaluation)
            leak = next(leaks, None)
        why = ("exact" if is_exact else "perceptual") + by_images
        yield Pair(removed=place(removed), kept=place(kept), why=why, bits=bits)
    while leak is not None:
        yield _leaked(place(leak[0]), leak[1], evaluation)
        leak = next(leaks, None)


def _leaked(removed: Place, leak: Leak, evaluation: Evaluation) -> Pair:
    kept = evaluation.places[leak.of]
    return Pair(removed=removed, kept=kept, why=leak.why, bits=leak.bits, what=leak.what)


def _rows(source: Source, options: ConvertOptions, ordinals: np.ndarray | None) -> np.ndarray:
    """Every record's place, as in a plan."""
    place = np.dtype([("offset", "<u8"), ("length", "<u4")])
    spans = np.fromiter(map(tuple, islice(source.spans(), options.limit)), place)
    rows = np.zeros(len(spans), ROW)
    rows["ordinal"] = np.arange(len(spans), dtype=np.uint64) if ordinals is None else ordinals
    rows["offset"], rows["length"] = spans["offset"], spans["length"]
    return rows


def _mark_files(work: Path) -> tuple[Path, Path]:
    return work / "marks", work / "looks"


def _marks(work: Path) -> tuple[np.ndarray, np.ndarray]:
    """MARK[records] of those that may be repetitions, and uint64[images], the looks of all."""
    marks, looks = _mark_files(work)
    with told(marks, "read"):
        # Mapped, not read: 36 bytes a record, of which most steps look at 8.
        return map_array(marks, MARK), map_array(looks, np.dtype(np.uint64))
