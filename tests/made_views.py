"""Views made by hand, as a renderer gets them: one of each kind, with everything in it."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from neva_prep.dataprep.look.stops import Stops
from neva_prep.dataprep.look.view import (
    BatchView,
    Finding,
    ImageView,
    PackView,
    Place,
    RecordView,
    RowView,
    SampleView,
    Segment,
    TensorView,
    TokensView,
    TokenView,
    Turn,
)

PLACE = Place(
    dataset="shards", index=7, shard="train-000000.tar", split="train", offset=4096, num_bytes=6144
)
IGNORED = -100


def photo(width: int = 64, height: int = 48) -> bytes:
    """A small JPEG."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def tile(edge: int = 28) -> np.ndarray:
    """A tile as the model gets it."""
    return np.full((edge, edge, 3), 120, np.uint8)


def image(name: str = "000.jpg", **changes: object) -> ImageView:
    """An image in its shard."""
    data = photo()
    view = ImageView(
        name=name,
        source="coco/7.jpg",
        width=64,
        height=48,
        format="jpeg",
        num_bytes=len(data),
        data=data,
        tiles=(tile(),),
    )
    return replace(view, **changes)  # type: ignore[arg-type]


def sample(*turns: tuple[str, str], **changes: object) -> SampleView:
    """A conversation, about one image unless told otherwise."""
    asked = turns or (("human", "<image>\nHow many?"), ("gpt", "Three"))
    view = SampleView(
        place=PLACE,
        id="cats-7",
        key="000000007",
        turns=tuple(Turn(role=role, text=text) for role, text in asked),
        images=(image(),),
        fields={"score": 0.5},
    )
    return replace(view, **changes)  # type: ignore[arg-type]


def record(text: str = '{\n  "id": "cats-7"\n}', *findings: Finding) -> RecordView:
    """A record."""
    return RecordView(place=PLACE, id="cats-7", key="000000007", text=text, findings=findings)


def tokens(*words: tuple[str, str, int | None, bool]) -> tuple[TokenView, ...]:
    """Tokens in a row: text, rule, turn and whether trained; labels are shifted."""
    made: list[TokenView] = []
    place = 0
    for number, (text, rule, turn, trained) in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else ("", "", None, False)
        is_image = rule == "image"
        made.append(
            TokenView(
                position=number,
                id=-200 if is_image else 1000 + number,
                piece="<image>" if is_image else text.replace(" ", "▁"),
                text="" if is_image else text,
                label=1001 + number if following[3] else IGNORED,
                label_piece=following[0].replace(" ", "▁") if following[3] else "",
                trained=trained,
                rule=rule,
                turn=turn,
                position_id=place,
                embeddings=576 if is_image else 1,
            )
        )
        place += made[-1].embeddings
    return tuple(made)


TALK = tokens(
    ("<s>", "bos", None, False),
    ("USER:", "template text", None, False),
    ("<image>", "image", 0, False),
    ("\n", "content", 0, False),
    ("How", "content", 0, False),
    (" many?", "content", 0, False),
    (" ASSISTANT:", "template text", 0, False),
    (" Three", "answer", 1, True),
    ("</s>", "marked by the template", 1, True),
)


def tokenized(row: tuple[TokenView, ...] = TALK, **changes: object) -> TokensView:
    """Tokens of one sample."""
    view = TokensView(
        key="000000007",
        id="cats-7",
        template="v1",
        tokens=row,
        length=583,
        limit=2048,
    )
    return replace(view, **changes)  # type: ignore[arg-type]


def stops(index: int = 7, **changes: object) -> Stops:
    """A record at all of its stops."""
    view = Stops(index=index, record=record(), sample=sample(), tokens=tokenized())
    return replace(view, **changes)  # type: ignore[arg-type]


PACK = PackView(
    capacity=2048,
    segments=(
        Segment(
            key="000000007",
            origin="shards",
            start=0,
            end=583,
            padded_end=584,
            num_trained=2,
            images=("000.jpg",),
        ),
        Segment(
            key="000000009", origin="shards", start=584, end=1800, padded_end=1800, num_trained=300
        ),
    ),
)


def batch(row: tuple[TokenView, ...] = TALK) -> BatchView:
    """A packed batch."""
    return BatchView(
        step=3,
        keys=("000000007", "000000009"),
        origins=("shards", "shards"),
        tensors=(
            TensorView(name="tokens", dtype="int64", shape=(1, len(row)), summary="-200 to 1008"),
            TensorView(name="media", dtype="uint8", shape=(1, 3, 28, 28), summary="0 to 255"),
        ),
        rows=(
            RowView(
                pack=PACK,
                tokens=row,
                loss_mask=tuple(float(token.label != IGNORED) for token in row),
                attention_mask=(True,) * len(row),
            ),
        ),
        media=(tile(),),
        num_media_tiles=(1,),
        cu_seqlens=(0, 583, 1799),
        cu_seqlens_padded=(0, 584, 1800),
        max_seqlen=1216,
    )
