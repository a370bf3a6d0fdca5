"""Small pictures, and those that the model gets; never an unbounded decode."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import members, picture, write_dataset
from loader_help import encoder
from pictures import draw, encode, hf_processor
from PIL import Image

from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.look.pictures import as_the_model_sees, thumbnail, with_tiles
from neva_prep.errors import ImageError
from neva_prep.loaders import ImageConfig, PixelReader, make_pixel_reader

WIDE = encode(draw(120, 40))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a kilobyte whose header promises any number of pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1_000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize("size", [(900, 41), (31, 500), (5, 5), (1, 3000)])
def test_a_thumbnail_keeps_the_shape_within_its_edge(size: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(thumbnail(encode(draw(*size)), 100))) as small:
        assert small.format == "JPEG" and max(small.size) == min(100, max(size))
        longer, shorter = max(size), min(size)
        assert min(small.size) == max(1, round(shorter * max(small.size) / longer))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I;16", "CMYK"])
def test_any_kind_of_image_gives_a_thumbnail(mode: str) -> None:
    data = encode(Image.new(mode, (40, 30)), "TIFF" if mode == "CMYK" else "PNG")
    with Image.open(io.BytesIO(thumbnail(data, 20))) as small:
        assert small.size == (20, 15) and small.mode == "RGB"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no image", "not_an_image"),
        (b"", "not_an_image"),
        (picture()[:200], "corrupt_image"),
        (bomb(20_000, 20_000), "too_many_pixels"),
        (bomb(8_000, 8_000), "too_many_pixels"),
    ],
)
def test_what_cannot_be_shown_is_an_error_and_costs_no_memory(data: bytes, reason: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError) as caught:
        thumbnail(data, 100)
    assert caught.value.reason == reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


@pytest.mark.parametrize("output", ["uint8", "float32", "bfloat16"])
def test_padding_is_seen_in_the_mean_colour(output: Any) -> None:
    config = ImageConfig(size=24, output=output)
    (tile,) = as_the_model_sees(WIDE, make_pixel_reader(config))
    assert tile.shape == (24, 24, 3) and tile.dtype == np.uint8
    assert np.abs(tile[0].astype(int) - np.array(config.background)).max() <= 2
    (exact,) = as_the_model_sees(WIDE, make_pixel_reader(ImageConfig(size=24, output="uint8")))
    assert np.abs(tile.astype(int) - exact.astype(int)).max() <= (2 if output == "bfloat16" else 0)


def test_cropping_loses_the_sides_and_a_grid_has_tiles() -> None:
    halves = np.zeros((40, 120, 3), np.uint8)
    halves[:, :40], halves[:, 80:] = (255, 0, 0), (0, 0, 255)
    data = encode(Image.fromarray(halves))
    (middle,) = as_the_model_sees(data, make_pixel_reader(ImageConfig(size=24, fit="crop")))
    assert middle[12, 12].tolist() == [0, 0, 0]
    grid = ImageConfig(size=24, fit="grid", grids=((24, 48), (24, 72)))
    whole, left, center, right = as_the_model_sees(data, make_pixel_reader(grid))
    assert whole.shape == (24, 24, 3)
    assert left[12, 12].tolist() == [255, 0, 0] and center[12, 12].tolist() == [0, 0, 0]
    assert right[12, 12].tolist() == [0, 0, 255]


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_a_processor_of_transformers_is_seen_as_its_own_code_makes_it(fit: str) -> None:
    processor = hf_processor(fit, 24)
    (ours,) = as_the_model_sees(WIDE, make_pixel_reader(processor))
    (called,) = as_the_model_sees(WIDE, PixelReader(config=None, processor=processor))
    assert np.abs(ours.astype(int) - called.astype(int)).max() <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": 0.5, "image_std": 0.5},
    ],
)
def test_a_processor_of_other_arithmetic_is_seen_in_the_same_colours(
    settings: dict[str, Any],
) -> None:
    (usual,) = as_the_model_sees(WIDE, make_pixel_reader(hf_processor("crop", 24)))
    reader = make_pixel_reader(hf_processor("crop", 24, **settings))
    assert reader.config is None
    (called,) = as_the_model_sees(WIDE, reader)
    assert np.abs(usual.astype(int) - called.astype(int)).max() <= 1


def test_a_processor_that_hides_its_mean_is_stretched() -> None:
    class Odd:
        def preprocess(self, image: Image.Image, **_: Any) -> Any:
            values = np.asarray(image.resize((4, 4)), np.float32).transpose(2, 0, 1)
            return {"pixel_values": values[None] * 7 - 1000}

    reader = PixelReader(config=None, processor=Odd())
    (tile,) = as_the_model_sees(WIDE, reader)
    assert (tile.min(), tile.max()) == (0, 255)


def test_an_image_that_the_model_cannot_get_says_why(tmp_path: Path) -> None:
    sample = [("000.jpg", b"no image"), *members(0, images=2)[1:]]
    path = write_dataset(tmp_path / "ds", {"train-000000.tar": {"000000000": sample}})
    seen = with_tiles(open_looked(path).sample(0), encoder().preparer.reader)
    assert [len(image.tiles) for image in seen.images] == [0, 1]
    assert "no image of a known format" in str(seen.images[0].error)
