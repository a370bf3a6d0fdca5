"""Models by their configs, under NeMo's names: what to import, train and export."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .config import Llava15Config7B, NevaConfig
from .parallel_config import ComputeConfig, ParallelConfig
from .vision_config import (
    CLIPViTL_14_336_Config,
    InternViT_300M_448px_Config,
    SigLIPViT400M_14_384_Config,
    VisionConfig,
)

if TYPE_CHECKING:
    from .model import MCoreNevaModel
    from .vision import VisionEncoder


@dataclass(frozen=True, slots=True)
class NevaModel:
    """A NeVA model that is not built yet."""

    config: NevaConfig = field(default_factory=NevaConfig)

    def build(
        self,
        parallel: ParallelConfig | None = None,
        compute: ComputeConfig | None = None,
        *,
        pre_process: bool = True,
        post_process: bool = True,
        vp_stage: int | None = None,
    ) -> MCoreNevaModel:
        """A stage of it; see MCoreNevaModel.

        Raises:
            ConfigError: the vision tower's shapes cannot be read.
        """
        from .hf_config import resolve
        from .model import MCoreNevaModel

        return MCoreNevaModel(
            resolve(self.config),
            parallel,
            compute,
            pre_process=pre_process,
            post_process=post_process,
            vp_stage=vp_stage,
        )


@dataclass(frozen=True, slots=True)
class LlavaModel(NevaModel):
    """LLaVA-1.5."""

    config: NevaConfig = field(default_factory=Llava15Config7B)


@dataclass(frozen=True, slots=True)
class VisionModel:
    """A vision encoder by itself, not built yet."""

    config: VisionConfig

    def build(
        self, parallel: ParallelConfig | None = None, compute: ComputeConfig | None = None
    ) -> VisionEncoder:
        """All layers of it."""
        from .vision import VisionEncoder

        return VisionEncoder(
            self.config,
            self.config.num_layers,
            parallel or ParallelConfig(),
            compute or ComputeConfig(),
        )


@dataclass(frozen=True, slots=True)
class CLIPViTModel(VisionModel):
    """CLIP's."""

    config: VisionConfig = field(default_factory=CLIPViTL_14_336_Config)


@dataclass(frozen=True, slots=True)
class SigLIPViTModel(VisionModel):
    """SigLIP's."""

    config: VisionConfig = field(default_factory=SigLIPViT400M_14_384_Config)


@dataclass(frozen=True, slots=True)
class InternViTModel(VisionModel):
    """InternViT."""

    config: VisionConfig = field(default_factory=InternViT_300M_448px_Config)
