"""Tables, tars and files that name sources: the doctor and diff say of them what convert says."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from convert_help import record, run_cli, text_record
from handmade import picture
from table_help import llava_table

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.doctor.diff import diff
from neva_prep.dataprep.doctor.doctor import doctor
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.stats import stats
from neva_prep.errors import ConfigError


def table(folder: Path) -> Path:
    (folder / "a.jpg").write_bytes(picture())
    path = folder / "q.csv"
    path.write_text("image,question,answer\na.jpg,Why?,So.\ngone.jpg,Who?,I.\na.jpg,When?,\n")
    return path


def coco(folder: Path) -> Path:
    path = folder / "captions.json"
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(2)]
    captions = [{"id": n, "image_id": n, "caption": "A cat."} for n in range(2)]
    path.write_text(json.dumps({"images": images, "annotations": captions}))
    (folder / "0.jpg").write_bytes(picture())
    return path


def tar(folder: Path) -> Path:
    path = folder / "00000.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in (("1.jpg", picture()), ("1.txt", b"A cat."), ("2.txt", b"A dog.")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def parquet(folder: Path) -> Path:
    path = folder / "rows.parquet"
    llava_table(10).to_parquet(str(path))
    return path


@pytest.mark.parametrize("make", [table, coco, tar, parquet])
def test_the_doctor_finds_in_it_what_convert_finds(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    source = make(tmp_path)
    expected = convert(source, None, tmp_path / "dry", ConvertOptions(dry_run=True, workers=1))
    report = doctor(source, options=ConvertOptions(workers=1))
    assert report.readable and report.records == expected.records
    assert {fault.reason: fault.records for fault in report.faults} == expected.rejections
    assert report.exit_code == (4 if expected.rejected else 0)
    places = [(e.byte, e.line) for fault in report.faults for e in fault.examples]
    assert set(places) <= {(None, None)}


def test_a_sound_table_exits_with_0_and_a_bad_record_has_its_number(tmp_path: Path) -> None:
    source = table(tmp_path)
    done = run_cli("doctor", source)
    assert done.returncode == 4 and "2 of 3 records are wrong.\n" in done.stdout
    assert "record 1: image 'gone.jpg' does not exist" in done.stdout
    assert "byte" not in done.stdout and "--fix" not in done.stdout
    source.write_text("\n".join(source.read_text().splitlines()[:2]))
    done = run_cli("doctor", source)
    assert done.returncode == 0 and "All 1 records are fine" in done.stdout
    source.write_text("pic,ask,say\na.jpg,Why?,So.\n")
    done = run_cli("doctor", source, "--columns", "image=pic,question=ask,answer=say")
    assert done.returncode == 0, done.stderr


def test_only_json_is_repaired(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"repairs JSON alone, and .* is a table"):
        doctor(table(tmp_path), fix=tmp_path / "fixed.csv")
    assert not list(tmp_path.glob("fixed*"))


def test_of_a_meta_file_the_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps([record("a"), text_record("b")]))
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"one": {"root": "", "annotation": "one.json"}}))
    done = run_cli("doctor", meta)
    assert done.returncode == 0 and f"neva-prep doctor {tmp_path}/one.json" in done.stdout
    meta.write_text(json.dumps({"one": {"root": "", "annotation": "gone.json"}}))
    done = run_cli("doctor", meta)
    assert done.returncode == 3 and "'gone.json' lies neither beside the meta file" in done.stdout


@pytest.mark.parametrize("make", [table, coco, tar, parquet])
def test_diff_finds_in_a_dataset_what_was_converted(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    source = make(tmp_path)
    report = convert(source, None, tmp_path / "ds", ConvertOptions(workers=1))
    found = diff(source, tmp_path / "ds")
    assert (found.unchanged, len(found.removed_rows)) == (report.samples, report.rejected)
    assert not (found.changed or found.added)


def test_a_folder_of_tables_or_tars_is_looked_at_as_the_source_it_is(tmp_path: Path) -> None:
    for make, count in ((parquet, 10), (tar, 2)):
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder)
        assert len(open_looked(folder)) == count
        assert stats(folder).seen == count
        assert diff(folder, folder).unchanged == count


def test_a_table_that_shows_nothing_but_its_name_is_read_as_convert_reads_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("caption\nA ring.\n")
    converted = convert(path, tmp_path, tmp_path / "out")
    report = doctor(path, tmp_path)
    assert report.readable and report.form.name == "csv"
    assert {fault.reason: fault.records for fault in report.faults} == converted.rejections
    assert converted.rejected == 1
