"""LLaVA-1.5 as Hugging Face's libraries train it, for benchmarks/train_gpu.py."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Generator
from itertools import islice
from typing import Any

import torch
from neva_on_gpu import LORA_DIM, make_data, neva_config

SAMPLES = 32
"""In a step: what four packs hold."""


def hf_model(config: Any, *, liger: bool = False) -> Any:
    """Their model of the same shape, with random weights."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from neva_prep.trainer.hf_config import neva_to_hf, resolve

    if liger:
        from liger_kernel.transformers import (
            apply_liger_kernel_to_llama,
            apply_liger_kernel_to_llava,
        )

        apply_liger_kernel_to_llama(rope=True, swiglu=True, rms_norm=True)
        apply_liger_kernel_to_llava()
    settings = neva_to_hf(resolve(config))
    settings.pop("model_type")
    made = LlavaConfig(**settings)
    made._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlavaForConditionalGeneration(made)
    torch.set_default_dtype(torch.float32)
    return model


def hf_batches(
    name: str, options: argparse.Namespace, rows: int, count: int, workers: int = 4
) -> Generator[dict[str, Any]]:
    """Padded batches of the same samples, on the GPU, as LlavaForConditionalGeneration wants."""
    from neva_prep.loaders.pixel_values import normalize
    from neva_prep.trainer.expand import expand_batch

    data = make_data(name, options, pack=False, workers=workers, rows=rows)
    config = neva_config(name, options)
    reader = data.settings.encoder.preparer.reader.config
    try:
        for batch in islice(data.train_dataloader(), count):
            rows_ = expand_batch(batch, num_image_embeddings_per_tile=576)
            ids = rows_.input_ids.masked_fill(rows_.input_ids < 0, config.image_token_index)
            labels = torch.full_like(rows_.labels, -100)
            labels[:, 1:] = rows_.labels[:, :-1]
            lengths = (rows_.position_ids + 1).where(rows_.labels != -100, 0).amax(1, keepdim=True)
            places = torch.arange(ids.shape[1])[None]
            yield {
                "input_ids": ids.cuda(),
                "labels": labels.cuda(),
                "attention_mask": (places < lengths + 1).long().cuda(),
                "pixel_values": normalize(
                    rows_.media.cuda(), mean=reader.mean, std=reader.std, dtype=torch.bfloat16
                ),
                "tokens": int(lengths.sum()) + rows,
            }
    finally:
        data.close()


def run_theirs(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time a variant: the best of several batch sizes."""
    pretrain = "pretrain" in name
    config = neva_config(name, options)
    model = hf_model(config, liger="liger" in name)
    model.requires_grad_(False)
    if pretrain:
        model.model.multi_modal_projector.requires_grad_(True)
    else:
        model = with_peft(model, "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj")
    if "compile" in name:
        language = model.base_model.model.model.language_model
        for layer in language.layers:
            layer.compile(dynamic=True)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
    tries = [(4, False), (6, False), (16, True)]
    if "liger" in name or "compile" in name:
        tries = [(8, False), (16, False)]
    if pretrain:
        tries = [(8, False), (16, False)]
    found = []
    for rows, again in tries:
        found.append(_time_theirs(model, optimizer, name, options, rows, again))
        print(found[-1], flush=True)
        torch.cuda.empty_cache()
    return max(found, key=lambda one: one.get("tokens_per_second", 0.0)) | {"tries": found}


def with_peft(model: Any, layers: str, *, whole: bool = False) -> Any:
    """The model with adapters: in bfloat16, which is faster, or `whole`, PEFT's default."""
    from peft import LoraConfig, get_peft_model

    pattern = rf".*language_model.*\.({layers})"
    lora = LoraConfig(r=LORA_DIM, lora_alpha=LORA_DIM, target_modules=pattern)
    return get_peft_model(model, lora, autocast_adapter_dtype=whole)


def _time_theirs(
    model: Any, optimizer: Any, name: str, options: argparse.Namespace, rows: int, again: bool
) -> dict[str, Any]:
    said = {"rows": rows, "checkpointing": again}
    base = model if "pretrain" in name else model.base_model.model
    if again:
        base.gradient_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    else:
        base.gradient_checkpointing_disable()
    model.train()
    torch.cuda.reset_peak_memory_stats()
    seconds, tokens, times = [], [], SAMPLES // rows
    warm_up = 1
    steps = warm_up + max(3, options.steps // 4)
    batches = hf_batches(name, options, rows, steps * times)
    try:
        for _ in range(steps):
            step = list(islice(batches, times))
            tokens.append(sum(batch.pop("tokens") for batch in step))
            torch.cuda.synchronize()
            start = time.perf_counter()
            for batch in step:
                (model(**batch, use_cache=False).loss / times).backward()
            torch.nn.utils.clip_grad_norm_([w for w in model.parameters() if w.requires_grad], 1.0)
            optimizer.step()
            optimizer.zero_grad()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        optimizer.zero_grad()
        return said | {"failed": "out of memory"}
    finally:
        batches.close()
    timed = [t / s for t, s in zip(tokens[warm_up:], seconds[warm_up:], strict=True)]
    return said | {
        "step_seconds": statistics.median(seconds[warm_up:]),
        "tokens_per_second": statistics.median(timed),
        "samples_per_second": rows * times / statistics.median(seconds[warm_up:]),
        "positions_per_step": statistics.median(tokens[warm_up:]),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }
