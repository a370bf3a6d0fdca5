"""Images that are missing, unsafe, damaged or not what they claim; none ends the conversion."""

from __future__ import annotations

import io
import json
import os
import random
import socket
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from convert_help import (
    Converted,
    convert_in,
    make_source,
    read_quarantine,
    read_samples,
    reasons_of,
    record,
    run_cli,
    shared,
    turns,
)
from handmade import picture
from PIL import Image

from neva_prep.errors import ImageError
from neva_prep.loaders.image_header import decode_fully, read_header

IS_ROOT = os.geteuid() == 0


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; its pixels are those of a small one."""
    png = picture(8, 8, "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def gif_claiming(width: int, height: int) -> bytes:
    gif = picture(8, 8, "GIF")
    return gif[:6] + struct.pack("<HH", width, height) + gif[10:]


def noise(width: int = 64, height: int = 64) -> Image.Image:
    """A picture whose file is larger than any header."""
    return Image.frombytes("RGB", (width, height), random.Random(1).randbytes(width * height * 3))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


JPEG, PNG, GIF = encoded(noise(), "JPEG"), encoded(noise(), "PNG"), encoded(noise(), "GIF")
WEBP, ANIMATED = encoded(noise(), "WEBP"), [noise(40, 40), noise(40, 40).rotate(90)]
ANIMATED_WEBP = encoded(ANIMATED[0], "WEBP", save_all=True, append_images=ANIMATED[1:])
ANIMATED_GIF = encoded(ANIMATED[0], "GIF", save_all=True, append_images=ANIMATED[1:])
WHOLE = {"jpg": JPEG, "png": PNG, "gif": GIF, "webp": WEBP}
WHOLE |= {"animated.webp": ANIMATED_WEBP, "animated.gif": ANIMATED_GIF}

# File -> reason, content.
DAMAGED: dict[str, tuple[str, bytes]] = {
    "empty.jpg": ("empty_image", b""),
    "text.jpg": ("not_an_image", b"<html>404 Not Found</html>"),
    "pdf.png": ("not_an_image", b"%PDF-1.4\n" + JPEG),
    "eps.jpg": ("not_an_image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "svg.png": ("not_an_image", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "zeros.jpg": ("not_an_image", bytes(1000)),
    "psd.png": ("not_an_image", b"8BPS\0\1" + bytes(100)),
    "first byte lost.png": ("not_an_image", PNG[1:]),
    "magic only.jpg": ("truncated_image", b"\xff\xd8\xff"),
    "magic only.png": ("truncated_image", PNG[:8]),
    "magic only.gif": ("truncated_image", GIF[:6]),
    "magic only.webp": ("truncated_image", WEBP[:12]),
    "bomb.png": ("too_many_pixels", png_claiming(60_000, 60_000)),
    "bomb.gif": ("too_many_pixels", gif_claiming(60_000, 60_000)),
    "no width.png": ("corrupt_image", png_claiming(0, 10)),
    "no frame.jpg": ("corrupt_image", b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xd9"),
}
DAMAGED |= {
    f"half.{name}": ("truncated_image", content[: len(content) // 2])
    for name, content in WHOLE.items()
}
# Path in the record -> reason; what lies there is made by `lay_traps`.
UNSAFE: dict[str, str] = {
    "gone.jpg": "missing_image",
    "folder/gone.jpg": "missing_image",
    "good.jpg/part.jpg": "missing_image",
    "GOOD.JPG": "missing_image",
    "good.jpg ": "missing_image",
    "x" * 300 + ".jpg": "missing_image",
    "x/" * 3000 + "a.jpg": "missing_image",
    "dangling.jpg": "missing_image",
    "loop.jpg": "missing_image",
    "loop/a.jpg": "missing_image",
    "folder": "not_a_file",
    "folder/": "not_a_file",
    ".": "not_a_file",
    "to_folder": "not_a_file",
    "pipe.jpg": "not_a_file",
    "../outside.jpg": "path_traversal",
    "folder/../../outside.jpg": "path_traversal",
    "..": "path_traversal",
    "../images-private/a.jpg": "path_traversal",
    "outside.jpg": "symlink_outside",
    "out/outside.jpg": "symlink_outside",
    "out/images-private/a.jpg": "symlink_outside",
    "private.jpg": "symlink_outside",
    "proc.jpg": "symlink_outside",
    "/etc/hostname": "absolute_path",
    "C:\\pictures\\a.jpg": "absolute_path",
    "http://example.com/a.jpg": "remote_image",
    "s3://bucket/a.jpg": "remote_image",
    "data:image/png;base64,AAAA": "remote_image",
    "file:///etc/hostname": "remote_image",
}
SAFE = ["inner.jpg", "folder/../good.jpg", "./good.jpg", "to_folder/in.jpg", "folder/up.jpg"]
SAFE += ["in spaces/é 😀.jpg", "folder//in.jpg"]


def lay_traps(folder: Path) -> None:
    """Links, pipes and folders in the image folder, and pictures beside it that none may reach."""
    images = folder / "images"
    (images / "folder").mkdir(parents=True)
    (images / "in spaces").mkdir()
    (folder / "images-private").mkdir()
    for path in ("outside.jpg", "images-private/a.jpg", "images/folder/in.jpg"):
        (folder / path).write_bytes(picture())
    (images / "in spaces" / "é 😀.jpg").write_bytes(picture())
    links = {
        "outside.jpg": folder / "outside.jpg",
        "private.jpg": Path("../images-private/a.jpg"),
        "proc.jpg": Path("/proc/self/environ"),
        "out": folder,
        "dangling.jpg": Path("nowhere.jpg"),
        "loop.jpg": Path("loop.jpg"),
        "loop": Path("loop"),
        "to_folder": Path("folder"),
        "inner.jpg": Path("folder/in.jpg"),
        "folder/up.jpg": Path("../good.jpg"),
    }
    for name, target in links.items():
        (images / name).symlink_to(target)
    os.mkfifo(images / "pipe.jpg")


@pytest.fixture(scope="module")
def trapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A dataset of every bad image, each after a good one; made by the command, lest it hangs."""
    folder = tmp_path_factory.mktemp("trapped")
    lay_traps(folder)
    images = {name: content for name, (_, content) in DAMAGED.items()}
    rows = [r for path in [*DAMAGED, *UNSAFE] for r in (record("good"), record(path, path))]
    source = make_source(folder, rows, images)
    done = run_cli(
        "convert", source, "--images", folder / "images", "--out", folder / "out", "--quiet"
    )
    assert (done.returncode, done.stderr) == (4, "")
    return folder, {row["id"]: row for row in read_quarantine(folder / "out")}


