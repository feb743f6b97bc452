"""Learning from pairs of pictures: which are found, what a step computes (as traintrain's), and that runs resume."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_trainable_model import recipe, tiny_model

from lora_ext.errors import TrainError
from lora_ext.file.loading import load_lora_file
from lora_ext.inject import find_layer_targets
from lora_ext.protocols import TrainingModelOptions
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.data.pair_dataset import PairDataset, find_pairs
from lora_ext.train.data.training_data import load_training_data
from lora_ext.train.network.trainable_network import TrainableNetwork
from lora_ext.train.run.objectives import build_objective
from lora_ext.train.run.pair_objective import pair_prompts, pair_timestep
from lora_ext.train.run.training_run import TrainingRun
from lora_ext.training.standalone_run import SilentHost


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two pictures that differ in their left quarter."""
    values = np.random.default_rng(3).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    changed = values.copy()
    changed[:, :16] = 255 - changed[:, :16] // 2
    paths = tmp_path / "in" / "a.png", tmp_path / "in" / "a_closed.png"
    paths[0].parent.mkdir()
    for path, pixels in zip(paths, (values, changed), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def pairs_recipe(out: Path, pair: tuple[Path, Path], **more: Any) -> Recipe:
    settings = {"mode": "addift", "original_image": str(pair[0]), "target_image": str(pair[1]), "train_data_dir": None}
    return recipe(Path("none"), out, **{**settings, "max_train_epochs": None, "max_train_steps": 4, **more})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mode": "addift", "original_image": "a"}, "mode addift needs original_image and target_image"),
        ({"mode": "multi-addift", "diff_target_name": "_b"}, "mode multi-addift needs train_data_dir"),
        ({"mode": "multi-addift", "train_data_dir": "a"}, "mode multi-addift needs one of diff_target_name"),
        ({"original_image": "a"}, "original_image belongs to mode addift or difference, not to pictures"),
        (
            {"mode": "addift", "original_image": "a", "target_image": "b", "color_aug": True},
            "color_aug belongs to mode",
        ),
        (
            {
                "mode": "addift",
                "original_image": "a",
                "target_image": "b",
                "paste_data_dir": "c",
                "target_prompt": "d",
            },
            "each picture's own caption is the prompt of both sides; leave target_prompt out",
        ),
        ({"mode": "difference", "target_image": "a"}, "mode difference needs original_image, or diff_load_1st_pass"),
        ({"mode": "difference", "diff_load_1st_pass": "a"}, "diff_load_1st_pass needs target_image"),
    ],
)
def test_what_does_not_belong_to_a_pair_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        recipe_from_settings(settings)


