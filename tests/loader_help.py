"""Small datasets of every kind, a tokenizer that installs with the tests, batches to compare."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import yaml
from handmade import Members, members, picture, write_dataset

from neva_prep.loaders import EnergonMultiModalDataModule, ImageConfig, MultiModalTaskEncoder

TILE = 28
EMBEDDINGS = 4
IMAGES = ImageConfig(size=TILE, output="uint8")


@cache
def tokenizer() -> Any:
    """mistral-common's Llama-like SentencePiece model of 32,000 words, in transformers."""
    import mistral_common
    from transformers import AutoTokenizer

    model = Path(mistral_common.__file__).parent / "data/tokenizer.model.v1"
    folder = Path(mkdtemp())
    shutil.copy(model, folder / "tokenizer.model")
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    try:
        return AutoTokenizer.from_pretrained(folder)
    finally:
        shutil.rmtree(folder)


def spell(ids: Iterable[int]) -> str:
    """Tokens as text, for eyes: `|` between words' pieces is left out, images are `[image]`."""
    pieces = [
        "[image]" if number == -200 else tokenizer().convert_ids_to_tokens(int(number))
        for number in ids
    ]
    return "".join(pieces).replace("▁", " ").replace("<0x0A>", "\n")


def conversations(root: Path, *, train: int = 120, shards: int = 8, val: int = 7) -> Path:
    """A dataset of ours: one, no and two images in turns, questions of growing length."""

    def sample(number: int) -> Members:
        return members(number, images=(1, 0, 2)[number % 3], text=f"Why {'so ' * (number % 17)}?")

    names = [f"{number:09d}" for number in range(train + val)]
    per_shard = -(-train // shards)
    written = {
        f"train-{shard:06d}.tar": {
            names[number]: sample(number)
            for number in range(shard * per_shard, min(train, (shard + 1) * per_shard))
        }
        for shard in range(shards)
    }
    if val:
        written["val-000000.tar"] = {
            names[number]: sample(number) for number in range(train, train + val)
        }
    return write_dataset(root, written)


def typed_dataset(
    root: Path, sample_type: str, field_map: dict[str, str], samples: list[Members]
) -> Path:
    """A dataset as `energon prepare` describes one of its sample types."""
    shards = {"train-000000.tar": {f"{n:09d}": sample for n, sample in enumerate(samples)}}
    path = write_dataset(root, shards)
    described = {
        "sample_type": {"__module__": "megatron.energon", "__class__": sample_type},
        "field_map": field_map,
    }
    (path / ".nv-meta/dataset.yaml").write_text(yaml.safe_dump(described))
    return path


def vqa_members(number: int, question: str = "What is it?", answer: str = "A ring.") -> Members:
    """Image and JSON of a VQASample."""
    return [
        ("jpg", picture(32 + number, 24)),
        ("json", json.dumps({"question": question, "answer": answer}).encode()),
    ]


VQA_FIELDS = {"image": "jpg", "context": "json[question]", "answers": "json[answer]"}


def encoder(packed: bool = False, **options: Any) -> MultiModalTaskEncoder:
    """Small tiles, few embeddings, packs of 256 positions."""
    return MultiModalTaskEncoder(
        tokenizer(),
        options.pop("images", IMAGES),
        options.pop("config", None),
        packed_sequence=packed,
        packed_sequence_size=256 if packed else -1,
        num_image_embeddings_per_tile=EMBEDDINGS,
        **options,
    )


def module(path: Any, *, packed: bool = False, **options: Any) -> EnergonMultiModalDataModule:
    """A data module of small batches; options go to it."""
    settings: dict[str, Any] = {
        "task_encoder": encoder(packed),
        "micro_batch_size": 1 if packed else 2,
        "global_batch_size": 4,
        "num_workers": 0,
        "shuffle_buffer_size": 10,
        "packing_buffer_size": 20 if packed else None,
        "pin_memory": False,
    }
    return EnergonMultiModalDataModule(path, **{**settings, **options})


def signature(batch: Any) -> tuple[tuple[str, ...], str]:
    """Keys of a batch, and a hash of every bit of its tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(batch.items()):
        if hasattr(value, "numpy"):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().numpy().tobytes())
    bounds = batch.get("packed_seq_params")
    digest.update(repr(bounds and bounds.cu_seqlens_q_padded.tolist()).encode())
    return tuple(batch["__keys__"]), digest.hexdigest()


def take(stream: Iterator[Any], count: int) -> list[Any]:
    """Signatures of the next batches."""
    return [signature(batch) for batch in islice(stream, count)]


def keys_of(batches: Iterable[Any]) -> list[str]:
    """Keys of all samples, in order."""
    return [key for batch in batches for key in batch["__keys__"]]
