"""Images in the web viewer: which of them a source lacks, and what stands in their place."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from convert_help import convert_in, make_source, record, text_record, turns
from handmade import picture
from html_help import elements, text_of
from viewer_help import Answer, ask, listed, wait_for

from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.viewer.serve import running

TWO = turns("<image><image>\nWhich?", "The first.")
ROWS = [
    record("here"),
    record("gone", "absent.jpg"),
    record("second gone", ["good.jpg", "absent.jpg"], conversations=TWO),
    text_record("text"),
    record("outside", "/etc/passwd"),
    record("link", "link.jpg"),
]
REASONS = {"gone": "missing_image", "second gone": "missing_image", "outside": "absolute_path"}


def packed(folder: Path, kind: str) -> Path:
    """The images of ROWS: in a folder, a zip or a tar."""
    if kind == "folder":
        (folder / "images" / "link.jpg").symlink_to("/etc/passwd")
        return folder / "images"
    archive = folder / f"images.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as made:
            made.writestr("images/good.jpg", picture())
            made.writestr(zipfile.ZipInfo("images/link.jpg"), b"x" * 9, zipfile.ZIP_BZIP2)
        return archive
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("images/good.jpg")
        member.size = len(picture())
        tar.addfile(member, io.BytesIO(picture()))
        link = tarfile.TarInfo("images/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "good.jpg"
        tar.addfile(link)
    return archive


@contextmanager
def viewed(source: Path, images: Path | None = None) -> Iterator[str]:
    """A viewer whose catalogue is complete."""
    with running(open_looked(source, images=images)) as address:
        wait_for(address)
        yield address


def notes(answer: Answer) -> str:
    return " ".join(text_of(one) for one in elements(answer.tree, css="note"))


@pytest.mark.parametrize(
    ("kind", "of_link"),
    [("folder", "symlink_outside"), ("zip", "unreadable_image"), ("tar", "not_a_file")],
)
def test_images_that_are_missing_are_found_in_a_folder_and_in_an_archive(
    tmp_path: Path, kind: str, of_link: str
) -> None:
    source = make_source(tmp_path, ROWS)
    with viewed(source, packed(tmp_path, kind)) as address:
        expected = {**REASONS, "link": of_link}
        page = ask(f"{address}?state=rejected")
        shown = [text_of(one) for one in elements(page.tree, css="bad")]
        assert dict(zip(listed(page), shown, strict=True)) == expected
        page = ask(f"{address}quarantine?reason=missing_image")
        assert [text_of(one) for one in elements(page.tree, "h2")][:2] == ["gone", "second gone"]
        assert "whether images are there" in notes(page)
        # The page of a record, which reads its images, finds the same.
        for index, row in enumerate(ROWS):
            tree = ask(f"{address}sample/{index}?tab=record").tree
            (found,) = elements(tree, css="findings") or [None]
            assert (None if found is None else text_of(elements(found, "code")[0])) == expected.get(
                row["id"]
            )


def test_where_nobody_looked_for_images_the_quarantine_says_so(tmp_path: Path) -> None:
    source = make_source(tmp_path / "apart", ROWS)
    with viewed(source) as address:
        page = ask(f"{address}quarantine")
        assert "give --images to look for images" in notes(page)
        assert "whether images are there" not in notes(page)
        assert not elements(page.tree, css="item")
        assert not elements(ask(address).tree, "img")


def test_images_in_a_table_are_read_with_their_record_and_the_quarantine_says_so(
    tmp_path: Path,
) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"image": {"bytes": data, "path": None}, "conversations": turns("<image>\nWhy?", "So.")}
        for data in (picture(), None)
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "cats.parquet")
    with viewed(tmp_path / "cats.parquet") as address:
        page = ask(f"{address}quarantine")
        assert "whether an image is there shows when its record is opened" in notes(page)
        assert b"missing_image" in ask(f"{address}sample/1").body


def test_a_picture_that_is_not_there_is_a_sign_and_no_failure(tmp_path: Path) -> None:
    source = make_source(tmp_path, [record("a"), record("b", "absent.jpg")])
    for images, count in ((None, 2), (tmp_path / "images", 1)):
        with viewed(source, images) as address:
            answers = [ask(f"{address}image/{n}/0") for n in range(2)]
            assert [one.status for one in answers] == [200, 200]
            kinds = [one.headers["content-type"] for one in answers]
            assert kinds.count("image/svg+xml") == count
            assert ask(f"{address}image/0/1").status == 404


def test_a_rejected_record_has_no_picture_and_the_answer_says_why(tmp_path: Path) -> None:
    rows = [record("none", conversations=[]), record("two marks", conversations=TWO)]
    with viewed(make_source(tmp_path, rows), tmp_path / "images") as address:
        for path, why in (("0/0", "conversation is empty"), ("1/0", "for 1 image(s)")):
            for place in (f"image/{path}", f"tile/sample/{path}/0"):
                answer = ask(address + place)
                assert answer.status == 404, place
                assert why in answer.body.decode(), place


def test_a_missing_image_has_a_sign_in_place_of_its_tiles_too(tmp_path: Path) -> None:
    source = make_source(tmp_path, [record("gone", "absent.jpg")])
    with viewed(source, tmp_path / "images") as address:
        for place in ("image/0/0", "tile/sample/0/0/0"):
            answer = ask(address + place)
            assert (answer.status, answer.headers["content-type"]) == (200, "image/svg+xml"), place


def test_pictures_of_a_dataset_stand_on_its_cards(tmp_path: Path) -> None:
    made = convert_in(tmp_path, [record("a"), text_record("b")])
    with viewed(made.out) as address:
        assert len(elements(ask(address).tree, "img")) == 1


def test_a_key_that_no_record_can_have_is_not_there(tmp_path: Path) -> None:
    with viewed(make_source(tmp_path, ROWS)) as address:
        assert ask(f"{address}find?key=000000003").headers["location"].endswith("/sample/3")
        for key in ("9" * 5000, "6", "x", "%C2%B2", ""):
            answer = ask(f"{address}find?key={key}")
            assert answer.status == 404 and b"has no record" in answer.body, key
