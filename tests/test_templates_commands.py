"""The commands about templates: templates, explain, golden, parity."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from test_templates_tokenizers import byte_level, sentencepiece

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.look.explain_command import explain
from neva_prep.errors import ConfigError, NevaPrepError
from neva_prep.templates import encode_conversation, get_template, list_templates
from neva_prep.templates.commands import golden, parity, templates
from neva_prep.templates.trace import trace_conversation

RECORDS = [
    {
        "id": "a",
        "image": "a.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWho?"},
            {"from": "gpt", "value": "A boy."},
        ],
    },
    {
        "id": "b",
        "conversations": [
            {"from": "human", "value": "USER: A cat."},
            {"from": "gpt", "value": "A cat."},
        ],
    },
]


def run(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    sentencepiece().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "llava.json"
    path.write_text(json.dumps(RECORDS))
    return path


def test_templates_lists_all() -> None:
    lines = run(templates).output.splitlines()
    assert [line.split()[0] for line in lines] == list_templates()
    listed = json.loads(run(templates, "--json").output)
    assert [row["name"] for row in listed["templates"]] == list_templates()


def test_show_prints_the_jinja_and_marks_what_is_trained() -> None:
    output = run(templates, "show", "v1").output
    assert get_template("v1").chat_template.strip() in output
    assert "ASSISTANT:⟦ A cat.</s>⟧USER: Is it asleep? ASSISTANT:⟦ No.</s>⟧" in output


def test_show_takes_a_users_own_file(tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}{{ m.content }};{% endfor %}")
    assert "⟦A cat.;⟧" in run(templates, "show", own).output


def test_explain_says_which_turn_and_which_rule(source: Path, tokenizer_folder: Path) -> None:
    found = run(explain, source, "--template", "v1", "--tokenizer", tokenizer_folder, "--json")
    document = json.loads(found.output)
    rows = {(row["rule"], row["turn"]): row for row in document["tokens"]}
    assert rows[("bos", None)]["trained"] is False
    assert rows[("image", 0)]["id"] == -200
    trained = "".join(row["text"] for row in document["tokens"] if row["trained"])
    assert trained == " A boy.</s>"
    assert rows[("answer", 1)]["trained"] is True
    assert rows[("marked by the template", 1)]["text"] == "</s>"
    expected = encode_conversation(
        RECORDS[0]["conversations"],  # type: ignore[arg-type]
        tokenizer=sentencepiece(),
        template="v1",
    )
    assert [row["id"] for row in document["tokens"]] == expected.tokens.tolist()
    assert [row["trained"] for row in document["tokens"]] == (expected.labels != -100).tolist()


def test_explain_finds_a_record_by_id_and_marks_without_colour(
    source: Path, tokenizer_folder: Path
) -> None:
    found = run(explain, source, "--template", "v1", "--tokenizer", tokenizer_folder, "--id", "b")
    assert found.exit_code == 0
    assert "▁cat  content" in found.output and "▁cat  answer" in found.output
    missing = run(explain, source, "--template", "v1", "--tokenizer", tokenizer_folder, "--id", "z")
    assert isinstance(missing.exception, NevaPrepError)
    assert "no record with id 'z'" in str(missing.exception)


def test_a_question_that_repeats_the_answer_and_the_system_text_keeps_its_turn() -> None:
    messages = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "a"},
    ]
    traced = trace_conversation(messages, tokenizer=byte_level(), template=get_template("chatml"))
    own = [
        (token.turn, token.rule) for token in traced if token.text == "a" and token.turn is not None
    ]
    assert [pair for pair in own if pair[1] != "template text"] == [
        (0, "content"),
        (1, "content"),
        (2, "answer"),
        (3, "content"),
    ]


def frozen(source: Path, tokenizer_folder: Path, template: Any) -> Path:
    out = source.parent / "golden.json"
    found = run(
        golden,
        "record",
        source,
        "--template",
        template,
        "--tokenizer",
        tokenizer_folder,
        "--out",
        out,
    )
    assert found.exit_code == 0
    return out


def test_golden_check_passes_on_what_was_recorded(source: Path, tokenizer_folder: Path) -> None:
    out = frozen(source, tokenizer_folder, "v1")
    assert json.loads(out.read_text())["cases"][0]["trained_texts"] == ["A boy.</s>"]
    found = run(golden, "check", out, "--template", "v1", "--tokenizer", tokenizer_folder)
    assert (found.exit_code, found.stdout) == (0, "")


def test_golden_check_shows_the_first_difference_of_a_users_own_template(
    source: Path, tokenizer_folder: Path
) -> None:
    own = source.parent / "own.jinja"
    body = "{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}"
    own.write_text(body)
    out = frozen(source, tokenizer_folder, own)
    own.write_text(body.replace(";", "!"))
    found = run(golden, "check", out, "--template", own, "--tokenizer", tokenizer_folder)
    assert found.exit_code == 1
    assert "the template is not the one that was frozen" in found.stdout
    assert "a: first differing token at" in found.stdout
    assert "[.;] ass" in found.stdout and "[.] ! ass" in found.stdout


def test_golden_check_sees_a_label_that_moved(source: Path, tokenizer_folder: Path) -> None:
    out = frozen(source, tokenizer_folder, "v1")
    document = json.loads(out.read_text())
    document["cases"][1]["labels"][-1] = -100
    out.write_text(json.dumps(document))
    found = run(golden, "check", out, "--template", "v1", "--tokenizer", tokenizer_folder, "--json")
    (difference,) = json.loads(found.output)["differences"]
    assert found.exit_code == 1
    assert (difference["id"], difference["what"]) == ("b", "label")
    assert difference["before"].endswith("[</s>]") and difference["now"].endswith("[</s>*]")


SERVING = (
    "{{ bos_token }}{% for m in messages %}{{ m.role | upper }}: {{ m.content }}{{ ' ' }}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def test_parity_shows_the_first_difference_and_the_lack_of_one(tmp_path: Path) -> None:
    tokenizer = sentencepiece()
    before = tokenizer.chat_template
    tokenizer.chat_template = SERVING
    tokenizer.save_pretrained(tmp_path / "serving")
    tokenizer.chat_template = before
    prompt = tmp_path / "prompt.json"
    prompt.write_text(json.dumps([{"role": "user", "content": "Hi"}]))
    folder = tmp_path / "serving"
    same = run(parity, "--processor", folder, "--messages", prompt)
    assert (same.exit_code, same.output) == (0, "text and ids are the same\n")
    other = run(parity, "--processor", folder, "--template", "chatml", "--messages", prompt)
    assert other.exit_code == 1
    assert "text differs at character 1" in other.output
    assert "ids differ at token 0" in other.output


def test_a_missing_tokenizer_is_an_error_that_names_the_folder(source: Path) -> None:
    found = run(explain, source, "--template", "v1", "--tokenizer", source.parent / "none")
    assert isinstance(found.exception, NevaPrepError)
    assert "none: no such folder" in str(found.exception)


def test_explain_shows_a_caption_as_it_is_trained(tokenizer_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    from neva_prep.dataprep.options import ConvertOptions

    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    (tmp_path / "chats.json").write_text(json.dumps(RECORDS[:1]))
    convert(
        tmp_path / "chats.json", tmp_path, tmp_path / "out", ConvertOptions(layout="captioning")
    )
    options = ("--template", "v1", "--tokenizer", tokenizer_folder, "--json")
    found = run(explain, tmp_path / "out", *options)
    assert found.exit_code == 0, found.output
    rows = json.loads(found.output)["tokens"]
    assert [row["rule"] for row in rows[:2]] == ["bos", "image"]
    assert "".join(row["text"] for row in rows[2:]) == "A boy.\n"
    assert all(row["trained"] for row in rows[2:])


def test_explain_reads_a_converted_dataset_as_it_reads_its_source(
    source: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I am 3."}]
    source.write_text(json.dumps([{"id": "a", "conversations": turns[:1]}, *records(turns)]))
    convert(source, tmp_path, tmp_path / "shards")
    options = ("--template", "v1", "--tokenizer", tokenizer_folder, "--id", "b", "--json")
    stored = run(explain, tmp_path / "shards", *options)
    assert stored.exit_code == 0, stored.output
    assert stored.output == run(explain, source, *options).output
    trained = [row["text"] for row in json.loads(stored.output)["tokens"] if row["trained"]]
    assert "".join(trained).strip() == "I am 3.</s>"


def records(turns: list[dict[str, str]]) -> list[dict[str, object]]:
    return [{"id": name, "conversations": turns} for name in "bc"]


def record_golden(files: list[Path], tokenizer_folder: Path, out: Path) -> Result:
    options = ("--template", "v1", "--tokenizer", tokenizer_folder, "--out", out)
    return run(golden, "record", *files, *options)


def test_golden_reads_lines_as_it_reads_a_list(source: Path, tokenizer_folder: Path) -> None:
    lines = source.with_name("lines.jsonl")
    lines.write_text("".join(json.dumps(record) + "\n\n" for record in RECORDS))
    out, other = source.with_name("one.json"), source.with_name("other.json")
    assert record_golden([source], tokenizer_folder, out).exit_code == 0
    assert record_golden([lines], tokenizer_folder, other).exit_code == 0
    assert out.read_bytes() == other.read_bytes()
    both = source.with_name("both.json")
    assert "4 conversations" in record_golden([source, lines], tokenizer_folder, both).stderr
    lines.write_text(json.dumps(RECORDS[0]) + "\n{\n")
    error = record_golden([lines], tokenizer_folder, other).exception
    assert isinstance(error, ConfigError) and "lines.jsonl: line 2: is no JSON" in str(error)


@pytest.mark.parametrize("content", ["[]", "{}", "5", "[5]", "[[]]", "", '"text"'])
def test_a_set_without_conversations_is_no_golden_set(
    content: str, source: Path, tokenizer_folder: Path
) -> None:
    source.write_text(content)
    out = source.with_name("golden.json")
    for found in (
        record_golden([source], tokenizer_folder, out),
        run(parity, "--processor", tokenizer_folder, "--messages", source),
    ):
        assert isinstance(found.exception, ConfigError), found.output
        assert str(source) in str(found.exception)
    assert not out.exists()


def test_a_golden_file_that_checks_nothing_does_not_pass(
    source: Path, tokenizer_folder: Path
) -> None:
    out = frozen(source, tokenizer_folder, "v1")
    whole = json.loads(out.read_text())
    half, empty = [{"id": "a"}], list[Any]()
    broken: list[Any] = [{**whole, "cases": empty}, {**whole, "cases": half}, [], {"cases": []}]
    for spoiled in broken:
        out.write_text(json.dumps(spoiled))
        found = run(golden, "check", out, "--template", "v1", "--tokenizer", tokenizer_folder)
        assert isinstance(found.exception, ConfigError), found.output
    options = ("--template", "v1", "--tokenizer", tokenizer_folder)
    assert run(golden, "check", source.parent, *options).exit_code == 2


def test_a_record_that_cannot_be_frozen_is_told_with_its_file(
    source: Path, tokenizer_folder: Path
) -> None:
    bad = source.with_name("bad.json")
    bad.write_text(json.dumps([{"id": "x", "messages": [{"role": "narrator", "content": "a"}]}]))
    error = record_golden([source, bad], tokenizer_folder, source.with_name("g.json")).exception
    assert isinstance(error, NevaPrepError)
    assert str(error).startswith(f"{bad}: x: ") and "correct the record" in str(error)


def test_an_unknown_template_is_a_usage_error(source: Path, tokenizer_folder: Path) -> None:
    for name in ("v9", "none.jinja"):
        for found in (
            run(templates, "show", name),
            run(explain, source, "--template", name, "--tokenizer", tokenizer_folder),
        ):
            assert isinstance(found.exception, ConfigError)
            assert name in str(found.exception)


def test_a_stop_that_the_tokenizer_has_no_token_for_is_told(tmp_path: Path) -> None:
    source = tmp_path / "chats.json"
    source.write_text(json.dumps(RECORDS[1:]))
    sentencepiece().save_pretrained(tmp_path / "tokenizer")
    options = ("--tokenizer", tmp_path / "tokenizer", "--template")
    told = run(explain, source, *options, "chatml")
    assert told.exit_code == 0
    assert "template 'chatml' ends answers with <|im_end|>, for which this" in told.stderr
    assert "--template" in told.stderr
    assert run(explain, source, *options, "v1").stderr == ""
    # Zephyr's model spells out `<|user|>` itself.
    assert run(explain, source, *options, "zephyr").stderr == ""


def test_a_tokenizer_without_a_template_asks_for_one_by_its_option(tmp_path: Path) -> None:
    source = tmp_path / "chats.json"
    source.write_text(json.dumps(RECORDS[1:]))
    folder = tmp_path / "tokenizer"
    sentencepiece().save_pretrained(folder)
    refused = run(explain, source, "--tokenizer", folder)
    assert isinstance(refused.exception, ConfigError)
    assert str(refused.exception).startswith(f"{folder}: this tokenizer has no chat template")
    assert "give --template NAME" in str(refused.exception)


@pytest.mark.parametrize("arguments", [["show"], ["record"], ["check"]], ids=str)
def test_commands_below_others_have_examples_too(arguments: list[str]) -> None:
    group = templates if arguments == ["show"] else golden
    assert "Examples:\n    neva-prep" in run(group, *arguments, "--help").output