def test_every_bad_image_is_quarantined_and_every_good_one_beside_it_kept(
    trapped: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    folder, rows = trapped
    assert set(rows) == {*DAMAGED, *UNSAFE}
    assert len(read_samples(folder / "out")) == len(rows)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_image_is_quarantined_with_its_reason(
    trapped: tuple[Path, dict[str, dict[str, Any]]], name: str
) -> None:
    row = trapped[1][name]
    assert row["reason"] == DAMAGED[name][0]
    assert repr(name) in row["message"] and row["record"] == record(name, name)


@pytest.mark.parametrize("path", UNSAFE)
def test_unsafe_image_path_is_quarantined_with_its_reason(
    trapped: tuple[Path, dict[str, dict[str, Any]]], path: str
) -> None:
    row = trapped[1][path]
    assert row["reason"] == UNSAFE[path]
    assert path[:50] in row["message"] or repr(path)[1:50] in row["message"]
    assert row["record"] == record(path, path)


def test_paths_and_links_that_stay_inside_the_folder_convert(tmp_path: Path) -> None:
    lay_traps(tmp_path)
    converted = convert_in(tmp_path, [record(path, path) for path in SAFE])
    assert converted.rows == []
    assert {members["000.jpg"] for members in converted.samples.values()} == {picture()}
    entries = [row["images"][0]["source"] for row in converted.records.values()]
    assert entries == SAFE


def test_image_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "images").mkdir(parents=True)
    (tmp_path / "images").symlink_to("real/images")
    assert convert_in(tmp_path, [record("a")]).rows == []


