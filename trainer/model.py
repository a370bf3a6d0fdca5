"""NeVA: images become embeddings among those of the words, and a decoder reads on from there.

media ──vision_model──▶ features ──vision_projection──▶ embeddings ┐
input_ids ──language_model.embedding──▶ embeddings ────────────────┴─▶ decoder ──▶ loss

The parts have NeMo's names, so that patterns such as `*.language_model.*.linear_qkv` find them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .compat import prepare_megatron
from .config import NevaConfig
from .engine_product import EngineProduct, has_transformer_engine
from .expand import labelled_positions
from .fp8 import RoundedWeights, check_device
from .fp8_layer import multiply_in_eight_bits
from .fused.decoder import Weights, as_stored, fits, run_decoder
from .language_config import LanguageConfig
from .megatron_config import language_transformer
from .parallel_config import ComputeConfig, ParallelConfig
from .parts import mark
from .projector import Projector
from .rope import rotary_frequencies
from .spec import language_block
from .vision import build_vision_encoder

prepare_megatron()

from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.tensor_parallel import scatter_to_sequence_parallel_region  # noqa: E402
from megatron.core.transformer.enums import ModelType  # noqa: E402
from megatron.core.transformer.module import MegatronModule  # noqa: E402


class MCoreNevaModel(MegatronModule):  # type: ignore[misc]
    """One pipeline stage of a NeVA model; all of it where there is one stage."""

    def __init__(
        self,
        neva: NevaConfig,
        parallel: ParallelConfig | None = None,
        compute: ComputeConfig | None = None,
        *,
        pre_process: bool = True,
        post_process: bool = True,
        vp_stage: int | None = None,
    ) -> None:
        """Build it with random weights; megatron-core's groups of ranks must exist.

        Args:
            neva: the model; `resolve` has read what it takes from files.
            parallel: layout over ranks; one rank unless given.
            compute: precision; float32 unless given.
            pre_process: the stage embeds words and images.
            post_process: the stage gives the loss.
            vp_stage: number of the stage on this rank, of a virtual pipeline.
        """
        parallel, compute = parallel or ParallelConfig(), compute or ComputeConfig()
        config = language_transformer(neva.language_transformer_config, parallel, compute)
        super().__init__(config=config)
        self.neva, self.compute = neva, compute
        self.can_fuse = fits(config, parallel)
        if compute.precision == "fp8":
            check_device()
        if compute.fused and not self.can_fuse:
            raise ConfigError(
                "fused=True: the fused decoder takes RMSNorm, a SwiGLU and one rank per tensor "
                "(tensor, pipeline and context parallel sizes of 1); leave fused=None"
            )
        self.model_type = ModelType.encoder_or_decoder
        self.pre_process, self.post_process, self.vp_stage = pre_process, post_process, vp_stage
        self.vision_model = self.vision_projection = None
        if pre_process:
            self.vision_model = build_vision_encoder(neva, parallel, compute)
            self.vision_projection = Projector(neva, parallel, compute)
        self.language_model = build_decoder(
            neva.language_transformer_config, config, pre_process, post_process, vp_stage
        )
        self._weights: Weights = as_stored
        if compute.precision == "fp8":
            self._weights = RoundedWeights()
            trained = EngineProduct if has_transformer_engine() else None
            multiply_in_eight_bits(self.language_model.decoder, self._weights, trained)
        self.share_embeddings_and_output_weights = (
            self.language_model.share_embeddings_and_output_weights
        )
        freeze(self)

    def forward(
        self,
        input_ids: Tensor,
        image_index: Tensor | None = None,
        media: Tensor | None = None,
        labels: Tensor | None = None,
        packed_seq_params: Any = None,
        labelled: Tensor | None = None,
    ) -> Tensor:
        """Read an expanded batch (expand.py).

        Args:
            input_ids: int64[batch, seq]
            image_index: int64[batch, seq]; which of the images' embeddings stands there, -1 for a
                word. None where no image is.
            media: [tiles, 3, height, width], normalized.
            labels: int64[batch, seq]; what each position predicts; those below 0 count as 0, their
                loss means nothing.
            packed_seq_params: megatron-core's, of a packed row.
            labelled: int64[positions with a label], among batch · seq, of these labels; unless
                given they are looked for, which waits for the device.

        Returns:
            float32[batch, seq], the loss of each position; without labels
            [batch, seq, vocabulary / tensor ranks], the logits; the activations of a stage that is
            not the last.
        """
        if labels is not None and self.is_fused(labels.device):
            return run_decoder(
                self.language_model,
                self.embed(input_ids, image_index, media),
                labels,
                labelled_positions(labels) if labelled is None else labelled,
                packed_seq_params,
                self.compute,
                self._weights,
            )
        embeddings = self.embed(input_ids, image_index, media) if self.pre_process else None
        output: Tensor = self.language_model(
            input_ids=None,
            position_ids=None,
            attention_mask=None,
            decoder_input=embeddings,
            labels=None if labels is None else labels.clamp_min(0),
            packed_seq_params=packed_seq_params,
        )
        return output

    def embed(self, input_ids: Tensor, image_index: Tensor | None, media: Tensor | None) -> Tensor:
        """Embeddings of words and images: [seq / sequence-parallel ranks, batch, hidden_size]."""
        words = input_ids.clamp_min(0)
        x: Tensor = self.language_model.embedding(input_ids=words, position_ids=None)
        if image_index is not None and media is not None and len(media):
            with mark("vision"):
                images = self.embed_images(media)
            x = _put_in(x, images, image_index.t().reshape(-1))
        else:
            x = _ZeroGradients.apply(x, *self._image_weights())  # type: ignore[no-untyped-call]
        if self.config.sequence_parallel:
            x = scatter_to_sequence_parallel_region(x)
        return x

    def embed_images(self, media: Tensor) -> Tensor:
        """Embeddings of tiles: [tiles · embeddings, hidden_size]."""
        assert self.vision_model is not None and self.vision_projection is not None
        trained = any(weight.requires_grad for weight in self.vision_model.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            features = self.vision_model(media.to(self.config.params_dtype))
        has_class_token = features.shape[1] > self._num_patches()
        if has_class_token and not self.neva.keeps_class_token:
            features = features[:, 1:]
        embeddings: Tensor = self.vision_projection(features)
        return embeddings

    def is_fused(self, where: torch.device) -> bool:
        """Whether the decoder runs fused on a device."""
        if self.compute.fused is None:
            return self.can_fuse and where.type == "cuda" and self.compute.precision != "fp32"
        return self.compute.fused

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Take the activations of the stage before this one."""
        self.language_model.set_input_tensor(input_tensor)

    def shared_embedding_or_output_weight(self) -> Tensor | None:
        """The weight that two stages hold, where the output layer is the embedding."""
        weight: Tensor | None = self.language_model.shared_embedding_or_output_weight()
        return weight

    def _image_weights(self) -> list[Tensor]:
        """Those of the image's parts that are trained."""
        parts = [part for part in (self.vision_model, self.vision_projection) if part is not None]
        return [w for part in parts for w in part.parameters() if w.requires_grad]

    def _num_patches(self) -> int:
        shape = self.neva.vision_shape
        assert shape is not None
        return shape.num_patches


