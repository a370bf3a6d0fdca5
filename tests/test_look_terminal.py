"""A record, its sample and tokens on a terminal, and in a pipe; none of their text is trusted."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import Members, members, picture, write_dataset
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_look_pictures import bomb

from neva_prep.dataprep.look.describe import describe
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.look.terminal import show_record, show_sample
from neva_prep.dataprep.look.view import SampleView
from neva_prep.dataprep.plain_text import plain_text

# textual-image uses a method that Pillow will drop one day.
pytestmark = pytest.mark.filterwarnings("ignore:Image.Image.getdata is deprecated")


def looked(root: Path, shards: dict[str, dict[str, Members]]) -> SampleView:
    """The first sample of a dataset."""
    return open_looked(write_dataset(root / "ds", shards)).sample(0)


def one(*sample: tuple[str, bytes]) -> dict[str, dict[str, Members]]:
    """Shards of one sample."""
    return {"train-000000.tar": {"000000000": list(sample)}}


def console(**options: Any) -> Console:
    settings = {"width": 100, "legacy_windows": False, "_environ": {}, **options}
    return Console(file=io.StringIO(), **settings)


def shown(sample: SampleView, **options: Any) -> str:
    screen = console(**options)
    show_sample(sample, screen)
    return screen.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_without_a_terminal_the_output_is_plain_lines(tmp_path: Path) -> None:
    text = "word " * 60 + "end"
    shards = {"train-000000.tar": {"000000000": members(0, images=2, text=text, score=0.5)}}
    output = shown(looked(tmp_path, shards))
    assert "\x1b" not in output
    assert "▀" not in output and "▓" not in output
    lines = output.splitlines()
    assert lines[0] == "sample 000000000  id id-0"
    assert lines[1].startswith("train-000000.tar, byte 0: ")
    assert lines[1].endswith(" bytes, 2 images, 2 turns; position 0")
    size = len(picture(32, 24))
    assert f"000.jpg  32 x 24, {size} bytes at byte 512, from pictures/0-000.jpg" in lines
    assert f"  {text}" in lines, "long lines are not wrapped"
    assert "  Answer 0." in lines
    assert "  score: 0.5" in lines
    assert all(line == line.rstrip() for line in lines)


def test_on_a_terminal_pictures_are_drawn_in_coloured_half_blocks(tmp_path: Path) -> None:
    shards = {"train-000000.tar": {"000000000": members(0)}}
    sample = looked(tmp_path, shards)
    output = shown(sample, force_terminal=True, color_system="truecolor")
    rows = [line for line in output.splitlines() if "▀" in line]
    assert 10 <= len(rows) <= 20
    assert {row.count("▀") for row in rows} == {53}  # 32 x 24 pixels in 20 rows of 2 each
    assert "38;2;" in rows[10], "in true colour"
    assert "\x1b[1;36mhuman" in output


def test_without_colour_pictures_are_drawn_in_shades(tmp_path: Path) -> None:
    shards = {"train-000000.tar": {"000000000": members(0)}}
    sample = looked(tmp_path, shards)
    output = shown(sample, force_terminal=True, no_color=True)
    assert "▀" not in output and "▒" in output
    assert "38;2;" not in output and "[36m" not in output


def test_a_tall_picture_stays_within_the_rows(tmp_path: Path) -> None:
    sample = [("000.jpg", picture(20, 4000)), *members(0)[1:]]
    shards = {"train-000000.tar": {"000000000": sample}}
    output = shown(looked(tmp_path, shards), force_terminal=True, color_system="256")
    assert 1 <= sum("▀" in line for line in output.splitlines()) <= 20


def test_a_picture_that_does_not_decode_is_told_not_raised(tmp_path: Path) -> None:
    sample = [("000.jpg", b"\x1b[2Jno image"), *members(0)[1:]]
    shards = {"train-000000.tar": {"000000000": sample}}
    output = shown(looked(tmp_path, shards))
    assert "000.jpg: is no image of a known format" in output
    assert "Answer 0." in output
    assert "\x1b" not in output


HOSTILE = {
    "clear screen": "\x1b[2J\x1b[H",
    "set the title, or paste from the clipboard": "\x1b]0;owned\x07\x1b]52;c;?\x07",
    "one-byte CSI": "\x9b31m",
    "back over the line": "harmless\r\x08\x08evil",
    "turn the direction round": "\u202egnp.exe\u2066\u2069",
    "invisible letters": "a\u200bb\u2060c\ufeff",
    "tag characters": "\U000e0041\U000e0042",
    "new lines of other kinds": "a\u2028b\u2029c\x0b\x0c\x85",
    "half a character": "\ud800",
    "delete": "\x7f",
}


@pytest.mark.parametrize("trick", HOSTILE)
def test_hostile_text_is_shown_as_escapes(trick: str) -> None:
    safe = plain_text(HOSTILE[trick])
    assert safe.isprintable()
    assert "\\x" in safe or "\\u" in safe or "\\U" in safe


def test_harmless_text_stays_as_it_is() -> None:
    text = "Ünïcode, 一只猫🐱, ناس, 👩\u200d🚀\n\ttabbed [bold]brackets[/bold] :smile: \\x1b"
    assert plain_text(text) == text


@given(st.text())
def test_no_text_leaves_a_character_that_steers_a_terminal(text: str) -> None:
    for character in plain_text(text):
        if character not in "\n\t\u200c\u200d":
            assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    plain_text(text).encode()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_hostile_sample_cannot_steer_the_terminal(tmp_path: Path, terminal: bool) -> None:
    evil = "\x1b]0;owned\x07[red]not red[/red] [link=file:///etc]x[/link] :bomb: \u202etxt"
    image, (name, data) = members(0)
    record = json.loads(data)
    record["id"] = evil
    record["conversations"][0]["value"] = f"<image>{evil}"
    record["conversations"][1].update({"from": evil, "value": evil})
    record["images"][0]["source"] = evil
    record[evil] = {evil: [evil]}
    shards = {"train-000000.tar": {"000000000": [image, (name, json.dumps(record).encode())]}}
    output = shown(
        looked(tmp_path, shards), force_terminal=terminal, color_system="truecolor", width=500
    )
    assert "\x1b]" not in output and "\x07" not in output and "\u202e" not in output
    assert output.count("[red]not red[/red] [link=file:///etc]x[/link] :bomb:") == 8
    assert "\\x1b]0;owned\\x07" in output


def test_a_long_field_is_cut_and_counted(tmp_path: Path) -> None:
    shards = {"train-000000.tar": {"000000000": members(0, note="x" * 1_500)}}
    output = shown(looked(tmp_path, shards))
    assert f"  note: {'x' * 400}... and 1,100 more characters\n" in output


def test_a_message_of_a_megabyte_is_cut_and_counted(tmp_path: Path) -> None:
    text = "\u202e" + "z" * 1_000_000
    output = shown(looked(tmp_path, {"train-000000.tar": {"000000000": members(0, text=text)}}))
    assert "\u202e" not in output and "\\u202ezzz" in output
    assert "... and 990,009 more characters\n" in output
    assert len(output) < 12_000


def test_hundreds_of_turns_are_cut_and_counted(tmp_path: Path) -> None:
    image, (name, data) = members(0)
    record = json.loads(data)
    record["conversations"] += [{"from": "gpt", "value": f"more {n}"} for n in range(1_000)]
    output = shown(looked(tmp_path, one(image, (name, json.dumps(record).encode()))))
    assert "  more 197\n" in output and "more 198" not in output
    assert "... and 802 more turns\n" in output


def test_a_bomb_is_told_not_decoded(tmp_path: Path) -> None:
    """20,000 x 20,000 pixels in a kilobyte: 1.2 GB if it were decoded."""
    sample = looked(tmp_path, one(("000.jpg", bomb(20_000, 20_000)), *members(0)[1:]))
    output = shown(sample, force_terminal=True, color_system="truecolor", width=200)
    assert "20000 x 20000 pixels, more than the limit" in output
    assert "Answer 0." in output and "▀" not in output


def test_the_models_picture_is_drawn_beside_the_original(tmp_path: Path) -> None:
    sample = looked(tmp_path, one(*members(0)))
    (image,) = sample.images
    red = np.full((10, 10, 3), (255, 0, 0), np.uint8)
    seen = replace(sample, images=(replace(image, tiles=(red, red)),))
    output = shown(seen, force_terminal=True, color_system="truecolor")
    rows = [line for line in output.splitlines() if "▀" in line]
    assert all(row.rstrip("\x1b[0m").endswith("▀") for row in rows)
    assert "38;2;255;0;0" in rows[len(rows) // 2], "the tiles are in the same rows"
    assert "the model gets 2 tiles of 10 x 10" in output
    assert "the model gets 2 tiles of 10 x 10" in shown(seen)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_broken_record_is_shown_with_the_place_marked(tmp_path: Path, terminal: bool) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "evil\x1b[2J", "value": "b"}]
    source = tmp_path / "s.json"
    source.write_text(json.dumps([{"id": "x", "conversations": turns}], indent=1))
    screen = console(force_terminal=terminal, width=200)
    show_record(open_looked(source).record(0), screen)
    output = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "unknown_role" in output and "turn 1 is from" in output and "\x1b[2J" not in output
    assert '⟦"evil\\u001b[2J"⟧' in (output if not terminal else without_style(output))
    assert "s.json, line 2, byte 3: " in output


@pytest.mark.parametrize("raw", [b'{"id": "\x1b]0;owned\x07', '{"id": "\u202e"}'.encode()])
def test_hostile_text_of_a_broken_record_is_shown_as_escapes(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_bytes(raw)
    screen = console(force_terminal=True)
    show_record(open_looked(tmp_path / "s.jsonl").record(0), screen)
    output = without_style(screen.file.getvalue())  # type: ignore[attr-defined]
    assert not re.search("[\x1b\x07\u202e]", output)
    assert "]0;owned\\x07" in output or "\\u202e" in output


def without_style(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_the_sample_as_a_dict_names_every_place(tmp_path: Path) -> None:
    opened = open_looked(write_dataset(tmp_path / "ds"))
    content = json.loads(json.dumps(describe(opened.record(1), opened.sample(1))))
    record = content.pop("record")
    second = content["images"].pop(1)
    assert content.pop("images")[0]["name"] == "000.jpg"
    assert content == {
        "schema_version": 1,
        "index": 1,
        "key": "000000001",
        "id": "id-1",
        "dataset": "ds",
        "split": "train",
        "shard": "train-000000.tar",
        "line": None,
        "offset": 2560,
        "bytes": 4096,
        "findings": [],
    }
    assert second == {
        "name": "001.png",
        "source": "pictures/1-001.png",
        "width": 33,
        "height": 25,
        "format": "png",
        "bytes": 634,
        "offset": 4608,
        "tiles": [],
        "error": None,
    }
    assert record["conversations"] == opened.messages(1)


def test_looking_imports_neither_torch_nor_energon(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    code = (
        "import sys; from rich.console import Console\n"
        "from neva_prep.dataprep.look.open import open_looked\n"
        "from neva_prep.dataprep.look.terminal import show_sample\n"
        "looked = open_looked(sys.argv[1])\n"
        "show_sample(looked.sample(looked.find(id='id-4')), Console())\n"
        "assert not {'torch', 'megatron'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True)
    assert b"Question 4?" in done.stdout and b"\x1b" not in done.stdout
