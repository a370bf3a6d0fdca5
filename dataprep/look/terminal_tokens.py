"""Tokens, packs and batches on a terminal; what is trained stands in ⟦brackets⟧, in pipes too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..plain_text import plain_text
from .terminal import draw_side_by_side, pictures_of, say, shorten
from .view import BatchView, PackView, RowView, TokensView, TokenView

MAX_TOKENS = 2_000
"""Shown as a text; the rest is counted."""
MAX_SPANS = 40
MAX_BLOCKS = 12
"""Blocks of columns of one row of a batch."""
MAX_ROWS = 8
"""Rows of a batch."""
MAX_TILES = 6
_BAR = 72
_TRAINED = "green underline"
_COLOURS = ("cyan", "magenta", "blue", "yellow")
_KEEP = 2
"""Tokens shown at each end of a run that is alike."""


def show_tokens(view: TokensView, console: Console) -> None:
    """Print the tokens of a sample, which are trained and why, and what each position predicts."""
    say(console, Text(""))
    say(console, Text.assemble(("tokens", "bold"), f"  {_summary(view)}"))
    if view.error is not None:
        say(console, Text(f"skipped: {plain_text(view.reason or '')}", "bold red"))
        say(console, Text(shorten(view.error), "red"))
    for reason, count in view.events:
        say(console, Text(f"{plain_text(reason)}: {count:,}", "yellow"))
    if not view.tokens:
        return
    shown = view.tokens[:MAX_TOKENS]
    for turn, group in groupby(shown, key=lambda token: token.turn):
        label = "" if turn is None else f"turn {turn}"
        say(console, Text.assemble((f"{label:9}", "dim"), _as_text(list(group))), indent=2)
    _say_rest(console, len(view.tokens) - len(shown), "tokens")
    _show_spans(view, console)
    _show_shift(view.tokens, console)


def show_table(view: TokensView, console: Console) -> None:
    """Print a line a token, with its reason and what its position predicts."""
    say(console, Text(f"{'token':>6} {'id':>7}  {'turn':>4}  {'trained':7}  piece, why, label"))
    for token in view.tokens:
        turn = "" if token.turn is None else str(token.turn)
        line = Text(f"{token.position:6} {token.id:7}  {turn:>4}  ")
        line.append(f"{'yes' if token.trained else '-':7}", "green" if token.trained else "dim")
        line.append("  ")
        line.append(_piece(token), _TRAINED if token.trained else "")
        line.append(f"  {token.rule}", "dim")
        if token.label_piece:
            line.append(f"  predicts {_visible(token.label_piece)}")
        console.print(line, soft_wrap=True)
    console.print(f"{len(view.tokens)} tokens, {view.num_trained} trained")


def show_pack(pack: PackView, console: Console, *, number: int) -> None:
    """Print a row as a bar: a stretch for each sample, dots for padding."""
    limit = "" if pack.limit is None else f" of {pack.limit:,}"
    samples = f"{len(pack.segments)} samples"
    head = f"  {pack.capacity:,}{limit} positions, {pack.fill:.1%} filled, {samples}"
    say(console, Text.assemble((f"row {number}", "bold"), head))
    say(console, _bar(pack), indent=2)
    for place, segment in enumerate(pack.segments):
        padding = segment.padded_end - segment.end
        line = Text.assemble((f"{_shade(place)} ", _COLOURS[place % len(_COLOURS)]))
        line.append(f"{segment.start:>6,} to {segment.end:<6,} {shorten(segment.key)}")
        line.append(f"  {segment.num_trained:,} trained", "green" if segment.num_trained else "red")
        if padding:
            line.append(f"  {padding:,} padding", "dim")
        if segment.images:
            line.append(f"  {', '.join(map(shorten, segment.images))}", "yellow")
        say(console, line, indent=2)


def show_batch(batch: BatchView, console: Console) -> None:
    """Print a batch as the trainer gets it."""
    head = f"  {len(batch.rows)} rows, {len(batch.keys)} samples, {len(batch.media)} tiles"
    say(console, Text.assemble((f"batch {batch.step}", "bold"), head))
    width = max(len(tensor.name) for tensor in batch.tensors)
    for tensor in batch.tensors:
        kind = f"{tensor.dtype}{list(tensor.shape)}"
        say(console, Text(f"{tensor.name:{width}}  {kind:24}  {tensor.summary}"), indent=2)
    if batch.max_seqlen is not None:
        say(console, Text(f"{'max_seqlen':{width}}  {batch.max_seqlen}"), indent=2)
    draw_side_by_side(pictures_of(batch.media[:MAX_TILES]), console)
    for number, row in enumerate(batch.rows[:MAX_ROWS]):
        say(console, Text(""))
        show_pack(row.pack, console, number=number)
        say(console, Text(""))
        blocks = _blocks(row, console)
        for block in islice(blocks, MAX_BLOCKS):
            for line in block:
                console.print(line, soft_wrap=True)
            say(console, Text(""))
        _say_rest(console, sum(1 for _ in blocks), "such blocks; --json has every number")
    _say_rest(console, len(batch.rows) - MAX_ROWS, "rows; --json has them")


def _summary(view: TokensView) -> str:
    limit = "" if view.limit is None else f" of {view.limit:,}"
    share = view.num_trained / len(view.tokens) if view.tokens else 0.0
    return (
        f"template {plain_text(view.template) or 'unknown'}; {len(view.tokens):,} tokens take "
        f"{view.length:,}{limit} positions; {view.num_trained:,} trained ({share:.1%})"
    )


def _as_text(tokens: Sequence[TokenView]) -> Text:
    """Pieces in a row, a space between them; trained stretches in brackets."""
    parts = []
    for trained, group in groupby(tokens, key=lambda token: token.trained):
        text = Text(" ").join(
            Text(_piece(token), "bold yellow" if token.rule == "image" else "") for token in group
        )
        if trained:
            text.stylize(_TRAINED)
            text = Text.assemble(("⟦", "green"), text, ("⟧", "green"))
        parts.append(text)
    return Text(" ").join(parts)


def _show_spans(view: TokensView, console: Console) -> None:
    say(console, Text(""))
    if not view.num_trained:
        say(console, Text("nothing is trained: no step learns from this sample", "bold red"))
        return
    say(console, Text("trained, and why", "bold"))
    spans = [
        list(group)
        for (trained, *_), group in groupby(
            view.tokens, key=lambda token: (token.trained, token.rule, token.turn)
        )
        if trained
    ]
    for span in spans[:MAX_SPANS]:
        first, last = span[0].position, span[-1].position
        where = f"{first}" if first == last else f"{first}-{last}"
        turn = "" if span[0].turn is None else f"turn {span[0].turn}"
        line = Text(f"{where:>9}  {turn:8}  {span[0].rule:22}  ")
        line.append(shorten(" ".join(map(_piece, span)), 120), _TRAINED)
        say(console, line, indent=2)
    _say_rest(console, len(spans) - MAX_SPANS, "spans")


def _show_shift(tokens: Sequence[TokenView], console: Console) -> None:
    """The first trained stretch in columns, from the position before it, which predicts it."""
    first = next((number for number, token in enumerate(tokens) if token.trained), 0)
    last = next((n for n in range(first, len(tokens)) if not tokens[n].trained), len(tokens))
    if not tokens[first].trained:
        return
    say(console, Text(""))
    what = "  each position's label is the next token"
    say(console, Text.assemble(("shifted", "bold"), what))
    columns = [
        _Column(
            [str(token.position), _piece(token), _visible(token.label_piece) or "-"], token.trained
        )
        for token in tokens[max(first - 1, 0) : last]
    ]
    names = ["position", "token", "label"]
    lines, used = _aligned(names, columns, console.width - 4)
    for line in lines:
        console.print(Text.assemble("  ", line), soft_wrap=True)
    if used < len(columns):
        say(console, Text(f"... and {len(columns) - used:,} more", "dim"), indent=2)


def _blocks(row: RowView, console: Console) -> Iterator[list[Text]]:
    """Lines of a row's numbers, so many columns at a time; runs that are alike are shortened."""
    names = ["index", "token", "id", "label", "loss_mask", "position_id", "attention"]
    columns = list(_columns(row))
    at = 0
    while at < len(columns):
        lines, used = _aligned(names, columns[at:], console.width - 2)
        yield lines
        at += used


