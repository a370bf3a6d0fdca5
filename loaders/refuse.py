"""Records that no conversation about images can be made of: of video, of sound, of preferences."""

from __future__ import annotations

from itertools import chain
from typing import Any, NoReturn

from ..errors import RecordError

_OTHER_MEDIA = {
    "video_record": ("video", "videos", "video_path", "video_url"),
    "audio_record": ("audio", "audios", "audio_path", "audio_url"),
}
_PREFERENCES = (("chosen", "rejected"), ("conversations_a", "conversations_b"))
OTHER_MEDIA = tuple(chain(*_OTHER_MEDIA.values(), *_PREFERENCES))
"""Fields that `refuse_other_media` looks at."""
_PART_KINDS = {"video": "video_record", "audio": "audio_record"}


def refuse_other_media(record: dict[str, Any]) -> None:
    """Refuse a record with a video or sound beside its text, or with two answers to choose from.

    Raises:
        RecordError: `video_record`, `audio_record` or `preference_record`.
    """
    for reason, names in _OTHER_MEDIA.items():
        for name in names:
            if record.get(name):
                raise RecordError(f"has '{name}'", reason=reason)
    for first, second in _PREFERENCES:
        if first in record and second in record:
            raise RecordError(f"has '{first}' and '{second}'", reason="preference_record")


def refuse_part(kind: str, where: str) -> NoReturn:
    """Refuse a part of a message that is neither text nor image.

    Raises:
        RecordError: `video_record`, `audio_record` or `bad_value`.
    """
    reason = next((code for name, code in _PART_KINDS.items() if name in kind), "bad_value")
    raise RecordError(f"{where} holds a part of type {kind[:40]!r}", reason=reason)


def refuse_unread(record: dict[str, Any], names: tuple[str, ...]) -> None:
    """Refuse a record whose conversation would lack what other fields say.

    Raises:
        RecordError: `unread_field`.
    """
    for name in names:
        if record.get(name):
            raise RecordError(f"has '{name}'", reason="unread_field")