def _put_in(words: Tensor, images: Tensor, image_index: Tensor) -> Tensor:
    """The words' embeddings with the images' in their places; no step of it waits for a GPU.

    Args:
        words: [seq, batch, width]
        images: [embeddings, width]; some may stand on other context-parallel ranks.
        image_index: int64[seq · batch]; which of them stands there, or -1.
    """
    flat, count = words.flatten(0, 1), len(images)
    slots = image_index.where(image_index >= 0, count)
    places = torch.full((count + 1,), len(flat), device=flat.device)
    places.scatter_(0, slots, torch.arange(len(flat), device=flat.device))
    # What stands nowhere goes to a row behind the last, which is cut off again.
    room = torch.cat([flat, flat.new_zeros(1, flat.shape[1])])
    return room.index_copy(0, places[:-1], images)[:-1].view_as(words)


class _ZeroGradients(torch.autograd.Function):
    """The input as it is; weights that had no part in it get a gradient of zeros.

    Data-parallel ranks wait for a gradient of each trained weight, and a batch of text alone would
    give none to those of the images.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.weights = weights
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, *(torch.zeros_like(weight) for weight in ctx.weights)


def build_decoder(
    language: LanguageConfig,
    config: Any,
    pre_process: bool,
    post_process: bool,
    vp_stage: int | None,
) -> Any:
    """megatron-core's decoder, with the rotary frequencies of Hugging Face's model."""
    decoder = GPTModel(
        config,
        language_block(config, vp_stage),
        language.vocab_size,
        language.seq_length,
        pre_process=pre_process,
        post_process=post_process,
        share_embeddings_and_output_weights=language.share_embeddings_and_output_weights,
        position_embedding_type="rope",
        rotary_percent=language.rotary_percent,
        rotary_base=language.rotary_base,
        # Images are put in before the words are scattered.
        scatter_embedding_sequence_parallel=False,
        vp_stage=vp_stage,
    )
    decoder.rotary_pos_emb.inv_freq = rotary_frequencies(language)
    return decoder


def freeze(model: MCoreNevaModel) -> None:
    """Train only the parts that the config does not freeze."""
    neva = model.neva
    for part, frozen in (
        (model.language_model, neva.freeze_language_model),
        (model.vision_model, neva.freeze_vision_model),
        (model.vision_projection, neva.freeze_vision_projection),
    ):
        if part is not None and frozen:
            part.requires_grad_(False)


def count_parameters(model: torch.nn.Module, *, trained: bool = False) -> int:
    """Weights of a stage on this rank, or those that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)
