"""What `stats` finds out, as plain frozen data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .forecast import BUFFER, Forecast
from .tally import Tally

SCHEMA_VERSION = 1
QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
_MOST_BARS = 24
_STEPS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram."""

    start: int
    """Smallest number that it counts."""
    stop: int
    """The number after the largest one that it counts."""
    count: int


@dataclass(frozen=True, slots=True)
class Use:
    """How often a text or a path occurs."""

    text: str
    count: int


@dataclass(frozen=True, slots=True)
class Size:
    """How many images have a size in pixels."""

    width: int
    height: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How some numbers are spread."""

    count: int
    total: int
    mean: float
    min: int
    max: int
    quantiles: dict[str, int]
    """The smallest number that so large a share of all does not exceed."""
    bars: tuple[Bar, ...]
    """Equally wide; the last one holds everything above the others."""
    is_exact: bool
    """False where there were too many different numbers to tell all apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequent:
    """Texts or paths that occur most often."""

    total: int
    """All of them."""
    different: int | None
    """None where there are more than can be told apart."""
    max_undercount: int
    """By how much the counts may be too low; 0 where they are exact."""
    top: tuple[Use, ...]
    """The most frequent first."""

    @property
    def repeats(self) -> int | None:
        """Uses beyond the first one."""
        return None if self.different is None else self.total - self.different


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptUse:
    """How much is written in one script."""

    script: str
    mostly: int
    """Records that have most of their letters in it."""
    any: int
    """Records that have a letter in it."""
    letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStats:
    """What the records are as tokens."""

    template: str
    image_embeddings: int
    """Positions counted for each image."""
    text: Spread
    """Text tokens of a sample."""
    positions: Spread
    """Positions of a sample in a pack, image embeddings included."""
    trained: Spread
    """Tokens of a sample on which loss is taken."""
    trained_percent: Spread
    """The same in whole percent of the sample's text tokens."""
    untrained_samples: int
    """Samples without any trained token."""
    failures: dict[str, int]
    """Reason -> records that could not be tokenized."""
    examples: dict[str, list[str]]
    """Reason -> messages of its first records."""
    events: dict[str, int]
    """Reason code -> how often something was escaped or cut."""

    @property
    def trained_of_text(self) -> float:
        """Share of all text tokens."""
        return self.trained.total / self.text.total

    @property
    def trained_of_positions(self) -> float:
        """Share of all positions, image embeddings included."""
        return self.trained.total / self.positions.total


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetStats:
    """Statistics of a source or a dataset. `seen == counted + the sum of left_out` always holds."""

    path: str
    kind: str
    """`dataset` or `source`."""
    split: str | None
    """The only split that was looked at; None for all."""
    seen: int
    """Records that are there."""
    counted: int
    """Records that all other figures are about."""
    left_out: dict[str, int]
    """Reason -> records that are there and do not count."""
    examples: dict[str, list[str]]
    """Reason -> messages of the first records that are left out for it."""
    quarantined: dict[str, int]
    """Reason -> records that convert put into quarantine; they are not in the dataset."""
    splits: dict[str, int]
    """Split -> samples."""
    shards: int
    num_bytes: int
    """Of the tars, or of the source file."""
    text_only: int
    one_image: int
    multi_image: int
    record_bytes: Spread
    turns: Spread
    """Of a record, whoever speaks."""
    question_chars: Spread | None
    """Placeholders and white space around the text do not count."""
    answer_chars: Spread | None
    questions: Frequent
    answers: Frequent
    scripts: tuple[ScriptUse, ...]
    images: Spread
    """Images of a record."""
    image_files: Frequent
    """Images by path."""
    image_bytes: Spread | None
    widths: Spread | None
    heights: Spread | None
    aspects: Spread | None
    """Width over height, in whole percent."""
    sizes: tuple[Size, ...]
    """The most frequent first."""
    unmeasured_images: int
    """Images whose size is not known."""
    formats: dict[str, int]
    formats_are_claimed: bool
    """Whether formats are only what paths claim, since no image was looked at."""
    tokens: TokenStats | None
    forecasts: tuple[Forecast, ...]

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        found: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        found["forecasts"] = {
            "buffer_samples": BUFFER,
            "packs": [_forecast_row(forecast) for forecast in self.forecasts],
        }
        if self.tokens is not None:
            found["tokens"]["trained_of_text"] = self.tokens.trained_of_text
            found["tokens"]["trained_of_positions"] = self.tokens.trained_of_positions
        return found

    def _repr_html_(self) -> str:
        from .page import render_fragment

        return render_fragment(self)


def _forecast_row(forecast: Forecast) -> dict[str, Any]:
    names = ("efficiency", "samples_per_pack", "images_per_pack", "steps_per_epoch")
    return {**asdict(forecast), **{name: getattr(forecast, name) for name in names}}


def spread_of(tally: Tally) -> Spread | None:
    """The spread of tallied numbers; None where there are none."""
    if not len(tally.numbers):
        return None
    numbers, counts = tally.numbers.tolist(), tally.counts
    ends = np.cumsum(counts)
    held = int(ends[-1])
    total = sum(number * count for number, count in zip(numbers, counts.tolist(), strict=True))

    def quantile(share: float) -> int:
        return int(numbers[int(np.searchsorted(ends, share * held))])

    quantiles = {name: quantile(share) for name, share in QUANTILES.items()}
    return Spread(
        count=tally.total,
        total=total,
        mean=total / held,
        min=numbers[0],
        max=numbers[-1],
        quantiles=quantiles,
        bars=_bars(tally, numbers[0], quantiles["p99"], numbers[-1]),
        is_exact=tally.is_exact,
    )


def _bars(tally: Tally, least: int, nearly_most: int, most: int) -> tuple[Bar, ...]:
    """Bars up to where nearly all numbers lie, and one for the few above."""
    step = _step(least, nearly_most)
    first = least // step * step
    end = (nearly_most // step + 1) * step
    bounds = np.arange(first, end + 1, step, dtype=np.uint64)
    if most >= end:
        bounds = np.append(bounds, np.uint64(most + 1))
    places = np.searchsorted(bounds, tally.numbers, side="right") - 1
    counts = np.bincount(places, weights=tally.counts, minlength=len(bounds) - 1)
    return tuple(
        Bar(int(start), int(stop), int(count))
        for start, stop, count in zip(bounds[:-1], bounds[1:], counts, strict=True)
    )


def _step(least: int, most: int) -> int:
    """Width of bars: 1, 2 or 5 times a power of ten, so that there are not too many."""
    power = 1
    while True:
        for factor in _STEPS:
            step = factor * power
            if most // step - least // step + 1 < _MOST_BARS:
                return step
        power *= 10
