"""Attention within each sample of a row, on a CPU, on a GPU and over context-parallel ranks.

megatron-core's own attention without Transformer Engine takes neither packed rows nor context
parallelism. No mask is larger than one sample's part on a rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .compat import prepare_megatron
from .cudnn_attention import cudnn_attention, fits
from .zigzag import gathered_order, rank_pieces

prepare_megatron()

from megatron.core.tensor_parallel.mappings import (  # noqa: E402
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer.enums import AttnMaskType  # noqa: E402
from megatron.core.transformer.module import MegatronModule  # noqa: E402


class SampleAttention(MegatronModule):  # type: ignore[misc]
    """megatron-core's `core_attention`: softmax(q k) v of each sample by itself."""

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        """Take what megatron-core gives."""
        super().__init__(config=config)
        self.causal = attn_mask_type in (AttnMaskType.causal, AttnMaskType.padding_causal)
        self.scale = softmax_scale
        self.window: int | None = None if config.window_size is None else config.window_size[0]
        self.group = pg_collection.cp if config.context_parallel_size > 1 else None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: [seq, batch, heads, size], or [seq, heads, size] of a packed row.
            key: the same with fewer heads, perhaps.
            value: as the keys.
            attention_mask: not used: a padded row's padding is behind all that is read.
            attn_mask_type: not used: the layer's own holds.
            attention_bias: not used.
            packed_seq_params: bounds of the samples, of a packed row.

        Returns:
            [seq, batch, heads · size]; [seq, heads, size] of a packed row.
        """
        if packed_seq_params is None:
            return self._padded(query, key, value)
        if self._is_for_varlen(query):
            return self._packed_on_gpu(query, key, value, packed_seq_params)
        bounds = packed_seq_params.cu_seqlens_q_padded.tolist()
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
        return self._by_pieces(query, key, value, bounds).squeeze(1)

    def _is_for_varlen(self, query: Tensor) -> bool:
        """Whether torch's attention of variable lengths can do it: it knows no float32."""
        narrow = self.window is not None and not _takes("window_size")
        half = query.dtype in (torch.float16, torch.bfloat16)
        return query.is_cuda and half and self.group is None and not narrow

    def _padded(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size = 1 if self.group is None else self.group.size()
        out = self._by_pieces(query, key, value, [0, len(query) * size])
        return out.flatten(2)

    def _packed_on_gpu(self, query: Tensor, key: Tensor, value: Tensor, packed: Any) -> Tensor:
        if self.window is not None or not fits(query):
            return self._packed_by_torch(query, key, value, packed)
        bounds, longest = packed.cu_seqlens_q_padded, packed.max_seqlen_q
        return cudnn_attention(
            query, key, value, bounds, longest, scale=self.scale, causal=self.causal
        )

    def _packed_by_torch(self, query: Tensor, key: Tensor, value: Tensor, packed: Any) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        bounds, longest = packed.cu_seqlens_q_padded, packed.max_seqlen_q
        if query.shape[1] != key.shape[1] and not _takes("enable_gqa"):
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        settings: dict[str, Any] = {}
        if query.shape[1] != key.shape[1]:
            settings["enable_gqa"] = True
        if self.scale is not None:
            settings["scale"] = self.scale
        if _takes("window_size"):
            before = -1 if self.window is None else self.window
            settings["window_size"] = (before, 0) if self.causal else (-1, -1)
        else:
            settings["is_causal"] = self.causal
        out: Any = varlen_attn(query, key, value, bounds, bounds, longest, longest, **settings)
        attended: Tensor = out
        return attended

    def _by_pieces(
        self, query: Tensor, key: Tensor, value: Tensor, bounds: Sequence[int]
    ) -> Tensor:
        """Attention of [seq, batch, heads, size], piece by piece."""
        size, rank = 1, 0
        if self.group is not None:
            size, rank = self.group.size(), self.group.rank()
            key, value = self._gather(key, value, bounds)
        outs = [
            self._piece(
                query[piece.first_query : piece.end_query],
                key[piece.first_key : piece.end_key],
                value[piece.first_key : piece.end_key],
            )
            for piece in rank_pieces(bounds, size, rank)
        ]
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _gather(self, key: Tensor, value: Tensor, bounds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """All ranks' keys and values, in the order of the row."""
        assert self.group is not None
        both = gather_from_sequence_parallel_region(
            torch.cat([key, value], -1).contiguous(),
            tensor_parallel_output_grad=True,
            group=self.group,
        )
        order = gathered_order(bounds, self.group.size()).to(key.device)
        keys, values = both[order].split([key.shape[-1], value.shape[-1]], -1)
        return keys, values

    def _piece(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mask = self._mask(len(query), len(key), query.device)
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=self.causal and mask is None,
            scale=self.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out.permute(2, 0, 1, 3)

    def _mask(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """bool[queries, keys]: True where a query sees a key; None for a plain causal square."""
        before = keys if self.window is None else self.window
        if not self.causal or (queries == keys and before >= keys - 1):
            return None
        distance = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(
            keys, device=device
        )
        return (distance >= 0) & (distance <= before)


@cache
def _takes(setting: str) -> bool:
    """Whether this version of torch's varlen_attn has a setting; 2.10's has the fewest."""
    from torch.nn.attention.varlen import varlen_attn

    return setting in signature(varlen_attn).parameters
