"""What statistics look like on a terminal, as JSON, as a page; and no text of the data acts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import html5lib
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from convert_help import make_source, record, run_cli, text_record, turns
from handmade import picture, write_dataset, write_source
from loader_help import tokenizer

from neva_prep.dataprep.doctor.command import doctor
from neva_prep.dataprep.look.explain_command import explain
from neva_prep.dataprep.stats import stats
from neva_prep.dataprep.stats.command import stats as command
from neva_prep.dataprep.stats.page import render_page
from neva_prep.dataprep.stats.result import Spread, spread_of
from neva_prep.dataprep.stats.svg import histogram
from neva_prep.dataprep.stats.tally import Tally

EVIL = '<script>alert(1)</script> <a href="javascript:x"> \x1b[31m\u202e & <img src=//x onerror=y>'


def evil_source(folder: Path) -> Path:
    rows = [
        text_record("a", EVIL, EVIL),
        record("b", "good.jpg", conversations=turns("<image>\nWhat?", f"It is {EVIL}")),
        record("c", EVIL, conversations=turns("<image>\nWhat?", "No.")),
        text_record("d", EVIL, conversations=[{"from": EVIL, "value": "x"}]),
    ]
    return make_source(folder, rows)


def words_of(page: str) -> Any:
    return html5lib.HTMLParser(strict=True).parse(page)


def test_no_text_of_the_data_acts_on_the_terminal(tmp_path: Path) -> None:
    done = run_cli("stats", evil_source(tmp_path))
    assert done.returncode == 4, done.stderr
    said = done.stdout + done.stderr
    assert "\x1b" not in said and "\u202e" not in said
    assert "<script>alert(1)</script>" in said and "\\x1b[31m" in said and "unknown_role" in said


def test_no_text_of_the_data_acts_on_the_page(tmp_path: Path) -> None:
    page = render_page(stats(evil_source(tmp_path)))
    tree = words_of(page)
    tags = {str(element.tag).rpartition("}")[2] for element in tree.iter()}
    assert not tags & {"script", "img", "a", "iframe", "link", "object", "form"}
    assert "&lt;script&gt;alert(1)" in page and "\\u202e" in page and "\u202e" not in page
    names = {name for element in tree.iter() for name in element.attrib}
    assert not [name for name in names if name.startswith("on") or name in ("href", "src")]
    assert "default-src 'none'" in page and "://" not in page


def test_a_hostile_reason_in_a_quarantine_does_not_act_either(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d")
    row = {"source": "s", "index": 0, "reason": EVIL, "message": EVIL, "fix": EVIL}
    (dataset / "quarantine.jsonl").write_text(json.dumps(row))
    done = CliRunner().invoke(command, [str(dataset), "--workers=1"])
    assert "\\x1b[31m" in done.stdout and "\x1b" not in done.stdout
    page = render_page(stats(dataset))
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page and "\u202e" not in page


def test_page_has_every_chart_and_table(tmp_path: Path) -> None:
    from neva_prep.dataprep.stats import Tokenizing
    from neva_prep.templates.library import get_template

    source, images = write_source(tmp_path)
    how = Tokenizing(tokenizer=tokenizer(), template=get_template("v1"))
    found = stats(source, images=images, tokenizing=how, global_batch_size=4)
    page = render_page(found)
    words_of(page)
    for title in ("Packing forecast", "Scripts", "Most frequent sizes", "text, tokens"):
        assert title in page
    assert page.count("<svg") == page.count("</svg>") >= 16
    assert "prefers-color-scheme: dark" in page and "8,192" in page and "steps of 4 packs" in page
    assert "<html" not in found._repr_html_() and found._repr_html_() in page


def test_page_without_tokenizer_says_how_to_get_the_forecast(tmp_path: Path) -> None:
    page = render_page(stats(write_source(tmp_path)[0]))
    assert "Give --tokenizer DIR" in page and "Packing forecast</h2>" not in page


def spread(numbers: list[int]) -> Spread:
    tally = Tally()
    tally.add(numbers)
    found = spread_of(tally)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "numbers", [[5], [0, 0, 1], list(range(100)), [1] * 990 + [10**9], [3, 10**12]]
)
def test_a_chart_has_a_bar_for_all_that_is_there(numbers: list[int]) -> None:
    found = spread(numbers)
    chart = histogram(found, "tokens", "samples")
    shown = re.findall(r'height="([\d.]+)" class="bar[^"]*"><title>[^:]*: ([\d,]+)<', chart)
    assert len(shown) == len(found.bars)
    assert sum(int(count.replace(",", "")) for _, count in shown) == len(numbers)
    assert all((float(height) >= 1.5) == (count != "0") for height, count in shown)
    assert ">tokens</text>" in chart and ">samples</text>" in chart
    labels = re.findall(r'text-anchor="middle" class="tick">([^<]+)', chart)
    assert 1 <= len(labels) <= 6


def test_json_has_all_numbers(tmp_path: Path) -> None:
    source, images = write_source(tmp_path)
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    options = [f"--images={images}", f"--tokenizer={tmp_path / 'tokenizer'}", "--template=v1"]
    given = [str(source), *options, "--global-batch-size=2", "--workers=1", "--json"]
    done = CliRunner().invoke(command, given)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1 and found["seen"] == found["counted"] == 12
    assert (found["text_only"], found["one_image"], found["multi_image"]) == (1, 10, 1)
    assert found["sizes"][0].keys() == {"width", "height", "count"}
    assert found["tokens"]["trained"]["total"] > 0
    assert [row["pack_length"] for row in found["forecasts"]["packs"]] == [2048, 4096, 8192]
    first = found["forecasts"]["packs"][0]
    assert 0 < first["efficiency"] <= 1 and first["steps_per_epoch"] == -(-first["packs"] // 2)


def test_the_command_writes_a_page_and_tells_the_rest(tmp_path: Path) -> None:
    source, _ = write_source(tmp_path)
    done = run_cli("stats", source, "--html", tmp_path / "s.html")
    assert done.returncode == 0 and "written:" in done.stderr and "written" not in done.stdout
    assert (tmp_path / "s.html").read_text().startswith("<!DOCTYPE html>")
    assert "Give" in done.stdout and "--tokenizer DIR" in done.stdout
    assert "characters" in done.stdout and "█" in done.stdout


def test_options_about_tokens_need_a_tokenizer(tmp_path: Path) -> None:
    done = run_cli("stats", write_source(tmp_path)[0], "--template", "v1")
    assert done.returncode == 2 and "give --tokenizer too" in done.stderr


@pytest.mark.parametrize("look", [command, doctor, explain])
def test_files_of_a_pattern_are_one_source(tmp_path: Path, look: click.Command) -> None:
    rows = {"image": [{"bytes": picture(), "path": None}], "question": ["Why?"], "answer": ["So."]}
    for number in range(2):
        pq.write_table(pa.table(rows), tmp_path / f"train-{number}.parquet")
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    options = {
        command: ["--workers=1"],
        doctor: ["--workers=1"],
        explain: [f"--tokenizer={tmp_path / 'tokenizer'}", "--template=v1", "--index=1"],
    }[look]
    done = CliRunner().invoke(look, [str(tmp_path / "train-*.parquet"), *options, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    counted = {command: "seen", doctor: "records", explain: ""}[look]
    assert found[counted] == 2 if counted else found["tokens"]
