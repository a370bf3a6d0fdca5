"""From pieces of rendered text to ids with offsets, for any tokenizer.

`reader_of(tokenizer)` gives what fits: FastEncoder where the tokenizer has a Rust backend,
SlowEncoder elsewhere. Both work on copies or through calls; the tokenizer is not changed.
"""

from __future__ import annotations

import copy
import json
import re
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

from ..errors import TemplateError
from .align import align_tokens
from .marks import Specials, choose_marks

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text between two images."""

    text: str
    start: int = 0
    """Where the chunk begins in the rendered text."""
    data: tuple[Span, ...] = ()
    """Character spans in the chunk that look like special tokens but are content."""


class Encoded(Protocol):
    """A chunk's tokens, and where they stand."""

    @property
    def ids(self) -> list[int]:
        """Token ids."""
        ...

    @property
    def offsets(self) -> list[Span]:
        """Character span of each token in the chunk."""
        ...

    def touched(self, start: int, end: int) -> Span:
        """The tokens [first, last) that touch the characters [start, end)."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """A chunk's tokens as lists."""

    ids: list[int]
    offsets: list[Span]

    def touched(self, start: int, end: int) -> Span:
        """The tokens [first, last) that touch the characters [start, end).

        Example:
            >>> Listed([5, 6, 7], [(0, 4), (4, 9), (9, 10)]).touched(5, 9)
            (1, 2)
        """
        first = bisect_left(self.offsets, (start, -1))
        while first and self.offsets[first - 1][1] > start:
            first -= 1
        return first, bisect_left(self.offsets, (end, -1), lo=first)


class Looked:
    """A chunk's tokens inside the Rust tokenizer, asked only for what is needed."""

    def __init__(self, encoding: Any, length: int, padding: int) -> None:
        self._encoding = encoding
        self._length = length
        self._padding = padding
        self.ids: list[int] = encoding.ids

    @property
    def offsets(self) -> list[Span]:
        """Character span of each token in the chunk."""
        offsets: list[Span] = self._encoding.offsets
        if not self._padding:
            return offsets
        return [(max(start - self._padding, 0), end - self._padding) for start, end in offsets]

    def touched(self, start: int, end: int) -> Span:
        """The tokens [first, last) that touch the characters [start, end).

        Two look-ups where tokens meet at both ends; all offsets in the rare other cases.
        """
        first, last = self._begins_at(start), self._begins_at(end)
        if first is None or last is None:
            return Listed(self.ids, self.offsets).touched(start, end)
        return first, last

    def _begins_at(self, place: int) -> int | None:
        """The token that begins at a character, if it alone does and none reaches across."""
        if place >= self._length:
            return len(self.ids)
        place += self._padding
        encoding = self._encoding
        token: int | None = encoding.char_to_token(place)
        if token is None or encoding.token_to_chars(token)[0] != place:
            return None
        if token:
            before = encoding.token_to_chars(token - 1)
            if before is None or before[1] > place or before[0] == place:
                return None
        return token


class TextEncoder(Protocol):
    """Turns chunks into ids with offsets; knows what the tokenizer treats as structure."""

    def encode(self, chunks: Sequence[Chunk]) -> list[Encoded]:
        """One answer a chunk."""
        ...


@dataclass(frozen=True, slots=True)
class Reader:
    """A tokenizer as the encoding sees it."""

    encoder: TextEncoder
    specials: Specials
    """What it treats as structure."""
    bos_id: int | None
    """The BOS that texts for its model begin with; None where they begin with none."""


_READERS: weakref.WeakKeyDictionary[Any, tuple[Any, Reader]] = weakref.WeakKeyDictionary()


def reader_of(processor: Any, image_token: str) -> Reader:
    """The reader of a tokenizer, made once, and again after the tokenizer was given tokens.

    Args:
        processor: a tokenizer, or a processor that has one.
        image_token: text of the image placeholder.
    """
    tokenizer = tokenizer_of(processor)
    listed = tuple(str(text) for text in tokenizer.all_special_tokens)
    state = (len(tokenizer), listed, image_token)
    known = _READERS.get(tokenizer)
    if known is None or known[0] != state:
        known = _READERS[tokenizer] = (state, _make_reader(tokenizer, listed, image_token))
    return known[1]


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer itself, out of a processor if it is one."""
    return processor.tokenizer if hasattr(processor, "image_processor") else processor


def _make_reader(tokenizer: Any, listed: tuple[str, ...], image_token: str) -> Reader:
    texts = set(listed) - {""}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    encoder: TextEncoder
    if backend is not None:
        added = backend.get_added_tokens_decoder().values()
        texts |= {token.content for token in added if token.special}
        encoder = FastEncoder(backend, texts | {image_token})
    else:
        encoder = SlowEncoder(tokenizer)
    specials = Specials(
        image_token=image_token,
        protected=tuple(sorted(texts)),
        bos_token=getattr(tokenizer, "bos_token", None),
        eos_token=getattr(tokenizer, "eos_token", None),
    )
    return Reader(encoder, specials, tokenizer.bos_token_id if _puts_bos(tokenizer) else None)


def _puts_bos(tokenizer: Any) -> bool:
    """Whether texts for this tokenizer's model begin with its BOS.

    They do when the tokenizer says so, or has a BOS that is not also its EOS: a GPT-style
    `<|endoftext|>` separates documents and begins nothing.
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None:
        return False
    return list(tokenizer.encode("a"))[:1] == [bos] or bos != tokenizer.eos_token_id


