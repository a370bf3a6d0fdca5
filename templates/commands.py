"""The commands about templates: templates, golden, parity."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError, NevaPrepError
from .load import load_tokenizer, pick_template, read_conversations
from .out_file import check_out_file, write_out_file

if TYPE_CHECKING:
    from rich.text import Text

    from .render import ConversationTemplate, ImagePlacement
    from .rendered import Rendered

SCHEMA_VERSION = 1
GOLDEN_BEGINS = b'{\n "schema_version": 1,\n "template": {\n  "name": '
EXAMPLE = [
    {"role": "user", "content": "<image>\nWhat animal is this?"},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Is it asleep?"},
    {"role": "assistant", "content": "No."},
]


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  neva-prep templates
  neva-prep templates show v1
""",
)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.pass_context
def templates(context: click.Context, as_json: bool) -> None:
    """List the conversation templates, or show one."""
    if context.invoked_subcommand is not None:
        return
    from .library import get_template, list_templates

    rows = [
        {"name": name, "stop_string": get_template(name).stop_string} for name in list_templates()
    ]
    if as_json:
        click.echo(json.dumps({"schema_version": SCHEMA_VERSION, "templates": rows}, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']:18} answers end with {row['stop_string']!r}")


@templates.command(
    epilog="""\b
Examples:
  neva-prep templates show v1
  neva-prep templates show my.jinja --json
"""
)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(name: str, as_json: bool) -> None:
    """The Jinja text of template NAME and an example with its trained part marked."""
    from rich.console import Console

    template = pick_template(name, None)
    rendered = template.render(EXAMPLE)
    if as_json:
        document = {
            "schema_version": SCHEMA_VERSION,
            "name": template.name,
            "chat_template": template.chat_template,
            "example": rendered.text,
            "trained": list(rendered.trained),
        }
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    click.echo(template.chat_template)
    console = Console(highlight=False)
    console.print("Example; what is trained stands between ⟦ and ⟧:", style="dim")
    console.print(mark_trained(rendered), soft_wrap=True)


def mark_trained(rendered: Rendered) -> Text:
    """The text with its trained spans in brackets, coloured and underlined."""
    from rich.text import Text

    shown = Text()
    cursor = 0
    for start, end in rendered.trained:
        shown.append(rendered.text[cursor:start])
        shown.append(f"⟦{rendered.text[start:end]}⟧", "green underline")
        cursor = end
    return shown.append(rendered.text[cursor:])


@click.group(
    epilog="""\b
Examples:
  neva-prep golden record chats.json --template v1 --tokenizer vicuna-7b/ --out golden.json
  neva-prep golden check golden.json --template v1 --tokenizer vicuna-7b/
"""
)
def golden() -> None:
    """Freeze tokens and labels of chosen conversations, and check them after an upgrade."""


@golden.command(
    "record",
    epilog="""\b
Examples:
  neva-prep golden record chats.json --template v1 --tokenizer vicuna-7b/ --out golden.json
""",
)
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--template", "template_name", help="Name, or a .jinja file.  [default: tokenizer's]")
@click.option("--tokenizer", "folder", required=True, help="Folder of the tokenizer.")
@click.option("--front", is_flag=True, help="Move images to the front of their turn.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("golden.json"),
    show_default=True,
    help="The file to write.",
)
def golden_record(
    files: tuple[Path, ...], template_name: str | None, folder: str, front: bool, out: Path
) -> None:
    """Write the tokens and labels of the conversations in FILES (JSON or JSON lines of records)."""
    check_out_file("--out", out, given=files, begins=GOLDEN_BEGINS)
    conversations = {path: read_conversations(path) for path in files}
    tokenizer = load_tokenizer(folder)
    template = pick_template(template_name, tokenizer)
    frozen: dict[str, Any] = {}
    for path, named in conversations.items():
        part = _record_file(path, named, tokenizer, template, "front" if front else "keep")
        frozen = {**part, "cases": [*frozen.get("cases", ()), *part["cases"]]}
    text = json.dumps(frozen, ensure_ascii=False, indent=1)
    write_out_file("--out", out, f"{text}\n".encode())
    click.echo(f"{len(frozen['cases'])} conversations frozen in {out}", err=True)


def _record_file(
    path: Path,
    conversations: list[tuple[str, list[dict[str, Any]]]],
    tokenizer: Any,
    template: ConversationTemplate,
    image_placement: ImagePlacement,
) -> dict[str, Any]:
    from .golden import record

    try:
        return record(
            conversations,
            tokenizer=tokenizer,
            template=template,
            image_placement=image_placement,
        )
    except NevaPrepError as error:
        message = f"{path}: {error}; correct the record, or leave it out"
        raise type(error)(message, reason=error.reason) from error


@golden.command(
    "check",
    epilog="""\b
Examples:
  neva-prep golden check golden.json --template v1 --tokenizer vicuna-7b/

\b
Exit codes: 0 all equal, 1 something differs.
""",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--template", "template_name", help="Name, or a .jinja file.  [default: tokenizer's]")
@click.option("--tokenizer", "folder", required=True, help="Folder of the tokenizer.")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@click.pass_context
def golden_check(
    context: click.Context, file: Path, template_name: str | None, folder: str, as_json: bool
) -> None:
    """Encode the conversations of FILE again; exit with 1 where a token or label differs."""
    from .golden import compare, record

    frozen = _read_frozen(file)
    tokenizer = load_tokenizer(folder)
    now = record(
        [(case["id"], case["messages"]) for case in frozen["cases"]],
        tokenizer=tokenizer,
        template=pick_template(template_name, tokenizer),
        image_placement=frozen["template"]["image_placement"],
    )
    differences = compare(frozen, now, tokenizer)
    changed = [part for part in ("template", "tokenizer") if frozen[part] != now[part]]
    if as_json:
        document = {
            "schema_version": SCHEMA_VERSION,
            "conversations": len(frozen["cases"]),
            "changed": changed,
            "differences": [asdict(difference) for difference in differences],
        }
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        for part in changed:
            click.echo(f"the {part} is not the one that was frozen: {frozen[part]} → {now[part]}")
        for difference in differences:
            click.echo(f"{difference.id}: first differing {difference.what} at {difference.place}")
            click.echo(f"  was {difference.before}")
            click.echo(f"  now {difference.now}")
        equal = len(frozen["cases"]) - len(differences)
        click.echo(f"{equal} of {len(frozen['cases'])} conversations equal", err=True)
    context.exit(1 if differences else 0)


@click.command(
    epilog="""\b
Examples:
  neva-prep parity --processor llava-1.5-7b-hf/ --template v1
  neva-prep parity --processor vicuna-7b/ --template v1 --messages prompt.json
"""
)
@click.option("--processor", "folder", required=True, help="Folder that serving loads.")
@click.option("--template", "template_name", help="Name, or a .jinja file.  [default: tokenizer's]")
@click.option(
    "--messages",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON of a conversation that ends with the user.  [default: one of ours]",
)
@click.option(
    "--image-token", default="<image>", show_default=True, help="An image in the messages."
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@click.pass_context
def parity(
    context: click.Context,
    folder: str,
    template_name: str | None,
    file: Path | None,
    image_token: str,
    as_json: bool,
) -> None:
    """Compare our prompt with the one serving makes; exit with 1 where they differ."""
    from .parity import compare_with_serving

    messages: Sequence[Mapping[str, Any]] = EXAMPLE[:3]
    if file is not None:
        messages = read_conversations(file)[0][1]
    processor = load_tokenizer(folder)
    found = compare_with_serving(
        messages,
        processor=processor,
        template=pick_template(template_name, processor),
        image_token=image_token,
    )
    if as_json:
        click.echo(
            json.dumps({"schema_version": SCHEMA_VERSION, **asdict(found)}, ensure_ascii=False)
        )
    elif found.same_text and found.same_ids:
        click.echo("text and ids are the same")
    else:
        if found.text_place is not None:
            click.echo(f"text differs at character {found.text_place}")
            click.echo(f"  training {found.ours!r}\n  serving  {found.theirs!r}")
        if found.id_place is not None:
            around = slice(max(0, found.id_place - 3), found.id_place + 6)
            click.echo(f"ids differ at token {found.id_place}")
            click.echo(f"  training {found.our_ids[around]}\n  serving  {found.their_ids[around]}")
    context.exit(0 if found.same_text and found.same_ids else 1)


def _read_frozen(path: Path) -> Any:
    try:
        frozen = json.loads(path.read_text(encoding="utf-8"))
        version = frozen["schema_version"]
        if version == SCHEMA_VERSION:
            _check_frozen(frozen)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: is no golden file ({error}); make one with record") from error
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{path}: schema version {version}, this neva-prep reads 1; record again")
    if not frozen["cases"]:
        raise ConfigError(f"{path}: holds no conversation, so that nothing is checked; record some")
    return frozen


def _check_frozen(frozen: Any) -> None:
    """Look up all that a check needs."""
    _ = frozen["tokenizer"], frozen["template"]["image_placement"]
    for case in frozen["cases"]:
        _ = case["id"], case["messages"], case["tokens"], case["labels"]
