"""The batch: what a model is given."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


class Batch(TypedDict):
    """Rows of samples, with NeMo's keys. Rows are not expanded: an image is one slot."""

    tokens: Tensor
    """int64[batch, seq]; -200 once per image, the pad token behind the last token."""
    labels: Tensor
    """int64[batch, seq]; the token that each one predicts, -100 where no loss is taken."""
    loss_mask: Tensor
    """float32[batch, seq]; 1 where there is a label."""
    position_ids: Tensor
    """int64[batch, seq]; place in the expanded sample, for an image that of its first embedding."""
    attention_mask: Tensor
    """bool[batch, seq]; False at padding."""
    media: Tensor
    """uint8 or float[tiles, 3, height, width]; tiles of all images, row by row."""
    num_media_tiles: Tensor
    """int64[num_images]; tiles per image, in the order of the slots."""
    packed_seq_params: NotRequired[PackedSeqParams]
    """Bounds of the samples in a packed row."""
    __keys__: list[str]
    """Keys of the samples, in the order of rows or within the packed row."""
    __origins__: list[str]
    """Dataset of each sample."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedSeqParams:
    """Bounds of packed samples, with the fields of megatron-core's class of that name.

    All count expanded positions.
    """

    qkv_format: str = "thd"
    """Tokens, heads, dims: samples lie one after another, without a batch dimension."""
    cu_seqlens_q: Tensor
    """int32[num_samples + 1]; sums of the true lengths, from 0."""
    cu_seqlens_kv: Tensor
    """The same."""
    cu_seqlens_q_padded: Tensor
    """int32[num_samples + 1]; where each sample starts, and the end of the row."""
    cu_seqlens_kv_padded: Tensor
    """The same."""
    max_seqlen_q: int
    """Positions of the longest sample, its padding included."""
    max_seqlen_kv: int
    """The same."""

    def to(self, *args: Any, **kwargs: Any) -> PackedSeqParams:
        """A copy whose tensors are elsewhere; takes what `torch.Tensor.to` takes."""
        return replace(self, **{k: v.to(*args, **kwargs) for k, v in self._tensors().items()})

    def pin_memory(self) -> PackedSeqParams:
        """A copy in pinned memory; DataLoader calls it."""
        return replace(self, **{k: v.pin_memory() for k, v in self._tensors().items()})

    def to_megatron(self) -> Any:
        """The same as megatron-core's PackedSeqParams, which this imports.

        Raises:
            ImportError: megatron-core is not installed (`pip install neva-prep[train]`).
        """
        from megatron.core.packed_seq_params import PackedSeqParams as MegatronPackedSeqParams

        return MegatronPackedSeqParams(**{f.name: getattr(self, f.name) for f in fields(self)})

    def _tensors(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if "cu_" in f.name}
