"""The batch that the trainer gets, number for number, each position traced back to its sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import NevaPrepError
from .pack import RowNumbers, rows_of, take, view_pack
from .pictures import denormalise
from .tokens import Speller, view_tokens
from .view import BatchView, RowView, TensorView, TokenView

if TYPE_CHECKING:
    from torch import Tensor

    from ...loaders.batch import Batch
    from ...loaders.task_encoder import MultiModalTaskEncoder
    from .open import Looked

_FEW = 16
"""Values that are all shown."""


def view_batches(
    data_module: Any, looked: Looked | None = None, *, steps: range = range(1)
) -> Iterator[BatchView]:
    """The batches that a data module gives to the trainer.

    Args:
        data_module: with `train_dataloader()` and `task_encoder`; the caller closes it.
        looked: the same dataset, to tell turns and rules of tokens.
        steps: which batches, counted from where its stream is.

    Raises:
        RecordError, ShardError: what `train_dataloader()` raises.
    """
    for step, batch in take(data_module, steps):
        yield view_batch(batch, data_module.task_encoder, looked, step=step)


def view_batch(
    batch: Batch, encoder: MultiModalTaskEncoder, looked: Looked | None = None, *, step: int = 0
) -> BatchView:
    """A batch that is at hand; in a notebook, `view_batch(batch, data.task_encoder)`.

    Args:
        batch: as `train_dataloader()` gives it.
        encoder: that made it.
        looked: the dataset it is of, to tell turns and rules of tokens.
        step: its number.
    """
    params = batch.get("packed_seq_params")
    rows = rows_of(batch, encoder.preparer.rows)
    return BatchView(
        step=step,
        keys=tuple(batch["__keys__"]),
        origins=tuple(batch["__origins__"]),
        tensors=tuple(_tensors(batch)),
        rows=tuple(
            RowView(
                pack=view_pack(row, encoder, looked),
                tokens=tuple(_tokens(row, batch["position_ids"][number].tolist(), encoder, looked)),
                loss_mask=tuple(batch["loss_mask"][number].tolist()),
                attention_mask=tuple(batch["attention_mask"][number].tolist()),
            )
            for number, row in enumerate(rows)
        ),
        media=denormalise(batch["media"], encoder.preparer.reader),
        num_media_tiles=tuple(batch["num_media_tiles"].tolist()),
        cu_seqlens=() if params is None else tuple(params.cu_seqlens_q.tolist()),
        cu_seqlens_padded=() if params is None else tuple(params.cu_seqlens_q_padded.tolist()),
        max_seqlen=None if params is None else params.max_seqlen_q,
    )


def _tokens(
    row: RowNumbers,
    position_ids: Sequence[int],
    encoder: MultiModalTaskEncoder,
    looked: Looked | None,
) -> Iterator[TokenView]:
    """A view of each position; its numbers are the row's, only its text and rule are looked up."""
    spell, ignored = Speller(encoder), encoder.preparer.rows.ignore_index
    for key, part in zip(row.keys, row.slices(), strict=True):
        told = _told(key, row.tokens[part][row.read[part]].tolist(), encoder, looked)
        for number, place in enumerate(range(part.start, part.stop)):
            read = bool(row.read[place])
            before = row.labels[place - 1] if number else ignored
            yield spell.view(
                position=place,
                id=int(row.tokens[place]),
                label=int(row.labels[place]),
                trained=read and bool(before != ignored),
                position_id=int(position_ids[place]),
                embeddings=int(row.sizes[place]),
                told=told[number] if read and told else None,
                rule="" if read else "padding",
            )


def _told(
    key: str, ids: list[int], encoder: MultiModalTaskEncoder, looked: Looked | None
) -> tuple[TokenView, ...]:
    """The tokens of a sample with their texts and rules; none if it is not this dataset's."""
    if looked is None:
        return ()
    try:
        tokens = view_tokens(looked, looked.find(key=key), encoder).tokens[: len(ids)]
    except NevaPrepError:
        return ()
    return tokens if [token.id for token in tokens] == ids else ()


def _tensors(batch: Batch) -> Iterator[TensorView]:
    import torch

    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            yield _view_tensor(name, value)
    if params := batch.get("packed_seq_params"):
        for name in ("cu_seqlens_q", "cu_seqlens_q_padded"):
            yield _view_tensor(f"packed_seq_params.{name}", getattr(params, name))


def _view_tensor(name: str, tensor: Tensor) -> TensorView:
    return TensorView(
        name=name,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        summary=_summary(tensor),
    )


def _summary(tensor: Tensor) -> str:
    count = tensor.numel()
    if not count:
        return "empty"
    if count <= _FEW:
        return ", ".join(f"{value:g}" for value in tensor.flatten().tolist())
    low, high = tensor.min().item(), tensor.max().item()
    return f"{low:g} to {high:g}"
