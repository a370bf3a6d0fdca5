"""Samples per CPU-second from shards to batches: ours beside Hugging Face's and energon's.

All read the same images, 640 pixels wide or so, and make them 336 x 336 with CLIP's settings, in
one process without workers, in turns; CPU seconds of this process are counted, medians of rounds.

- exact: EnergonMultiModalDataModule, float32 pixels with the bits of Hugging Face's processor.
- fast: the same with `mode="fast"` and uint8 pixels, which the device normalises.
- transformers: a DataLoader over LlavaProcessor: its image processor, tokens of the same template
  and labels from its assistant mask.
- energon: its default decoder and no encoding at all; it resizes nothing and has no tokens.

Then: which share of a step a training that takes 20 samples a second waits for `fast`, with one
worker process: at batches of 4, and of 16, which is LLaVA-1.5's for one GPU. Handing a batch over
takes about the same time whatever its size. That is without a GPU: with one, a thread of
DataLoader's takes batches over meanwhile.

Run: python benchmarks/loader.py [--samples 300] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from corpus import make_corpus
from machine import write_result
from tokenizer import make_tokenizer

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.loaders import (
    EnergonMultiModalDataModule,
    ImageConfig,
    MultiModalTaskEncoder,
    make_pixel_reader,
)
from neva_prep.templates import get_template

BATCH = 4
SAMPLES_PER_SECOND = 20
WAITING_BATCHES = (4, 16)


def image_processor() -> Any:
    """CLIP-L/14-336's."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})


def ours(
    dataset: Path, tokenizer: Any, images: Any, *, workers: int = 0, batch: int = BATCH
) -> Any:
    """Our data module; close it after use."""
    encoder = MultiModalTaskEncoder(tokenizer, images, template=get_template("v1"))
    return EnergonMultiModalDataModule(
        dataset,
        task_encoder=encoder,
        micro_batch_size=batch,
        global_batch_size=batch,
        num_workers=workers,
        share_shards=True,
    )


def samples_of(batches: Iterator[Any]) -> Iterator[int]:
    """Number of samples of each batch."""
    for batch in batches:
        yield len(batch["__keys__"])


class LlavaSource(torch.utils.data.Dataset[Any]):
    """Records and image files, as a script around LlavaProcessor reads them."""

    def __init__(self, source: Path, images: Path) -> None:
        """Read the JSON; images stay on disk."""
        self._records = json.loads(source.read_bytes())
        self._images = images

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[list[dict[str, Any]], list[Any]]:
        from PIL import Image

        record = self._records[index]
        names = [record["image"]] if "image" in record else []
        pictures = [Image.open(self._images / name).convert("RGB") for name in names]
        roles = {"human": "user", "gpt": "assistant"}
        turns = [
            {"role": roles[turn["from"]], "content": turn["value"]}
            for turn in record["conversations"]
        ]
        return turns, pictures


def transformers_batches(source: Path, images: Path, tokenizer: Any) -> Iterator[int]:
    """LlavaProcessor in the collate function of a DataLoader."""
    from transformers import LlavaProcessor

    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    processor = LlavaProcessor(
        image_processor=image_processor(),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=(
            "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
            "{{ 'USER: ' + m['content'] + ' ' }}{% else %}{{ 'ASSISTANT:' }}"
            "{% generation %}{{ ' ' + m['content'] + eos_token }}{% endgeneration %}"
            "{% endif %}{% endfor %}"
        ),
    )

    def collate(rows: list[Any]) -> Any:
        texts = [processor.apply_chat_template(turns, tokenize=False) for turns, _ in rows]
        pictures = [picture for _, some in rows for picture in some]
        batch = processor(text=texts, images=pictures or None, padding=True, return_tensors="pt")
        masks = processor.tokenizer.apply_chat_template(
            [turns for turns, _ in rows],
            chat_template=processor.chat_template,
            return_assistant_tokens_mask=True,
            return_dict=True,
        )["assistant_masks"]
        batch["num_trained"] = torch.tensor([sum(mask) for mask in masks])
        return batch

    loader = torch.utils.data.DataLoader(
        LlavaSource(source, images), batch_size=BATCH, shuffle=True, collate_fn=collate
    )
    for batch in loader:
        yield len(batch["input_ids"])


