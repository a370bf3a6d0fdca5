"""One loader per data-parallel rank: what it gives, the other ranks of that rank are sent.

    reader (first stage, tensor rank 0, context rank 0)
      │ rows and bounds, along the pipeline
      ▼
    tensor rank 0, context rank 0 of each stage
      │ the same, and on the first stage the pixels, over tensor and context ranks
      ▼
    all ranks of a stage, of which each keeps its context-parallel positions

All micro-batches of a step are sent before the step computes, so that no rank waits between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError
from ..loaders.batch import Batch, PackedSeqParams
from .expand import ExpandedBatch, labelled_positions, slice_for_context
from .ranks import device

_ROWS = ("input_ids", "image_index", "labels", "position_ids")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MicroBatch:
    """A batch as this rank computes it, on its device."""

    batch: ExpandedBatch
    """Its positions of the rows; media only on the first pipeline stage."""
    labelled: Tensor
    """int64[positions with a label], among rows · columns; found here, since a device would be
    waited for in the midst of a step."""
    keys: tuple[str, ...]
    """Of the samples."""
    num_tokens: int
    """Positions of the samples, over all context-parallel ranks; padding left out."""
    num_positions: int
    """All positions, padding included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """What the other ranks must know to receive a micro-batch."""

    rows: tuple[int, int]
    num_bounds: int
    """Bounds of a packed row; 0 where it is not packed."""
    longest: int
    media: tuple[int, ...]
    media_dtype: torch.dtype
    keys: tuple[str, ...]
    num_tokens: int


def reads_data() -> bool:
    """Whether this rank opens a loader: the first of its data-parallel rank."""
    from megatron.core import parallel_state

    places = (
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_context_parallel_rank(),
    )
    return not any(places)


def share_batches(
    batches: Iterator[Batch] | None, count: int, expand: Callable[[Batch], ExpandedBatch]
) -> list[MicroBatch]:
    """The next micro-batches, on every rank of this data-parallel rank.

    Args:
        batches: of the loader; read only where `reads_data()`.
        count: how many; fewer come where the loader ends.
        expand: makes rows of equal length over all ranks.

    Raises:
        NevaPrepError: the loader's own, where it was read.
        TrainingError: on the other ranks, when their reader failed.
    """
    found: list[ExpandedBatch] = []
    header: list[_Layout] | str = []
    failure: Exception | None = None
    if reads_data():
        assert batches is not None, "the rank that reads data needs batches"
        try:
            raw = list(islice(batches, count))
            found = [expand(batch) for batch in raw]
            header = [_layout(*pair) for pair in zip(found, raw, strict=True)]
        except Exception as error:
            header, failure = f"{type(error).__name__}: {error}", error
    header = _send_object(header)
    if failure is not None:
        raise failure
    if isinstance(header, str):
        raise TrainingError(f"the rank that reads this rank's data stopped: {header}")
    return _send(header, found)


def _send(layouts: Sequence[_Layout], found: Sequence[ExpandedBatch]) -> list[MicroBatch]:
    from megatron.core import parallel_state

    if not layouts:
        return []
    numbers = _send_numbers(layouts, found)
    medias = _send_media(layouts, found)
    size = parallel_state.get_context_parallel_world_size()
    rank = parallel_state.get_context_parallel_rank()
    made = []
    for layout, piece, media in zip(layouts, numbers, medias, strict=True):
        batch = slice_for_context(_unflatten(layout, piece, media), size, rank)
        made.append(
            MicroBatch(
                batch=batch,
                labelled=labelled_positions(batch.labels),
                keys=layout.keys,
                num_tokens=layout.num_tokens,
                num_positions=layout.rows[0] * layout.rows[1],
            )
        )
    return made


def _send_object(value: Any) -> Any:
    for group in _groups():
        if group is not None:
            box = [value]
            source = torch.distributed.get_global_rank(group, 0)
            torch.distributed.broadcast_object_list(box, src=source, group=group, device=device())
            value = box[0]
    return value