class FastEncoder:
    """Many chunks in one call of the Rust tokenizer."""

    def __init__(self, backend: Any, special_tokens: set[str]) -> None:
        self._plain = copy.deepcopy(backend)
        # Post-processors add BOS and trim offsets; templates say where BOS goes.
        self._plain.post_processor = None
        self._plain.no_padding()
        self._plain.no_truncation()
        self._special_tokens = special_tokens
        self._literal: dict[str, _LiteralEncoder] = {}
        self._doubles_space = _prepends_once(backend)

    def encode(self, chunks: Sequence[Chunk]) -> list[Encoded]:
        """Ids and offsets; only chunks with look-alikes take the longer way."""
        paddings = [self._padding(chunk) for chunk in chunks]
        plain = [
            padding + chunk.text
            for chunk, padding in zip(chunks, paddings, strict=True)
            if not chunk.data
        ]
        try:
            encodings = iter(self._plain.encode_batch(plain, add_special_tokens=False))
        except UnicodeEncodeError as error:
            raise _surrogates(error) from error
        return [
            self._encode_literally(chunk, padding)
            if chunk.data
            else Looked(next(encodings), len(chunk.text), len(padding))
            for chunk, padding in zip(chunks, paddings, strict=True)
        ]

    def _padding(self, chunk: Chunk) -> str:
        """The space that SentencePiece puts before every text, also one that begins with a space.

        The Rust tokenizer leaves it out there; LLaVA's tokens after an image have it.
        """
        return " " if self._doubles_space and chunk.start and chunk.text[:1] == " " else ""

    def _encode_literally(self, chunk: Chunk, padding: str) -> Encoded:
        prefix = choose_marks(chunk.text).sentinel
        if prefix not in self._literal:
            self._literal[prefix] = _LiteralEncoder(self._plain, self._special_tokens, prefix)
        try:
            return self._literal[prefix].encode(chunk, padding)
        except UnicodeEncodeError as error:
            raise _surrogates(error) from error


class _LiteralEncoder:
    """A Rust tokenizer that reads special tokens as text, and stand-ins as special tokens.

    The text is encoded whole, so that content merges with its neighbours as everywhere else.
    """

    def __init__(self, plain: Any, special_tokens: set[str], prefix: str) -> None:
        from tokenizers import AddedToken

        self._tokenizer = copy.deepcopy(plain)
        added = self._tokenizer.get_added_tokens_decoder()
        specials = {
            number: token
            for number, token in added.items()
            if token.special or token.content in special_tokens
        }
        # Those that a tokenizer merely lists are made special, or they would still be matched.
        self._tokenizer.add_special_tokens(list(specials.values()))
        self._stand_in = {
            token.content: f"{prefix}{number}{prefix}" for number, token in specials.items()
        }
        self._seam = f"{prefix}seam{prefix}"
        self._tokenizer.add_tokens(
            [
                AddedToken(
                    self._stand_in[token.content],
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    single_word=token.single_word,
                    normalized=False,
                )
                for token in specials.values()
            ]
            + [AddedToken(self._seam, normalized=False)]
        )
        self._tokenizer.encode_special_tokens = True
        self._real_id = {
            self._tokenizer.token_to_id(self._stand_in[token.content]): number
            for number, token in specials.items()
        }
        self._real_id[self._tokenizer.token_to_id(self._seam)] = -1
        self._structure = _any_of(self._stand_in)

    def encode(self, chunk: Chunk, padding: str) -> Encoded:
        """Ids and offsets of a chunk with look-alikes."""
        pieces = [(padding, (0, 0)), *self._pieces(chunk)]
        encoding = self._tokenizer.encode(
            "".join(text for text, _ in pieces), add_special_tokens=False
        )
        places = [0, *accumulate(len(text) for text, _ in pieces)]

        def source(place: int) -> int:
            """The character of the chunk that a character of the encoded text stands for."""
            piece = bisect_right(places, place) - 1
            if piece == len(pieces):
                return len(chunk.text)
            start, end = pieces[piece][1]
            return min(start + place - places[piece], end)

        encoded = Listed([], [])
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            real = self._real_id.get(token, token)
            if real >= 0:
                encoded.ids.append(real)
                encoded.offsets.append((source(start), source(end)))
        return encoded

    def _pieces(self, chunk: Chunk) -> Iterator[tuple[str, Span]]:
        """What to encode, and the span of the chunk that each piece stands for."""
        cursor = 0
        for start, end in (*chunk.data, (len(chunk.text), len(chunk.text))):
            for match in self._structure.finditer(chunk.text, cursor, start):
                yield chunk.text[cursor : match.start()], (cursor, match.start())
                yield self._stand_in[match[0]], match.span()
                cursor = match.end()
            if cursor < start:
                yield chunk.text[cursor:start], (cursor, start)
            if start < end:
                yield from self._data_pieces(chunk.text[start:end], start)
            cursor = end

    def _data_pieces(self, text: str, start: int) -> Iterator[tuple[str, Span]]:
        """A look-alike, cut once where the model itself would spell the special token."""
        leaks = self._tokenizer.token_to_id(text) in self._tokenizer.encode(text).ids
        cut = 1 if leaks else len(text)
        yield text[:cut], (start, start + cut)
        if leaks:
            yield self._seam, (start + cut, start + cut)
            yield text[cut:], (start + cut, start + len(text))


