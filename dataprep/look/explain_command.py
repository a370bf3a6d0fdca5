"""The command that shows the table of tokens: explain."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  neva-prep explain llava.json --template v1 --tokenizer vicuna-7b/
  neva-prep explain shards/ --template v1 --tokenizer vicuna-7b/ --id 000000033471
  neva-prep explain llava.json --template my.jinja --tokenizer vicuna-7b/ --json
"""
)
@click.argument("source", type=click.Path(path_type=Path))
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

    SOURCE is one of any form that convert recognizes, or a dataset. Its images are not looked at:
    each counts as one tile.
    """
    from rich.console import Console

    from ...errors import TemplateError
    from ...templates.load import load_tokenizer, pick_template, warn_of_pieces
    from ...templates.reader import tokenizer_of
    from .dataset import LookedDataset
    from .describe import plain
    from .open import open_looked
    from .settings import LookSettings, build_encoder
    from .terminal_tokens import show_table
    from .tokens import view_messages, view_tokens

    looked = open_looked(source)
    number = looked.find(id=identity) if identity is not None else index or 0
    messages = None if isinstance(looked, LookedDataset) else looked.messages(number)
    processor = load_tokenizer(folder)
    template = pick_template(template_name, processor)
    warn_of_pieces(template, processor)
    settings = LookSettings(
        tokenizer=tokenizer_of(processor),
        template=template,
        seq_length=None,
        image_placement="front" if front else "keep",
    )
    encoder = build_encoder(settings)
    if messages is None:
        # Of what type a dataset's samples are says how they are encoded, too.
        view = view_tokens(looked, number, encoder)
    else:
        view = view_messages(messages, encoder, key=f"{looked.path.name}:{number}")
    if view.error is not None:
        raise TemplateError(view.error, reason=view.reason or "")
    if as_json:
        document = {"schema_version": 2, "template": view.template, "tokens": plain(view.tokens)}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        show_table(view, Console(highlight=False))
