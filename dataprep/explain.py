"""The command that shows why each token of a sample is trained or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ..templates.trace import TracedToken

SCHEMA_VERSION = 1


@click.command(
    epilog="""\b
Examples:
  neva-prep explain llava.json --template v1 --tokenizer vicuna-7b/
  neva-prep explain shards/ --template v1 --tokenizer vicuna-7b/ --id 000000033471
  neva-prep explain llava.json --template my.jinja --tokenizer vicuna-7b/ --json
"""
)
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--template", "template_name", help="Name, or a .jinja file.  [default: tokenizer's]")
@click.option("--tokenizer", "folder", required=True, help="Folder of the tokenizer.")
@click.option("--id", "identity", help="Id of the record; found by reading through the records.")
@click.option("--index", type=int, help="Position of the record, from 0.  [default: 0]")
@click.option(
    "--front", is_flag=True, help="Move images to the front of their turn, as LLaVA does."
)
@click.option("--json", "as_json", is_flag=True, help="Print the token table as JSON.")
def explain(
    source: Path,
    template_name: str | None,
    folder: str,
    identity: str | None,
    index: int | None,
    front: bool,
    as_json: bool,
) -> None:
    """Show the tokens of one sample of SOURCE, trained or not, and why.

    SOURCE is a JSON or JSONL file, or a converted dataset.
    """
    from rich.console import Console

    from ..templates.load import load_tokenizer, pick_template
    from ..templates.trace import trace_conversation

    messages = read_conversation(source, identity=identity, index=index)
    tokenizer = load_tokenizer(folder)
    template = pick_template(template_name, tokenizer)
    traced = trace_conversation(
        messages,
        tokenizer=tokenizer,
        template=template,
        image_placement="front" if front else "keep",
    )
    if as_json:
        rows = [asdict(token) for token in traced]
        document = {"schema_version": SCHEMA_VERSION, "template": template.name, "tokens": rows}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        show_tokens(traced, Console(highlight=False))


def read_conversation(
    source: Path, *, identity: str | None = None, index: int | None = None
) -> list[dict[str, Any]]:
    """The messages of one record of a source file or a dataset.

    Raises:
        RecordError: there is no such record, or it holds no conversation.
    """
    if source.is_dir():
        from ..loaders.shard import find_sample

        stored = find_sample(source, index=index, key=None, id=identity)
        return list(stored.messages)
    return conversation_of(*_find_record(source, identity, index or 0))


def conversation_of(record: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The messages of a record, under any of the usual names.

    Raises:
        RecordError: there are none.
    """
    from ..errors import RecordError

    for name in ("conversations", "messages", "conversation"):
        if isinstance(record.get(name), list):
            return list(record[name])
    raise RecordError(f"{where}: the record has no 'conversations' or 'messages' list")


def show_tokens(traced: Sequence[TracedToken], console: Console) -> None:
    """A line a token: trained ones in colour and underlined, so that both eyes and pipes see it."""
    from rich.text import Text

    console.print(f"{'token':>6} {'id':>7}  {'turn':>4}  {'trained':7}  piece, why")
    for token in traced:
        turn = "" if token.turn is None else str(token.turn)
        line = Text(f"{token.index:6} {token.id:7}  {turn:>4}  ")
        line.append(f"{'yes' if token.trained else '-':7}", "green" if token.trained else "dim")
        line.append("  ")
        # Pieces come from strangers' vocabularies: control characters are spelled out.
        piece = "".join(char if char.isprintable() else repr(char)[1:-1] for char in token.piece)
        line.append(piece, "green underline" if token.trained else "")
        line.append(f"  {token.rule}", "dim")
        console.print(line, soft_wrap=True)
    trained = sum(token.trained for token in traced)
    console.print(f"{len(traced)} tokens, {trained} trained")


def _find_record(source: Path, identity: str | None, index: int) -> tuple[dict[str, Any], str]:
    from ..errors import RecordError
    from .source import open_source

    opened = open_source(source)
    for number, span in enumerate(opened.spans()):
        if identity is None and number != index:
            continue
        where = f"{source.name}:{number}"
        try:
            record = json.loads(opened.data[span.offset : span.offset + span.length])
        except ValueError as error:
            if identity is None:
                raise RecordError(f"{where}: is no JSON ({error}); repair the record") from error
            continue
        if isinstance(record, dict) and (identity is None or str(record.get("id")) == identity):
            return record, where
    wanted = f"at {index}" if identity is None else f"with id {identity!r}"
    raise RecordError(f"{source}: no record {wanted}; look at the source's ids or give --index")
