"""Any-resolution tiles: the grid chosen, the place on it, the order of the tiles."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import draw, encode, hf_processor
from PIL import Image

from neva_prep.errors import ConfigError, ImageError
from neva_prep.loaders.image_config import ImageConfig
from neva_prep.loaders.pixel_reader import make_pixel_reader
from neva_prep.loaders.process_image import count_tiles, process_image
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
