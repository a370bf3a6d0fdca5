"""Pixels: Hugging Face's bits when exact, within 2 levels when fast, an ImageError when damaged."""

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pictures import SHAPES, draw, encode, hf_processor
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from neva_prep.errors import ConfigError, ImageError
from neva_prep.loaders.decode import decode_array, decode_image
from neva_prep.loaders.fit_image import process_image
from neva_prep.loaders.image_config import CLIP_MEAN, CLIP_STD, Fit, ImageConfig
from neva_prep.loaders.pixel_reader import make_pixel_reader
from neva_prep.loaders.pixel_values import normalize, normalize_array
from neva_prep.loaders.resize import ExactPicture, FastPicture, _pillow_goes_down_first

SHARED = Path(__file__).parents[2] / "shared"
ODD_IMAGES = SHARED / "data/odd-images"
CLIP_GOLDEN = SHARED / "golden/clip-preprocess"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
SIZES = (224, 336, 384)
FITS: tuple[Fit, ...] = get_args(Fit)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On shared cores torch's threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config_of(fit: Fit, size: int) -> ImageConfig:
    if fit == "keep":
        return ImageConfig(size=size, fit="keep")
    config = make_pixel_reader(hf_processor(fit, size)).config
    assert config is not None and config.fit == fit
    return config


def hf_pixels(picture: Image.Image, fit: Fit, size: int) -> torch.Tensor:
    """What transformers makes of a picture; for `keep` with the edge that LLaVA computes."""
    if fit == "keep":
        longest, shortest = max(picture.size), min(picture.size)
        edge = int(min(2 * size / (longest / shortest), size))
        processor = hf_processor("crop", edge, do_center_crop=False)
    else:
        processor = hf_processor(fit, size)
    pixels: torch.Tensor = processor(picture, return_tensors="pt")["pixel_values"]
    return pixels.reshape(-1, *pixels.shape[-3:])


def levels_apart(data: bytes, config: ImageConfig) -> int:
    """Largest difference between exact and fast, in levels of 255."""
    exact = process_image(data, replace(config, output="uint8", mode="exact")).int()
    fast = process_image(data, replace(config, output="uint8", mode="fast")).int()
    assert exact.shape == fast.shape
    return int((exact - fast).abs().max())


# against transformers


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_is_bit_equal_to_transformers(shape: str, fit: Fit) -> None:
    picture = draw(*SHAPES[shape])
    longest, shortest = max(picture.size), min(picture.size)
    if fit == "keep" and longest > 2 * 224 * shortest:
        pytest.skip("the edge would be 0")
    ours = process_image(encode(picture), config_of(fit, 224))
    theirs = hf_pixels(picture, fit, 224)
    assert ours.dtype == theirs.dtype == torch.float32
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_fast_is_within_2_levels(shape: str, fit: Fit, kind: str) -> None:
    data = encode(draw(*SHAPES[shape]), kind)
    assert levels_apart(data, config_of(fit, 224)) <= 2


@pytest.mark.parametrize(
    ("size", "new_size"),
    [
        ((200, 400), (150, 299)),
        ((200, 400), (150, 300)),
        ((200, 400), (150, 301)),
        ((300, 300), (60, 40)),
        ((100, 100), (110, 99)),
        ((100, 100), (110, 101)),
        ((400, 200), (300, 150)),
    ],
)
def test_pillow_goes_across_and_down_in_the_order_we_say(
    size: tuple[int, int], new_size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (size[1], size[0], 3), dtype=np.uint8) * 255
    picture = ExactPicture(Image.fromarray(noise))
    across_first = picture.resize(new_size[0], size[1]).resize(*new_size)
    down_first = picture.resize(size[0], new_size[1]).resize(*new_size)
    assert not np.array_equal(across_first.planes(), down_first.planes())
    expected = down_first if _pillow_goes_down_first(size, new_size) else across_first
    assert np.array_equal(picture.resize(*new_size).planes(), expected.planes())


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("cut", [False, True])
def test_fast_pictures_have_the_bits_of_torch_s_interpolate(channels: int, cut: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (53, 71, channels), dtype=np.uint8)
    picture = FastPicture(noise).crop(40, 44) if cut else FastPicture(noise)
    for width, height in ((30, 20), (71, 10), (90, 100), (40, 44)):
        batch = torch.from_numpy(picture.pixels.copy()).permute(2, 0, 1)[None]
        theirs = torch.nn.functional.interpolate(
            batch, size=(height, width), mode="bicubic", antialias=True
        )[0]
        ours = picture._resize(width, height)
        assert np.array_equal(ours.pixels, theirs.permute(1, 2, 0).numpy())
        assert ours.size == (width, height)


