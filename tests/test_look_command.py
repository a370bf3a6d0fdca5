"""`neva-prep inspect`: every level, in a pipe, as JSON, and on a terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from convert_help import make_source, record, text_record
from handmade import members, write_dataset, write_source
from loader_help import conversations, encoder, module, tokenizer
from rich.console import Console

from neva_prep.dataprep.look.batch import view_batches
from neva_prep.dataprep.look.command import inspect
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.look.terminal_tokens import show_batch, show_pack, show_tokens
from neva_prep.dataprep.look.tokens import view_messages, view_tokens
from neva_prep.errors import ConfigError, NevaPrepError
from neva_prep.templates import get_template

# textual-image uses a method that Pillow will drop one day.
pytestmark = pytest.mark.filterwarnings("ignore:Image.Image.getdata is deprecated")
SMALL = ("--embeddings", "4", "--image-size", "28")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer's folder."""
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, folder: str) -> str:
    """The folder, of which the tokenizer is read already: that takes a second each time."""
    monkeypatch.setattr("neva_prep.templates.load.load_tokenizer", lambda _: tokenizer())
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conversations(tmp_path_factory.mktemp("inspect") / "ds", train=24, shards=2, val=2)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(inspect, [str(argument) for argument in arguments])


def on_terminal(show: Any, *views: Any, **options: Any) -> str:
    file = io.StringIO()
    settings: dict[str, Any] = {"force_terminal": True, "color_system": "truecolor", "width": 100}
    show(*views, Console(file=file, _environ={}, highlight=False, **settings), **options)
    return file.getvalue()


def test_a_source_is_shown_before_it_is_converted(tmp_path: Path) -> None:
    source, images = write_source(tmp_path)
    found = run(source, "--images", images, "--index", 5)
    assert found.exit_code == 0
    lines = found.output.splitlines()
    assert lines[0] == "sample 000000005  id id-5"
    assert "5-1.png  45 x 31, 821 bytes" in lines and "  Answer 5." in lines
    assert run(source, "--id", "id-5", "--images", images).output == found.output


def test_a_broken_record_is_shown_and_ends_with_3(tmp_path: Path) -> None:
    source = make_source(tmp_path, [record("a", image="none.jpg")])
    for options in ((), ("--json",)):
        found = run(source, "--images", tmp_path / "images", *options)
        assert found.exit_code == 3
        assert "missing_image" in found.output
    content = json.loads(found.output)
    (finding,) = content["findings"]
    assert content["images"] == [] and content["record"]["image"] == "none.jpg"
    assert finding["reason"] == "missing_image" and finding["start"] < finding["end"]
    text = run(source, "--images", tmp_path / "images").output
    assert '"image": ⟦"none.jpg"⟧,' in text


def test_tokens_are_shown_with_their_reasons_and_the_shift(dataset: Path, folder: str) -> None:
    found = run(dataset, "--index", 2, "--tokenizer", folder, "--template", "v1", *SMALL)
    assert found.exit_code == 0, found.output
    output = found.output
    assert "the model gets 1 tile of 28 x 28" in output
    assert "tokens  template v1; 53 tokens take 58 of 2,048 positions; 5 trained (9.4%)" in output
    assert "  turn 0   [4 × <image>] ▁ <0x0A> [4 × <image>] ▁ <0x0A> Why" in output
    assert "  turn 1   ⟦▁Answer ▁ 2 . </s>⟧" in output
    assert re.search(r"48-51  turn 1    answer  +▁Answer ▁ 2 \.\n", output)
    assert re.search(r"52  turn 1    marked by the template  </s>\n", output)
    assert re.search(r"token     :        ▁Answer  ▁   2   \.     </s>\n", output)
    assert re.search(r"label     ▁Answer  ▁        2   \.   </s>  -\n", output)


def test_trained_tokens_are_coloured_and_underlined_on_a_terminal(dataset: Path) -> None:
    view = view_tokens(open_looked(dataset), 2, encoder(template=get_template("v1")))
    output = on_terminal(show_tokens, view)
    assert "\x1b[4;32m▁Answer ▁ 2 . </s>\x1b[0m" in output, "green and underlined"
    assert "\x1b[1;33m[4 × <image>]" in output
    assert "\x1b[4;32m▁chat" not in output