def test_pairs_are_found_by_a_names_ending_or_in_two_folders(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    folder, other = pair[0].parent, tmp_path / "other"
    made = pairs_recipe(tmp_path, pair, mode="multi-addift", train_data_dir=str(folder), original_image=None,
                        target_image=None, diff_target_name="_closed")  # fmt: skip
    assert find_pairs(made) == [pair]
    other.mkdir()
    two_folders = replace(made, diff_target_name=None, target_data_dir=str(other))
    with pytest.raises(TrainError, match="has no picture named as in target_data_dir"):
        find_pairs(two_folders)
    shutil.copy(pair[1], other / "a.png")
    assert find_pairs(two_folders) == [(pair[0], other / "a.png")]
    Image.new("RGB", (64, 32)).save(other / "a.png")
    with pytest.raises(TrainError, match=re.escape("have different shapes; crop them alike")):
        load_training_data(two_folders)


def test_a_kept_pair_is_the_one_that_is_loaded(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    made = pairs_recipe(tmp_path, pair, diff_use_diff_mask=True, flip_aug=True, train_batch_size=8)
    data, host = load_training_data(made, 1), tiny_model()
    assert isinstance(data, PairDataset)
    first = next(iter(data.epoch_batches(0)))
    assert first.pixels is not None and first.pixels.shape == (8, 6, 64, 64) and first.mask is not None
    left, right = (torch.zeros(8, 8) for _ in range(2))
    left[:, :2], right[:, -2:] = 1, 1
    assert {tuple(mask.flatten().tolist()) for mask in first.mask} == {
        tuple(m.flatten().tolist()) for m in (left, right)
    }
    with host.prepared_for_training(TrainingModelOptions("no")):
        assert data.cache_latents(host.encode_images, "") == 4
        kept = next(iter(data.epoch_batches(0)))
        encoded = [host.encode_images(side) for side in first.pixels.chunk(2, 1)]
    assert kept.latents is not None and kept.pixels is None and torch.equal(kept.mask, first.mask)  # type: ignore[arg-type]
    torch.testing.assert_close(kept.latents, torch.cat(encoded, 1), rtol=1e-4, atol=1e-5)


def test_what_changed_in_the_pair_is_pasted_into_other_pictures(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """Each picture is a pair of its own under its own caption; an empty folder gets one of each original_prompt."""
    folder, host = tmp_path / "others", tiny_model()
    made = pairs_recipe(
        tmp_path / "out", pair, paste_data_dir=str(folder), original_prompt="a b |", diff_alt_ratio=0, seed=1,
        max_train_steps=1,
    )  # fmt: skip
    TrainingRun(host, made, SilentHost()).run()
    drawn = sorted(folder.glob("*.png"))
    assert [path.with_suffix(".txt").read_text() for path in drawn] == ["a b", ""]
    batches = load_training_data(replace(made, train_batch_size=2), 1).epoch_batches(0)
    found = next(batch for batch in batches if set(batch.captions) == {"a b", ""})
    changed = torch.from_numpy(np.asarray(Image.open(pair[1]), np.float32) / 127.5 - 1).permute(2, 0, 1)
    for pixels, path in zip(found.pixels, found.paths, strict=True):  # type: ignore[arg-type]
        picture = torch.from_numpy(np.asarray(Image.open(path), np.float32) / 127.5 - 1).permute(2, 0, 1)
        torch.testing.assert_close(pixels[:3], picture)
        torch.testing.assert_close(pixels[3:], torch.cat([changed[..., :16], picture[..., 16:]], -1))
        assert found.mask is not None and (found.mask[..., :2] > 0.9).all() and not found.mask[..., 2:].any()
    same = replace(made, target_image=str(pair[0]))
    with pytest.raises(TrainError, match="are the same picture; nothing can be pasted"):
        next(iter(load_training_data(same, 1).epoch_batches(0)))
    with pytest.raises(TrainError, match="has no pictures; give original_prompt, of which they are drawn"):
        load_training_data(replace(made, paste_data_dir=str(tmp_path)), 1)


def test_without_steps_back_every_step_goes_forth_under_the_captions(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    host, folder = tiny_model(), tmp_path / "others"
    folder.mkdir()
    shutil.copy(pair[0], folder / "x.png")
    (folder / "x.txt").write_text("a b")
    made = pairs_recipe(tmp_path, pair, paste_data_dir=str(folder), diff_alt_ratio=0, caption_dropout_rate=0.5)
    with host.prepared_for_training(TrainingModelOptions("no")), TrainableNetwork(
        {"unet": host.parts()["unet"]}, made
    ) as network:  # fmt: skip
        objective, seen = build_objective(host, made, network, trains_text=False), []
        encode = objective.encode_captions
        objective.encode_captions = lambda captions: seen.append(captions) or encode(captions)  # type: ignore
        odd = [batch for batch in load_training_data(made, 1).epoch_batches(0) if batch.step in (1, 3)]
        same = [objective(replace(odd[0], captions=["a b"] * 2, step=step)).item() for step in (1, 0)]
        for batch in odd:
            objective(batch)
    assert [pair_timestep(made, step, 1000) for step in range(4)] == [100, 300, 500, 700]
    assert seen[-4:] == [odd[0].captions] * 2 + [odd[1].captions] * 2 and same[0] != same[1]


def test_timesteps_are_the_middles_of_five_parts_in_turn() -> None:
    """As traintrain: even steps move on, and the odd one after each has the same timestep."""
    low, high = 200, 400
    span, expected = (high - low) / 10, []
    for step in range(12):
        if step % 2 == 0:
            here = low + span * (step % 10 + 1)
        expected.append(int(here))
    assert [pair_timestep(Recipe(min_timestep=low, max_timestep=high), step, 1000) for step in range(12)] == expected


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_is_traintrains(tmp_path: Path, pair: tuple[Path, Path], step: int, masked: bool) -> None:
    """Its formula in NumPy, and the network at its weight as changed weights of the model instead of hooks."""
    more = {"original_prompt": "a b", "target_prompt": "c d", "diff_alt_ratio": 0.5, "diff_use_diff_mask": masked}
    made, host = pairs_recipe(tmp_path, pair, **more), tiny_model()
    with host.prepared_for_training(TrainingModelOptions("no")), TrainableNetwork(
        {"unet": host.parts()["unet"]}, made
    ) as network:  # fmt: skip
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        objective = build_objective(host, made, network, trains_text=False)
        data = load_training_data(made, 1)
        data.cache_latents(host.encode_images, "")
        batch = replace(next(iter(data.epoch_batches(0))), step=step)
        loss = objective(batch)
        assert loss.requires_grad and batch.latents is not None
        network.detach()
        network.train(False)

        noise = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in batch.seeds])
        before, after = (z.numpy() for z in batch.latents.chunk(2, 1))
        start, end = (before, after) if step % 2 == 0 else (after, before)
        at = [100, 300][step // 2]
        abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2)[at]

        def predicted(latents: np.ndarray, prompt: str) -> np.ndarray:
            x = torch.from_numpy(np.sqrt(abar) * latents + np.sqrt(1 - abar) * noise.numpy()).float()
            context = objective.encode_captions([prompt] * len(x))
            with torch.no_grad():
                return host.predict(x, torch.full((len(x),), at), context, None).numpy()

        wanted = predicted(start, "a b")
        with torch.no_grad():
            for layer_id, layer in network.factors_by_layer.items():
                weight = network.targets_by_layer[layer_id].module.weight
                weight += layer.delta() * (0.25 if step % 2 == 0 else -0.25 * 0.5)
        mask = np.ones((1, 1, 8, 8)) if batch.mask is None else batch.mask.numpy()
        distance = (predicted(end, "c d") * mask - wanted * mask) ** 2
        assert (batch.mask is not None) == masked
        assert loss.item() == pytest.approx(distance.mean(), rel=1e-4)


def test_a_resumed_run_is_the_same(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    more = {"save_every_n_steps": 2, "save_state": True, "cache_latents": True}
    whole = TrainingRun(tiny_model(), pairs_recipe(tmp_path / "a", pair, **more), SilentHost()).run()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    state = str(next((tmp_path / "b").glob("*0002-state")))
    again = TrainingRun(tiny_model(), pairs_recipe(tmp_path / "b", pair, resume=state, **more), SilentHost()).run()
    assert whole.file is not None and again.file is not None
    first, second = load_lora_file(whole.file), load_lora_file(again.file)
    for layer_id, adapter in first.adapters.items():
        assert all(torch.equal(t, second.adapters[layer_id].tensors[n]) for n, t in adapter.tensors.items())
    assert first.metadata["ss_mode"] == "addift" and {layer_id.part for layer_id in first.adapters} == {"unet"}


def test_rows_take_turns_with_the_prompts_of_a_pair() -> None:
    assert [pair_prompts("a | b |", step, 2) for step in range(4)] == [["a", "b"], ["a", "b"], ["", "a"], ["", "a"]]
    assert pair_prompts(None, 0, 2) == ["", ""]


def difference_recipe(out: Path, pair: tuple[Path, Path], **more: Any) -> Recipe:
    settings = {"mode": "difference", "original_prompt": "a b", "output_name": "d", "save_precision": "float"}
    return pairs_recipe(out, pair, **{**settings, **more})


def test_the_second_pass_learns_the_target_on_a_model_that_has_the_copy(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """traintrain's formula: ‖ε − ε_{W + ΔW(copy) + ΔW}(x_t, the prompt of both)‖² of the target, at ΔW = 0."""
    made, host, seen = difference_recipe(tmp_path, pair, max_train_steps=1), tiny_model(), []
    predict = type(host).predict

    def recorded(model: Any, *args: Any) -> torch.Tensor:
        seen.append(args)
        return predict(model, *args)

    monkeypatch.setattr(type(host), "predict", recorded)
    before = {name: p.clone() for name, p in host.parts()["unet"].named_parameters()}
    second = TrainingRun(host, made, SilentHost()).run()
    assert second.file == tmp_path / "d.safetensors" and len(seen) == 2
    assert all(torch.equal(p, before[name]) for name, p in host.parts()["unet"].named_parameters())
    copy = load_lora_file(tmp_path / "d-copy.safetensors")
    losses = [float((tmp_path / f"{name}.csv").read_text().splitlines()[1].split(",")[2]) for name in ("d-copy", "d")]
    targets = find_layer_targets("unet", host.parts()["unet"])
    for path, (x, steps, context, _), loss in zip(pair, seen, losses, strict=True):
        pixels = torch.from_numpy(np.asarray(Image.open(path), np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        latents = host.encode_images(pixels).numpy()
        abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2)[steps].reshape(
            -1, 1, 1, 1
        )
        noise = (x.numpy() - np.sqrt(abar) * latents) / np.sqrt(1 - abar)
        torch.testing.assert_close(context.states, host.encode_text(["a b"] * 2).states)
        with torch.no_grad():
            found = predict(host, x, steps, context, None).numpy()
            for layer_id, adapter in copy.adapters.items():  # for the second pass
                weight = targets[layer_id].module.weight
                weight += adapter.delta(weight)
        assert loss == pytest.approx(((found - noise) ** 2).mean(), rel=1e-3)


@pytest.mark.long
def test_both_passes_resume_and_a_saved_copy_is_used_again(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    more = {"save_every_n_steps": 2, "save_state": True}

    def trained(out: str, **settings: Any) -> dict[Any, Any]:
        result = TrainingRun(
            tiny_model(), difference_recipe(tmp_path / out, pair, **more, **settings), SilentHost()
        ).run()
        assert result.file is not None and result.file.name == "d.safetensors"
        file = load_lora_file(result.file)
        assert file.metadata["ss_mode"] == "difference"
        return {(layer_id, name): t for layer_id, a in file.adapters.items() for name, t in a.tensors.items()}

    whole, copy = trained("a"), tmp_path / "a" / "d-copy.safetensors"
    for number, settings in enumerate(
        (
            {"diff_load_1st_pass": str(copy), "original_image": None},
            {"resume": str(tmp_path / "a" / "d-step00000002-state")},
            {"resume": str(tmp_path / "a" / "d-copy-step00000002-state")},
        )
    ):
        again = trained(f"b{number}", **settings)
        assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    copy.unlink()
    with pytest.raises(TrainError, match="give that file as diff_load_1st_pass"):
        trained("c", resume=str(tmp_path / "a" / "d-step00000002-state"))
