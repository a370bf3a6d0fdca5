"""`--dedup` and `--exclude`: what repeats a record, or an evaluation set, is left out and told."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_help import (
    Converted,
    Row,
    convert_in,
    files_of,
    make_source,
    read_samples,
    reasons_of,
    record,
    run_cli,
    shared,
    text_record,
    turns,
)
from pictures import encode
from PIL import Image, ImageOps

from neva_prep.dataprep import perceptual
from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.perceptual import distances, first_alike, look_of
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.verify import verify
from neva_prep.errors import ConfigError, RecordError

PIXELS = 10**8


def scene(seed: int) -> Image.Image:
    """Soft blobs: a picture whose looks are its own, and survive what is done to photos."""
    levels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(levels).resize((160, 120), Image.Resampling.BICUBIC)


def png(seed: int) -> bytes:
    return encode(scene(seed))


def pairs_of(converted: Converted) -> list[Row]:
    path = converted.out / "duplicates.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def told(converted: Converted) -> list[tuple[Any, Any, str]]:
    return [(row["removed"]["id"], row["kept"]["id"], row["why"]) for row in pairs_of(converted)]


def kept(converted: Converted) -> list[str]:
    return [row["id"] for row in converted.records.values()]


def test_exact_repetitions_of_texts_and_files_go_and_the_first_stays(tmp_path: Path) -> None:
    files = {"a.png": png(1), "copy.png": png(1), "b.png": png(2)}
    rows = [
        record("first", "a.png", source="x"),
        record("same under another name", "copy.png"),
        record("another picture", "b.png"),
        record("another question", "a.png", conversations=turns("<image>Where?", "There.")),
        text_record("t1"),
        text_record("t2"),
        text_record("t3", "Why?", "Therefore."),
        record("same again", ["a.png"], id=7),
    ]
    converted = convert_in(tmp_path, rows, files, dedup="exact")
    assert told(converted) == [
        ("same under another name", "first", "exact"),
        ("t2", "t1", "exact"),
        (7, "first", "exact"),
    ]
    assert kept(converted) == ["first", "another picture", "another question", "t1", "t3"]
    assert converted.report.filters == {"--dedup exact": 3} and converted.report.filtered == 3
    assert pairs_of(converted)[0]["removed"] == {
        "source": "source.json",
        "index": 1,
        "id": "same under another name",
    }
    assert verify(converted.out).is_whole


def test_by_images_texts_do_not_matter_and_texts_alone_repeat_nothing(tmp_path: Path) -> None:
    files = {"a.png": png(1), "b.png": png(2)}
    rows = [
        record("first", "a.png"),
        record("another question", "a.png", conversations=turns("<image>Where?", "There.")),
        record("two", ["a.png", "b.png"], conversations=turns("<image><image>", "Yes.")),
        record("turned round", ["b.png", "a.png"], conversations=turns("<image><image>", "Yes.")),
        text_record("t1"),
        text_record("t2"),
    ]
    converted = convert_in(tmp_path, rows, files, dedup="exact", dedup_by="images")
    assert told(converted) == [("another question", "first", "exact_images")]


def test_a_rejected_or_filtered_record_is_never_the_one_that_stays(tmp_path: Path) -> None:
    rows = [
        text_record("bad", "Why?", "Because.", conversations=turns("Why?")),
        text_record("unwanted", score=0),
        text_record("good", score=1),
        text_record("again", score=2),
    ]
    converted = convert_in(tmp_path, rows, dedup="exact", filter=("score > 0",))
    assert kept(converted) == ["good"] and told(converted) == [("again", "good", "exact")]
    assert converted.report.filters == {"score > 0": 1, "--dedup exact": 1}
    assert converted.report.rejected == 1


def changed(picture: Image.Image) -> dict[str, bytes]:
    """The same picture as other files."""
    return {
        "smaller.jpg": encode(picture.resize((97, 71)), "JPEG", quality=60),
        "brighter.webp": encode(Image.eval(picture, lambda v: min(255, v + 12)), "WEBP"),
        "gray.jpg": encode(picture.convert("L"), "JPEG"),
    }


def test_images_that_look_alike_are_found_whatever_was_done_to_them(tmp_path: Path) -> None:
    files = {"a.png": png(1), "b.png": png(2), **changed(scene(1))}
    files["mirrored.png"] = encode(ImageOps.mirror(scene(1)))
    converted = convert_in(tmp_path, [record(n, n) for n in files], files, dedup="perceptual")
    assert kept(converted) == ["a.png", "b.png", "mirrored.png"]
    assert {row["why"] for row in pairs_of(converted)} == {"perceptual"}
    assert all(0 <= row.get("bits", 0) <= 4 for row in pairs_of(converted))
    exact = convert_in(tmp_path / "exact", [record(n, n) for n in files], files, dedup="exact")
    assert exact.report.filtered == 0


def test_pictures_of_one_color_are_compared_by_their_files(tmp_path: Path) -> None:
    plain = {f"{color}.png": encode(Image.new("RGB", (64, 64), color)) for color in ("red", "blue")}
    files = plain | {"again.png": plain["red.png"]}
    converted = convert_in(tmp_path, [record(n, n) for n in files], files, dedup="perceptual:10")
    assert told(converted) == [("again.png", "red.png", "exact")]


def test_looks_are_compared_among_the_same_texts_unless_images_alone_count(tmp_path: Path) -> None:
    files = {"a.png": png(1), "b.jpg": changed(scene(1))["smaller.jpg"]}
    rows = [record("a", "a.png"), record("b", "b.jpg", conversations=turns("<image>Or?", "No."))]
    assert convert_in(tmp_path / "1", rows, files, dedup="perceptual").report.filtered == 0
    converted = convert_in(tmp_path / "2", rows, files, dedup="perceptual", dedup_by="images")
    assert told(converted) == [("b", "a", "perceptual_images")]


def test_an_exact_copy_of_what_looks_like_an_earlier_one_names_what_stays(tmp_path: Path) -> None:
    near = changed(scene(1))["smaller.jpg"]
    files = {"a.png": png(1), "b.jpg": near, "c.jpg": near}
    converted = convert_in(tmp_path, [record(n, n) for n in files], files, dedup="perceptual")
    assert told(converted) == [("b.jpg", "a.png", "perceptual"), ("c.jpg", "a.png", "perceptual")]


def naive(looks: list[list[int]], groups: list[int], radius: int) -> list[int]:
    """Item by item, bit by bit."""
    alike: list[int] = []
    for item, images in enumerate(looks):
        found = -1
        for other in range(item):
            pairs = zip(looks[other], images, strict=True)
            same = groups[other] == groups[item] and alike[other] < 0
            if same and all((a ^ b).bit_count() <= radius for a, b in pairs):
                found = other
                break
        alike.append(found)
    return alike


@pytest.mark.parametrize("radius", [0, 1, 4, 7, 10])
@pytest.mark.parametrize("images", [1, 2])
def test_the_search_finds_what_comparing_all_with_all_finds(
    tmp_path: Path, radius: int, images: int
) -> None:
    rng = np.random.default_rng(radius)
    seeds = [int(x) for x in rng.integers(0, 2**64, 40, np.uint64)]
    looks, groups = [], []
    for _ in range(600):
        # Few kinds of picture, each with up to 12 bits changed: chains as well as pairs.
        chosen = int(rng.integers(len(seeds)))
        counts = rng.integers(0, int(rng.choice([1, 13])), images)
        flips = [rng.choice(64, int(count), replace=False) for count in counts]
        looks.append([seeds[chosen] ^ sum(1 << int(b) for b in flip) for flip in flips])
        groups.append(int(rng.integers(2)))
    flat = np.array([look for item in looks for look in item], np.uint64)
    starts = np.arange(0, len(flat) + 1, images)
    alike, bits = first_alike(flat, starts, np.array(groups, np.uint64), radius, tmp_path)
    expected = naive(looks, groups, radius)
    assert alike.tolist() == expected and max(expected) >= 0
    for item, other in enumerate(expected):
        if other >= 0:
            apart = [(a ^ b).bit_count() for a, b in zip(looks[item], looks[other], strict=True)]
            assert bits[item] == max(apart)


def test_items_of_different_groups_are_never_alike_even_in_one_bucket(tmp_path: Path) -> None:
    looks, starts = np.array([0, 1], np.uint64), np.arange(3)
    for mask in perceptual._masks(2, 1):
        # Groups that lead to the same bucket of the table that looks at these bits.
        groups = perceptual._mixed(looks & mask)
        expected = 0 if groups[0] == groups[1] else -1
        alike, _ = first_alike(looks, starts, groups, 1, tmp_path)
        assert alike.tolist() == [-1, expected]


def test_bits_are_counted_right() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 2**64, (2, 500), np.uint64)
    counted = [(int(a) ^ int(b)).bit_count() for a, b in zip(left, right, strict=True)]
    assert distances(left, right).tolist() == counted
    assert distances(left, ~left).tolist() == [64] * 500


def test_pairs_of_real_images_are_those_of_comparing_all_with_all(tmp_path: Path) -> None:
    folder = shared("data")
    if folder is None:
        pytest.skip("the real sources lie beside the checkout, and are not there")
    paths = [p for s in ("jpg", "jpeg", "png") for p in sorted(folder.rglob(f"*.{s}"))]
    contents = [p.read_bytes() for p in paths if p.stat().st_size < 300_000][:150]
    looks = [look_of(content, PIXELS) for content in contents]
    files = {f"{n:03d}.jpg": c for n, c in enumerate(contents) if looks[n] is not None}
    for number in range(0, 60, 3):
        if looks[number] is not None:
            with Image.open(io.BytesIO(contents[number])) as image:
                smaller = image.convert("RGB").reduce(2)
            files[f"z{number}.jpg"] = encode(smaller, "JPEG", quality=70)
    known = [look for c in files.values() if (look := look_of(c, PIXELS)) is not None]
    names = [n for n, c in files.items() if look_of(c, PIXELS) is not None]
    rows = [record(name, name) for name in names]
    converted = convert_in(tmp_path, rows, files, dedup="perceptual:6")
    expected = naive([[look] for look in known], [0] * len(known), 6)
    ours = {row["removed"]["id"]: row["kept"]["id"] for row in pairs_of(converted)}
    assert ours == {names[n]: names[other] for n, other in enumerate(expected) if other >= 0}
    assert len([name for name in ours if name.startswith("z")]) >= 15


EVALUATION = [
    record("e1", "eval/1.png", conversations=turns("<image>\nWhich  bird is this?", "A wren.")),
    record("e2", "eval/2.png", conversations=turns("Describe it.\n<image>", "A hill.")),
    record("e3", "eval/3.png", conversations=turns("<image>Describe it.", "A lake.")),
    text_record("e4", "What is the capital of Peru?", "Lima."),
]
EVALUATION_FILES = {f"eval/{n}.png": png(n) for n in (1, 2, 3)}
TRAINING = [
    record("clean", "clean.png"),
    record("picture", "picture.png"),
    record("question", "clean.png", conversations=turns("which bird is THIS?\n<image>", "A kite.")),
    record("generic", "clean.png", conversations=turns("<image>\nDescribe it.", "A cat.")),
    text_record("late", "Hello.", "Hi.", "What is the  capital of Peru?", "Lima."),
    record("near", "near.jpg", conversations=turns("<image>\nWhere?", "There.")),
]
TRAINING_FILES = {
    "clean.png": png(9),
    "picture.png": png(2),
    "near.jpg": encode(scene(3).resize((97, 71)), "JPEG"),
}


def evaluation(folder: Path, *, converted: bool) -> str:
    if converted:
        return str(convert_in(folder, EVALUATION, EVALUATION_FILES).out)
    source = make_source(folder, EVALUATION, EVALUATION_FILES)
    return f"{source}={folder / 'images'}"


@pytest.mark.parametrize("as_dataset", [True, False])
def test_images_and_questions_of_an_evaluation_set_are_left_out(
    tmp_path: Path, as_dataset: bool
) -> None:
    given = evaluation(tmp_path / "eval", converted=as_dataset)
    converted = convert_in(tmp_path, TRAINING, TRAINING_FILES, exclude=(given,))
    # What several evaluation records ask is a prompt, not a question.
    assert kept(converted) == ["clean", "generic", "near"]
    assert told(converted) == [
        ("picture", "e2", "exclude_image"),
        ("question", "e1", "exclude_question"),
        ("late", "e4", "exclude_question"),
    ]
    assert converted.report.filters == {"--exclude: image": 1, "--exclude: question": 2}
    first, second, _ = pairs_of(converted)
    assert (first["what"], second["what"]) == ("picture.png", "which bird is this?")
    assert first["kept"]["index"] == 1
    assert first["kept"]["source"] == ("out" if as_dataset else "source.json")


def test_an_evaluation_image_is_known_by_its_looks_where_dedup_says_so(tmp_path: Path) -> None:
    given = evaluation(tmp_path / "eval", converted=False)
    options: dict[str, Any] = {"exclude": (given,), "dedup": "perceptual", "exclude_by": "images"}
    converted = convert_in(tmp_path, TRAINING, TRAINING_FILES, **options)
    assert told(converted) == [
        ("picture", "e2", "exclude_image"),
        ("near", "e3", "exclude_image"),
    ]
    options["exclude_by"] = "questions"
    converted = convert_in(tmp_path / "2", TRAINING, TRAINING_FILES, **options)
    assert {why for _, _, why in told(converted)} == {"exclude_question"}


def test_what_cannot_be_read_of_an_evaluation_set_is_counted(tmp_path: Path) -> None:
    rows = [*EVALUATION, record("e5", "eval/lost.png"), {"no": "record"}]
    source = make_source(tmp_path / "eval", rows, EVALUATION_FILES)
    given = f"{source}={tmp_path / 'eval' / 'images'}"
    converted = convert_in(tmp_path, TRAINING, TRAINING_FILES, exclude=(given,))
    assert converted.report.warnings["exclude_unreadable"] == 2


def test_an_evaluation_set_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--exclude .*nowhere: no such file or folder"):
        convert_in(tmp_path, TRAINING, TRAINING_FILES, exclude=(str(tmp_path / "nowhere"),))
    (tmp_path / "empty.json").write_text('[{"no": "record"}]')
    with pytest.raises(ConfigError, match="holds no record that can be read"):
        convert_in(tmp_path, TRAINING, TRAINING_FILES, exclude=(str(tmp_path / "empty.json"),))
    given = evaluation(tmp_path / "eval", converted=False)
    with pytest.raises(RecordError, match=r"all 1 records were left out \('--exclude: image' 1\)"):
        convert_in(tmp_path, TRAINING[1:2], TRAINING_FILES, exclude=(given,))


@pytest.mark.parametrize("given", ["fuzzy", "exact:3", "perceptual:11", "perceptual:-1", ""])
def test_a_way_to_compare_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="--dedup"):
        ConvertOptions(dedup=given)


def test_options_that_need_another_are_refused_without_it() -> None:
    with pytest.raises(ConfigError, match="--dedup-by images is for --dedup"):
        ConvertOptions(dedup_by="images")
    with pytest.raises(ConfigError, match="--exclude-by images is for --exclude"):
        ConvertOptions(exclude_by="images")


def test_workers_change_no_byte(tmp_path: Path) -> None:
    given = evaluation(tmp_path / "eval", converted=False)
    files = {f"{n}.png": png(n % 7) for n in range(20)} | TRAINING_FILES
    rows = [record(f"{n}", f"{n % 20}.png", n=n) for n in range(2100)] + TRAINING
    options: dict[str, Any] = {"exclude": (given,), "dedup": "perceptual:5", "dedup_by": "images"}
    one = convert_in(tmp_path, rows, files, **options)
    two = tmp_path / "two"
    convert(
        tmp_path / "source.json", tmp_path / "images", two, ConvertOptions(workers=2, **options)
    )
    differing = {name for name, c in files_of(one.out).items() if files_of(two)[name] != c}
    assert differing <= {".nv-meta/index.uuid", ".nv-meta/index.sqlite"}
    assert 2000 < one.report.filtered == len(pairs_of(one))


def test_a_retry_excludes_too_and_keeps_the_pairs_of_before(tmp_path: Path) -> None:
    given = evaluation(tmp_path / "eval", converted=False)
    rows = [*TRAINING, record("lost", "lost.png"), record("lost too", "too.png")]
    converted = convert_in(tmp_path, rows, TRAINING_FILES, exclude=(given,))
    before = told(converted)
    for name, seed in {"lost.png": 3, "too.png": 30}.items():
        (tmp_path / "images" / name).write_bytes(png(seed))
    report = retry(converted.out / "quarantine.jsonl")
    assert (report.records, report.samples, report.rejected, report.filtered) == (8, 4, 0, 4)
    assert told(converted) == [*before, ("lost", "e3", "exclude_image")]
    assert "000000007" in read_samples(converted.out)


def test_overwriting_and_dry_runs_leave_no_pairs_behind(tmp_path: Path) -> None:
    rows = [text_record("a"), text_record("b")]
    convert_in(tmp_path, rows, dedup="exact")
    converted = convert_in(tmp_path, rows, overwrite=True)
    assert not (converted.out / "duplicates.jsonl").exists()
    dry = tmp_path / "dry"
    report = convert(
        tmp_path / "source.json", None, dry, ConvertOptions(dedup="exact", dry_run=True)
    )
    assert report.filtered == 1 and not dry.exists()


def test_the_command_tells_what_is_left_out(tmp_path: Path) -> None:
    source = make_source(tmp_path, [text_record("a"), text_record("b"), text_record("c", "?", "!")])
    done = run_cli("convert", source, "--out", tmp_path / "out", "--dedup", "exact")
    assert done.returncode == 0 and "--dedup exact" in done.stdout, done.stderr
    assert "1 (33.3%)" in done.stdout


def test_placeholders_that_are_inserted_make_no_difference(tmp_path: Path) -> None:
    rows = [
        record("a", conversations=turns("<image>\nWhat?", "That.")),
        record("b", conversations=turns("What?", "That.")),
        record("c", conversations=turns("What else?", "That.")),
    ]
    converted = convert_in(tmp_path, rows, dedup="exact", placeholder="insert")
    assert kept(converted) == ["a", "c"] and told(converted) == [("b", "a", "exact")]


def test_what_only_its_shard_would_reject_is_never_the_one_that_stays(tmp_path: Path) -> None:
    broken = bytearray(png(1))
    # The check sum of the pixels: looked at where an image is decoded to be made smaller.
    broken[broken.rindex(b"IEND") - 8] ^= 1
    images = {"broken.png": bytes(broken), "whole.png": png(1)}
    rows = [record("a", "broken.png"), record("b", "whole.png")]
    converted = convert_in(tmp_path / "a", rows, images, dedup="perceptual", resize=60)
    assert reasons_of(converted) == {"a": "corrupt_image"} and kept(converted) == ["b"]
    rows = [record("a", vqa=1), record("b")]
    by_images = convert_in(tmp_path / "b", rows, dedup="exact", layout="vqa")
    assert reasons_of(by_images) == {"a": "field_conflict"} and kept(by_images) == ["b"]
