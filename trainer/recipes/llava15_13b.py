"""LLaVA-1.5 13B."""

from __future__ import annotations

from ..config import Llava15Config13B
from ..editable import Editable
from .stages import finetune, pretrain

PRETRAINED = "hf://llava-hf/llava-1.5-13b-hf"
VISION_MODEL = "hf://openai/clip-vit-large-patch14-336"


def finetune_recipe(
    dir: str = "runs",
    name: str = "default",
    num_nodes: int = 1,
    num_gpus_per_node: int = 8,
    peft_scheme: str | None = "lora",
) -> Editable:
    """Fine-tune on conversations; the data are random until `recipe.data` is set.

    Args:
        dir: gets a folder `name` with checkpoints and logs.
        name: of the run.
        num_nodes: machines.
        num_gpus_per_node: processes on each.
        peft_scheme: `lora`, or `none` to train the whole language model.

    Raises:
        ConfigError: there is no such scheme.
    """
    return finetune(
        Llava15Config13B(),
        dir=dir,
        name=name,
        num_nodes=num_nodes,
        num_gpus_per_node=num_gpus_per_node,
        peft_scheme=peft_scheme,
        restore=PRETRAINED,
        micro_batch_size=1,
        tensor_parallel=2,
    )


def pretrain_recipe(
    dir: str = "runs",
    name: str = "default",
    num_nodes: int = 1,
    num_gpus_per_node: int = 8,
    language_model: str | None = None,
    vision_model: str | None = VISION_MODEL,
) -> Editable:
    """Train the projector alone, on captions; the data are random until `recipe.data` is set.

    Args:
        dir: gets a folder `name` with checkpoints and logs.
        name: of the run.
        num_nodes: machines.
        num_gpus_per_node: processes on each.
        language_model: folder or `hf://` name of the language model; None for random weights.
        vision_model: the same for the vision encoder.
    """
    return pretrain(
        Llava15Config13B(),
        dir=dir,
        name=name,
        num_nodes=num_nodes,
        num_gpus_per_node=num_gpus_per_node,
        language_model=language_model,
        vision_model=vision_model,
        micro_batch_size=16,
    )
