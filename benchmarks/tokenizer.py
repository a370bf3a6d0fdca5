"""A tokenizer for benchmarks that needs no download."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any


def make_tokenizer() -> Any:
    """mistral-common's Llama-like vocabulary, in transformers."""
    import mistral_common
    from transformers import AutoTokenizer

    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
    }
    with tempfile.TemporaryDirectory() as folder:
        model = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
        shutil.copy(model, Path(folder) / "tokenizer.model")
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings))
        return AutoTokenizer.from_pretrained(folder)
