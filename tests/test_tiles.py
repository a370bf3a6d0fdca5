"""Any-resolution tiles: the grid chosen, the place on it, the order of the tiles."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import draw, encode, hf_processor
from PIL import Image, ImageFile, TiffImagePlugin, WebPImagePlugin

from neva_prep.errors import ConfigError, ImageError
from neva_prep.loaders.decode import decode_image, upright_size
from neva_prep.loaders.fit_image import count_tiles, process_image
from neva_prep.loaders.image_config import ImageConfig, Output
from neva_prep.loaders.pixel_reader import make_pixel_reader
from neva_prep.loaders.tiles import choose_grid, size_on_grid, split_into_tiles, tiles_of_grid

LLAVA_NEXT = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [
        (640, 480, (672, 672)),
        (1000, 300, (336, 1008)),
        (300, 1000, (1008, 336)),
        (672, 336, (336, 672)),
        (336, 672, (672, 336)),
        (100, 100, (336, 672)),  # nothing is lost on any: the first of the smallest
        (4000, 4000, (672, 672)),
    ],
)
def test_the_grid_keeps_most_pixels(width: int, height: int, grid: tuple[int, int]) -> None:
    assert choose_grid(width, height, LLAVA_NEXT) == grid


@settings(deadline=None)  # The first one imports transformers.
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_grid_and_place_are_those_of_transformers(width: int, height: int) -> None:
    from transformers.image_processing_utils import get_patch_output_size, select_best_resolution

    grid = choose_grid(width, height, LLAVA_NEXT)
    expected = select_best_resolution((height, width), LLAVA_NEXT)
    # It finds none for a picture so thin that each grid leaves it without a pixel.
    assert expected in (grid, None)
    picture = np.empty((3, height, width), dtype=np.uint8)
    new_height, new_width = get_patch_output_size(picture, grid, input_data_format="channels_first")
    assert size_on_grid(width, height, grid) == (new_width, new_height)


def test_a_picture_so_thin_that_no_grid_keeps_a_pixel_gets_the_smallest() -> None:
    assert choose_grid(1, 100_000, LLAVA_NEXT) == (336, 672)


def test_tiles_are_cut_row_by_row() -> None:
    numbers = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    pixels = np.stack([numbers.repeat(4, axis=0).repeat(4, axis=1)] * 3)
    tiles = split_into_tiles(pixels, 4)
    assert tiles.shape == (6, 3, 4, 4)
    assert [np.unique(tile).tolist() for tile in tiles] == [[1], [2], [3], [4], [5], [6]]
    assert tiles_of_grid((8, 12), 4) == 7


def test_the_small_picture_comes_first_and_the_bars_are_black() -> None:
    config = ImageConfig(size=8, fit="grid", grids=((16, 16),), output="uint8")
    tiles = process_image(encode(Image.new("RGB", (32, 16), (200, 100, 50))), config)
    assert tiles.shape == (5, 3, 8, 8)
    colour = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1)
    assert (tiles[0] == colour).all()
    for tile in tiles[1:3]:
        assert (tile[:, :4] == 0).all() and (tile[:, 4:] == colour).all()
    for tile in tiles[3:]:
        assert (tile[:, :4] == colour).all() and (tile[:, 4:] == 0).all()


@pytest.mark.parametrize("output", ["uint8", "float32", "bfloat16"])
def test_tiles_of_a_grid_of_one_row_lie_one_after_another_in_memory(output: Output) -> None:
    config = ImageConfig(size=8, fit="grid", grids=((8, 24), (24, 8)), output=output)
    tiles = process_image(encode(draw(90, 30)), config)
    assert tiles.shape == (4, 3, 8, 8)
    assert tiles.is_contiguous()


@pytest.mark.parametrize("size", [(320, 240), (100, 420), (420, 100), (64, 64), (700, 650), (1, 1)])
def test_tiles_equal_those_of_transformers(size: tuple[int, int]) -> None:
    picture = draw(*size)
    processor = hf_processor("grid", 224)
    theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
    reader = make_pixel_reader(processor)
    data = encode(picture)
    ours = reader.read(data)
    assert torch.equal(ours, theirs)
    assert reader.count_tiles(data) == len(theirs)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiles_are_counted_on_the_upright_picture(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(draw(60, 20), "JPEG", exif=exif)
    config = ImageConfig(size=16, fit="grid", grids=((16, 48), (64, 16)))
    tiles = 1 + (4 if orientation >= 5 else 3)
    assert count_tiles(data, config) == tiles == len(process_image(data, config))


TALL = ImageConfig(size=16, fit="grid", grids=((16, 48), (64, 16)))


def chunk(kind: bytes, content: bytes) -> bytes:
    length, crc = len(content).to_bytes(4, "big"), zlib.crc32(kind + content).to_bytes(4, "big")
    return length + kind + content + crc


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


SIDEWAYS = {
    "EXIF": chunk(b"eXIf", exif_of(6).removeprefix(b"Exif\0\0")),
    "XMP": chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<rdf:Description tiff:Orientation="6"/>'
    ),
    "EXIF as text": chunk(
        b"tEXt",
        b"Raw profile type exif\0\nexif\n%8d\n" % len(exif_of(6)) + exif_of(6).hex().encode(),
    ),
}


@pytest.mark.parametrize("name", SIDEWAYS)
@pytest.mark.parametrize("mark", [b"IDAT", b"IEND"])
def test_a_png_is_counted_as_it_is_decoded_wherever_it_says_how_it_lies(
    name: str, mark: bytes
) -> None:
    plain = encode(draw(60, 20))
    at = plain.index(mark) - 4
    data = plain[:at] + SIDEWAYS[name] + plain[at:]
    assert count_tiles(plain, TALL) == 4
    assert count_tiles(data, TALL) == 5 == len(process_image(data, TALL))
    assert decode_image(data).size == upright_size(data) == (20, 60)


def test_what_stands_before_the_pixels_of_a_png_goes_before_what_stands_behind_them() -> None:
    data = encode(draw(60, 20), exif=exif_of(1))
    at = data.index(b"IEND") - 4
    data = data[:at] + SIDEWAYS["EXIF"] + data[at:]
    assert decode_image(data).size == upright_size(data) == (60, 20)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_tiles_are_counted_without_decoding(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(draw(60, 20), kind)
    for reader in (
        ImageFile.ImageFile,
        TiffImagePlugin.TiffImageFile,
        WebPImagePlugin.WebPImageFile,
    ):
        monkeypatch.setattr(reader, "load", lambda _: pytest.fail("decoded"))
    assert count_tiles(data, TALL) == 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_tiles_of_an_image_beyond_the_limit_are_not_counted(kind: str) -> None:
    data = encode(draw(60, 20), kind)
    assert count_tiles(data, replace(TALL, max_pixels=1200)) == 4
    with pytest.raises(ImageError, match="sample 7: is 60 x 20 pixels, more than the") as caught:
        count_tiles(data, replace(TALL, max_pixels=1199), name="sample 7")
    assert caught.value.reason == "too_many_pixels"


def test_counting_the_tiles_of_a_bad_image_names_it() -> None:
    config = ImageConfig(size=16, fit="grid", grids=((16, 48),))
    with pytest.raises(ImageError, match="sample 7: "):
        count_tiles(b"nothing", config, name="sample 7")


@pytest.mark.parametrize(
    "wrong",
    [
        {"fit": "grid"},
        {"fit": "grid", "grids": ((336, 500),)},
        {"fit": "grid", "grids": ((0, 336),)},
        {"fit": "crop", "grids": ((336, 672),)},
    ],
)
def test_grids_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="grids"):
        ImageConfig(**wrong)  # type: ignore[arg-type]
