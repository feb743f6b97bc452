"""Settings files of OneTrainer and traintrain: what each entry becomes, and that nothing is left out without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_ext.errors import TrainError
from lora_ext.train.config.other_programs_files import program_of, translate_program_file
from lora_ext.train.config.recipe_io import recipe_from_settings, settings_from_config_file

ONETRAINER = {
    "__version": 12, "training_method": "LORA", "model_type": "STABLE_DIFFUSION_XL_10_BASE",
    "base_model_name": "C:/models/x.safetensors", "peft_type": "LORA", "lora_rank": 24, "lora_alpha": 12.0,
    "layer_filter_preset": "attn-only", "learning_rate": 0.0003, "unet": {"learning_rate": 0.0002, "train": True},
    "text_encoder": {"train": False, "stop_training_after": 30}, "epochs": 12, "batch_size": 2,
    "learning_rate_scheduler": "COSINE", "learning_rate_warmup_steps": 0.1, "resolution": "768",
    "train_dtype": "BFLOAT_16", "output_dtype": "BFLOAT_16", "loss_weight_fn": "MIN_SNR_GAMMA",
    "loss_weight_strength": 4.0, "offset_noise_weight": 0.05, "max_noising_strength": 0.9,
    "gradient_checkpointing": "OFF",
    "optimizer": {"optimizer": "ADAMW_8BIT", "weight_decay": 0.02, "beta1": 0.9, "beta2": 0.99},
    "save_every": 2, "save_every_unit": "EPOCH", "masked_training": True, "timestep_distribution": "LOGIT_NORMAL",
    "debug_mode": False, "clip_grad_norm": None,
}  # fmt: skip
TRAINTRAIN = {
    "network_type": "c3lier", "network_rank": "8", "network_alpha": "4", "network_conv_rank": "4",
    "network_conv_alpha": "2", "network_element": "CrossAttention", "image_size(height, width)": "512,768",
    "train_iterations": "300", "train_batch_size": "1", "train_learning_rate": "5e-4", "train_optimizer": "adamw8bit",
    "train_lr_scheduler": "cosine_annealing", "train_lr_scheduler_settings": "eta_min=0.00001",
    "network_blocks(BASE = TextEncoder)": ["M00", "OUT03"], "train_seed": "-1", "train_snr_gamma": "0",
    "train_model_precision": "fp16", "mode": "iLECO", "original prompt": "cat", "target prompt": "dog", "model": "x",
    "network_strength": "2.0", "train_min_timesteps": "500", "train_max_timesteps": "1000", "save_as_json": True,
}  # fmt: skip


def translated(content: dict[str, Any]) -> tuple[dict[str, Any], str]:
    settings, said = translate_program_file(content)
    return settings, "\n".join(said)


def test_onetrainer() -> None:
    settings, said = translated(ONETRAINER)
    recipe = recipe_from_settings(settings)
    assert (recipe.network_module, recipe.network_targets, recipe.network_dim, recipe.network_alpha) == (
        "lierla", "attention", 24, 12,
    )  # fmt: skip
    assert (recipe.rate("unet"), recipe.network_train_unet_only, recipe.max_train_epochs) == (0.0002, True, 12)
    assert (recipe.lr_scheduler, recipe.lr_warmup_steps, recipe.resolution) == ("cosine", 0.1, "768")
    assert (recipe.mixed_precision, recipe.save_precision, recipe.min_snr_gamma) == ("bf16", "bf16", 4)
    assert (recipe.noise_offset, recipe.max_timestep, recipe.gradient_checkpointing) == (0.05, 900, False)
    assert recipe.optimizer_type == "AdamW8bit" and recipe.max_grad_norm == 0 and recipe.save_every_n_epochs == 2
    assert recipe.optimizer_args == ("betas=0.9,0.99", "weight_decay=0.02")
    for name in ("masked_training", "timestep_distribution", "text_encoder.stop_training_after"):
        assert said.count(name) == 1
    assert "base_model_name" in said and "debug_mode" not in said


def test_onetrainers_defaults_are_its_own() -> None:
    settings, _ = translated({"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15"})
    recipe = recipe_from_settings(settings)
    assert (recipe.learning_rate, recipe.max_train_epochs, recipe.network_dim, recipe.network_alpha) == (
        3e-6,
        100,
        16,
        1,
    )
    assert (recipe.network_module, recipe.network_targets, recipe.conv_dim) == ("c3lier", "all", 16)
    assert (recipe.lr_scheduler, recipe.lr_warmup_steps) == ("constant_with_warmup", 200)


def test_traintrain(tmp_path: Path) -> None:
    settings, said = translated(TRAINTRAIN)
    recipe = recipe_from_settings(settings)
    assert (recipe.mode, recipe.original_prompt, recipe.target_prompt) == ("ileco", "cat", "dog")
    assert (recipe.network_module, recipe.network_dim, recipe.conv_dim, recipe.network_targets) == (
        "c3lier", 8, 4, "cross_attention",
    )  # fmt: skip
    assert (recipe.resolution, recipe.max_train_steps, recipe.optimizer_type) == ("768,512", 300, "AdamW8bit")
    assert recipe.lr_scheduler_type == "CosineAnnealingLR" and "T_max=300" in recipe.lr_scheduler_args
    assert recipe.down_lr_weight == ",".join("0" * 12) and recipe.mid_lr_weight is None
    assert recipe.up_lr_weight == "0,0,0,1,0,0,0,0,0,0,0,0" and recipe.min_snr_gamma is None and recipe.seed is None
    assert said.count("network_strength") == 1 and "save_as_json" not in said and said.endswith("file: model")
    path = tmp_path / "iLECO.json"
    path.write_text(json.dumps(TRAINTRAIN), encoding="utf-8")
    assert settings_from_config_file(path)[0] == settings


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({**ONETRAINER, "training_method": "FINE_TUNE"}, "FINE_TUNE"),
        ({**ONETRAINER, "model_type": "FLUX_DEV_1"}, "FLUX_DEV_1"),
        ({**ONETRAINER, "peft_type": "OFT_2"}, "OFT_2"),
        ({**ONETRAINER, "learning_rate_warmup_steps": float("nan")}, "give a number"),
        ({**TRAINTRAIN, "mode": "x"}, "mode 'x'"),
        ({"a": 1}, "no settings file"),
    ],
)
def test_what_cannot_be_trained_is_refused(content: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainError, match=said):
        translate_program_file(content)


def test_each_program_is_known() -> None:
    found = [program_of(content) for content in (ONETRAINER, TRAINTRAIN, {"LoRA_type": "Standard"}, {})]
    assert found == ["OneTrainer", "traintrain", "kohya", ""]


def test_the_page_lists_what_it_does_not_take() -> None:
    pytest.importorskip("fastapi")
    from lora_ext.web.settings_files import form_settings_of_file

    kohya = {
        "LoRA_type": "Kohya LoCon", "network_dim": 16, "conv_dim": 8, "train_data_dir": "C:/x", "epoch": 3,
        "unet_lr": 1e-4, "optimizer": "AdamW", "min_bucket_reso": 4, "text_encoder_lr": 5e-5,
    }  # fmt: skip
    settings, said = form_settings_of_file(json.dumps(kohya), "k.json")
    assert (settings["network_module"], settings["conv_dim"], settings["max_train_epochs"]) == ("c3lier", 8, 3)
    text = "\n".join(said)
    assert "not taken from the file: train_data_dir" in text and "left out: min_bucket_reso" in text
    settings, _ = form_settings_of_file(json.dumps(ONETRAINER), "o.json")
    assert settings["network_dim"] == 24 and settings["optimizer_args"] == ["betas=0.9,0.99", "weight_decay=0.02"]
