"""Plain rows: instruction, output; query, response; question, answer; image, caption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

from ...errors import RecordError
from ...loaders.record_fields import IMAGES
from ...loaders.refuse import refuse_unread
from .llava import read_llava
from .record import Read
from .record_forms import form_of
from .talk import FindTalk, Message, Talk, read_talk

CAPTION_QUESTION = "Describe the image."
"""Asked of an image that comes with a caption and no question."""
_UNREAD = ("tools", "options", "choices")
_ROW_IMAGES = (*IMAGES, "img_id", "image_id")


_STAGED = b'{"conversations":['
"""Begin of a row that was staged with its conversation; see plain_rows.py."""


def reader_of_rows(find: FindTalk) -> Callable[[bytes], Read]:
    """What reads rows; see form.ReadRecord."""

    def read(raw: bytes) -> Read:
        if raw.startswith(_STAGED):
            return Read(raw, read_llava(raw))
        found = read_talk(raw, find)
        if find is captions and not found.record.images:
            # A text alone may answer a question, but describes nothing.
            raise RecordError("has a caption and no image", reason="missing_image")
        return found

    return read


def alpaca(record: dict[str, Any], found: dict[str, bytes]) -> Talk:
    """`instruction` and `input` are the question, `output` the answer."""
    question = _text(record, "instruction")
    if record.get("input"):
        question += "\n" + _text(record, "input")
    asked = _turns(record, question, _text(record, "output"))
    return _rounds(record, asked, ("instruction", "input", "output"))


def query(record: dict[str, Any], found: dict[str, bytes]) -> Talk:
    """ms-swift's `query` and `response`, with what was said before under `history`."""
    asked = _turns(record, _text(record, "query"), _text(record, "response"))
    return _rounds(record, asked, ("query", "response"))


def vqa(record: dict[str, Any], found: dict[str, bytes]) -> Talk:
    """A question about an image, and its answer; of several answers the most frequent."""
    refuse_unread(record, _UNREAD)
    asks = _one_of(record, "question", "prompt")
    answers = _one_of(
        record, "answer", "short_answer", "multiple_choice_answer", "answers", "completion",
        "response",
    )  # fmt: skip
    taken = (asks,) if answers == "answers" else (asks, answers)
    talk = _turns(record, _text(record, asks), _answer(record[answers], answers, found))
    fields = tuple(
        name for name in _ROW_IMAGES if "_id" not in name or isinstance(record.get(name), str)
    )
    return Talk(talk, taken, _named_once(record, fields), adds_places=True)


def captions(record: dict[str, Any], found: dict[str, bytes]) -> Talk:
    """An image and what is to be seen on it."""
    talk = _turns(record, CAPTION_QUESTION, _text(record, "caption"))
    return Talk(talk, ("caption",), _named_once(record, (*_ROW_IMAGES, "url")), adds_places=True)


def _rounds(record: dict[str, Any], last: list[Message], names: tuple[str, ...]) -> Talk:
    refuse_unread(record, _UNREAD[:1])
    messages, taken = [], [name for name in names if name in record]
    if isinstance(record.get("system"), str) and record["system"].strip():
        messages.append(Message("system", [record["system"]]))
        taken.append("system")
    history = record.get("history") or []
    if not isinstance(history, list) or not all(map(_is_round, history)):
        raise RecordError("'history' is no list of [question, answer]", reason="bad_conversations")
    for question, answer in history:
        messages += [Message("human", [question]), Message("gpt", [answer])]
    taken += ["history"] if "history" in record else []
    # Of several questions no one can tell to which the images belong.
    return Talk(
        messages + last,
        tuple(taken),
        adds_places=not history,
        repairs=("placeholder_added",),
    )


def _turns(record: dict[str, Any], question: str, answer: str) -> list[Message]:
    return [Message("human", [question]), Message("gpt", [answer])]


def _is_round(said: Any) -> bool:
    return isinstance(said, list) and len(said) == 2 and all(isinstance(t, str) for t in said)


def _one_of(record: dict[str, Any], *names: str) -> str:
    return next((name for name in names if record.get(name) is not None), "") or _refuse(record)


def _text(record: dict[str, Any], name: str) -> str:
    if name not in record:
        _refuse(record)
    if not isinstance(record[name], str):
        raise RecordError(f"'{name}' is no text", reason="bad_value")
    text: str = record[name]
    return text


def _answer(value: Any, name: str, found: dict[str, bytes]) -> str:
    if isinstance(value, list):
        given = [v.get("answer") if isinstance(v, dict) else v for v in value]
        said = Counter(answer for answer in given if isinstance(answer, str))
        if said:
            return said.most_common(1)[0][0]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RecordError(f"'{name}' is no text", reason="bad_value")
    # A number as it is written: 1.10 is not to become 1.1, nor 0.00001 1e-05.
    return value if isinstance(value, str) else found[name].decode().strip()


def _named_once(record: dict[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """The first of the fields that says anything: rows often name their image twice."""
    present = [name for name in names if record.get(name) not in (None, "", [])]
    return tuple(present[:1]) or names


def _refuse(record: dict[str, Any]) -> NoReturn:
    form = form_of(record)
    reason = "other_form" if form.read_as else "missing_conversations"
    raise RecordError(f"is {form.title}: {form.why}", reason=reason)
