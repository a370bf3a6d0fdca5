"""Each type of sample becomes the tokens, labels and images that its meaning asks for."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from handmade import Members, members, picture, write_dataset
from loader_help import (
    VQA_FIELDS,
    encoder,
    keys_of,
    module,
    spell,
    tokenizer,
    typed_dataset,
    vqa_members,
)
from megatron.energon import (
    CaptioningSample,
    InterleavedSample,
    MultiChoiceVQASample,
    Sample,
    SimilarityInterleavedSample,
    VQASample,
    edataclass,
)
from PIL import Image

from neva_prep.errors import ConfigError, RecordError
from neva_prep.loaders import EncodedText, MultiModalSampleConfig, TextRules
from neva_prep.loaders.dataset_kind import known_loader_text
from neva_prep.loaders.encoders import ENCODERS
from neva_prep.loaders.sample import ConversationSample
from neva_prep.templates import encode_conversation
from neva_prep.templates.library import get_template

KEYS: dict[str, Any] = {"__key__": "k", "__restore_key__": (), "__subflavors__": {}}
SYSTEM = (
    "<s> A chat between a curious user and artificial assistant agent. The assistant gives "
    "helpful, detailed and polite answers to user's questions. "
)
A, B, C = b"image a", b"image b", b"image c"


def rules(**config: Any) -> TextRules:
    return TextRules(tokenizer=tokenizer(), config=MultiModalSampleConfig(**config))


def encode(sample: Any, **config: Any) -> EncodedText:
    return ENCODERS[type(sample).__name__](sample, rules(**config))


def trained(found: EncodedText) -> str:
    return spell(found.text.labels[found.text.labels != -100])


def vqa(context: Any, answers: Any, weights: Any = None) -> Any:
    return VQASample(**KEYS, image=A, context=context, answers=answers, answer_weights=weights)


def choice(context: Any, choices: Any, right: Any) -> Any:
    return MultiChoiceVQASample(
        **KEYS, image=A, context=context, choices=choices, correct_choice_idx=right
    )


def similarity(places: Any, images: Any, texts: Any) -> Any:
    return SimilarityInterleavedSample(
        **KEYS, images=images, texts=texts, matched_text_indices=places
    )


CASES: dict[str, tuple[Any, str, str, list[bytes]]] = {
    "conversation of two turns": (
        ConversationSample(
            **KEYS,
            id="1",
            messages=[
                {"from": "human", "value": "Look <image>\nand <image>?"},
                {"from": "gpt", "value": "12"},
                {"from": "human", "value": "And?"},
                {"from": "gpt", "value": "一只猫"},
            ],
            images=[A, B],
            record={},
        ),
        SYSTEM
        + "USER: Look [image] \nand [image] ? ASSISTANT: 12</s>USER: And? ASSISTANT: 一只猫</s>",
        " 12</s> 一只猫</s>",
        [A, B],
    ),
    "conversation without image": (
        ConversationSample(
            **KEYS,
            id="1",
            messages=[{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}],
            images=[],
            record={},
        ),
        SYSTEM + "USER: Why? ASSISTANT: So.</s>",
        " So.</s>",
        [],
    ),
    "question and answer, image in front": (
        VQASample(**KEYS, image=A, context="What?", answers="3"),
        SYSTEM + "USER: [image] \nWhat? ASSISTANT: 3</s>",
        " 3</s>",
        [A],
    ),
    "alternative answers: the heaviest": (
        VQASample(
            **KEYS,
            image=A,
            context="Is <image> a cat?",
            answers=["no", "yes", "maybe"],
            answer_weights=torch.tensor([1.0, 2.0, 2.0]),
        ),
        SYSTEM + "USER: Is [image]  a cat? ASSISTANT: yes</s>",
        " yes</s>",
        [A],
    ),
    "questions and answers in turns": (
        VQASample(**KEYS, image=A, context=["One?", "Two?"], answers=["1", "2"]),
        SYSTEM + "USER: [image] \nOne? ASSISTANT: 1</s>USER: Two? ASSISTANT: 2</s>",
        " 1</s> 2</s>",
        [A],
    ),
    "question without image": (
        VQASample(**KEYS, image=None, context="Two and two?", answers=["4"]),
        SYSTEM + "USER: Two and two? ASSISTANT: 4</s>",
        " 4</s>",
        [],
    ),
    "caption": (
        CaptioningSample(**KEYS, image=A, caption="A cat."),
        "<s>[image] A cat.\n",
        " A cat.\n",
        [A],
    ),
    "interleaved": (
        InterleavedSample(**KEYS, sequence=["One", A, "two", B, C, "", "three"]),
        "<s> One[image] two[image][image] three",
        " One two three",
        [A, B, C],
    ),
    "interleaved, ends in an image": (
        InterleavedSample(**KEYS, sequence=[A, "one", B]),
        "<s>[image] one[image]",
        " one",
        [A, B],
    ),
    "interleaved without image": (
        InterleavedSample(**KEYS, sequence=["Only text"]),
        "<s> Only text",
        " Only text",
        [],
    ),
    "similarity, ties in the order of the images": (
        similarity([2, 0, 2], [A, B, C], ["t", "u", "v", "w"]),
        "<s> t[image] u v[image][image] w",
        " t u v w",
        [B, A, C],
    ),
    "multiple choice": (
        MultiChoiceVQASample(
            **KEYS, image=A, context="Which?", choices=["cat", "dog"], correct_choice_idx=1
        ),
        SYSTEM + "USER: [image] \nWhich?\nA. cat\nB. dog\nAnswer with the option's letter from the "
        "given choices directly. ASSISTANT: B</s>",
        " B</s>",
        [A],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_sample_becomes_these_tokens_and_trains_on_these(name: str) -> None:
    sample, text, answers, images = CASES[name]
    found = encode(sample)
    assert spell(found.text.tokens) == text
    assert trained(found) == answers
    assert list(found.images) == images
    assert found.text.tokens.dtype == found.text.labels.dtype == np.int64
    assert not ((found.text.labels != -100) & (found.text.labels != found.text.tokens)).any()


def test_images_stand_before_their_text_if_they_do_not_follow_it() -> None:
    sample = similarity([2, 0, 2], [A, B, C], ["t", "u", "v", "w"])
    found = encode(sample, image_following_text=False)
    assert spell(found.text.tokens) == "<s>[image] t u[image][image] v w"
    assert list(found.images) == [B, A, C]


def test_images_of_documents_stay_where_those_of_turns_go_to_the_front() -> None:
    front = replace(rules(), image_placement="front")
    row = InterleavedSample(**KEYS, sequence=["One", A, "two", B, "three"])
    matched = similarity([1, 0], [A, B], ["t", "u", "v"])
    vqa = VQASample(**KEYS, image=A, context="Why <image> so?", answers="So.", answer_weights=None)
    found = [ENCODERS[type(one).__name__](one, front) for one in (row, matched, vqa)]
    assert [spell(each.text.tokens) for each in found] == [
        "<s> One[image] two[image] three",
        "<s> t[image] u[image] v",
        SYSTEM + "USER: [image] \nWhy  so? ASSISTANT: So.</s>",
    ]
    assert [trained(each) for each in found] == [" One two three", " t u v", " So.</s>"]


def test_the_first_token_after_an_image_is_trained() -> None:
    found = encode(InterleavedSample(**KEYS, sequence=["One", A, "two"]))
    place = found.text.tokens.tolist().index(-200)
    assert found.text.labels[place] == -100
    assert spell([found.text.labels[place + 1]]) == " two"


BAD: dict[str, tuple[Any, str]] = {
    "no answer": (VQASample(**KEYS, image=A, context="q", answers=None), "has no answers"),
    "two questions, one answer": (
        VQASample(**KEYS, image=A, context=["q", "r"], answers=["a"]),
        "has 2 questions but 1 answers",
    ),
    "weights do not fit": (
        VQASample(**KEYS, image=A, context="q", answers=["a", "b"], answer_weights=[1.0]),
        "has 2 answers but 1 weights",
    ),
    "two placeholders": (
        VQASample(**KEYS, image=A, context="<image> <image>", answers="a"),
        "its text has 2 '<image>' but it has 1 images",
    ),
    "answer is a number": (
        VQASample(**KEYS, image=A, context=["q"], answers=[3]),
        "a question or an answer that is no text",
    ),
    "empty caption": (CaptioningSample(**KEYS, image=A, caption=" "), "has no caption"),
    "no text": (InterleavedSample(**KEYS, sequence=[A, " "]), "has no text"),
    "not an image": (InterleavedSample(**KEYS, sequence=["a", 7]), "has a int where an image"),
    "index too large": (similarity([1], [A], ["t"]), "matches an image to text 1, and its texts"),
    "index negative": (similarity([-1], [A], ["t"]), "matches an image to text -1"),
    "no indices": (similarity(None, [A], ["t"]), "has 1 images but 0 matched_text_indices"),
    "no choices": (
        MultiChoiceVQASample(**KEYS, image=A, context="q", choices=None),
        "has 0 choices",
    ),
    "no such choice": (
        MultiChoiceVQASample(**KEYS, image=A, context="q", choices=["x"], correct_choice_idx=1),
        "has choices 0 to 0, and 1 is said to be right",
    ),
    "question is null": (vqa(None, "a"), "its context is null"),
    "question is a number": (vqa(5, ["a"]), "its context is a int"),
    "answer alone is a number": (vqa("q", 7), "its answers is a int"),
    "answers are an object": (vqa("q", {"a": 1}), "its answers is a dict"),
    "weights are texts": (vqa("q", ["a", "b"], ["x", "y"]), "answer_weights has 'x'"),
    "weight is null": (vqa("q", ["a", "b"], [1, None]), "answer_weights has None"),
    "weight is no number": (vqa("q", ["a", "b"], [1, float("nan")]), "answer_weights has nan"),
    "weights are a number": (vqa("q", ["a", "b"], 1), "its answer_weights is a int"),
    "sequence is null": (InterleavedSample(**KEYS, sequence=None), "its sequence is null"),
    "sequence is a text": (InterleavedSample(**KEYS, sequence="ab"), "its sequence is a str"),
    "texts are null": (similarity([0], [A], None), "its texts is null"),
    "one text is null": (similarity([0], [A], ["t", None]), "has null among its texts"),
    "images are a number": (similarity([0], 3, ["t"]), "its images is a int"),
    "index is a text": (similarity(["x"], [A], ["t"]), "matched_text_indices has 'x'"),
    "index is half": (similarity([0.5], [A], ["t"]), "matched_text_indices has 0.5"),
    "indices are an object": (similarity({"a": 1}, [A], ["t"]), "matched_text_indices is a dict"),
    "choice is a letter": (choice("q", ["a", "b"], "B"), "correct_choice_idx has 'B'"),
    "choice is null": (choice("q", ["a", "b"], None), "correct_choice_idx has None"),
    "choice is true": (choice("q", ["a", "b"], True), "correct_choice_idx has True"),
    "choice beyond all numbers": (
        choice("q", ["a", "b"], float("inf")),
        "correct_choice_idx has inf",
    ),
    "choice question is null": (choice(None, ["a"], 0), "its context is null"),
    "choices are an object": (choice("q", {"A": "a"}, 0), "its choices is a dict"),
    "a choice is null": (choice("q", ["a", None], 0), "has null among its choices"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_sample_is_named_with_its_fault(name: str) -> None:
    sample, message = BAD[name]
    with pytest.raises(RecordError, match="sample k: ") as caught:
        encode(sample)
    assert message in str(caught.value)
    assert caught.value.reason


def test_fields_may_come_as_tensors_arrays_and_tuples() -> None:
    sample = similarity(torch.tensor([0, 1]), (A, B), ("t", "u"))
    assert spell(encode(sample).text.tokens) == "<s> t[image] u[image]"
    weighed = vqa("q", ("a", "b"), np.array([1, 2]))
    assert trained(encode(weighed)) == " b</s>"
    for right in (1, 1.0, "1", np.int64(1), torch.tensor(1)):
        assert trained(encode(choice("q", ["a", 3], right))) == " B</s>"


def test_a_missing_template_is_an_error_only_for_conversations() -> None:
    config = MultiModalSampleConfig(conversation_template_config=None)
    bare = TextRules(tokenizer=tokenizer(), config=config)
    assert getattr(tokenizer(), "chat_template", None) is None, "the test needs one without"
    with pytest.raises(ConfigError, match="has a chat template"):
        ENCODERS["VQASample"](VQASample(**KEYS, image=A, context="q", answers="a"), bare)
    row = InterleavedSample(**KEYS, sequence=["a", A])
    assert spell(ENCODERS["InterleavedSample"](row, bare).text.tokens) == "<s> a[image]"


def all_types(root: Path) -> dict[Path, float]:
    """A dataset of each type, three samples each."""
    image = [("jpg", picture(40, 30))]

    def json_member(**fields: Any) -> list[tuple[str, bytes]]:
        import json

        return [*image, ("json", json.dumps(fields).encode())]

    several = {
        "vqa": ("VQASample", VQA_FIELDS, vqa_members(0)),
        "caption": (
            "CaptioningSample",
            {"image": "jpg", "caption": "txt"},
            [*image, ("txt", b"A cat.")],
        ),
        "row": (
            "InterleavedSample",
            {"sequence": "json[row]"},
            json_member(row=["One", "jpg", "two"]),
        ),
        "similarity": (
            "SimilarityInterleavedSample",
            {"images": "json[i]", "texts": "json[t]", "matched_text_indices": "json[m]"},
            json_member(i=["jpg"], t=["one", "two"], m=[1]),
        ),
        "choice": (
            "MultiChoiceVQASample",
            {
                "image": "jpg",
                "context": "json[q]",
                "choices": "json[c]",
                "correct_choice_idx": "json[r]",
            },
            json_member(q="Which?", c=["a", "b"], r=1),
        ),
    }
    paths = {
        typed_dataset(root / name, sample_type, fields, [sample] * 3): 1.0
        for name, (sample_type, fields, sample) in several.items()
    }
    own = write_dataset(
        root / "own", {"train-000000.tar": {f"{n:09d}": members(n, images=n) for n in range(3)}}
    )
    return {**paths, own: 1.0}


DEEP = b'{"question": "q", "answer": "a", "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
ODD_JSON = {
    "answer is a number": (b'{"question": "How many?", "answer": 7}', "bad_sample"),
    "nested deeply": (DEEP, "bad_members"),
    "no JSON": (b'{"question": ', "bad_members"),
}


@pytest.mark.parametrize("name", ODD_JSON)
def test_one_odd_sample_is_skipped_with_its_key(name: str, tmp_path: Path) -> None:
    odd, reason = ODD_JSON[name]
    samples = [vqa_members(number) for number in range(12)]
    samples[5] = [("jpg", picture()), ("json", odd)]
    path = typed_dataset(tmp_path / "ds", "VQASample", VQA_FIELDS, samples)
    assert_skips_one(path, reason, "sample 000000005: ")


@pytest.mark.parametrize("matrix", [{"a": 1}, ["a"], [[None]], [[2**70]]])
def test_a_similarity_matrix_that_is_none_is_skipped_with_its_key(
    matrix: Any, tmp_path: Path
) -> None:
    def sample(number: int) -> Members:
        turns = [{"from": "text", "value": text} for text in ("<image>", "a")]
        return members(
            number, conversations=turns, similarity_matrix=matrix if number == 5 else [[0.5]]
        )

    shard = {f"{number:09d}": sample(number) for number in range(12)}
    path = write_dataset(tmp_path / "ds", {"train-000000.tar": shard})
    (path / ".nv-meta/sample_loader.py").write_bytes(known_loader_text())
    described = {
        "sample_type": {
            "__module__": "megatron.energon",
            "__class__": "SimilarityInterleavedSample",
        },
        "sample_loader": "sample_loader.py:similarity",
        "part_filter": "sample_loader.py:part_filter",
    }
    (path / ".nv-meta/dataset.yaml").write_text(yaml.safe_dump(described))
    assert_skips_one(path, "bad_members", "sample 000000005: ")


def assert_skips_one(path: Path, reason: str, message: str) -> None:
    """One pass: all samples but one come through, and the report tells of that one."""
    with module(path, max_skip_ratio=0.5, val_split="train") as data:
        keys = keys_of(data.val_dataloader())
        assert len(keys) == 11 and "000000005" not in keys
    with module(path, max_skip_ratio=0.5, shuffle_buffer_size=None) as data:
        stream = data.train_dataloader()
        while not data.skip_report().skipped:
            next(stream)
        assert set(data.skip_report().skipped) == {reason}
        assert data.skip_report().examples[reason].startswith(f"{path}: {message}")


@pytest.mark.parametrize("packed", [False, True])
def test_all_types_go_into_one_batch(packed: bool, tmp_path: Path) -> None:
    options = {} if packed else {"micro_batch_size": 6, "global_batch_size": 6}
    with module(all_types(tmp_path), packed=packed, **options) as data:
        stream = data.train_dataloader()
        batches = [next(stream) for _ in range(12)]
    seen = {Path(origin).name for batch in batches for origin in batch["__origins__"]}
    assert seen == {"vqa", "caption", "row", "similarity", "choice", "own"}
    assert any(len(set(batch["__origins__"])) > 2 for batch in batches)
    for batch in batches:
        assert batch["media"].shape[1:] == (3, 28, 28)
        assert batch["media"].dtype == torch.uint8
        assert int((batch["tokens"] == -200).sum()) == len(batch["num_media_tiles"])
        assert int(batch["num_media_tiles"].sum()) == len(batch["media"])
        assert (batch["loss_mask"] == (batch["labels"] != -100)).all()
        assert batch["loss_mask"].sum() > 0


def test_a_padded_batch_by_hand(tmp_path: Path) -> None:
    shard = {"000000000": members(0, images=1), "000000001": members(1, images=0)}
    path = write_dataset(tmp_path / "ds", {"train-000000.tar": shard})
    with module(path, shuffle_buffer_size=None) as data:
        batch = next(data.train_dataloader())
    assert batch["__keys__"] == ["000000000", "000000001"]
    texts = ("<image>\nQuestion 0?", "Question 1?")
    whole = [
        encode_conversation(
            [{"role": "user", "content": text}, {"role": "assistant", "content": f"Answer {n}."}],
            tokenizer=tokenizer(),
            template="neva",
        )
        for n, text in enumerate(texts)
    ]
    for row, sample in enumerate(whole):
        size = len(sample.tokens) - 1
        assert batch["tokens"][row, :size].tolist() == sample.tokens[:-1].tolist()
        assert batch["labels"][row, :size].tolist() == sample.labels[1:].tolist()
        assert (batch["labels"][row, size:] == -100).all()
        assert batch["attention_mask"][row].sum() == size
    assert batch["num_media_tiles"].tolist() == [1]
    assert batch["loss_mask"].dtype == torch.float32


def test_pictures_and_tensors_are_images_too(tmp_path: Path) -> None:
    reader = encoder().preparer.reader
    from neva_prep.loaders.read_image import read_images

    picture_ = Image.new("RGB", (40, 30), (10, 20, 30))
    tensor = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 30, 40)
    tiles = [read_images("k", (one,), reader) for one in (picture_, tensor, tensor / 255)]
    assert tiles[0] is not None and tiles[0].shape == (1, 3, 28, 28)
    assert all(torch.equal(tiles[0], other) for other in tiles[1:] if other is not None)
    with pytest.raises(RecordError, match="sample k, image 0: is a int"):
        read_images("k", (7,), reader)
    with pytest.raises(RecordError, match="sample k, image 0: is a Tensor"):
        read_images("k", (tensor.to(torch.int64),), reader)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("I;16", "PNG"), ("I", "TIFF"), ("F", "TIFF"), ("LA", "PNG"), ("RGBA", "PNG"), ("1", "PNG")],
)
def test_a_picture_shows_what_its_file_shows(mode: str, kind: str) -> None:
    from neva_prep.loaders.read_image import read_images

    across = np.tile(np.arange(56, dtype=np.uint8) * 4, (28, 1))
    if mode in ("I;16", "I", "F"):
        types = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        shown = Image.fromarray(across.astype(types[mode]) * types[mode](257))
    else:
        clear = Image.fromarray(across).rotate(180)
        shown = Image.merge("LA", (Image.fromarray(across), clear)).convert(mode)
    assert shown.mode == mode
    file = io.BytesIO()
    shown.save(file, kind)
    reader = encoder().preparer.reader
    of_picture, of_file = (read_images("k", (one,), reader) for one in (shown, file.getvalue()))
    assert of_picture is not None and of_file is not None
    assert torch.equal(of_picture, of_file)


@edataclass
class Riddle(Sample):  # type: ignore[misc]
    text: str


def encode_riddle(sample: Riddle, rules: TextRules) -> EncodedText:
    return rules.encode(
        sample.__key__,
        [{"role": "user", "content": sample.text}, {"role": "assistant", "content": "42"}],
        [],
    )


def test_an_encoder_for_a_type_of_ones_own() -> None:
    made = encoder()
    with pytest.raises(ConfigError, match=r"Riddle: no encoder is known.*register_encoder"):
        made.preencode_sample(Riddle(**KEYS, text="?"))
    made.register_encoder(Riddle, encode_riddle)
    found = made.preencode_sample(Riddle(**KEYS, text="?"))
    assert spell(found.encoded.tokens).endswith("USER: ? ASSISTANT: 42</s>")


def test_what_is_too_long_follows_the_overflow_policy(tmp_path: Path) -> None:
    shard = {f"{n:09d}": members(n, text="so " * (100 * n)) for n in range(3)}
    path = write_dataset(tmp_path / "ds", {"train-000000.tar": shard})
    made = encoder(seq_length=90)
    with module(path, task_encoder=made, max_skip_ratio=0.9, micro_batch_size=1) as data:
        stream = data.train_dataloader()
        assert set(keys_of([next(stream) for _ in range(3)])) == {"000000000"}
        assert set(data.skip_report().skipped) == {"too_long"}


def test_a_sample_may_fill_a_row_to_its_last_position() -> None:
    made = encoder()
    sample = ConversationSample(
        **KEYS,
        id="1",
        images=[],
        record={},
        messages=[{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}],
    )
    size = made.preencode_sample(sample).length
    assert encoder(seq_length=size).preencode_sample(sample).length == size
    from megatron.energon import SkipSample

    with pytest.raises(SkipSample):
        encoder(seq_length=size - 1).preencode_sample(sample)


def test_a_template_of_another_model_is_told_where_its_stop_would_be_spelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """ChatML with a Llama tokenizer trains `<|im_end|>` in pieces, and serving never stops."""
    for name, said in (("chatml", True), ("vicuna_v1", False)):
        caplog.clear()
        config, template = MultiModalSampleConfig(), get_template(name)
        rules = TextRules(tokenizer=tokenizer(), config=config, named_template=template)
        for _ in range(2):
            ENCODERS["VQASample"](VQASample(**KEYS, image=A, context="q", answers="a"), rules)
        found = [record.getMessage() for record in caplog.records]
        assert len(found) == said
        assert not said or "'chatml' ends answers with <|im_end|>" in found[0]