def energon_batches(dataset: Path) -> Iterator[int]:
    """Energon with its default decoder, and nothing done to what it decodes."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        SampleDecoder,
        WorkerConfig,
        basic_sample_keys,
        edataclass,
        get_loader,
        get_train_dataset,
        stateless,
    )

    @edataclass
    class Decoded(Sample):  # type: ignore[misc]
        members: dict[str, Any]

    @stateless  # type: ignore[untyped-decorator]
    def cook(crude: dict[str, Any]) -> Decoded:
        members = {name: value for name, value in crude.items() if not name.startswith("__")}
        return Decoded(**basic_sample_keys(crude), members=members)

    class NoEncoder(DefaultTaskEncoder):  # type: ignore[misc]
        cookers = (Cooker(cook),)
        decoder = SampleDecoder()

        @stateless  # type: ignore[untyped-decorator]
        def batch(self, samples: list[Any]) -> list[Any]:
            return samples

    batches = get_train_dataset(
        dataset,
        batch_size=BATCH,
        shuffle_buffer_size=100,
        max_samples_per_sequence=None,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        task_encoder=NoEncoder(),
    )
    for batch in get_loader(batches):
        yield len(batch)


def samples_per_cpu_second(make: Callable[[], Iterator[int]], samples: int) -> float:
    """CPU seconds of this process, from the second batch on: the first fills buffers."""
    batches = make()
    next(batches)
    count, start = 0, time.process_time()
    for size in batches:
        count += size
        if count >= samples:
            break
    return count / (time.process_time() - start)


def waiting_share(dataset: Path, tokenizer: Any, images: Any, batch: int, seconds: float) -> float:
    """Share of a step that is waited for data, where computing it takes a batch's time."""
    compute = batch / SAMPLES_PER_SECOND
    steps = round(seconds / compute)
    with ours(dataset, tokenizer, images, workers=1, batch=batch) as data:
        stream = data.train_dataloader()
        next(stream)
        waited = 0.0
        for _ in range(steps):
            time.sleep(compute)
            start = time.perf_counter()
            next(stream)
            waited += time.perf_counter() - start
    return waited / (waited + steps * compute)


def run(samples: int, rounds: int) -> dict[str, Any]:
    """Rounds of all four, in turns."""
    torch.set_num_threads(1)
    corpus = make_corpus()
    tokenizer = make_tokenizer()
    exact = make_pixel_reader(image_processor(), mode="exact")
    fast = make_pixel_reader(image_processor(), mode="fast", output="uint8")
    assert isinstance(exact.config, ImageConfig)
    with tempfile.TemporaryDirectory(dir=corpus.folder, prefix="run-") as scratch:
        dataset = Path(scratch) / "shards"
        convert(corpus.source, corpus.folder, dataset, ConvertOptions())

        def stream(images: Any) -> Iterator[int]:
            with ours(dataset, tokenizer, images) as data:
                yield from samples_of(data.train_dataloader())

        loaders: dict[str, Callable[[], Iterator[int]]] = {
            "exact": lambda: stream(exact),
            "fast": lambda: stream(fast),
            "transformers": lambda: transformers_batches(
                corpus.source, corpus.folder, make_tokenizer()
            ),
            "energon": lambda: energon_batches(dataset),
        }
        speeds: dict[str, list[float]] = {name: [] for name in loaders}
        for number in range(rounds):
            for name, make in loaders.items():
                speeds[name].append(samples_per_cpu_second(make, samples))
                print(f"round {number}: {name} {speeds[name][-1]:.0f} samples/CPU-s", flush=True)
        waiting = {
            batch: waiting_share(dataset, tokenizer, fast, batch, seconds=20)
            for batch in WAITING_BATCHES
        }
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    base = medians["transformers"]
    return {
        "samples": samples,
        "rounds": rounds,
        "batch": BATCH,
        "samples_per_cpu_second": medians,
        "all_rounds": speeds,
        "ratio_to_transformers": {name: speed / base for name, speed in medians.items()},
        "waiting_share": waiting,
    }


def main() -> None:
    """Measure, print, and write results/loader.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    result = run(arguments.samples, arguments.rounds)
    print("\nloader         samples/CPU-s   x transformers")
    for name, speed in result["samples_per_cpu_second"].items():
        print(f"{name:12} {speed:15.0f} {result['ratio_to_transformers'][name]:16.2f}")
    for batch, share in result["waiting_share"].items():
        print(
            f"waiting for data at {SAMPLES_PER_SECOND} samples/s, batches of {batch}: {share:.2%}"
        )
    print(write_result("loader", result))


if __name__ == "__main__":
    main()
