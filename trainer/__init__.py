"""The bundled trainer: NeVA on megatron-core, fed by the streaming loaders.

Names are imported when first used: configs are read without torch, and megatron-core is imported
only where a model is built.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Llava15Config7B as Llava15Config7B
    from .config import Llava15Config13B as Llava15Config13B
    from .config import MultimodalProjectorConfig as MultimodalProjectorConfig
    from .config import NevaConfig as NevaConfig
    from .config import NevaLlama3Config8B as NevaLlama3Config8B
    from .expand import ExpandedBatch as ExpandedBatch
    from .expand import expand_batch as expand_batch
    from .expand import slice_for_context as slice_for_context
    from .hf_import import export_ckpt as export_ckpt
    from .hf_import import import_ckpt as import_ckpt
    from .hf_load import load_pretrained as load_pretrained
    from .language_config import LanguageConfig as LanguageConfig
    from .language_config import Llama2Config7B as Llama2Config7B
    from .language_config import Llama2Config13B as Llama2Config13B
    from .language_config import Llama3Config8B as Llama3Config8B
    from .language_config import Llama31Config8B as Llama31Config8B
    from .language_config import MistralConfig7B as MistralConfig7B
    from .language_config import Nemotron3Config8B as Nemotron3Config8B
    from .language_config import Nemotron4MiniConfig4B as Nemotron4MiniConfig4B
    from .language_config import NemotronConfig as NemotronConfig
    from .language_config import Qwen25Config7B as Qwen25Config7B
    from .language_config import Qwen25Config500M as Qwen25Config500M
    from .language_config import RopeScaling as RopeScaling
    from .loop import FitReport as FitReport
    from .loop import finetune as finetune
    from .loop import fit as fit
    from .loop import pretrain as pretrain
    from .lora import LoRA as LoRA
    from .model import MCoreNevaModel as MCoreNevaModel
    from .models import CLIPViTModel as CLIPViTModel
    from .models import InternViTModel as InternViTModel
    from .models import LlavaModel as LlavaModel
    from .models import NevaModel as NevaModel
    from .models import SigLIPViTModel as SigLIPViTModel
    from .models import VisionModel as VisionModel
    from .optimizer import OptimizerSettings as OptimizerSettings
    from .parallel_config import ComputeConfig as ComputeConfig
    from .parallel_config import ParallelConfig as ParallelConfig
    from .recipe import Recipe as Recipe
    from .recipes import llava15_7b as llava15_7b
    from .recipes import llava15_13b as llava15_13b
    from .recipes import neva_llama3_8b as neva_llama3_8b
    from .schedule import CosineAnnealing as CosineAnnealing
    from .vision_config import CLIPViTL_14_336_Config as CLIPViTL_14_336_Config
    from .vision_config import HFCLIPVisionConfig as HFCLIPVisionConfig
    from .vision_config import InternViT_300M_448px_Config as InternViT_300M_448px_Config
    from .vision_config import SigLIPViT400M_14_384_Config as SigLIPViT400M_14_384_Config
    from .vision_config import VisionConfig as VisionConfig

_HOME = {
    "CLIPViTL_14_336_Config": ".vision_config",
    "CLIPViTModel": ".models",
    "ComputeConfig": ".parallel_config",
    "CosineAnnealing": ".schedule",
    "ExpandedBatch": ".expand",
    "FitReport": ".loop",
    "HFCLIPVisionConfig": ".vision_config",
    "InternViTModel": ".models",
    "InternViT_300M_448px_Config": ".vision_config",
    "LanguageConfig": ".language_config",
    "Llama2Config13B": ".language_config",
    "Llama2Config7B": ".language_config",
    "Llama31Config8B": ".language_config",
    "Llama3Config8B": ".language_config",
    "Llava15Config13B": ".config",
    "Llava15Config7B": ".config",
    "LlavaModel": ".models",
    "LoRA": ".lora",
    "MCoreNevaModel": ".model",
    "MistralConfig7B": ".language_config",
    "MultimodalProjectorConfig": ".config",
    "Nemotron3Config8B": ".language_config",
    "Nemotron4MiniConfig4B": ".language_config",
    "NemotronConfig": ".language_config",
    "NevaConfig": ".config",
    "NevaLlama3Config8B": ".config",
    "NevaModel": ".models",
    "OptimizerSettings": ".optimizer",
    "ParallelConfig": ".parallel_config",
    "Qwen25Config500M": ".language_config",
    "Qwen25Config7B": ".language_config",
    "Recipe": ".recipe",
    "RopeScaling": ".language_config",
    "SigLIPViT400M_14_384_Config": ".vision_config",
    "SigLIPViTModel": ".models",
    "VisionConfig": ".vision_config",
    "VisionModel": ".models",
    "expand_batch": ".expand",
    "export_ckpt": ".hf_import",
    "finetune": ".loop",
    "fit": ".loop",
    "import_ckpt": ".hf_import",
    "llava15_13b": ".recipes",
    "llava15_7b": ".recipes",
    "load_pretrained": ".hf_load",
    "neva_llama3_8b": ".recipes",
    "pretrain": ".loop",
    "slice_for_context": ".expand",
}

__all__ = [
    "CLIPViTL_14_336_Config",
    "CLIPViTModel",
    "ComputeConfig",
    "CosineAnnealing",
    "ExpandedBatch",
    "FitReport",
    "HFCLIPVisionConfig",
    "InternViTModel",
    "InternViT_300M_448px_Config",
    "LanguageConfig",
    "Llama2Config7B",
    "Llama2Config13B",
    "Llama3Config8B",
    "Llama31Config8B",
    "Llava15Config7B",
    "Llava15Config13B",
    "LlavaModel",
    "LoRA",
    "MCoreNevaModel",
    "MistralConfig7B",
    "MultimodalProjectorConfig",
    "Nemotron3Config8B",
    "Nemotron4MiniConfig4B",
    "NemotronConfig",
    "NevaConfig",
    "NevaLlama3Config8B",
    "NevaModel",
    "OptimizerSettings",
    "ParallelConfig",
    "Qwen25Config7B",
    "Qwen25Config500M",
    "Recipe",
    "RopeScaling",
    "SigLIPViT400M_14_384_Config",
    "SigLIPViTModel",
    "VisionConfig",
    "VisionModel",
    "expand_batch",
    "export_ckpt",
    "finetune",
    "fit",
    "import_ckpt",
    "llava15_7b",
    "llava15_13b",
    "load_pretrained",
    "neva_llama3_8b",
    "pretrain",
    "slice_for_context",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)
