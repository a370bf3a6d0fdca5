"""NeMo's example of an energon data module runs with nothing but its import changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from handmade import picture
from loader_help import spell, tokenizer, vqa_members

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions

EXAMPLE = """
from neva_prep.loaders import (
    ImageToken,
    MultiModalSampleConfig,
    EnergonMultiModalDataModule,
)

# Load processor, tokenizer, and image processor from pre-trained model
processor = AutoProcessor.from_pretrained("llava-hf/llava-1.5-7b-hf")
tokenizer = processor.tokenizer
image_processor = processor.image_processor

# Configure multimodal samples
config = MultiModalSampleConfig(
    image_token=ImageToken(token_str="<image>", token_id=-200),
    ignore_place_holder=-100
)

# Initialize the data module
data_module = EnergonMultiModalDataModule(
    path=dataset_path,
    tokenizer=tokenizer,
    image_processor=image_processor,
    seq_length=2048,
    micro_batch_size=1,
    global_batch_size=16,
    num_workers=0,
    multimodal_sample_config=config,
)
"""


class AutoProcessor:
    """The processor of LLaVA-1.5, with a tokenizer that is here."""

    @staticmethod
    def from_pretrained(name: str) -> Any:
        from transformers import CLIPImageProcessor

        assert name == "llava-hf/llava-1.5-7b-hf"
        images = CLIPImageProcessor(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        )
        return SimpleNamespace(tokenizer=tokenizer(), image_processor=images)


def converted(root: Path) -> Path:
    """Ten records of LLaVA's, converted."""
    images = root / "images"
    images.mkdir()
    rows = []
    for number in range(10):
        (images / f"{number}.jpg").write_bytes(picture(400 + number, 300))
        turns = [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A ring."},
        ]
        rows.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
    (root / "source.json").write_text(json.dumps(rows))
    convert(root / "source.json", images, root / "out", ConvertOptions())
    return root / "out"


def prepared(root: Path) -> Path:
    """Ten question-answer pairs in a shard, prepared by energon itself."""
    import io
    import tarfile

    out = root / "out"
    out.mkdir()
    with tarfile.open(out / "shard-000000.tar", "w") as tar:
        for number in range(10):
            for name, data in vqa_members(400 + number):
                info = tarfile.TarInfo(f"{number:06d}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    energon = Path(sys.executable).with_name("energon")
    command = [str(energon), "prepare", "--non-interactive", "--split-ratio", "1,0,0"]
    fields = {"image": "jpg", "context": "json[question]", "answers": "json[answer]"}
    options = ["--sample-type", "VQASample", "--field-map", json.dumps(fields), str(out)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    described = yaml.safe_load((out / ".nv-meta/dataset.yaml").read_text())
    assert "VQA" in str(described), described
    return out


@pytest.mark.parametrize("make", [converted, prepared])
def test_the_example_of_nemos_page_runs(make: Any, tmp_path: Path) -> None:
    names: dict[str, Any] = {"AutoProcessor": AutoProcessor, "dataset_path": str(make(tmp_path))}
    exec(EXAMPLE, names)
    with names["data_module"] as data:
        assert data.num_micro_batches == 16
        batch = next(data.train_dataloader())
    assert set(batch) >= {
        "tokens",
        "labels",
        "loss_mask",
        "position_ids",
        "attention_mask",
        "media",
        "num_media_tiles",
        "__keys__",
    }
    assert spell(batch["tokens"][0].tolist()) == (
        "<s> A chat between a curious user and artificial assistant agent. The assistant gives "
        "helpful, detailed and polite answers to user's questions. "
        "USER: [image] \nWhat is it? ASSISTANT: A ring."
    )
    assert spell(x for x in batch["labels"][0].tolist() if x != -100) == " A ring.</s>"
    assert batch["media"].shape == (1, 3, 336, 336)
    assert batch["num_media_tiles"].tolist() == [1]


def test_pixels_are_those_of_the_image_processor(tmp_path: Path) -> None:
    import io

    import torch
    from PIL import Image

    path = converted(tmp_path)
    names: dict[str, Any] = {"AutoProcessor": AutoProcessor, "dataset_path": str(path)}
    exec(EXAMPLE, names)
    with names["data_module"] as data:
        batch = next(data.train_dataloader())
    name = int(batch["__keys__"][0])
    picture_ = Image.open(io.BytesIO(picture(400 + name, 300)))
    expected = AutoProcessor.from_pretrained("llava-hf/llava-1.5-7b-hf").image_processor(
        picture_, return_tensors="pt"
    )["pixel_values"]
    assert batch["media"].shape == expected.shape
    # The torchvision backend, which transformers may choose, differs by two levels of 255.
    assert torch.allclose(batch["media"], torch.as_tensor(expected), atol=2.1 / 255 / 0.26)