class _Column(NamedTuple):
    """Numbers of a position, under each other."""

    cells: list[str]
    trained: bool


def _columns(row: RowView) -> Iterator[_Column]:
    every = zip(row.tokens, row.loss_mask, row.attention_mask, strict=True)
    for _, group in groupby(every, key=lambda one: (one[0].rule, one[0].turn, one[1])):
        run = list(group)
        ends = (*run[:_KEEP], None, *run[-_KEEP:]) if len(run) > 2 * _KEEP + 1 else tuple(run)
        for one in ends:
            if one is None:
                yield _Column(["…", f"{len(run) - 2 * _KEEP:,} more", *[""] * 5], False)
                continue
            token, loss, read = one
            numbers = (token.id, token.label, f"{loss:g}", token.position_id, int(read))
            cells = [str(token.position), _piece(token), *map(str, numbers)]
            yield _Column(cells, token.trained)


def _aligned(
    names: Sequence[str], columns: Sequence[_Column], width: int
) -> tuple[list[Text], int]:
    """Columns under each other as lines, as many as fit, and how many these are; at least one."""
    label = max(map(len, names)) + 2
    lines = [Text.assemble((f"{name:{label}}", "dim")) for name in names]
    taken, used = label, 0
    for column in columns:
        size = max(map(cell_len, column.cells)) + 2
        if used and taken + size > width:
            break
        for name, line, cell in zip(names, lines, column.cells, strict=True):
            line.append(cell, _TRAINED if name == "token" and column.trained else "")
            line.append(" " * (size - cell_len(cell)))
        taken += size
        used += 1
    for line in lines:
        line.rstrip()
    return lines, used


def _bar(pack: PackView) -> Text:
    """A cell for each equal share of the row, in the shade of the sample that its middle is in."""
    bar = Text()
    for cell in range(_BAR):
        at = (cell + 0.5) * pack.capacity / _BAR
        found = next(
            ((n, s) for n, s in enumerate(pack.segments) if s.start <= at < s.padded_end), None
        )
        if found is None or at >= found[1].end:
            bar.append("·", "dim")
        else:
            bar.append(_shade(found[0]), _COLOURS[found[0] % len(_COLOURS)])
    return bar


def _shade(place: int) -> str:
    return "█▓"[place % 2]


def _piece(token: TokenView) -> str:
    if token.rule == "image":
        return f"[{token.embeddings} × {plain_text(token.piece)}]"
    return _visible(token.piece)


def _visible(piece: str) -> str:
    """A piece of a stranger's vocabulary on one line, without what steers a terminal."""
    return shorten(piece, 60).replace("\n", "\\n").replace("\t", "\\t")


def _say_rest(console: Console, count: int, what: str) -> None:
    if count > 0:
        say(console, Text(f"... and {count:,} more {what}", "dim"), indent=2)