def test_socket_is_no_image(tmp_path: Path) -> None:
    make_source(tmp_path, [])
    before = os.getcwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path / "images")  # The path of a socket must be short.
        try:
            server.bind("socket.jpg")
        finally:
            os.chdir(before)
        converted = convert_in(tmp_path, [record("good"), record("a", "socket.jpg")])
    assert reasons_of(converted) == {"a": "unreadable_image"}


@pytest.mark.skipif(IS_ROOT, reason="root may read every file, whatever its mode")
def test_file_without_permission_is_unreadable(tmp_path: Path) -> None:
    make_source(tmp_path, [], {"locked.jpg": picture()})
    (tmp_path / "images" / "locked.jpg").chmod(0)
    converted = convert_in(tmp_path, [record("good"), record("a", "locked.jpg")])
    assert reasons_of(converted) == {"a": "unreadable_image"}


def test_huge_file_is_refused_by_its_size_before_it_is_read(tmp_path: Path) -> None:
    make_source(tmp_path, [], {"huge.jpg": JPEG})
    os.truncate(tmp_path / "images" / "huge.jpg", (512 << 20) + 1)  # sparse: no disk is used
    converted = convert_in(tmp_path, [record("good"), record("a", "huge.jpg")])
    assert reasons_of(converted) == {"a": "image_too_large"}


def test_one_bad_image_of_several_rejects_the_record_and_leaves_nothing_of_it(
    tmp_path: Path,
) -> None:
    talk = turns("<image><image><image> Compare.", "Alike.")
    rows = [
        record("first", ["gone.jpg", "good.jpg", "good.jpg"], conversations=talk),
        record("last", ["good.jpg", "good.jpg", "gone.jpg"], conversations=talk),
        record("good"),
    ]
    converted = convert_in(tmp_path, rows)
    assert reasons_of(converted) == dict.fromkeys(("first", "last"), "missing_image")
    assert list(converted.samples) == ["000000002"]
    assert converted.report.images == 1


# Content decides.


def test_member_is_named_for_its_content_and_its_bytes_are_the_files(tmp_path: Path) -> None:
    kinds = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "BMP": "bmp"}
    kinds |= {"TIFF": "tif", "PPM": "ppm", "AVIF": "avif", "ICO": "ico"}
    images = {f"{kind}.dat": picture(32, 32, kind) for kind in kinds}
    images["no extension"] = picture(32, 32, "PNG")
    converted = convert_in(tmp_path, [record(name, name) for name in images], images)
    assert converted.rows == []
    for members, content, extension in zip(
        converted.samples.values(), images.values(), [*kinds.values(), "png"], strict=True
    ):
        assert members[f"000.{extension}"] == content
        entry = json.loads(members["json"])["images"][0]
        assert (entry["name"], entry["width"], entry["height"]) == (f"000.{extension}", 32, 32)
    assert converted.report.repairs == {"extension_corrected": len(images)}


def test_other_spellings_of_an_extension_are_no_repair(tmp_path: Path) -> None:
    names = {"a.JPG": JPEG, "a.jpeg": JPEG, "a.jfif": JPEG, "a.PNG": PNG, "a.apng": PNG}
    names |= {"a.tiff": picture(8, 8, "TIFF"), "a.pgm": picture(8, 8, "PPM")}
    converted = convert_in(tmp_path, [record(name, name) for name in names], names)
    assert converted.report.samples == len(names) and not converted.report.repairs


def test_wrong_extension_is_corrected_and_reported(tmp_path: Path) -> None:
    images = {"really a png.jpg": PNG, "really a jpeg.png": JPEG}
    converted = convert_in(tmp_path, [record(name, name) for name in images], images)
    names = [next(iter(members)) for members in converted.samples.values()]
    assert names == ["000.png", "000.jpg"]
    assert converted.report.repairs == {"extension_corrected": 2}


