"""Images made smaller while converting: which ones, how they look, and what is told of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_help import (
    convert_in,
    files_of,
    read_samples,
    reasons_of,
    record,
    run_cli,
    shared,
    text_record,
)
from pictures import draw, encode
from PIL import Image

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.reencode import Shrinking, target_size
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.verify import verify
from neva_prep.errors import ConfigError, ImageError
from neva_prep.loaders.decode import decode_image

PHOTO = encode(draw(160, 120), "JPEG", quality=98)
SMALL = encode(draw(60, 40), "JPEG", quality=98)
FILES = {"photo.jpg": PHOTO, "small.jpg": SMALL, "drawn.png": encode(draw(90, 135))}


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_only_images_above_the_limit_change(tmp_path: Path) -> None:
    rows = [record(name, name) for name in FILES]
    converted = convert_in(tmp_path, rows, FILES, resize=60)
    photo, small, drawn = converted.samples.values()
    assert small["000.jpg"] == SMALL
    assert (opened(photo["000.jpg"]).format, opened(photo["000.jpg"]).size) == ("JPEG", (80, 60))
    assert (opened(drawn["000.png"]).format, opened(drawn["000.png"]).size) == ("PNG", (60, 90))
    entries = [member["images"][0] for member in converted.records.values()]
    assert [(e["width"], e["height"]) for e in entries] == [(80, 60), (60, 40), (60, 90)]
    report = converted.report
    stored = len(photo["000.jpg"]) + len(drawn["000.png"])
    assert report.changed_images == 2
    assert report.saved_bytes == len(PHOTO) + len(FILES["drawn.png"]) - stored
    assert verify(converted.out).is_whole


def test_a_changed_image_looks_as_the_loaders_saw_it_only_smaller(tmp_path: Path) -> None:
    odd = {"oriented.jpg": encode(draw(160, 120), "JPEG", exif=exif(6), quality=98)}
    clear = draw(160, 120).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((160, 120)))
    odd |= {
        "clear.png": encode(clear),
        "palette.gif": encode(draw(160, 120).quantize(64), "GIF"),
        "ink.jpg": encode(draw(160, 120).convert("CMYK"), "JPEG"),
        "deep.png": encode(Image.fromarray(np.arange(19200, dtype=np.uint16).reshape(120, 160))),
    }
    converted = convert_in(tmp_path, [record(name, name) for name in odd], odd, resize=60)
    assert converted.report.changed_images == len(odd)
    for (name, before), members in zip(odd.items(), converted.samples.values(), strict=True):
        (after,) = (content for member, content in members.items() if member != "json")
        seen = decode_image(before)
        wanted = seen.resize((60, 80) if seen.height > seen.width else (80, 60), 3)
        loss = np.abs(np.asarray(wanted, float) - np.asarray(decode_image(after), float)).mean()
        assert decode_image(after).size == wanted.size, name
        assert loss < (12 if after[:2] == b"\xff\xd8" else 0.01), name
        assert not opened(after).getexif()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_max_pixels_bounds_the_product_whatever_the_shape() -> None:
    for width, height in [(640, 480), (1, 5000), (5000, 1), (37, 1999), (7, 11), (3, 3)]:
        for most in (1, 2, 7, 10, 60, 1000):
            new = target_size(width, height, Shrinking(max_pixels=most, pixel_limit=10**6))
            assert 1 <= new[0] * new[1] <= most or new == (width, height)
            assert new[0] <= width and new[1] <= height
    assert target_size(3, 3, Shrinking(max_pixels=9, pixel_limit=9)) == (3, 3)


def test_both_limits_hold_together() -> None:
    wanted = Shrinking(shorter_edge=100, max_pixels=20_000, pixel_limit=10**6)
    assert target_size(1000, 200, wanted) == (316, 63)
    assert target_size(400, 400, wanted) == (100, 100)


def test_reencoding_keeps_what_would_not_get_smaller(tmp_path: Path) -> None:
    files = {"photo.jpg": PHOTO, "low.jpg": encode(draw(160, 120), "JPEG", quality=20)}
    converted = convert_in(tmp_path, [record(n, n) for n in files], files, reencode="webp:80")
    photo, low = converted.samples.values()
    assert list(low) == ["000.jpg", "json"] and low["000.jpg"] == files["low.jpg"]
    assert opened(photo["000.webp"]).format == "WEBP" and len(photo["000.webp"]) < len(PHOTO)
    assert converted.report.changed_images == 1
    # Its name is not to blame for the new encoding.
    assert "extension_corrected" not in converted.report.repairs


def test_an_edge_that_webp_cannot_hold_becomes_png(tmp_path: Path) -> None:
    files = {"long.png": encode(Image.new("RGB", (40_000, 8), "red"))}
    converted = convert_in(tmp_path, [record("a", "long.png")], files, resize=4, reencode="webp:90")
    (sample,) = converted.samples.values()
    assert opened(sample["000.png"]).size == (20_000, 4)


def test_what_must_be_decoded_and_cannot_be_is_rejected(tmp_path: Path) -> None:
    drawn = FILES["drawn.png"]
    at = drawn.index(b"IDAT") + 4
    files = {
        "broken.png": drawn[:at] + bytes(len(drawn) - at - 12) + drawn[-12:],
        # Another checksum of the pixels, which Pillow does not look at while it decodes.
        "forgiven.png": drawn[:-13] + bytes([drawn[-13] ^ 1]) + drawn[-12:],
    }
    rows = [record("a", "broken.png"), record("d", "forgiven.png"), record("b"), text_record("c")]
    converted = convert_in(tmp_path, rows, files, resize=60)
    assert reasons_of(converted) == {"a": "corrupt_image", "d": "corrupt_image"}
    assert "'broken.png' cannot be decoded: broken data stream" in converted.rows[0]["message"]
    assert "'forgiven.png' is damaged: broken PNG file" in converted.rows[1]["message"]
    # Small enough already: nobody looks that closely.
    assert convert_in(tmp_path / "as it is", rows, files, resize=600).report.rejected == 0


def test_bytes_do_not_depend_on_workers(tmp_path: Path) -> None:
    files = {f"{n}.jpg": encode(draw(90 + n, 80, seed=n), "JPEG") for n in range(12)}
    options: dict[str, Any] = {"resize": 50, "reencode": "webp:90", "shard_count": 3}
    rows = [record(name, name) for name in files]
    one = convert_in(tmp_path, rows, files, **options)
    two = tmp_path / "two"
    convert(
        tmp_path / "source.json", tmp_path / "images", two, ConvertOptions(workers=2, **options)
    )
    before, after = files_of(one.out), files_of(two)
    assert {n: c for n, c in before.items() if n.endswith(".tar")} == {
        n: c for n, c in after.items() if n.endswith(".tar")
    }
    assert before["neva-prep.json"] == after["neva-prep.json"]


def test_a_retry_shrinks_as_the_conversion_did(tmp_path: Path) -> None:
    rows = [record("a", "photo.jpg"), record("late", "late.jpg")]
    converted = convert_in(tmp_path, rows, {"photo.jpg": PHOTO}, resize=60)
    (tmp_path / "images" / "late.jpg").write_bytes(PHOTO)
    report = retry(converted.out / "quarantine.jsonl")
    first, second = read_samples(converted.out).values()
    assert first["000.jpg"] == second["000.jpg"] and report.changed_images == 2


@pytest.mark.parametrize("reencode", ["webp", "png:90", "webp:0", "jpeg:101", "jpeg:９", "webp:9x"])
def test_an_encoding_that_is_none_is_refused(reencode: str) -> None:
    with pytest.raises(ConfigError, match=r"--reencode .*: give webp:Q or jpeg:Q"):
        ConvertOptions(reencode=reencode)


def test_the_command_says_what_was_lost(tmp_path: Path) -> None:
    convert_in(tmp_path, [record("a", "photo.jpg")], {"photo.jpg": PHOTO})
    done = run_cli(
        *("convert", tmp_path / "source.json", "--images", tmp_path / "images"),
        *("--out", tmp_path / "small", "--resize", "60", "--max-pixels", "3000"),
    )
    assert done.returncode == 0, done.stderr
    assert "1 made smaller, which saved" in done.stdout
    manifest = json.loads((tmp_path / "small" / "neva-prep.json").read_bytes())
    assert (manifest["options"]["resize"], manifest["options"]["max_pixels"]) == (60, 3000)
    assert "lose detail for good" in run_cli("convert", "--help").stdout


def test_every_odd_image_is_stored_small_or_rejected(tmp_path: Path) -> None:
    folder = shared("data", "odd-images")
    if folder is None:
        pytest.skip("the real sources lie beside the checkout, and are not there")
    names = sorted(path.name for path in folder.rglob("*") if path.is_file())
    files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rows = [record(name, name) for name in names]
    converted = convert_in(tmp_path, rows, files, max_pixels=900, reencode="jpeg:80")
    assert converted.report.changed_images > 10
    for members in converted.samples.values():
        for member, content in members.items():
            if member != "json":
                try:
                    picture = decode_image(content)
                except ImageError as error:  # Small enough, so nobody decoded it.
                    assert error.reason == "corrupt_image"
                else:
                    assert picture.width * picture.height <= 900
