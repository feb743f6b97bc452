"""Pictures of every mode come out as they are meant to be seen; damaged ones are named."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from lora_ext.train.data.buckets import BucketRules, fit_to_bucket
from lora_ext.train.data.image_files import (
    AugmentationRules,
    UnreadableImage,
    apply_crop,
    check_image_data,
    choose_crop,
    crop_around_face,
    image_to_latent_mask,
    image_to_pixels,
    load_training_image,
    rejecting_truncated_images,
    resize_image,
    vary_colour,
)


def quarters(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Red, green over blue, white."""
    image = Image.new("RGB", size, "red")
    w, h = size
    image.paste("lime", (w // 2, 0, w, h // 2))
    image.paste("blue", (0, h // 2, w // 2, h))
    image.paste("white", (w // 2, h // 2, w, h))
    return image


def colours(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours in the middles of the four quarters."""
    w, h = image.size
    return [image.getpixel((x, y)) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]  # type: ignore[misc]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_as_exif_says(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.png"
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition of Pillow that the tag undoes
    stored = quarters()
    if orientation in undo:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif)
    opened = load_training_image(path)
    assert opened.rgb.size == (40, 20) == check_image_data(path, path.read_bytes())
    assert colours(opened.rgb) == colours(quarters())


def test_transparency_is_white_and_kept_as_a_mask(tmp_path: Path) -> None:
    rgba = quarters().convert("RGBA")
    alpha = Image.new("L", rgba.size, 255)
    alpha.paste(0, (0, 0, 20, 10))
    rgba.putalpha(alpha)
    rgba.save(tmp_path / "a.png")
    opened = load_training_image(tmp_path / "a.png")
    assert colours(opened.rgb) == [(255,) * 3, (0, 255, 0), (0, 0, 255), (255,) * 3]
    assert opened.alpha is not None and opened.alpha.getpixel((5, 5)) == 0 and opened.alpha.getpixel((30, 5)) == 255


@pytest.mark.parametrize("mode", ["LA", "P", "RGB", "L"])
def test_other_ways_to_be_transparent(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    if mode == "LA":
        Image.new("LA", (8, 8), (0, 0)).save(path)
    elif mode == "P":
        image = Image.new("P", (8, 8), 3)
        image.putpalette([9] * 768)
        image.save(path, transparency=3)
    else:
        Image.new(mode, (8, 8), 0).save(path, transparency=0 if mode == "L" else (0, 0, 0))
    opened = load_training_image(path)
    assert opened.rgb.getpixel((3, 3)) == (255, 255, 255) and opened.alpha is not None


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [65535, 30000])
def test_16_bits_are_scaled(tmp_path: Path, suffix: str, top: int) -> None:
    ramp = np.linspace(0, top, 64, dtype=np.uint16).repeat(4).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / f"a.{suffix}")
    opened = np.asarray(load_training_image(tmp_path / f"a.{suffix}").rgb, dtype=np.float64)
    assert np.abs(opened - ramp[..., None] / 257).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floats(tmp_path: Path, top: float) -> None:
    ramp = np.linspace(0, top, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    opened = np.asarray(load_training_image(tmp_path / "a.tif").rgb, dtype=np.float64)
    assert np.abs(opened[..., 0] - ramp / top * 255).max() <= 0.51


def test_cmyk_with_and_without_a_profile(tmp_path: Path) -> None:
    quarters((64, 32)).convert("CMYK").save(tmp_path / "a.jpg", quality=95, subsampling=0)
    found = colours(load_training_image(tmp_path / "a.jpg").rgb)
    assert all(abs(a - b) < 12 for got, want in zip(found, colours(quarters())) for a, b in zip(got, want))  # noqa: B905
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # not CMYK's: cannot be used
    quarters((64, 32)).convert("CMYK").save(tmp_path / "b.jpg", quality=95, subsampling=0, icc_profile=srgb)
    assert colours(load_training_image(tmp_path / "b.jpg").rgb) == found


def test_palette_grey_bilevel_and_moving_pictures(tmp_path: Path) -> None:
    quarters().convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.gif")
    assert colours(load_training_image(tmp_path / "a.gif").rgb) == colours(quarters())
    frames = [quarters(), Image.new("RGB", (40, 20))]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert colours(load_training_image(tmp_path / "a.webp").rgb) == colours(quarters())
    Image.new("1", (8, 8), 1).save(tmp_path / "b.png")
    assert load_training_image(tmp_path / "b.png").rgb.getpixel((0, 0)) == (255, 255, 255)


def noise(size: tuple[int, int] = (200, 200)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.95])
@pytest.mark.parametrize("lenient", [False, True])
def test_truncated_pictures_are_named(tmp_path: Path, suffix: str, part: float, lenient: bool) -> None:
    path = tmp_path / f"half.{suffix}"
    noise().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, lenient
    try:
        with rejecting_truncated_images():
            for work in (lambda: load_training_image(path), lambda: check_image_data(path, path.read_bytes())):
                with pytest.raises(UnreadableImage, match=rf"half\.{suffix} cannot be read: ."):
                    work()
        assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def test_a_text_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello", encoding="utf-8")
    with pytest.raises(UnreadableImage, match=r"a\.jpg cannot be read: it is damaged, or of a kind"):
        load_training_image(tmp_path / "a.jpg")


def test_a_bomb_is_not_opened(tmp_path: Path) -> None:
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "bomb.png").write_bytes(data + b"\0\0\0\0IDAT\x35\xaf\x06\x1e")
    with pytest.raises(UnreadableImage, match=r"bomb\.png"):
        load_training_image(tmp_path / "bomb.png")


def test_a_small_file_of_a_vast_plain_picture(tmp_path: Path) -> None:
    path = tmp_path / "plain.tif"
    Image.new("1", (9000, 9000)).save(path, compression="group4")
    assert path.stat().st_size < 20_000
    with pytest.raises(UnreadableImage, match=r"claims 9000x9000 pixels in [\d,]+ bytes"):
        load_training_image(path)
    with pytest.raises(UnreadableImage, match="claims 9000x9000 pixels"):
        check_image_data(path, path.read_bytes())
    Image.new("RGB", (3000, 3000), "white").save(tmp_path / "white.png")
    assert load_training_image(tmp_path / "white.png").rgb.size == (3000, 3000)


def test_shrinking_averages_areas_and_growing_does_not_blur_flats() -> None:
    image = noise((64, 48))
    small = np.asarray(resize_image(image, (16, 12)), dtype=np.float64)
    areas = np.asarray(image, dtype=np.float64).reshape(12, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - areas).max() <= 1
    assert resize_image(Image.new("RGB", (8, 8), (10, 200, 30)), (99, 77)).getcolors() == [(99 * 77, (10, 200, 30))]


@given(st.tuples(st.integers(8, 300), st.integers(8, 300)), st.booleans(), st.integers(0, 99), st.booleans())
def test_a_cut_has_the_bucket_s_size_and_lies_inside(size: tuple, drawn: bool, seed: int, small: bool) -> None:
    rules = BucketRules((64, 64), True, 32, 128, 8, bucket_no_upscale=small)
    fitted = fit_to_bucket(size, rules)
    cut = choose_crop(size, fitted, AugmentationRules(random_crop=drawn), random.Random(seed))
    assert 0 <= cut.left <= cut.resized[0] - fitted.bucket[0] and 0 <= cut.top <= cut.resized[1] - fitted.bucket[1]
    assert apply_crop(Image.new("RGB", size), cut, fitted.bucket, None).size == fitted.bucket
    if not drawn:
        assert abs(2 * cut.left - (cut.resized[0] - fitted.bucket[0])) <= 1


@given(
    st.tuples(st.integers(64, 500), st.integers(64, 500)),
    st.data(),
    st.floats(1, 6),
    st.sampled_from([(64, 64), (96, 48)]),
)
def test_face_windows_hold_the_face(size: tuple, data: st.DataObject, factor: float, bucket: tuple) -> None:
    w, h = data.draw(st.integers(4, 30)), data.draw(st.integers(4, 30))
    face = data.draw(st.integers(0, size[0] - w)), data.draw(st.integers(0, size[1] - h)), w, h
    left, top, width, height = crop_around_face(face, size, bucket, factor)
    assert left >= 0 and top >= 0 and left + width <= size[0] and top + height <= size[1]
    assert abs(width / height - bucket[0] / bucket[1]) < 0.3
    if min(width, height) >= max(w, h) + 1:
        assert left <= face[0] + 1 and top <= face[1] + 1
        assert face[0] + w <= left + width + 1 and face[1] + h <= top + height + 1


def test_pixels_and_masks() -> None:
    pixels = image_to_pixels(quarters((16, 16)))
    assert pixels.shape == (3, 16, 16) and pixels.dtype == torch.float32
    assert pixels[:, 0, 0].tolist() == [1, -1, -1] and pixels[:, 15, 0].tolist() == [-1, -1, 1]
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 4))
    assert image_to_latent_mask(mask).tolist() == [[[pytest.approx(128 / 255, abs=0.01), 0], [0, 0]]]


def test_colours_vary_a_little_and_the_same_draw_is_the_same() -> None:
    image = noise((32, 32))
    drawn = [np.asarray(vary_colour(image, random.Random(seed)), dtype=int) for seed in range(30)]
    still = sum(np.array_equal(one, np.asarray(image)) for one in drawn)
    assert 12 <= still <= 27
    assert all(np.abs(one - np.asarray(image)).mean() < 25 for one in drawn)
    assert np.array_equal(drawn[3], np.asarray(vary_colour(image, random.Random(3)), dtype=int))
