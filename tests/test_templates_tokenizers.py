"""The tokenizers of the template tests, and that they behave differently enough to tell."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[2] / "shared"
GOLDEN = Path(__file__).parent / "golden"
WORDS = (
    "A cat sits on the mat. What is this? Two dogs, 12 birds and 3 boats; a red car parked beside "
    "a brick wall. USER: ASSISTANT: Human: Assistant: system user assistant "
)


@lru_cache(maxsize=1)
def sentencepiece() -> Any:
    """Mistral's first vocabulary, from mistral-common, with merges in the order of its scores."""
    import mistral_common
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
    pieces = SentencePieceProcessor(model_file=str(model))
    vocabulary = {pieces.id_to_piece(number): number for number in range(pieces.get_piece_size())}
    merges = sorted(
        (
            (-pieces.get_score(number), piece[:cut], piece[cut:])
            for piece, number in vocabulary.items()
            if not (pieces.is_control(number) or pieces.is_byte(number))
            for cut in range(1, len(piece))
            if piece[:cut] in vocabulary and piece[cut:] in vocabulary
        ),
        key=lambda merge: merge[0],
    )
    backend = Tokenizer(
        models.BPE(
            vocabulary,
            [(left, right) for _, left, right in merges],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@lru_cache(maxsize=1)
def byte_level() -> Any:
    """A byte-level BPE trained here, with chat tokens and a BOS that is its EOS."""
    return _trained("ByteLevel", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|endoftext|>")


@lru_cache(maxsize=1)
def unigram() -> Any:
    """A Unigram model trained here, whose vocabulary itself spells `</s>` from plain text."""
    specials = ["<s>", "</s>", "<unk>", "<image>", "<|im_start|>", "<|im_end|>"]
    return _trained("Unigram", specials, "<s>", "</s>")


def _trained(kind: str, specials: list[str], bos: str, eos: str | None = None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE() if kind == "ByteLevel" else models.Unigram())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    by_pattern = pre_tokenizers.ByteLevel(add_prefix_space=False)
    by_space = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.pre_tokenizer = by_space if kind == "Unigram" else by_pattern
    backend.decoder = decoders.ByteLevel()
    common: dict[str, Any] = {"special_tokens": specials, "show_progress": False}
    trainer: Any = (
        trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, **common)
        if kind == "ByteLevel"
        else trainers.UnigramTrainer(
            vocab_size=400, initial_alphabet=alphabet, unk_token="<unk>", **common
        )
    )
    backend.train_from_iterator([WORDS] * 50, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos or bos,
        additional_special_tokens=specials,
    )


@lru_cache(maxsize=8)
def shared(name: str) -> Any:
    """A tokenizer that is too large or not free to be here; the test skips where it is missing."""
    folder = SHARED / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder.name} in ../shared/tokenizers, which is not here")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


THREE = {"sentencepiece": sentencepiece, "byte-level": byte_level, "unigram": unigram}


def read_golden(path: Path) -> Any:
    """A golden file."""
    return json.loads(path.read_text(encoding="utf-8"))


def trained_text(sample: Any, tokenizer: Any) -> str:
    """What the trained tokens say."""
    ids = [token for token, label in zip(sample.tokens, sample.labels, strict=True) if label >= 0]
    # Decoders drop the first space of a text: another word in front saves it.
    word = tokenizer.encode("x", add_special_tokens=False)
    return str(tokenizer.decode(word + ids, clean_up_tokenization_spaces=False))[1:]


def test_the_three_tokenizers_differ_in_what_the_tests_need() -> None:
    pieces = {
        name: make().convert_ids_to_tokens(make().encode(" A cat</s>", add_special_tokens=False))
        for name, make in THREE.items()
    }
    assert pieces["sentencepiece"][0] == "▁A"
    assert pieces["byte-level"][0].startswith("Ġ")
    assert "</s>" in pieces["sentencepiece"] and "</s>" not in pieces["byte-level"]
    assert sentencepiece().bos_token != sentencepiece().eos_token
    assert byte_level().bos_token == byte_level().eos_token


def test_the_unigram_model_spells_its_special_tokens_from_plain_text() -> None:
    backend = unigram().backend_tokenizer
    literal = backend.from_str(backend.to_str())
    literal.encode_special_tokens = True
    assert literal.token_to_id("</s>") in literal.encode("</s>").ids