# Whole or truncated.


@pytest.mark.parametrize("name", WHOLE)
def test_an_image_cut_anywhere_is_rejected_and_a_whole_one_is_not(name: str) -> None:
    content, kept = WHOLE[name], []
    read_header(content, pixel_limit=10**9)
    places = {*range(4, 200), *range(200, len(content) - 12, 37), len(content) - 13}
    for stop in sorted(places):
        try:
            read_header(content[:stop], pixel_limit=10**9)
        except ImageError as error:
            assert error.reason == "truncated_image", (stop, error)
        else:
            kept.append(stop)
    # Cut exactly between two frames it is a GIF without its trailer, which viewers show.
    assert len(kept) <= (name == "animated.gif")


APPENDED = {
    "zeros": bytes(64),
    "newline": b"\n",
    "a movie": random.Random(3).randbytes(400_000),
    "a movie that begins a scan": b"ftypmp42" + b"\xff\xda\0\0" * 9 + bytes(9),
    "another JPEG's begin": JPEG[:1000],
}


@pytest.mark.parametrize("what", APPENDED)
@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "webp"])
def test_data_behind_the_end_is_not_taken_for_a_truncated_image(kind: str, what: str) -> None:
    content = WHOLE[kind] + APPENDED[what]
    assert read_header(content, pixel_limit=10**9).extension == kind
    decode_fully(content)


def test_jpeg_with_a_thumbnail_is_truncated_though_the_thumbnail_ends() -> None:
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(JPEG) + 8) + b"Exif\0\0" + JPEG
    content = JPEG[:2] + thumbnail + JPEG[2:]
    assert read_header(content, pixel_limit=10**9).width == 64
    for stop in (len(thumbnail) + 400, len(content) - 40, len(content) - 2):
        with pytest.raises(ImageError) as caught:
            read_header(content[:stop], pixel_limit=10**9)
        assert caught.value.reason == "truncated_image"


def test_progressive_and_restarted_jpegs_are_whole() -> None:
    for options in ({"progressive": True}, {"restart_marker_blocks": 1}, {"comment": b"\xff\xd9"}):
        content = encoded(noise(), "JPEG", **options)
        read_header(content + b"appended", pixel_limit=10**9)
        with pytest.raises(ImageError):
            read_header(content[:-300] + b"appended", pixel_limit=10**9)


def test_gif_without_its_trailer_is_whole_as_viewers_show_it() -> None:
    for content in (GIF, ANIMATED_GIF):
        assert content.endswith(b";")
        assert read_header(content[:-1], pixel_limit=10**9).extension == "gif"
        decode_fully(content[:-1])


def test_damage_inside_is_found_by_check_decode_alone(tmp_path: Path) -> None:
    at = len(PNG) // 2
    broken = PNG[:at] + bytes(200) + PNG[at + 200 :]
    rows = [record("good"), record("broken", "broken.png")]
    assert convert_in(tmp_path / "header", rows, {"broken.png": broken}).rows == []
    converted = convert_in(tmp_path / "decode", rows, {"broken.png": broken}, check="decode")
    assert reasons_of(converted) == {"broken": "corrupt_image"}


def test_check_none_lets_everything_pass_but_what_is_not_there(tmp_path: Path) -> None:
    images = {"text.jpg": b"no image", "strange.x-y": b"?", "none": b"?", "empty.jpg": b""}
    rows = [record(name, name) for name in [*images, "gone.jpg", "../x.jpg"]]
    converted = convert_in(tmp_path, rows, images, check="none")
    assert reasons_of(converted) == {
        "empty.jpg": "empty_image",
        "gone.jpg": "missing_image",
        "../x.jpg": "path_traversal",
    }
    names = [next(iter(members)) for members in converted.samples.values()]
    assert names == ["000.jpg", "000.bin", "000.none"]


