"""Image bytes become upright RGB pictures; each odd kind by its rule, each fault an ImageError."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from neva_prep.errors import ImageError
from neva_prep.loaders.decode import decode_array, decode_image, image_size, upright_size
from neva_prep.loaders.image_header import read_header

ODD_IMAGES = Path(__file__).parents[2] / "shared/data/odd-images"


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes) -> list[list[tuple[int, ...]]]:
    picture = decode_image(data)
    assert picture.mode == "RGB"
    return [[tuple(pixel) for pixel in row] for row in np.asarray(picture).tolist()]


def test_rgb_passes_through_untouched() -> None:
    rgb = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert (np.asarray(decode_image(encode(Image.fromarray(rgb)))) == rgb).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "TIFF of libtiff"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    # Upright, the top left corner is white; each orientation says where the file has it.
    stored = lying(orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"compression": "tiff_lzw"} if kind == "TIFF of libtiff" else {}
    data = encode(stored, kind.partition(" ")[0], exif=exif, **options)
    picture = decode_image(data)
    assert picture.size == decode_array(data).shape[1::-1] == upright_size(data) == (48, 32)
    assert image_size(data) == stored.size, "the header's size is that before the rotation"
    header = read_header(data, pixel_limit=48 * 32)
    assert (header.width, header.height) == stored.size
    grey = np.asarray(picture.convert("L"))
    assert grey[:16, :16].mean() > 240
    assert grey[16:, 16:].mean() < 15


def test_a_tiff_is_turned_as_its_xmp_says() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700] = b'<rdf:Description tiff:Orientation="6"/>'
    data = encode(lying(6), "TIFF", tiffinfo=tags)
    assert decode_image(data).size == upright_size(data) == (48, 32)
    assert image_size(data) == (32, 48)


def lying(orientation: int) -> Image.Image:
    """48 x 32 pixels with a white top left corner, as a file of an orientation has them."""
    upright = Image.new("L", (48, 32))
    upright.paste(255, (0, 0, 16, 16))
    undo = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for step in undo[orientation]:
        stored = stored.transpose(step)
    return stored.convert("RGB")


def test_a_palette_is_looked_up() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert pixels(encode(image)) == [[(10, 20, 30), (200, 100, 50)]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_over_white(mode: str) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(0, 0, 0, 0), (0, 0, 0, 255), (0, 0, 0, 51)])
    assert pixels(encode(image.convert(mode))) == [[(255,) * 3, (0,) * 3, (204,) * 3]]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.putdata([0, 1])
    assert pixels(encode(image, kind, transparency=0)) == [[(255, 255, 255), (200, 100, 50)]]


def test_a_transparent_colour_is_white() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (7, 8, 9))
    assert pixels(encode(image, transparency=(1, 2, 3))) == [[(255, 255, 255), (7, 8, 9)]]


def test_a_png_with_broken_pixels_is_no_black_picture() -> None:
    data = encode(Image.radial_gradient("L"))
    at = data.index(b"IDAT") + 1000
    with pytest.raises(ImageError, match="cannot be decoded") as caught:
        decode_image(data[:at] + bytes(100) + data[at + 100 :])
    assert caught.value.reason == "corrupt_image"


@pytest.mark.parametrize(
    ("depth", "row", "level", "expected"),
    [
        (16, "0000 1234 12ff ffff", 0x0000, [255, 0x12, 0x12, 255]),
        (16, "0000 1234 12ff ffff", 0x1234, [0, 255, 0x12, 255]),
        (8, "00 08 80 ff", 8, [0, 255, 128, 255]),
        (4, "08 1f", 8, [0, 255, 17, 255]),
        (2, "1b", 1, [0, 255, 170, 255]),
        (1, "50", 0, [255, 255, 255, 255]),
    ],
)
def test_a_transparent_grey_is_white(depth: int, row: str, level: int, expected: list[int]) -> None:
    header = struct.pack(">IIBBBBB", 4, 1, depth, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", level.to_bytes(2, "big"))
    data += chunk(b"IDAT", zlib.compress(b"\0" + bytes.fromhex(row))) + chunk(b"IEND", b"")
    assert [grey for grey, _, _ in pixels(data)[0]] == expected


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + crc


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = pixels(encode(image, "JPEG", quality=100))[8][8]
    assert red > 250 and green < 5 and blue < 5


def test_16_bits_keep_the_upper_8() -> None:
    values = np.array([[0x0000, 0x00FF, 0x0100, 0x80FF, 0xFFFF]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        data = encode(Image.fromarray(values), kind)
        assert [grey for grey, _, _ in pixels(data)[0]] == [0, 0, 1, 128, 255]


def test_floats_and_32_bits_are_stretched() -> None:
    floats = np.array([[-1.0, 0.0, 1.0, np.nan, np.inf]], dtype=np.float32)
    assert [grey for grey, _, _ in pixels(encode(Image.fromarray(floats), "TIFF"))[0]] == [
        0, 128, 255, 0, 0,
    ]  # fmt: skip
    integers = np.array([[100_000, 200_000]], dtype=np.int32)
    assert [grey for grey, _, _ in pixels(encode(Image.fromarray(integers), "TIFF"))[0]] == [0, 255]
    flat = np.full((1, 2), 7, dtype=np.int32)
    assert [grey for grey, _, _ in pixels(encode(Image.fromarray(flat), "TIFF"))[0]] == [0, 0]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixels(data)[4][4] == (255, 0, 0)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    idat = b"IDAT" + b"\0"
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1) + idat + b"\0\0\0\0"


@pytest.mark.parametrize("side", [1_000, 9_500, 20_000, 60_000])
def test_the_pixel_limit_holds_before_anything_is_decoded(side: int) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(png_header(side, side), max_pixels=999_999, name="sample 7")
    assert caught.value.reason == "too_many_pixels"
    assert str(caught.value).startswith("sample 7: ")


def test_the_pixel_limit_itself_is_let_through() -> None:
    data = encode(Image.new("RGB", (10, 20)))
    assert decode_image(data, max_pixels=200).size == (10, 20)
    with pytest.raises(ImageError, match="is 10 x 20 pixels, more than the limit of 199"):
        decode_image(data, max_pixels=199)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (b"<html>not found</html>", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "not_an_image"),
        (encode(Image.radial_gradient("L"))[:-5000], "corrupt_image"),
        (encode(Image.radial_gradient("L"), "JPEG")[:-2000], "corrupt_image"),
    ],
    ids=["nothing", "html", "postscript", "cut png", "cut jpeg"],
)
def test_a_bad_image_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=r"sample 000000007, image 000.jpg: ") as caught:
        decode_image(data, name="sample 000000007, image 000.jpg")
    assert caught.value.reason == reason


@pytest.mark.skipif(not ODD_IMAGES.is_dir(), reason="../shared/data/odd-images is not here")
def test_every_odd_image_decodes_or_is_an_image_error() -> None:
    outcomes = {"decoded": 0, "refused": 0}
    for file in sorted(path for path in ODD_IMAGES.rglob("*") if path.is_file()):
        data = file.read_bytes()
        try:
            picture = decode_image(data, name=str(file))
            assert picture.mode == "RGB", file
            assert sorted(picture.size) == sorted(image_size(data)), file
            outcomes["decoded"] += 1
        except ImageError as error:
            assert str(file) in str(error)
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert outcomes["decoded"] > 60 and outcomes["refused"] > 5, outcomes