class SlowEncoder:
    """Special tokens by name, the text between them by `encode`, places by spelling out."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = weakref.proxy(tokenizer)
        names = [str(text) for text in tokenizer.all_special_tokens if str(text)]
        self._special = dict(zip(names, tokenizer.convert_tokens_to_ids(names), strict=True))
        self._structure = _any_of(self._special)

    def encode(self, chunks: Sequence[Chunk]) -> list[Encoded]:
        """Ids and offsets, one run of text at a time."""
        return [self._encode(chunk) for chunk in chunks]

    def _encode(self, chunk: Chunk) -> Encoded:
        encoded = Listed([], [])
        cursor = 0
        for match in self._structure.finditer(chunk.text):
            if any(start < match.end() and match.start() < end for start, end in chunk.data):
                continue
            self._encode_run(chunk.text, (cursor, match.start()), encoded)
            encoded.ids.append(self._special[match[0]])
            encoded.offsets.append(match.span())
            cursor = match.end()
        self._encode_run(chunk.text, (cursor, len(chunk.text)), encoded)
        return encoded

    def _encode_run(self, text: str, span: Span, encoded: Listed) -> None:
        run = text[span[0] : span[1]]
        if not run:
            return
        ids = self._ids(run)
        spans = align_tokens(self._tokenizer, ids, run)
        if spans is None:
            raise TemplateError(
                f"{type(self._tokenizer).__name__}: cannot tell where the tokens of {run[:60]!r} "
                "stand; use the fast version of this tokenizer"
            )
        encoded.ids.extend(ids)
        encoded.offsets.extend((span[0] + start, span[0] + end) for start, end in spans)

    def _ids(self, run: str) -> list[int]:
        """Ids of text in which nothing is special."""
        if not self._structure.search(run):
            return list(self._tokenizer.encode(run, add_special_tokens=False))
        try:
            ids = self._tokenizer.encode(run, add_special_tokens=False, split_special_tokens=True)
        except (TypeError, ValueError):
            # Some tokenizers never read special tokens in text, and refuse the option.
            ids = self._tokenizer.encode(run, add_special_tokens=False)
        if not set(self._special.values()).isdisjoint(ids):
            raise TemplateError(
                f"{type(self._tokenizer).__name__}: makes a special token of the plain text "
                f"{run[:60]!r}; use the fast version of this tokenizer or clean the text"
            )
        return list(ids)


def _prepends_once(backend: Any) -> bool:
    """Whether a tokenizer puts a space before a text unless one is there."""
    pre_tokenizer = json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer else {}
    return (
        pre_tokenizer.get("type") == "Metaspace" and pre_tokenizer.get("prepend_scheme") == "first"
    )


def _any_of(texts: Sequence[str] | dict[str, Any]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _surrogates(error: UnicodeEncodeError) -> TemplateError:
    return TemplateError(
        f"the text has a lone surrogate at character {error.start}, which no tokenizer takes; "
        "repair the record's encoding"
    )
