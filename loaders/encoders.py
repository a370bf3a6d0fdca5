"""Sample encoders: each type of sample becomes tokens and the images that they point to.

    encode_sample(sample, rules) ──by its type──▶ messages, or texts and images in a row
                                 ──templates────▶ EncodedText

The semantics are those of NeMo 2.0's encoders; what each does where NeMo's crash, or train nothing,
is said at the function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..templates.library import get_template
from .prepared import EncodedText
from .text_rules import DOCUMENT, TextRules
from .typed_fields import (
    bad_sample,
    check_image_field,
    images_of,
    optional_list,
    to_list,
    to_number,
    to_text,
    to_texts,
    to_whole_number,
)

_CHOICE_PROMPT = "Answer with the option's letter from the given choices directly."
"""LLaVA-1.5's, of its multiple-choice data."""


def encode_conversation_sample(sample: Any, rules: TextRules) -> EncodedText:
    """A ConversationSample, ours: any number of turns and images."""
    return rules.encode(sample.__key__, sample.messages, sample.images)


def encode_vqa(sample: Any, rules: TextRules) -> EncodedText:
    """A VQASample: question and answer, or a list of each for several turns.

    With one question and a list of answers, which energon means as alternatives, the one with the
    greatest weight is taken, the first of equals. A question without any placeholder gets the
    image in front, since the type has its image beside the text.

    Raises:
        RecordError: no answers, lists of different lengths, fields that are no texts, or not one
            placeholder per image.
    """
    key, context = sample.__key__, sample.context
    answers = _answers(key, sample.answers)
    if not answers:
        raise bad_sample(key, "has no answers", "drop it: nothing of it is trained")
    if isinstance(context, str):
        # Weights are of alternatives, and a text has none.
        weights = None if isinstance(sample.answers, str) else sample.answer_weights
        pairs = [(context, _best(key, answers, weights))]
    else:
        questions = to_list(key, "context", context)
        if len(questions) != len(answers):
            finding = f"has {len(questions)} questions but {len(answers)} answers"
            raise bad_sample(key, finding, "give one for each")
        pairs = list(zip(questions, answers, strict=True))
    return _encode_pairs(key, pairs, sample.image, rules)


def encode_captioning(sample: Any, rules: TextRules) -> EncodedText:
    """A CaptioningSample, as LLaVA pretrains: the image, then the caption and a line end.

    Loss is taken on the caption and the line end. NeMo names the type but has no encoder for it.
    """
    if not isinstance(sample.caption, str) or not sample.caption.strip():
        raise bad_sample(sample.__key__, "has no caption", "drop it: nothing of it is trained")
    images = images_of(sample.image)
    messages = [
        {"role": "user", "content": rules.config.image_token.token_str * len(images)},
        {"role": "assistant", "content": sample.caption},
    ]
    return rules.encode(sample.__key__, messages, images, get_template("plain"))


def encode_interleaved(sample: Any, rules: TextRules) -> EncodedText:
    """An InterleavedSample: texts and images in a row; loss on all text.

    A row without images, or with empty texts, is fine as long as it has a text.
    """
    row = to_list(sample.__key__, "sequence", sample.sequence)
    return _encode_row(sample.__key__, row, rules)


def encode_similarity_interleaved(sample: Any, rules: TextRules) -> EncodedText:
    """A SimilarityInterleavedSample: each image beside the text that it is matched to.

    The image stands behind its text, or before it with `image_following_text=False`. Images of the
    same text keep their order; texts that meet are joined by a space.

    Raises:
        RecordError: not one index for each image, an index that is no text's, or fields of
            another kind.
    """
    key, texts = sample.__key__, to_texts(sample.__key__, "texts", sample.texts)
    images = optional_list(key, "images", sample.images)
    indices = optional_list(key, "matched_text_indices", sample.matched_text_indices)
    places = [to_whole_number(key, "matched_text_indices", index) for index in indices]
    if len(places) != len(images):
        raise bad_sample(
            key,
            f"has {len(images)} images but {len(places)} matched_text_indices",
            "give one for each image",
        )
    if outside := [place for place in places if not 0 <= place < len(texts)]:
        raise bad_sample(
            key,
            f"matches an image to text {outside[0]}, and its texts are 0 to {len(texts) - 1}",
            "correct matched_text_indices",
        )
    row: list[Any] = []
    for number, text in enumerate(texts):
        matched = [image for image, place in zip(images, places, strict=True) if place == number]
        if not rules.config.image_following_text:
            row += matched
        if row and isinstance(row[-1], str):
            row[-1] = f"{row[-1]} {text}"
        else:
            row.append(text)
        if rules.config.image_following_text:
            row += matched
    return _encode_row(key, row, rules)


