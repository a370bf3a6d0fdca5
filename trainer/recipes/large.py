"""Recipes of models that need GPUs: LLaVA's two stages, and what differs from model to model."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Llava15Config7B, Llava15Config13B, NevaConfig, NevaLlama3Config8B
from ..editable import Editable
from .stages import finetune, pretrain

VISION_MODEL = "hf://openai/clip-vit-large-patch14-336"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipes:
    """The recipes of one model."""

    config: type[NevaConfig]
    pretrained: str | None
    """What fine-tuning starts from; None where no such model is published: pretrain it first."""
    micro_batch_size: int = 2
    """Of fine-tuning."""

    def finetune_recipe(
        self,
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
            self.config(),
            dir=dir,
            name=name,
            num_nodes=num_nodes,
            num_gpus_per_node=num_gpus_per_node,
            peft_scheme=peft_scheme,
            restore=self.pretrained,
            micro_batch_size=self.micro_batch_size,
            tensor_parallel=2,
        )

    def pretrain_recipe(
        self,
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
            self.config(),
            dir=dir,
            name=name,
            num_nodes=num_nodes,
            num_gpus_per_node=num_gpus_per_node,
            language_model=language_model,
            vision_model=vision_model,
            micro_batch_size=16,
        )


llava15_7b = Recipes(config=Llava15Config7B, pretrained="hf://llava-hf/llava-1.5-7b-hf")
llava15_13b = Recipes(
    config=Llava15Config13B, pretrained="hf://llava-hf/llava-1.5-13b-hf", micro_batch_size=1
)
neva_llama3_8b = Recipes(config=NevaLlama3Config8B, pretrained=None)