def real_images() -> Iterator[Path]:
    for path in sorted((SHARED / "data").rglob("*")):
        if path.suffix.lower() in SUFFIXES and ODD_IMAGES not in path.parents:
            yield path


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="../shared/data is not here")
@pytest.mark.parametrize("part", range(8))
def test_real_images_are_bit_equal_and_fast_ones_within_2_levels(part: int) -> None:
    """Each image in one of the three sizes, in all fits."""
    everything = list(real_images())
    paths = everything[:: max(1, len(everything) // 150)][:156]
    assert len(paths) >= 150
    for number, path in list(enumerate(paths))[part::8]:
        data, size = path.read_bytes(), SIZES[number % 3]
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        # Grids cost five times the others; each sixth image gets them.
        for fit in FITS if number % 6 == 0 else FITS[:-1]:
            config = config_of(fit, size)
            exact = process_image(data, config)
            assert torch.equal(exact, hf_pixels(picture, fit, size)), (path, fit, size)
            fast = process_image(data, replace(config, mode="fast"))
            std = torch.tensor(config.std).view(3, 1, 1)
            assert ((exact - fast).abs() * std * 255).max() < 2.01, (path, fit, size)


@pytest.mark.skipif(not CLIP_GOLDEN.is_dir(), reason="../shared/golden is not here")
def test_clip_preprocessing_of_openai() -> None:
    golden = torch.from_numpy(np.load(CLIP_GOLDEN / "expected_preprocessed_image.npy"))
    data = (CLIP_GOLDEN / "franz-kafka.jpg").read_bytes()
    ours = process_image(data, ImageConfig(size=224, fit="crop"))
    assert torch.equal(ours, golden)


# normalising


def test_normalizing_equals_transformers_for_all_256_values() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1)
    for mean, std in (
        (CLIP_MEAN, CLIP_STD),
        ((0.5,) * 3, (0.5,) * 3),
        ((0.1, 0.7, 0), (3, 0.1, 7)),
    ):
        processor = hf_processor("crop", 16, image_mean=list(mean), image_std=list(std))
        theirs = processor.normalize(processor.rescale(ramp.numpy(), 1 / 255), mean, std)
        assert torch.equal(normalize(ramp, mean=mean, std=std), torch.from_numpy(theirs))
        for dtype in (torch.float32, torch.bfloat16):
            on_one_core = normalize_array(ramp.numpy(), mean=mean, std=std, dtype=dtype)
            assert torch.equal(on_one_core, normalize(ramp, mean=mean, std=std, dtype=dtype))


def test_uint8_normalized_later_is_the_same() -> None:
    data = encode(draw(160, 120))
    config = ImageConfig(size=56, fit="pad")
    later = process_image(data, replace(config, output="uint8"))
    assert later.dtype == torch.uint8
    kept = later.clone()
    now = process_image(data, config)
    assert torch.equal(normalize(later, mean=config.mean, std=config.std), now)
    assert torch.equal(later, kept), "normalize changed its argument"
    brain = process_image(data, replace(config, output="bfloat16"))
    assert brain.dtype == torch.bfloat16
    assert torch.equal(brain, now.to(torch.bfloat16))
    batch = torch.stack([later, later])
    assert torch.equal(normalize(batch, mean=config.mean, std=config.std), torch.stack([now, now]))


# by hand


def test_a_padded_picture_lies_in_the_middle_of_the_mean_colour() -> None:
    config = ImageConfig(size=8, fit="pad", output="uint8", mean=(0.1, 0.5, 0.999))
    pixels = process_image(encode(Image.new("RGB", (64, 16), (200, 100, 50))), config)
    assert config.background == (25, 127, 254)
    background = torch.tensor(config.background, dtype=torch.uint8).view(3, 1)
    assert (pixels[0, :, :, 4][:, [0, 7]] == background).all()
    middle = pixels[0, :, 3:5, 4].float().mean(dim=1)
    assert middle.tolist() == pytest.approx([200, 100, 50], abs=20)
    tall = process_image(encode(Image.new("RGB", (16, 64), (200, 100, 50))), config)
    assert torch.equal(tall, pixels.transpose(2, 3))


def test_crop_takes_the_middle() -> None:
    stripes = np.zeros((8, 24, 3), dtype=np.uint8)
    stripes[:, 8:16] = 255
    data = encode(Image.fromarray(stripes))
    pixels = process_image(data, ImageConfig(size=8, fit="crop", output="uint8"))
    assert pixels.shape == (1, 3, 8, 8)
    assert (pixels == 255).all()


def test_keep_gives_the_sizes_of_llava() -> None:
    config = ImageConfig(size=224, fit="keep", output="uint8")
    shapes = {
        (640, 480): (224, 298),
        (480, 640): (298, 224),
        (1000, 250): (112, 448),
        (900, 1): (1, 900),
    }
    for size, shape in shapes.items():
        assert process_image(encode(draw(*size)), config).shape[-2:] == shape


# decoding fast


@pytest.mark.parametrize(
    "data",
    [
        encode(draw(40, 30), "JPEG", quality=90),
        encode(draw(41, 31), "JPEG", quality=90, subsampling=2, progressive=True),
        encode(draw(40, 30), "JPEG", subsampling=0, restart_marker_rows=1),
        encode(draw(40, 30), "JPEG", keep_rgb=True),
        encode(draw(40, 30).convert("L"), "JPEG"),
        encode(draw(40, 30).convert("CMYK"), "JPEG"),
        encode(draw(40, 30).convert("P"), "PNG"),
        encode(draw(40, 30).convert("RGBA"), "WEBP", lossless=True),
    ],
    ids=["plain", "progressive", "restarts", "stored as rgb", "grey", "cmyk", "palette", "webp"],
)
def test_fast_decoding_gives_the_pixels_of_pillow(data: bytes) -> None:
    assert np.array_equal(decode_array(data)[..., :3], np.asarray(decode_image(data)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_fast_decoding_turns_pictures_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(draw(40, 30), "JPEG", exif=exif)
    assert np.array_equal(decode_array(data)[..., :3], np.asarray(decode_image(data)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("tag", ["exif", "xmp"])
def test_a_picture_that_was_turned_upright_does_not_ask_for_it_again(kind: str, tag: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    if kind == "PNG" and tag == "xmp":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        data = encode(draw(40, 30), kind, pnginfo=info)
    else:
        data = encode(draw(40, 30), kind, **({"exif": exif} if tag == "exif" else {"xmp": xmp}))
    picture = decode_image(data)
    again = ImageOps.exif_transpose(picture)
    assert again.size == picture.size and again.tobytes() == picture.tobytes()


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_fast_decoding_sees_an_orientation_that_stands_in_xmp(orientation: int) -> None:
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    data = encode(draw(40, 30), "JPEG", xmp=xmp, icc_profile=bytes(70_000))
    expected = decode_image(data)
    assert expected.size == ((30, 40) if orientation == 6 else (40, 30))
    assert np.array_equal(decode_array(data)[..., :3], np.asarray(expected))


def test_segments_that_hide_an_orientation_are_left_to_pillow() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(draw(40, 30), "JPEG", exif=exif)
    at = data.index(b"\xff\xe1")
    # Any number of FF may stand before a marker.
    filled = data[:at] + b"\xff" * 3 + data[at:]
    assert np.array_equal(decode_array(filled)[..., :3], np.asarray(decode_image(data)))


def test_only_plain_jpegs_are_given_to_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda data, **_: seen.append(data))
    exif = Image.Exif()
    exif[0x0112] = 6
    for odd in (
        encode(draw(40, 30), "JPEG", exif=exif),
        encode(draw(40, 30).convert("CMYK"), "JPEG"),
        encode(draw(40, 30).convert("L"), "JPEG"),
        encode(draw(40, 30)),
    ):
        decode_array(odd)
    assert seen == []
    plain = encode(draw(40, 30), "JPEG")
    decode_array(plain)
    assert seen == [plain]


# faults


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (encode(draw(60, 60), "JPEG")[:-700], "corrupt_image"),
        (encode(draw(60, 60))[:-2000], "corrupt_image"),
        (encode(draw(101, 100)), "too_many_pixels"),
        (encode(draw(101, 100), "JPEG"), "too_many_pixels"),
    ],
    ids=["nothing", "cut jpeg", "cut png", "large png", "large jpeg"],
)
def test_a_bad_image_is_named(data: bytes, reason: str, mode: Any) -> None:
    config = ImageConfig(size=8, mode=mode, max_pixels=10_000)
    with pytest.raises(ImageError, match="sample 7: ") as caught:
        process_image(data, config, name="sample 7")
    assert caught.value.reason == reason


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(1, 40_000), (40_000, 1)])
def test_a_picture_is_refused_that_would_fill_the_memory(
    size: tuple[int, int], fit: Fit, mode: Any
) -> None:
    """The limit lets it through, but it would become 336 x 13,440,000 pixels, or 40,000 squared."""
    config = ImageConfig(fit=fit, mode=mode, max_pixels=1_000_000)
    with pytest.raises(ImageError, match=r"sample 7: .* on the way") as caught:
        process_image(encode(Image.new("RGB", size)), config, name="sample 7")
    assert caught.value.reason == "too_many_pixels"


@pytest.mark.skipif(not ODD_IMAGES.is_dir(), reason="../shared/data/odd-images is not here")
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_every_odd_image_gives_pixels_or_an_image_error(mode: Any) -> None:
    config = ImageConfig(size=64, output="uint8", mode=mode)
    outcomes = {"pixels": 0, "refused": 0}
    for path in sorted(path for path in ODD_IMAGES.rglob("*") if path.is_file()):
        try:
            pixels = process_image(path.read_bytes(), config, name=str(path))
        except ImageError as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
        else:
            assert pixels.shape == (1, 3, 64, 64), path
            assert levels_apart(path.read_bytes(), config) <= 2, path
            outcomes["pixels"] += 1
    assert outcomes["pixels"] > 60 and outcomes["refused"] > 5, outcomes


@pytest.mark.parametrize(
    "wrong",
    [
        {"fit": "stretch"},
        {"mode": "quick"},
        {"output": "float16"},
        {"size": 0},
        {"max_pixels": 0},
        {"mean": (0.5,)},
        {"std": (0.5, 0.5, 0.0)},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ImageConfig(**wrong)


# processors of transformers


@pytest.mark.parametrize(
    ("fit", "settings"),
    [
        ("crop", {"do_center_crop": False}),
        ("crop", {"size": {"shortest_edge": 256}}),
        ("crop", {"resample": 2}),
        ("crop", {"do_rescale": False}),
        ("crop", {"rescale_factor": 1 / 127.5}),
        ("crop", {"do_normalize": False}),
        ("crop", {"size": {"shortest_edge": 224, "longest_edge": 448}}),
        ("crop", {"size": {"height": 224, "width": 200}, "do_center_crop": False}),
        ("crop", {"crop_size": {"height": 224, "width": 200}}),
        ("crop", {"do_resize": False}),
        ("squash", {"do_pad": True}),
        ("grid", {"image_grid_pinpoints": [[224, 300]]}),
    ],
    ids=str,
)
def test_unusual_settings_are_left_to_the_processor(fit: Fit, settings: dict[str, Any]) -> None:
    picture = draw(160, 120)
    processor = hf_processor(fit, 224, **settings)
    reader = make_pixel_reader(processor)
    assert reader.config is None
    if settings in ({"do_rescale": False}, {"do_pad": True}) or "image_grid_pinpoints" in settings:
        return  # transformers itself fails, or warns, on these
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    ours = reader.read(encode(picture))
    assert torch.equal(ours, theirs)
    assert reader.count_tiles(encode(picture)) == 1
    assert "calling CLIPImageProcessorPil" in reader.describe()


class Doubler:
    """A processor of a user's own, with two tiles for each image."""

    def preprocess(self, picture: Image.Image, return_tensors: str) -> dict[str, torch.Tensor]:
        if picture.width == 13:
            raise ValueError("bad luck")
        height, width = (4, 4) if picture.width != 14 else (4, 0)
        pixels = torch.full((1, 2, 3, height, width), float(picture.width))
        return {"pixel_values": pixels if picture.width != 15 else pixels[0, 0]}


def test_any_other_processor_is_called() -> None:
    reader = make_pixel_reader(Doubler(), output="bfloat16")
    pixels = reader.read(encode(draw(20, 10)))
    assert pixels.shape == (2, 3, 4, 4) and pixels.dtype == torch.bfloat16
    assert (pixels == 20).all()
    assert reader.count_tiles(encode(draw(20, 10))) == 2
    with pytest.raises(ImageError, match=r"sample 7: Doubler fails .* bad luck"):
        reader.read(encode(draw(13, 10)), name="sample 7")
    with pytest.raises(ConfigError, match=r"Doubler gives pixels of shape \(3, 4, 4\)"):
        reader.read(encode(draw(15, 10)))


def test_a_subclass_of_a_known_processor_is_called() -> None:
    from transformers import CLIPImageProcessorPil

    subclass = type("CLIPImageProcessorPil", (CLIPImageProcessorPil,), {"__module__": "mine"})
    assert make_pixel_reader(subclass()).config is None


@pytest.mark.parametrize("wrong", [{"mode": "fast"}, {"fit": "pad"}, {"output": "uint8"}])
def test_what_a_called_processor_cannot_do_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="can only be called"):
        make_pixel_reader(Doubler(), **wrong)
    with pytest.raises(ConfigError, match="no method preprocess"):
        make_pixel_reader(object())


def test_settings_go_over_those_of_the_processor() -> None:
    class Processor:
        image_processor = hf_processor("grid", 224)

    reader = make_pixel_reader(Processor(), mode="fast", output="uint8", fit="pad", max_pixels=99)
    assert reader.config == ImageConfig(
        size=224, fit="pad", mode="fast", output="uint8", max_pixels=99
    )
    assert reader.describe() == "fast pad to 224, by neva-prep"
    assert make_pixel_reader(ImageConfig(fit="crop")).config == ImageConfig(fit="crop")


def test_readers_travel_to_workers() -> None:
    for processor in (hf_processor("crop", 32), hf_processor("crop", 32, resample=2)):
        reader = make_pixel_reader(processor)
        copy = pickle.loads(pickle.dumps(reader))
        data = encode(draw(40, 30))
        assert torch.equal(copy.read(data), reader.read(data))


def test_reading_images_does_not_import_transformers() -> None:
    code = (
        "import sys, neva_prep.loaders.pixel_reader; "
        "sys.exit('transformers' in sys.modules or 'megatron' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0