def _send_numbers(layouts: Sequence[_Layout], found: Sequence[ExpandedBatch]) -> list[Tensor]:
    """All whole numbers of a step in one go: rows and bounds of each micro-batch."""
    sizes = [len(_ROWS) * x.rows[0] * x.rows[1] + 2 * x.num_bounds for x in layouts]
    if found:
        numbers = torch.cat([_flatten(batch) for batch in found]).to(device())
    else:
        numbers = torch.empty(sum(sizes), dtype=torch.int64, device=device())
    for group in _groups():
        _broadcast(numbers, group)
    return list(torch.split(numbers, sizes))


def _send_media(layouts: Sequence[_Layout], found: Sequence[ExpandedBatch]) -> list[Tensor]:
    """Pixels, to the first stage only; others get as many of none."""
    from megatron.core import parallel_state

    first = parallel_state.is_pipeline_first_stage(ignore_virtual=True)
    made = []
    for number, layout in enumerate(layouts):
        shape = layout.media if first else (0, *layout.media[1:])
        if found:
            media = found[number].media.to(device(), non_blocking=True)
        else:
            media = torch.empty(shape, dtype=layout.media_dtype, device=device())
        if first and shape[0]:
            _broadcast(media, _groups()[1])
        made.append(media)
    return made


def _groups() -> tuple[Any, Any]:
    """Along the pipeline, for those that receive there; then within a stage. None: nothing to do.

    Only tensor rank 0 of context rank 0 receives along the pipeline.
    """
    from megatron.core import parallel_state

    along = parallel_state.get_pipeline_model_parallel_group()
    within = parallel_state.get_tensor_and_context_parallel_group()
    heads = within.rank() == 0 and along.size() > 1
    return along if heads else None, within if within.size() > 1 else None


def _broadcast(tensor: Tensor, group: Any) -> None:
    if group is not None:
        source = torch.distributed.get_global_rank(group, 0)
        torch.distributed.broadcast(tensor, src=source, group=group)


def _layout(batch: ExpandedBatch, raw: Batch) -> _Layout:
    packed = batch.packed_seq_params
    # An image is one token of the mask, and its embeddings are in the rows.
    images = int((raw["tokens"] < 0).sum())
    embeddings = int((batch.image_index >= 0).sum())
    rows, columns = batch.input_ids.shape
    return _Layout(
        rows=(rows, columns),
        num_bounds=0 if packed is None else len(packed.cu_seqlens_q_padded),
        longest=0 if packed is None else packed.max_seqlen_q,
        media=tuple(batch.media.shape),
        media_dtype=batch.media.dtype,
        keys=tuple(raw["__keys__"]),
        num_tokens=int(raw["attention_mask"].sum()) - images + embeddings,
    )


def _flatten(batch: ExpandedBatch) -> Tensor:
    parts = [getattr(batch, name).flatten() for name in _ROWS]
    if batch.packed_seq_params is not None:
        bounds = batch.packed_seq_params
        parts += [bounds.cu_seqlens_q.long(), bounds.cu_seqlens_q_padded.long()]
    return torch.cat(parts)


def _unflatten(layout: _Layout, numbers: Tensor, media: Tensor) -> ExpandedBatch:
    count = layout.rows[0] * layout.rows[1]
    rows = numbers[: len(_ROWS) * count].view(len(_ROWS), *layout.rows)
    named = dict(zip(_ROWS, rows, strict=True))
    packed = None
    if layout.num_bounds:
        true, padded = numbers[len(_ROWS) * count :].int().view(2, -1)
        packed = PackedSeqParams(
            cu_seqlens_q=true,
            cu_seqlens_kv=true,
            cu_seqlens_q_padded=padded,
            cu_seqlens_kv_padded=padded,
            max_seqlen_q=layout.longest,
            max_seqlen_kv=layout.longest,
        )
    mask = (named["labels"] >= 0).to(torch.float32)
    return ExpandedBatch(**named, loss_mask=mask, media=media, packed_seq_params=packed)
