"""Counting records: what many of them have in common, as sums that add up over parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from ...loaders.image_header import EXTENSIONS, SAME_EXTENSION
from ...loaders.members import USER_ROLES
from .item import Item, LeftOut, Picture, plain_answer, plain_question
from .scripts import SCRIPTS, count_letters
from .tally import Tally
from .tokens import TokenCounts, Tokenizing, count_tokens

MAX_EXAMPLES = 3
ANSWER_ROLES = frozenset(("gpt", "assistant"))
_BATCH = 256
_BATCH_BYTES = 4 << 20
_KNOWN_FORMATS = frozenset(EXTENSIONS.values())


@dataclass(slots=True)
class PartCounts:
    """What was counted in one part of the records."""

    left_out: Counter[str] = field(default_factory=Counter)
    """Reason -> records that do not count."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> messages of its first records."""
    record_bytes: Tally = field(default_factory=Tally)
    turns: Tally = field(default_factory=Tally)
    """Of each record, whoever speaks."""
    question_chars: Tally = field(default_factory=Tally)
    answer_chars: Tally = field(default_factory=Tally)
    questions: Tally = field(default_factory=Tally)
    """By hash of the text."""
    answers: Tally = field(default_factory=Tally)
    """By hash of the text."""
    images: Tally = field(default_factory=Tally)
    """Images of each record."""
    pictures: Tally = field(default_factory=Tally)
    """By hash of the path."""
    image_bytes: Tally = field(default_factory=Tally)
    sizes: Tally = field(default_factory=Tally)
    """Width << 32 | height."""
    formats: Counter[str] = field(default_factory=Counter)
    letters: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((3, len(SCRIPTS)), np.int64)
    )
    """int64[3, scripts]: records with most letters in the script, with any, and all letters."""
    tokens: TokenCounts | None = None

    def merge(self, other: PartCounts) -> None:
        """Add what was counted in another, later part."""
        self.left_out.update(other.left_out)
        self.formats.update(other.formats)
        self.letters += other.letters
        for reason, messages in other.examples.items():
            kept = self.examples.setdefault(reason, [])
            kept += messages[: MAX_EXAMPLES - len(kept)]
        for mine, others in zip(self.tallies(), other.tallies(), strict=True):
            mine.merge(others)
        if other.tokens is not None:
            self.tokens = self.tokens or TokenCounts()
            self.tokens.merge(other.tokens)

    def tallies(self) -> tuple[Tally, ...]:
        """All tallies, in an order that is always the same."""
        return (
            *(self.record_bytes, self.turns, self.question_chars, self.answer_chars),
            *(self.questions, self.answers, self.images, self.pictures),
            *(self.image_bytes, self.sizes),
        )


def count_items(items: Iterable[Item | LeftOut], tokenizing: Tokenizing | None) -> PartCounts:
    """Count records.

    Args:
        items: the records.
        tokenizing: how they become tokens; None to leave tokens alone.
    """
    counts = PartCounts()
    if tokenizing is not None:
        counts.tokens = TokenCounts()
    for batch in _batches(items, counts):
        _count_texts(counts, batch)
        _count_pictures(counts, batch)
        if tokenizing is not None and counts.tokens is not None:
            count_tokens(counts.tokens, batch, tokenizing)
    for tally in counts.tallies():
        tally.compacted()
    return counts


def _batches(items: Iterable[Item | LeftOut], counts: PartCounts) -> Iterator[list[Item]]:
    """The records that count, some at a time: a call of numpy takes as long for many as for one."""
    batch: list[Item] = []
    size = 0
    for item in items:
        if isinstance(item, LeftOut):
            counts.left_out[item.reason] += 1
            examples = counts.examples.setdefault(item.reason, [])
            if len(examples) < MAX_EXAMPLES:
                examples.append(item.message)
            continue
        batch.append(item)
        size += item.num_bytes
        if len(batch) == _BATCH or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _count_texts(counts: PartCounts, batch: list[Item]) -> None:
    questions: list[str] = []
    answers: list[str] = []
    texts, asked, answered = [], [], []
    for item in batch:
        mine = [plain_question(turn.value) for turn in item.turns if turn.role in USER_ROLES]
        other = [plain_answer(turn.value) for turn in item.turns if turn.role in ANSWER_ROLES]
        questions += mine
        answers += other
        asked.append(len(mine))
        answered.append(len(other))
        texts.append("".join(mine + other))
    places = np.fromiter((item.place for item in batch), np.uint64, len(batch))
    counts.record_bytes.add(item.num_bytes for item in batch)
    counts.turns.add(len(item.turns) for item in batch)
    counts.question_chars.add(map(len, questions))
    counts.answer_chars.add(map(len, answers))
    counts.questions.add(_hashes(questions), np.repeat(places, asked))
    counts.answers.add(_hashes(answers), np.repeat(places, answered))
    _count_scripts(counts, count_letters(texts))


def _count_scripts(counts: PartCounts, letters: npt.NDArray[np.int64]) -> None:
    # Without any letter the first script wins, which is "no letters".
    counts.letters[0] += np.bincount(letters.argmax(axis=1), minlength=len(SCRIPTS))
    counts.letters[1] += np.count_nonzero(letters, axis=0)
    counts.letters[2] += letters.sum(axis=0)


def _count_pictures(counts: PartCounts, batch: list[Item]) -> None:
    counts.images.add(len(item.pictures) for item in batch)
    pictures: list[Picture] = []
    places = []
    for item in batch:
        pictures += item.pictures
        places += [item.place] * len(item.pictures)
    if not pictures:
        return
    counts.pictures.add(_hashes([picture.path for picture in pictures]), places)
    counts.image_bytes.add(picture.num_bytes for picture in pictures if picture.num_bytes)
    counts.sizes.add(
        picture.width << 32 | picture.height for picture in pictures if picture.width > 0
    )
    counts.formats.update(_format(picture.extension) for picture in pictures)


def text_hash(text: str) -> int:
    """A number of 64 bits for a text; different texts have different ones, but for bad luck."""
    return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _hashes(texts: Sequence[str]) -> map[int]:
    return map(xxh3_64_intdigest, map(str.encode, texts))


def _format(extension: str) -> str:
    """A format by its usual extension; whatever else strangers call their files is one."""
    known = SAME_EXTENSION.get(extension, extension)
    return known if known in _KNOWN_FORMATS else "other"
