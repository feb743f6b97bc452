"""Batches: which, in what order, for how many processes; latents that were kept; going on from any place."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_train_folders import draw
from torch import Tensor
from torch.nn import functional as F

from lora_ext.errors import TrainError
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.data.batch import Batch
from lora_ext.train.data.dataset import Dataset

COLOURS = "red lime blue yellow cyan magenta white gray".split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """8 pictures × 2 repeats of three sizes, and 3 regularisation pictures."""
    sizes = [(64, 64)] * 5 + [(96, 48)] * 2 + [(48, 96)]
    for number, (colour, size) in enumerate(zip(COLOURS, sizes, strict=True)):
        draw(tmp_path / "train" / "2_thing" / f"{number}.png", size, colour, f"{colour}, a, b, c, d, e")
    for number in range(3):
        draw(tmp_path / "reg" / "1_other" / f"{number}.png", (64, 64), "black")
    return tmp_path


def recipe(folder: Path, **words: object) -> Recipe:
    return Recipe(
        **{
            "train_data_dir": str(folder / "train"),
            "resolution": "64",
            "enable_bucket": True,
            "min_bucket_reso": 32,
            "max_bucket_reso": 128,
            "bucket_reso_steps": 16,
            "train_batch_size": 2,
            "seed": 7,
            "max_train_epochs": 2,
            **words,
        }
    )


def encode(pixels: Tensor) -> Tensor:
    """Stands for a VAE: 4 channels of an eighth of the size."""
    small = F.avg_pool2d(pixels, 8)
    return torch.cat([small, small[:, :1] * 2], dim=1)


def rows(batches: list[Batch]) -> list[tuple]:
    """Every row's picture, caption and draw."""
    return [row for b in batches for row in zip(b.paths, b.captions, b.seeds, strict=True)]


