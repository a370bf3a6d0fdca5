"""Golden files: tokens and labels of chosen conversations, frozen, and compared later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from .encode import encode_conversation
from .reader import tokenizer_of
from .render import ConversationTemplate, ImagePlacement

SCHEMA_VERSION = 1
CONTEXT_TOKENS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first place where a conversation is encoded in another way than it was."""

    id: str
    place: int
    """Index of the token."""
    what: str
    """`token`, `label` or `length`."""
    before: str
    """Text around the place as it was, the token itself in brackets."""
    now: str


def record(
    conversations: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    *,
    tokenizer: Any,
    template: ConversationTemplate,
    image_placement: ImagePlacement = "keep",
) -> dict[str, Any]:
    """What to freeze: everything that a later check needs, conversations included.

    Args:
        conversations: (id, messages).
        tokenizer: of transformers.
        template: of the library or the user's own.
        image_placement: as for `encode_conversation`.
    """
    cases = []
    for name, messages in conversations:
        sample = encode_conversation(
            messages,
            tokenizer=tokenizer,
            template=template,
            image_placement=image_placement,
            key=name,
        )
        tokens, labels = sample.tokens.tolist(), sample.labels.tolist()
        cases.append(
            {
                "id": name,
                "messages": list(messages),
                "tokens": tokens,
                "labels": labels,
                "trained_texts": _trained_texts(tokenizer_of(tokenizer), tokens, labels),
            }
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "template": {
            "name": template.name,
            "hash": _hash(template.chat_template, template.system, *template.roles),
            "image_placement": image_placement,
        },
        "tokenizer": {
            "class": type(tokenizer_of(tokenizer)).__name__,
            "hash": tokenizer_hash(tokenizer),
        },
        "transformers": version("transformers"),
        "cases": cases,
    }


def compare(before: Mapping[str, Any], now: Mapping[str, Any], tokenizer: Any) -> list[Difference]:
    """The conversations that are encoded in another way, each with its first difference."""
    pairs = zip(before["cases"], now["cases"], strict=True)
    return [
        difference
        for old, new in pairs
        if (difference := _first_difference(old, new, tokenizer_of(tokenizer))) is not None
    ]


def tokenizer_hash(processor: Any) -> str:
    """A hash of what a tokenizer does: its Rust state, or its vocabulary where it has none."""
    tokenizer = tokenizer_of(processor)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return _hash(backend.to_str())
    return _hash(json.dumps(sorted(tokenizer.get_vocab().items())), *tokenizer.all_special_tokens)


def _first_difference(
    old: Mapping[str, Any], new: Mapping[str, Any], tokenizer: Any
) -> Difference | None:
    for what in ("token", "label"):
        pairs = zip(old[f"{what}s"], new[f"{what}s"], strict=False)
        for place, (was, is_) in enumerate(pairs):
            if was != is_:
                return _difference(old, new, tokenizer, place, what)
    if len(old["tokens"]) != len(new["tokens"]):
        shorter = min(len(old["tokens"]), len(new["tokens"]))
        return _difference(old, new, tokenizer, shorter, "length")
    return None


def _difference(
    old: Mapping[str, Any], new: Mapping[str, Any], tokenizer: Any, place: int, what: str
) -> Difference:
    return Difference(
        id=old["id"],
        place=place,
        what=what,
        before=_around(old, place, tokenizer),
        now=_around(new, place, tokenizer),
    )


def _around(case: Mapping[str, Any], place: int, tokenizer: Any) -> str:
    """The pieces around a place; the trained ones with a star, the one meant in brackets."""
    shown = []
    start = max(0, place - CONTEXT_TOKENS)
    for index in range(start, min(len(case["tokens"]), place + CONTEXT_TOKENS + 1)):
        token = case["tokens"][index]
        piece = str(tokenizer.convert_ids_to_tokens(token)) if token >= 0 else "<image>"
        piece += "*" if case["labels"][index] == token else ""
        shown.append(f"[{piece}]" if index == place else piece)
    return " ".join(shown) if place < len(case["tokens"]) else " ".join([*shown, "[end]"])


def _trained_texts(tokenizer: Any, tokens: list[int], labels: list[int]) -> list[str]:
    """The text of each run of trained tokens, for people who read the file."""
    runs: list[list[int]] = []
    previous = False
    for token, label in zip(tokens, labels, strict=True):
        trained = label == token
        if trained and not previous:
            runs.append([])
        if trained:
            runs[-1].append(token)
        previous = trained
    return [str(tokenizer.decode(run)) for run in runs]


def _hash(*texts: str | None) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update((text or "").encode("utf-8") + b"\0")
    return digest.hexdigest()[:16]