# Pixel limit.


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_pixel_limit_is_exact_for_every_format(kind: str) -> None:
    content = picture(50, 40, kind)
    assert read_header(content, pixel_limit=2000).width == 50
    with pytest.raises(ImageError, match="pixels") as caught:
        read_header(content, pixel_limit=1999)
    assert caught.value.reason == "too_many_pixels"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_raised_pixel_limit_lets_a_large_image_pass_every_check(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the machine could hold few pixels: Pillow's own limit, and the one by default.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr("neva_prep.loaders.image_header.PIXEL_LIMIT", 100)
    content = picture(50, 40, kind)
    assert read_header(content, pixel_limit=2000).width == 50
    decode_fully(content)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_bomb_hidden_in_an_icon_is_not_decoded() -> None:
    bomb = png_claiming(60_000, 60_000)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(bomb), 22)
    icon = struct.pack("<HHH", 0, 1, 1) + entry + bomb
    with pytest.raises(ImageError):
        read_header(icon, pixel_limit=10**6)
        decode_fully(icon)


# Real odd images.

ODD = shared("data", "odd-images")
needs_odd = pytest.mark.skipif(ODD is None, reason="needs ../shared/data/odd-images")


def odd_images() -> list[str]:
    assert ODD is not None
    names = (os.fspath(path.relative_to(ODD)) for path in ODD.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.endswith(("SOURCE.txt", "LICENSE")))


def convert_odd(folder: Path, check: str) -> Converted:
    source = make_source(folder, [record(name, name) for name in odd_images()])
    out = folder / "out"
    done = run_cli(
        "convert", source, "--images", str(ODD), "--out", out, "--check", check, "--json"
    )
    assert done.stderr == ""
    assert done.returncode == 4
    report = json.loads(done.stdout)
    samples, rows = read_samples(out), read_quarantine(out)
    assert report["records"] == len(samples) + len(rows) == len(odd_images()) > 100
    assert all(row["reason"] and row["fix"] for row in rows)
    for members in samples.values():
        name = json.loads(members["json"])["id"]
        assert next(iter(members.values())) == (ODD or Path()).joinpath(name).read_bytes()
    return Converted(out, None)  # type: ignore[arg-type]


UNREADABLE = {
    "pillow/bmp/b/badheadersize.bmp": "corrupt_image",
    "pillow/bmp/b/badpalettesize.bmp": "corrupt_image",
    "pillow/bmp/q/rgba16-4444.bmp": "corrupt_image",
    "pillow/decompression_bomb.ico": "too_many_pixels",
    "pillow/oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif": "corrupt_image",
    "pillow/pngtest_bad.png.bin": "not_an_image",
    "pillow/rgba.psd": "not_an_image",
    "pillow/truncated_image.png": "truncated_image",
    "pillow/zero_width.gif": "truncated_image",
}


@needs_odd
def test_odd_images_convert_or_are_quarantined_and_nothing_is_printed(tmp_path: Path) -> None:
    assert reasons_of(convert_odd(tmp_path, "header")) == UNREADABLE


@needs_odd
def test_check_decode_rejects_exactly_the_odd_images_that_cannot_be_decoded(
    tmp_path: Path,
) -> None:
    rejected = reasons_of(convert_odd(tmp_path, "decode"))
    assert {name: rejected.pop(name) for name in UNREADABLE} == UNREADABLE
    assert set(rejected.values()) == {"corrupt_image"}
    for name in odd_images():
        if name not in UNREADABLE:
            assert decodes((ODD or Path()) / name) == (name not in rejected), name


def decodes(path: Path) -> bool:
    with silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as image:
                image.load()
        except Exception:
            return False
    return True


@contextmanager
def silence() -> Iterator[None]:
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def test_images_are_recognized_though_the_user_closed_stderr(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(GIF)
    script = (
        "import os, sys; from neva_prep.loaders.image_header import read_header; os.close(2);"
        "data = open(sys.argv[1], 'rb', buffering=0); content = data.read(); data.close();"
        "print(read_header(content, pixel_limit=10**6).extension)"
    )
    command = [sys.executable, "-c", script, os.fspath(tmp_path / "a.gif")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "gif\n")