def same(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def test_an_epoch_has_usualy_picture_as_often_as_it_repeats(folder: Path) -> None:
    data = Dataset.from_recipe(recipe(folder))
    batches = list(data.epoch_batches(0))
    assert Counter(path for b in batches for path in b.paths) == {str(p.path): 2 for p in data.images}
    assert len(batches) == data.batch_count(0) == data.step_count(0) == 5 + 2 + 1 and data.run_length() == (2, 16)
    for batch in batches:
        assert batch.pixels is not None and batch.pixels.shape == (len(batch), 3, *batch.bucket[::-1])
        assert batch.latents is None and batch.mask is None and batch.scale == 1 and batch.weights.tolist() == [1, 1]
    assert len({b.bucket for b in batches}) == 3 and len({row[2] for row in rows(batches)}) == 16


def test_same_seed_same_batches_other_seed_or_epoch_other_order(folder: Path) -> None:
    words = {"shuffle_caption": True, "flip_aug": True, "random_crop": True, "color_aug": True}
    first = list(Dataset.from_recipe(recipe(folder, **words)).epoch_batches(1))
    again = list(Dataset.from_recipe(recipe(folder, **words, max_data_loader_n_workers=0)).epoch_batches(1))
    assert all(map(same, first, again)) and len(first) == len(again)
    assert rows(first) != rows(list(Dataset.from_recipe(recipe(folder, **words)).epoch_batches(0)))
    assert rows(first) != rows(list(Dataset.from_recipe(recipe(folder, **words, seed=8)).epoch_batches(1)))


def test_epochs_buckets_and_repeats_draw_for_themselves(tmp_path: Path) -> None:
    """Nothing that is drawn in an epoch comes back as it was in the next one, nor in another bucket or repeat."""
    for number in range(16):
        draw(tmp_path / "train" / "2_thing" / f"{number:02}.png", (96, 48) if number % 2 else (48, 96), caption="a")
    data = Dataset.from_recipe(recipe(tmp_path, random_crop=True, flip_aug=True, train_batch_size=4))
    epochs = [list(data.epoch_batches(number)) for number in range(4)]
    seeds = [seed for batches in epochs for batch in batches for seed in batch.seeds]
    assert len(set(seeds)) == len(seeds) == 4 * 32
    assert len({tuple(batch.bucket for batch in batches) for batches in epochs}) > 1, "the order of the batches"
    batches_of: dict[tuple[int, int], set[tuple[int, ...]]] = {}
    for batch in epochs[0]:
        batches_of.setdefault(batch.bucket, set()).add(tuple(int(Path(path).stem) // 2 for path in batch.paths))
    one, other = batches_of.values()
    assert one != other, "what comes together in a bucket"
    flips = recipe(tmp_path, flip_aug=True, train_batch_size=1)
    across = Image.fromarray(np.broadcast_to(np.arange(96, dtype=np.uint8)[None, :, None], (48, 96, 3)))
    for number in range(16):
        across.save(tmp_path / "train" / "2_thing" / f"{number:02}.png")
    flipped = []
    for number in range(3):
        batches = list(Dataset.from_recipe(flips).epoch_batches(number))
        turns = sorted((b.paths[0], bool(b.pixels[0, 0, 0, 0] > b.pixels[0, 0, 0, -1])) for b in batches)  # type: ignore[index]
        flipped.append(tuple(turns))
    assert len(set(flipped)) == 3


def test_regularisation_pictures_are_mixed_anew_each_time_through(tmp_path: Path) -> None:
    for number in range(8):
        draw(tmp_path / "train" / "1_thing" / f"{number}.png", (64, 64))
        draw(tmp_path / "reg" / "1_other" / f"{number}.png", (64, 64))
    order = Dataset.from_recipe(recipe(tmp_path, reg_data_dir=str(tmp_path / "reg"))).sample_order
    passes = {tuple(item.image for item in order.epoch_items(epoch)[8:]) for epoch in range(4)}
    assert len(passes) > 1 and all(len(set(images)) == 8 for images in passes)


def test_captions_are_reported_the_epoch_and_the_step(folder: Path) -> None:
    words = {"caption_dropout_every_n_epochs": 2}
    data = Dataset.from_recipe(recipe(folder, **words))
    for epoch in range(4):  # the second and the fourth
        empty = {not caption for batch in data.epoch_batches(epoch) for caption in batch.captions}
        assert empty == {epoch % 2 == 1}
    warm = {"token_warmup_step": 6, "token_warmup_min": 1, "gradient_accumulation_steps": 2}
    data = Dataset.from_recipe(recipe(folder, **warm))
    for epoch in (0, 1):  # 8 batches, 4 steps an epoch; 6 tags in a caption
        for place, batch in enumerate(data.epoch_batches(epoch)):
            step = 4 * epoch + place // 2
            wanted = min(6, step * 5 // 6 + 1)
            assert {len(caption.split(",")) for caption in batch.captions} == {wanted}, (epoch, place)


def test_a_mask_beside_a_picture_without_one(tmp_path: Path) -> None:
    """In one batch of pictures that are wider than high."""
    seen = Image.new("RGBA", (96, 48), (255, 0, 0, 255))
    seen.paste((0, 0, 0, 0), (0, 0, 48, 48))
    (tmp_path / "train" / "1_thing").mkdir(parents=True)
    seen.save(tmp_path / "train" / "1_thing" / "a.png")
    seen.convert("RGB").save(tmp_path / "train" / "1_thing" / "b.png")
    (batch,) = Dataset.from_recipe(recipe(tmp_path, alpha_mask=True)).epoch_batches(0)
    assert batch.mask is not None and batch.mask.shape == (2, 1, 6, 10)  # 80 of 96 columns
    for path, mask in zip(batch.paths, batch.mask, strict=True):
        assert mask[0, 0].tolist() == [0.0 if path.endswith("a.png") else 1.0] * 5 + [1.0] * 5


def test_it_continues_from_any_batch(folder: Path) -> None:
    words = {"shuffle_caption": True, "flip_aug": True, "reg_data_dir": str(folder / "reg"), "token_warmup_step": 0.5}
    whole = list(Dataset.from_recipe(recipe(folder, **words)).epoch_batches(1))
    for start in (0, 3, len(whole) - 1, len(whole)):
        rest = list(Dataset.from_recipe(recipe(folder, **words)).epoch_batches(1, start=start))
        assert len(rest) == len(whole) - start and all(map(same, whole[start:], rest))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_very_batches_of_one(folder: Path, world: int) -> None:
    words = {"reg_data_dir": str(folder / "reg"), "shuffle_caption": True, "prior_loss_weight": 0.5}
    alone = list(Dataset.from_recipe(recipe(folder, train_batch_size=2 * world, **words)).epoch_batches(0))
    data = Dataset.from_recipe(recipe(folder, **words))
    shared = [list(data.epoch_batches(0, rank, world)) for rank in range(world)]
    assert {len(part) for part in shared} == {len(alone)} == {data.batch_count(0, world)}

    def losses(batch: Batch) -> Tensor:
        assert batch.pixels is not None
        return batch.pixels.mean(dim=(1, 2, 3)).add(2) * batch.weights

    for place, whole in enumerate(alone):
        parts = [part[place] for part in shared]
        real = [row for part in parts for row in rows([part])[: int((part.weights > 0).sum())]]
        assert sorted(real) == sorted(rows([whole])) and {part.bucket for part in parts} == {whole.bucket}
        mean = sum(losses(part).mean() * part.scale for part in parts) / world
        assert torch.allclose(torch.as_tensor(mean), losses(whole).mean() * whole.scale)


def test_regularisation_pictures_take_as_many_turns(folder: Path) -> None:
    data = Dataset.from_recipe(recipe(folder, reg_data_dir=str(folder / "reg"), prior_loss_weight=0.25))
    seen: Counter[str] = Counter()
    for epoch in range(3):
        batches = list(data.epoch_batches(epoch))
        weights = torch.cat([b.weights for b in batches])
        assert (weights == 0.25).sum() == (weights == 1).sum() == 16 and len(batches) == data.batch_count(epoch)
        seen.update(path for b in batches for path, w in zip(b.paths, b.weights, strict=True) if w < 1)
    assert sorted(seen.values()) == [16, 16, 16]  # 48 turns of 3 pictures
    assert data.run_length() == (2, data.step_count(0) + data.step_count(1))


def test_accumulation_and_steps_instead_of_epochs(folder: Path) -> None:
    data = Dataset.from_recipe(recipe(folder, gradient_accumulation_steps=3))
    assert (data.batch_count(0), data.step_count(0), data.run_length()) == (8, 3, (2, 6))
    data = Dataset.from_recipe(recipe(folder, max_train_epochs=None, max_train_steps=20))
    assert data.run_length() == (3, 20)


@pytest.mark.parametrize("on_disk", [False, True])
def test_cached_latents_are_those_of_the_pixels(folder: Path, tmp_path: Path, on_disk: bool) -> None:
    words = {"flip_aug": True, "shuffle_caption": True}
    plain = list(Dataset.from_recipe(recipe(folder, **words)).epoch_batches(0))
    where = tmp_path / "cache" if on_disk else None
    data = Dataset.from_recipe(recipe(folder, **words, vae_batch_size=3))
    assert data.cache_latents(encode, "vae", folder=where) == 16
    for pixels, latents in zip(plain, data.epoch_batches(0), strict=True):
        assert latents.pixels is None and pixels.pixels is not None and latents.latents is not None
        assert torch.allclose(encode(pixels.pixels), latents.latents, atol=1e-6)
        assert (pixels.captions, pixels.crops, pixels.seeds) == (latents.captions, latents.crops, latents.seeds)


def test_the_cache_on_disk_is_used_again_and_knows_changes(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert Dataset.from_recipe(recipe(folder)).cache_latents(encode, "vae", folder=cache) == 8
    assert Dataset.from_recipe(recipe(folder)).cache_latents(encode, "vae", folder=cache) == 0
    assert Dataset.from_recipe(recipe(folder)).cache_latents(encode, "other", folder=cache) == 8
    assert Dataset.from_recipe(recipe(folder, resolution="48")).cache_latents(encode, "vae", folder=cache) == 8
    draw(folder / "train" / "2_thing" / "0.png", (64, 64), "pink")
    assert Dataset.from_recipe(recipe(folder)).cache_latents(encode, "vae", folder=cache) == 1
    kept = sorted(cache.glob("*.safetensors"))
    kept[0].write_bytes(kept[0].read_bytes()[:-1] + b"\x7f")  # spoilt without being noticed by its size
    kept[1].write_bytes(b"")
    for name in ("vae", "other"):
        for size in ("64", "48"):
            Dataset.from_recipe(recipe(folder, resolution=size)).cache_latents(encode, name, folder=cache)
    fresh = Dataset.from_recipe(recipe(folder))
    assert fresh.cache_latents(encode, "vae", folder=cache) == 0 and len(list(fresh.epoch_batches(0))) == 8
    assert not list(cache.glob("*.part"))


def test_two_processes_fill_a_folder_together(folder: Path, tmp_path: Path) -> None:
    first, second = (Dataset.from_recipe(recipe(folder)) for _ in range(2))
    done = [d.cache_latents(encode, "v", folder=tmp_path / "c", rank_and_world_size=(0, 1)) for d in (first,)]
    assert second.cache_latents(encode, "v", folder=tmp_path / "c", rank_and_world_size=(1, 2)) == 0 and done == [8]
    alone = Dataset.from_recipe(recipe(folder))
    assert 0 < alone.cache_latents(encode, "w", folder=tmp_path / "c", rank_and_world_size=(1, 2)) < 8


def test_what_varies_cannot_be_cached(folder: Path) -> None:
    for name in ("color_aug", "random_crop"):
        with pytest.raises(TrainError, match=f"{name} cannot be used with cache_latents"):
            Dataset.from_recipe(recipe(folder, **{name: True})).cache_latents(encode, "vae")
    with pytest.raises(TrainError, match="turn on no_half_vae"):
        Dataset.from_recipe(recipe(folder)).cache_latents(lambda pixels: encode(pixels) * torch.nan, "vae")


@pytest.mark.parametrize("cached", [False, True])
def test_masks_follow_their_pictures(tmp_path: Path, cached: bool) -> None:
    from PIL import Image

    left = Image.new("L", (64, 64))
    left.paste(255, (0, 0, 32, 64))
    picture = Image.new("RGB", (64, 64), "blue")
    picture.paste("red", (0, 0, 32, 64))
    (tmp_path / "pics").mkdir()
    (tmp_path / "masks").mkdir()
    picture.save(tmp_path / "pics" / "a[1].png")
    left.save(tmp_path / "masks" / "a[1].jpg", quality=100)
    draw(tmp_path / "pics" / "b.png")
    words = {
        "masked_loss": True,
        "conditioning_data_dir": str(tmp_path / "masks"),
        "flip_aug": True,
        "train_batch_size": 2,
    }
    data = Dataset.from_recipe(
        Recipe(train_data_dir=str(tmp_path / "pics"), resolution="64", dataset_repeats=8, **words)
    )
    if cached:
        data.cache_latents(encode, "vae")
    sides = set()
    for batch in data.epoch_batches(0):
        shown = batch.latents if cached else encode(batch.pixels)  # type: ignore[arg-type]
        for row, path in enumerate(batch.paths):
            if path.endswith("b.png"):
                assert batch.mask is None or torch.equal(batch.mask[row], torch.ones(1, 8, 8))
                continue
            assert batch.mask is not None and shown is not None
            red = (shown[row, 0] > 0).float()
            assert torch.allclose(batch.mask[row, 0], red, atol=0.02)
            sides.add(bool(red[0, 0]))
    assert sides == {True, False}


def test_alpha_is_a_mask_when_asked(tmp_path: Path) -> None:
    from PIL import Image

    image = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    image.paste((255, 0, 0, 0), (0, 0, 64, 32))
    image.save(tmp_path / "a.png")
    for asked in (False, True):
        data = Dataset.from_recipe(Recipe(train_data_dir=str(tmp_path), resolution="64", alpha_mask=asked))
        (batch,) = data.epoch_batches(0)
        assert (batch.mask is not None) == asked
        assert batch.pixels is not None and bool((batch.pixels[:, :, :32] == 1).all())
    assert batch.mask is not None and batch.mask[0, 0, :, 0].tolist() == [0] * 4 + [1] * 4


def test_sizes_and_crops_for_sdxl(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", (200, 100))
    data = Dataset.from_recipe(Recipe(train_data_dir=str(tmp_path), resolution="64", flip_aug=True, dataset_repeats=6))
    for batch in data.epoch_batches(0):
        assert batch.original_sizes == ((200, 100),) and batch.crops == ((32, 0),) and batch.bucket == (64, 64)


@pytest.mark.parametrize(
    ("cut", "near"), [({"random_crop": True}, 1.5), ({"face_crop_aug_range": "1.0,2.0"}, 10), ({}, 1.5)]
)
def test_crops_are_counted_in_the_picture_as_it_is_trained(tmp_path: Path, cut: dict[str, object], near: float) -> None:
    """Red tells the column and green the row that a pixel came from: of a mirror image, the mirrored column."""
    across = np.broadcast_to(np.arange(256, dtype=np.uint8), (128, 256))
    down = np.broadcast_to(np.arange(0, 256, 2, dtype=np.uint8)[:, None], (128, 256))
    image = np.stack([across, down, np.zeros_like(across)], axis=-1)
    Image.fromarray(image).save(tmp_path / "a_200_50_40_30.png")  # the name tells where the face is
    recipe = Recipe(train_data_dir=str(tmp_path), resolution="64", flip_aug=True, dataset_repeats=12, **cut)  # type: ignore[arg-type]
    seen = set()
    for batch in Dataset.from_recipe(recipe).epoch_batches(0):
        assert batch.pixels is not None
        red, green, _ = (batch.pixels[0] + 1) * 127.5
        flipped = bool(red[0, 0] > red[0, -1])
        columns, rows = (255 - red if flipped else red)[0], green[:, 0] / 2
        scale = 48 / float(columns[56] - columns[8])  # pixels of the batch for a pixel of the picture
        left, top = ((float(line[32]) + 0.5) * scale - 32.5 for line in (columns, rows))
        assert batch.crops[0] == (pytest.approx(left, abs=near), pytest.approx(top, abs=near)), flipped
        seen.add(flipped)
    assert seen == {False, True}


def test_a_picture_that_changes_or_vanishes_meanwhile_is_named(folder: Path) -> None:
    data = Dataset.from_recipe(recipe(folder))
    (folder / "train" / "2_thing" / "3.png").unlink()
    with pytest.raises(TrainError, match=r"3\.png cannot be read"):
        list(data.epoch_batches(0))
    draw(folder / "train" / "2_thing" / "3.png", (32, 32))
    with pytest.raises(TrainError, match=r"3\.png was changed while training"):
        list(data.epoch_batches(0))


def test_a_face_crop_follows_the_face(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 200), "black")
    image.paste("white", (240, 20, 260, 40))
    image.save(tmp_path / "a.png")
    words = {"resolution": "64", "face_crop_aug_range": "1.0,2.0", "dataset_repeats": 10}
    data = Dataset.from_recipe(Recipe(train_data_dir=str(tmp_path), **words), find_face=lambda image: (240, 20, 20, 20))
    shares = [float((batch.pixels > 0).float().mean()) for batch in data.epoch_batches(0)]  # type: ignore[operator]
    assert all(0.2 < share <= 1 for share in shares) and len(set(shares)) > 3