def test_nothing_trained_and_errors_are_said(loaded: str, tmp_path: Path) -> None:
    source = make_source(tmp_path, [text_record("a", "so " * 60, "x")])
    found = run(source, "--tokenizer", loaded, "--seq-length", 50)
    assert found.exit_code == 0
    assert "skipped: too_long" in found.output and "the limit is 51" in found.output
    silent = view_messages([{"role": "user", "content": "Why?"}], encoder())
    assert "nothing is trained" in on_terminal(show_tokens, silent)


def test_hostile_tokens_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\u202e[red]x[/red]\r\n\x9b31m"
    image, (name, data) = members(0, text=evil)
    shards = {"train-000000.tar": {"000000000": [image, (name, data)]}}
    looked = open_looked(write_dataset(tmp_path / "ds", shards))
    made = encoder()
    output = on_terminal(show_tokens, view_tokens(looked, 0, made))
    with module(looked.path, task_encoder=made, micro_batch_size=1, global_batch_size=1) as one:
        output += on_terminal(show_batch, next(view_batches(one, looked)))
    for character in ("\x1b]", "\x07", "\u202e", "\x9b", "\r"):
        assert character not in output
    assert "red" in output


def test_a_megabyte_of_tokens_is_cut_and_counted() -> None:
    long = [{"role": "user", "content": "so " * 50_000}, {"role": "assistant", "content": "x"}]
    output = on_terminal(show_tokens, view_messages(long, encoder()))
    assert re.search(r"and 48,\d{3} more tokens", output) and len(output) < 60_000


def test_tokens_as_json_have_every_number(dataset: Path, loaded: str) -> None:
    found = run(dataset, "--tokenizer", loaded, "--template", "v1", *SMALL, "--json")
    content = json.loads(found.output)
    tokens = content["tokens"]
    prepared = encoder(template=get_template("v1")).preencode_sample(
        open_looked(dataset).encodable(0)
    )
    assert [token["id"] for token in tokens["tokens"]] == prepared.encoded.tokens.tolist()
    assert tokens["length"] == prepared.length and tokens["num_trained"] == 5
    assert content["images"][0]["tiles"] == [[28, 28]]


def test_packs_are_bars(dataset: Path, loaded: str) -> None:
    options = ("--tokenizer", loaded, *SMALL, "--packed-sequence-size", 256, "--pack", 2)
    found = run(dataset, "--split", "train", *options)
    assert found.exit_code == 0, found.output
    assert re.findall(r"^row (\d)  2\d\d of 256 positions, 100.0% filled", found.output, re.M) == [
        "0",
        "1",
    ]
    bars = re.findall(r"^  ([█▓·]{72})$", found.output, re.M)
    assert len(bars) == 2 and all("█▓" in bar for bar in bars)
    content = json.loads(run(dataset, "--split", "train", *options, "--json").output)
    segments = content["packs"][0]["segments"]
    assert segments[0]["start"] == 0 and segments[-1]["padded_end"] <= 256
    assert content["schema_version"] == 1


def test_padding_is_dotted_in_a_bar(dataset: Path) -> None:
    with module(dataset, micro_batch_size=4) as data:
        view = next(view_batches(data, open_looked(dataset)))
    short = min(view.rows, key=lambda row: row.pack.fill)
    output = on_terminal(show_pack, short.pack, number=0)
    assert "·" in output and " padding" in output


def test_a_batch_is_shown_as_the_trainer_gets_it(dataset: Path, loaded: str) -> None:
    options = ("--tokenizer", loaded, *SMALL, "--split", "train", "--batch")
    found = run(dataset, *options)
    assert found.exit_code == 0, found.output
    output = found.output
    assert output.startswith("batch 0  2 rows, 2 samples, 1 tiles\n")
    for name in ("loss_mask", "position_id", "attention", "label"):
        assert len(re.findall(f"^{name} ", output, re.M)) >= 2
    columns = {
        line.split()[0]: line.split()[1:]
        for line in output.split("\n\n")[2].splitlines()
        if line.strip()
    }
    assert columns["loss_mask"][:2] == ["0", "0"] and columns["position_id"][:2] == ["0", "1"]
    content = json.loads(run(dataset, *options, 1, "--json").output)["batch"]
    assert content["step"] == 1 and len(content["rows"]) == 2
    assert content["keys"] == ["000000002", "000000003"]
    for row in content["rows"]:
        assert len(row["tokens"]) == len(row["loss_mask"]) == len(row["attention_mask"])


