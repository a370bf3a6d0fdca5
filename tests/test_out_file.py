"""Options that name a file to write: nothing but an earlier file of the same option is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from convert_help import make_source, record, run_cli, text_record
from test_templates_tokenizers import sentencepiece

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.look.command import inspect
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.look.page import write_page
from neva_prep.dataprep.stats.command import stats
from neva_prep.errors import ConfigError
from neva_prep.loaders.format import INFO_FILE, JOURNAL_DIR, MANIFEST_FILE, META_DIR
from neva_prep.templates.commands import golden

pytestmark = pytest.mark.filterwarnings("ignore:Image.Image.getdata is deprecated")
WRITERS = ("inspect", "stats", "golden")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path, [record("a"), text_record("b")])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    sentencepiece().save_pretrained(folder)
    return folder


def write(writer: str, source: Path, out: Path, tokenizer: Path) -> None:
    """Let a command write a file; what it raises passes through."""
    command, given = {
        "inspect": (inspect, [source, "--html", out]),
        "stats": (stats, [source, "--workers", 1, "--html", out]),
        "golden": (
            golden,
            ["record", source, "--template", "v1", "--tokenizer", tokenizer, "--out", out],
        ),
    }[writer]
    ended = CliRunner().invoke(command, [str(one) for one in given])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    assert ended.exit_code == 0, ended.output


@pytest.mark.parametrize("writer", WRITERS)
def test_the_source_is_never_written_over(writer: str, source: Path, tokenizer: Path) -> None:
    before = source.read_bytes()
    link = source.with_name("link.json")
    link.hardlink_to(source)
    for out in (source, source.parent / "images" / ".." / source.name, link):
        with pytest.raises(ConfigError, match="is the source itself; give another file"):
            write(writer, source, out, tokenizer)
    assert source.read_bytes() == before


@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_is_written_into_a_dataset(writer: str, source: Path, tokenizer: Path) -> None:
    dataset = source.parent / "ds"
    convert(source, source.parent / "images", dataset)
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    (shard,) = dataset.glob("*.tar")
    (source.parent / "way").symlink_to(dataset)
    for out in (shard, dataset / "new.html", source.parent / "way" / ".nv-meta" / "new.html"):
        with pytest.raises(ConfigError, match=r"lies in the dataset .*give a file outside"):
            write(writer, source, out, tokenizer)
    if writer != "golden":
        with pytest.raises(ConfigError, match="which is read; give a file outside"):
            write(writer, dataset, shard, tokenizer)
    after = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    assert after == before


def test_the_marks_of_a_dataset_are_those_of_its_format() -> None:
    from neva_prep.templates.out_file import DATASET_MARKS

    assert DATASET_MARKS == (META_DIR, MANIFEST_FILE, JOURNAL_DIR)
    assert INFO_FILE.startswith(META_DIR)


@pytest.mark.parametrize("writer", WRITERS)
def test_only_what_the_option_wrote_itself_is_replaced(
    writer: str, source: Path, tokenizer: Path
) -> None:
    files = {name: source.parent / f"{name}.out" for name in WRITERS}
    for name, file in files.items():
        write(name, source, file, tokenizer)
    (source.parent / "empty").touch()
    for out in (files[writer], source.parent / "empty"):
        write(writer, source, out, tokenizer)
    foreign = source.parent / "foreign.html"
    foreign.write_text('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n')
    for out in (foreign, *(files[name] for name in WRITERS if name != writer)):
        before = out.read_bytes()
        with pytest.raises(ConfigError, match=r"exists, and --.* did not write it"):
            write(writer, source, out, tokenizer)
        assert out.read_bytes() == before
    left = {path.name for path in source.parent.iterdir()}
    assert not [name for name in left if name.endswith((".tmp", ".partial"))]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_is_told_by_its_option(writer: str, source: Path, tokenizer: Path) -> None:
    for out in (Path("/nope/x.html"), source.parent, Path(".")):
        with pytest.raises(ConfigError, match=rf"--\w+ {out}: give a file in a folder that exists"):
            write(writer, source, out, tokenizer)


def test_a_file_beside_the_page_with_the_name_of_a_temporary_stays(source: Path) -> None:
    out = source.with_name("page.html")
    beside = [source.with_name(f"page.html{end}") for end in (".partial", ".tmp")]
    for file in beside:
        file.write_text("kept")
    write_page(open_looked(source), out, count=1)
    assert out.is_file() and [file.read_text() for file in beside] == ["kept", "kept"]


def test_the_command_line_exits_with_2(source: Path) -> None:
    ended = run_cli("inspect", source, "--html", source)
    assert ended.returncode == 2 and f"--html {source}: is the source itself" in ended.stderr
    ended = run_cli("inspect", source, "--html", ".")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
