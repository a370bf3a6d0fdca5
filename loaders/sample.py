"""The sample that energon carries: a conversation, its images as bytes, its whole record."""

from __future__ import annotations

from typing import Any

from megatron.energon import Sample, basic_sample_keys, edataclass, stateless
from PIL import Image

from ..errors import NevaPrepError
from ..templates.show_html import facts, first, turns
from .decode import DEFAULT_MAX_PIXELS, decode_image
from .members import JSON_MEMBER, read_record
from .show_image import image_html


@edataclass
class ConversationSample(Sample):  # type: ignore[misc]
    """One conversation with its images, before anything is tokenized or decoded.

    Not frozen, because energon writes `__restore_key__` into the samples that pass through it.
    """

    id: str
    """Of the source record; numbers as text."""
    messages: list[dict[str, Any]]
    """The conversation as the record has it."""
    images: list[bytes]
    """The image files, in the order of their placeholders."""
    record: dict[str, Any]
    """The whole JSON member: the source's fields and `images`."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Largest width x height that `decode_images` lets through."""

    @property
    def key(self) -> str:
        """Key in the shard, unique within the dataset."""
        return str(self.__key__)

    def decode_images(self) -> list[Image.Image]:
        """The images as RGB pictures; see `decode_image` for the rules.

        Raises:
            ImageError: one is over the limit or damaged; the message has the sample's key.
        """
        names = [entry["name"] for entry in self.record["images"]]
        return [
            decode_image(data, max_pixels=self.max_pixels, name=f"sample {self.key}, image {name}")
            for name, data in zip(names, self.images, strict=True)
        ]

    def _repr_html_(self) -> str:
        """For notebooks: the conversation and its images."""
        known = {"key": self.key, "id": self.id, "images": len(self.images)}
        pictures = "".join(map(image_html, first(self.images)))
        return f"{facts('sample', known)}<div>{pictures}</div>{turns(self.messages)}"


@edataclass
class FailedSample(Sample):  # type: ignore[misc]
    """Stands where a sample could not be made, so that it reaches whoever decides about it.

    Raising inside energon would print to stdout and, up to 100 times in a row, skip the sample.
    """

    error: NevaPrepError


@stateless  # type: ignore[untyped-decorator]
def cook(crude: dict[str, Any]) -> ConversationSample:
    """Make a sample from the raw members that energon read; for `Cooker(cook)`.

    Raises:
        RecordError: the members do not fit together; the message has the key.
    """
    parts = {name: data for name, data in crude.items() if not name.startswith("__")}
    data = parts.pop(JSON_MEMBER, b"")
    record = read_record(crude["__key__"], data, parts)
    return ConversationSample(
        **basic_sample_keys(crude),
        id=record.id,
        messages=record.messages,
        images=[parts[entry.name] for entry in record.images],
        record=record.record,
    )


@stateless  # type: ignore[untyped-decorator]
def cook_or_fail(crude: dict[str, Any]) -> ConversationSample | FailedSample:
    """`cook`, with a fault returned instead of raised."""
    try:
        sample: ConversationSample = cook(crude)
        return sample
    except NevaPrepError as error:
        return FailedSample(**basic_sample_keys(crude), error=error)
