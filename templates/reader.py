"""A tokenizer as the encoding sees it: how to ask it, and what it treats as structure.

The tokenizer itself is never changed: the encoders work on copies, or only call it.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from .chunk import TextEncoder
from .fast import FastEncoder
from .marks import Specials
from .slow import SlowEncoder


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
    texts, others = set(listed) - {""}, set[str]()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    encoder: TextEncoder
    if backend is not None:
        added = backend.get_added_tokens_decoder().values()
        texts |= {token.content for token in added if token.special}
        others = {token.content for token in added if token.content.strip()} - texts
        encoder = FastEncoder(backend, texts | {image_token})
    else:
        encoder = SlowEncoder(tokenizer)
    specials = Specials(
        image_token=image_token,
        protected=tuple(sorted(texts)),
        added=tuple(sorted(others)),
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
