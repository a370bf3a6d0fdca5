"""From counts to statistics: spreads, the most frequent texts read again, and the forecast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..source import Source
from .count import PartCounts
from .forecast import forecast
from .lookup import (
    Told,
    answers_of,
    find_text,
    image_paths_of,
    questions_of,
    told_by_shard,
    told_by_source,
)
from .read_dataset import SHARD_BITS
from .result import (
    DatasetStats,
    Frequent,
    ScriptUse,
    Size,
    Spread,
    TokenStats,
    Use,
    spread_of,
)
from .scripts import SCRIPTS
from .tally import Tally
from .tokens import TokenCounts, Tokenizing

MAX_TEXT_CHARS = 500
"""Longer texts are cut where they are shown."""
_GONE = "(could not be read again)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is known of a source or a dataset before its records are read."""

    path: Path
    kind: str
    num_bytes: int
    files: Mapping[int, str]
    """Number in a place -> name of the shard; empty for a source."""
    has_looked: bool
    """Whether images were looked at, now or by convert."""
    source: Source | None = None
    """None for a dataset."""
    split: str | None = None
    splits: Mapping[str, int] = field(default_factory=dict)
    quarantined: Mapping[str, int] = field(default_factory=dict)

    def read(self, place: int) -> Told:
        """What the record at a place says; raises what `told_by_source` or `told_by_shard` does."""
        if self.source is not None:
            return told_by_source(self.source, place)
        shard = self.path / self.files[place >> SHARD_BITS]
        return told_by_shard(shard, place & ((1 << SHARD_BITS) - 1))


def summarize(
    origin: Origin,
    counts: PartCounts,
    tokenizing: Tokenizing | None,
    global_batch_size: int | None,
    top: int,
    run: Any,
) -> DatasetStats:
    """The statistics that counts amount to.

    Args:
        origin: where the records are.
        counts: of at least one record.
        tokenizing: how tokens were made, if they were.
        global_batch_size: packs of one step.
        top: how many of the most frequent to tell.
        run: like `map`; may work in several processes.
    """

    def frequent(tally: Tally, texts_of: Callable[[Told], Iterable[str]]) -> Frequent:
        return _frequent(tally, texts_of, origin, top)

    images = _sure(spread_of(counts.images))
    per_record = dict(
        zip(counts.images.numbers.tolist(), counts.images.counts.tolist(), strict=True)
    )
    counted = counts.record_bytes.total
    tokens = counts.tokens if tokenizing is not None else None
    return DatasetStats(
        path=str(origin.path),
        kind=origin.kind,
        split=origin.split,
        seen=counted + sum(counts.left_out.values()),
        counted=counted,
        left_out=dict(counts.left_out.most_common()),
        examples=counts.examples,
        quarantined=dict(origin.quarantined),
        splits=dict(origin.splits),
        shards=len(origin.files) if origin.kind == "dataset" else 0,
        num_bytes=origin.num_bytes,
        text_only=per_record.get(0, 0),
        one_image=per_record.get(1, 0),
        multi_image=counted - per_record.get(0, 0) - per_record.get(1, 0),
        record_bytes=_sure(spread_of(counts.record_bytes)),
        turns=_sure(spread_of(counts.turns)),
        question_chars=spread_of(counts.question_chars),
        answer_chars=spread_of(counts.answer_chars),
        questions=frequent(counts.questions, questions_of),
        answers=frequent(counts.answers, answers_of),
        scripts=_scripts(counts),
        images=images,
        image_files=frequent(counts.pictures, image_paths_of),
        image_bytes=spread_of(counts.image_bytes),
        **_sizes(counts.sizes, top),
        unmeasured_images=counts.pictures.total - counts.sizes.total,
        formats=dict(counts.formats.most_common()),
        formats_are_claimed=not origin.has_looked,
        tokens=_token_stats(tokens, tokenizing),
        forecasts=forecast(tokens.lengths, global_batch_size, run=run) if tokens else (),
    )


def _frequent(
    tally: Tally, texts_of: Callable[[Told], Iterable[str]], origin: Origin, top: int
) -> Frequent:
    uses = []
    for number, count, place in tally.most_frequent(top):
        text = find_text(partial(origin.read, place), number, texts_of)
        uses.append(Use(_GONE if text is None else text[:MAX_TEXT_CHARS], count))
    return Frequent(
        total=tally.total,
        different=len(tally.numbers) if tally.is_exact else None,
        max_undercount=tally.error,
        top=tuple(uses),
    )


def _scripts(counts: PartCounts) -> tuple[ScriptUse, ...]:
    """Scripts that occur, those of most records first."""
    uses = [
        ScriptUse(script=script, mostly=mostly, any=some, letters=letters)
        for script, (mostly, some, letters) in zip(SCRIPTS, counts.letters.T.tolist(), strict=True)
        if mostly or some
    ]
    return tuple(sorted(uses, key=lambda use: (-use.mostly, -use.letters)))


def _sizes(sizes: Tally, top: int) -> dict[str, Any]:
    """Spreads of width, height and their ratio, and the most frequent sizes."""
    widths, heights = sizes.numbers >> np.uint64(32), sizes.numbers & np.uint64(0xFFFFFFFF)
    ratios = 100 * widths // np.maximum(heights, np.uint64(1))

    def spread(values: Any) -> Spread | None:
        return spread_of(Tally.of(values, sizes.counts, error=sizes.error))

    return {
        "widths": spread(widths),
        "heights": spread(heights),
        "aspects": spread(ratios),
        "sizes": tuple(
            Size(number >> 32, number & 0xFFFFFFFF, count)
            for number, count, _ in sizes.most_frequent(top)
        ),
    }


def _token_stats(counts: TokenCounts | None, how: Tokenizing | None) -> TokenStats | None:
    if counts is None or how is None or not counts.text.total:
        return None
    trained = counts.trained
    return TokenStats(
        template=how.template.name,
        image_embeddings=how.image_embeddings,
        text=_sure(spread_of(counts.text)),
        positions=_sure(spread_of(counts.positions)),
        trained=_sure(spread_of(trained)),
        trained_percent=_sure(spread_of(counts.trained_percent)),
        untrained_samples=int(trained.counts[trained.numbers == 0].sum()),
        failures=dict(counts.failures.most_common()),
        examples=counts.examples,
        events=dict(counts.events.most_common()),
    )


def _sure(spread: Spread | None) -> Spread:
    assert spread is not None, "at least one record was counted"
    return spread