def test_the_lines_of_a_batch_are_aligned_and_fit(dataset: Path) -> None:
    with module(dataset, packed=True) as data:
        view = next(view_batches(data, open_looked(dataset)))
    output = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(show_batch, view))
    lines = [line for line in output.splitlines() if re.match(r"(index|id|label|loss_mask) ", line)]
    assert len(lines) > 8 and all(len(line.rstrip()) <= 100 for line in lines)
    for index, numbers in zip(lines[0::4], lines[1::4], strict=True):
        starts = [match.start() for match in re.finditer(r"(?<= )\d", index)]
        assert all(numbers[start].isdigit() or numbers[start] == "-" for start in starts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--index", "1", "--key", "1"), "give one of --index, --key and --id"),
        (("--template", "v1"), "--template needs --tokenizer"),
        (("--pack", "1"), "--pack and --batch need --tokenizer"),
        (("--batch",), "--pack and --batch need --tokenizer"),
        (("--packed-sequence-size", "64"), "--packed-sequence-size needs --tokenizer"),
    ],
)
def test_options_that_cannot_work_together_are_refused(
    options: tuple[str, ...], said: str, dataset: Path
) -> None:
    found = run(dataset, *options)
    assert found.exit_code == 2 and said in found.output


def test_what_is_not_there_is_an_error_of_ours(dataset: Path, folder: str, tmp_path: Path) -> None:
    for options in (
        ("--index", 99),
        ("--split", "test"),
        ("--tokenizer", tmp_path / "none"),
        ("--image-processor", tmp_path),
        ("--tokenizer", folder, "--template", "none"),
    ):
        assert isinstance(run(dataset, *options).exception, NevaPrepError)
    quarantine = tmp_path / "quarantine.jsonl"
    row = {"source": "s", "index": 0, "reason": "bad_id", "message": "m", "fix": "f"}
    quarantine.write_text(json.dumps(row))
    error = run(quarantine, "--tokenizer", folder, "--batch").exception
    assert isinstance(error, ConfigError) and "rejected records are in no batch" in str(error)


@pytest.mark.parametrize(
    "options",
    [
        ("--pack", 0),
        ("--batch", -1),
        ("--html", "x.html", "--count", 0),
        ("--html", "x.html", "--count", -5),
        ("--html", "x.html", "--port", 80),
        ("--html", "x.html", "--serve"),
        ("--serve", "--port", 70_000),
        ("--count", 3),
        ("--port", 8000),
        ("--seq-length", 0),
        ("--micro-batch-size", -1),
    ],
)
def test_numbers_without_sense_or_use_are_refused(
    dataset: Path,
    loaded: str,
    options: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    def serve(*_: Any, **__: Any) -> None:
        raise AssertionError("serves")

    monkeypatch.setattr("neva_prep.dataprep.viewer.serve.serve", serve)
    found = run(dataset, "--tokenizer", loaded, *options)
    assert found.exit_code == 2 and "Usage: inspect" in found.output
    assert not Path("x.html").exists()


def test_an_image_processor_is_never_asked_of_the_network(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    asked = []

    def load(folder: str, **options: Any) -> None:
        asked.append(options)
        raise OSError("none")

    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", load)
    error = run(dataset, "--image-processor", "openai/clip-vit-typo").exception
    assert isinstance(error, ConfigError) and "no such folder" in str(error) and not asked
    assert isinstance(run(dataset, "--image-processor", tmp_path).exception, ConfigError)
    assert [options["local_files_only"] for options in asked] == [True]


def test_the_page_is_written_for_the_samples_that_are_asked_for(
    dataset: Path, loaded: str, tmp_path: Path
) -> None:
    page = tmp_path / "look.html"
    options = ("--html", page, "--count", 3, "--index", 4, "--tokenizer", loaded, *SMALL)
    found = run(dataset, *options)
    assert found.exit_code == 0, found.output
    text = page.read_text()
    assert "Answer 4." in text and "Answer 6." in text and "Answer 7." not in text
