"""What there is to see at each stop of the flow; the one model that every renderer shows.

A view holds everything that is shown and nothing about how. All text in it is a stranger's: a
renderer escapes it (`plain_text` on a terminal, autoescape in HTML).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record or a sample lies."""

    dataset: str
    """Name of the source file or of the dataset's folder."""
    index: int
    """Position in the source, or in the dataset."""
    line: int | None = None
    """Line of a source file, from 1."""
    shard: str | None = None
    """File name of the tar; None in a source."""
    split: str | None = None
    offset: int | None = None
    """Byte at which it begins, in the source file or in the shard."""
    num_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with a record, or was remarked about it."""

    reason: str
    """Reason code, as docs/reasons.md lists them."""
    message: str
    """The finding and the way out."""
    start: int | None = None
    """First character of `RecordView.text` that it is about; None if about no place."""
    end: int | None = None
    """Behind the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordView:
    """A row of the source, as it stands there, and its checks."""

    place: Place
    id: str
    key: str
    """Key that the sample has, or would get, in a shard."""
    text: str
    """The JSON of the record, indented where it can be parsed."""
    findings: tuple[Finding, ...] = ()
    """Empty where every check passes."""
    is_named: bool = True
    """Whether it has an id of its own; else its key stands for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a conversation."""

    role: str
    """As the record spells it."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageView:
    """An image: as the source has it, and as the model gets it."""

    name: str
    """Of the member in the shard, or the path as the record has it."""
    source: str
    """Path as the record has it."""
    width: int
    """0 where it cannot be read."""
    height: int
    format: str
    """`jpeg`, `png` and so on; empty where it cannot be read."""
    num_bytes: int
    data: bytes | None = None
    """The file; None where it is missing."""
    tiles: tuple[npt.NDArray[np.uint8], ...] = ()
    """uint8[height, width, 3] each: padded, cropped, tiled and denormalised. Empty without an
    image processor."""
    error: str | None = None
    """Why it cannot be shown."""
    offset: int | None = None
    """Byte of the shard at which the file begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleView:
    """A conversation with its images."""

    place: Place
    id: str
    key: str
    turns: tuple[Turn, ...]
    images: tuple[ImageView, ...]
    fields: dict[str, Any]
    """What else the record has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """One token in its place."""

    position: int
    """In the row of tokens; an image is one."""
    id: int
    piece: str
    """The tokenizer's own spelling; the placeholder for an image."""
    text: str
    """The characters that it stands for; empty for a BOS and for padding."""
    label: int
    """The batch's label at this position, shifted: the token to predict here, or -100."""
    label_piece: str
    """Spelling of the label; empty where no loss is taken."""
    trained: bool
    """Whether this very token is an answer to learn: the label of the position before it."""
    rule: str
    """Why: `bos`, `image`, `content`, `answer`, `marked by the template`, `template text`, or
    `padding`."""
    turn: int | None
    """Index of the message that it belongs to."""
    position_id: int
    """Place in the expanded sample; of an image that of its first embedding."""
    embeddings: int = 1
    """Positions that it takes in the model: tiles x embeddings per tile for an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensView:
    """The tokens of one sample, or why there are none."""

    key: str
    id: str
    template: str
    tokens: tuple[TokenView, ...] = ()
    """All of the sample, the last one included, which a batch drops after shifting."""
    length: int = 0
    """Positions in the model after shifting, image embeddings included."""
    limit: int | None = None
    """Most positions of a sample; None for no limit."""
    events: tuple[tuple[str, int], ...] = ()
    """Reason code and how often, of what was cut or escaped."""
    error: str | None = None
    """Why the sample would be skipped; the tokens may then be there or not."""
    reason: str | None = None
    """Reason code of the error."""

    @property
    def num_trained(self) -> int:
        """Tokens that loss is taken for."""
        return sum(token.trained for token in self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A sample within a row; bounds in positions of the model."""

    key: str
    origin: str
    """Dataset that the key belongs to."""
    start: int
    end: int
    """Behind its last token or embedding."""
    padded_end: int
    """Behind its alignment padding; the next segment's start."""
    num_trained: int
    images: tuple[str, ...] = ()
    """Names of its images, in the order of their slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackView:
    """How samples lie in a row."""

    capacity: int
    """Positions of the row."""
    segments: tuple[Segment, ...]
    limit: int | None = None
    """Positions that a row may have; None where samples are not packed."""

    @property
    def fill(self) -> float:
        """Share of the row that is no padding."""
        return sum(s.end - s.start for s in self.segments) / self.capacity if self.capacity else 0.0

    def _repr_html_(self) -> str:
        """For notebooks."""
        from .notebook import pack_html

        return pack_html(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorView:
    """A tensor of a batch."""

    name: str
    dtype: str
    """Without `torch.`"""
    shape: tuple[int, ...]
    summary: str
    """Its range, or its values where they are few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """A row of a batch: the samples in it, and its numbers as the trainer gets them."""

    pack: PackView
    tokens: tuple[TokenView, ...]
    """One per position of the batch's row, padding included."""
    loss_mask: tuple[float, ...]
    attention_mask: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """What the data module yields to the trainer."""

    step: int
    """Which batch of the stream, from 0."""
    keys: tuple[str, ...]
    origins: tuple[str, ...]
    tensors: tuple[TensorView, ...]
    rows: tuple[RowView, ...]
    media: tuple[npt.NDArray[np.uint8], ...]
    """uint8[height, width, 3]: every tile, denormalised."""
    num_media_tiles: tuple[int, ...]
    cu_seqlens: tuple[int, ...] = ()
    """Of a packed batch: sums of the true lengths."""
    cu_seqlens_padded: tuple[int, ...] = ()
    max_seqlen: int | None = None

    def _repr_html_(self) -> str:
        """For notebooks."""
        from .notebook import batch_html

        return batch_html(self)