def encode_multi_choice_vqa(sample: Any, rules: TextRules) -> EncodedText:
    """A MultiChoiceVQASample, in the words of LLaVA-1.5's multiple-choice data.

    The choices follow the question as lines `A. …`, then the request for a letter; the answer is
    the letter.

    Raises:
        RecordError: no choices, more than letters, an index that is no choice's, or fields of
            another kind.
    """
    key, context = sample.__key__, to_text(sample.__key__, "context", sample.context)
    choices = to_texts(key, "choices", optional_list(key, "choices", sample.choices), numbers=True)
    right = to_whole_number(key, "correct_choice_idx", sample.correct_choice_idx)
    if not 1 <= len(choices) <= 26:
        raise bad_sample(key, f"has {len(choices)} choices", "give 1 to 26")
    if not 0 <= right < len(choices):
        raise bad_sample(
            key,
            f"has choices 0 to {len(choices) - 1}, and {right} is said to be right",
            "correct correct_choice_idx",
        )
    letters = [chr(ord("A") + number) for number in range(len(choices))]
    lines = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
    question = "\n".join((context, *lines, _CHOICE_PROMPT))
    return _encode_pairs(key, [(question, letters[right])], sample.image, rules)


ENCODERS = {
    "ConversationSample": encode_conversation_sample,
    "VQASample": encode_vqa,
    "CaptioningSample": encode_captioning,
    "InterleavedSample": encode_interleaved,
    "SimilarityInterleavedSample": encode_similarity_interleaved,
    "MultiChoiceVQASample": encode_multi_choice_vqa,
}
"""Name of a sample type -> what encodes it."""


def _encode_pairs(
    key: str, pairs: Sequence[tuple[Any, Any]], image: Any, rules: TextRules
) -> EncodedText:
    """Questions and answers with the images that lie beside them."""
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise bad_sample(key, "has a question or an answer that is no text", "write it as text")
    images = images_of(image)
    mark = rules.config.image_token.token_str
    if not any(mark in question for question, _ in pairs):
        pairs = [(f"{mark}\n" * len(images) + pairs[0][0], pairs[0][1]), *pairs[1:]]
    messages = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return rules.encode(key, messages, images)


def _encode_row(key: str, row: Sequence[Any], rules: TextRules) -> EncodedText:
    if not any(isinstance(part, str) and part.strip() for part in row):
        raise bad_sample(key, "has no text", "drop it: nothing of it is trained")
    parts = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
        for part in row
    ]
    images = [part for part in row if not isinstance(part, str)]
    for image in images:
        check_image_field(key, image)
    return rules.encode(key, [{"role": "user", "content": parts}], images, DOCUMENT)


def _answers(key: str, answers: Any) -> list[Any]:
    if isinstance(answers, str):
        return [answers] if answers else []
    return optional_list(key, "answers", answers)


def _best(key: str, answers: Sequence[Any], weights: Any) -> Any:
    if weights is None:
        return answers[0]
    listed = to_list(key, "answer_weights", weights)
    numbers = [to_number(key, "answer_weights", weight) for weight in listed]
    if len(numbers) != len(answers):
        raise bad_sample(
            key, f"has {len(answers)} answers but {len(numbers)} weights", "give one for each"
        )
    return answers[numbers.index(max(numbers))]
