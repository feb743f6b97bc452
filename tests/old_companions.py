"""Tests that need more than the oldest packages that the program works with, which web UIs of 2024 have."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest

SKIPPED_WITH: dict[str, tuple[str, str, str]] = {
    "a1111/test_a1111_backend.py::test_a_half_precision_encoder_that_overflows_computes_once_more": (
        "torch", "2.1", "it has no float16 convolution on the CPU",
    ),
    "test_constant_alpha.py::test_what_cannot_be_had_without_loss_stays_and_is_said": (
        "diffusers", "0.30", "it reads the alphas that later ones mistake",
    ),
    "test_file_saving.py::test_diffusers_loads_its_key_format": (
        "diffusers", "0.30", "its U-Net has no load_lora_adapter",
    ),
    "test_file_saving.py::test_alphas_in_diffusers_metadata": (
        "diffusers", "0.30", "its save_lora_weights writes no metadata",
    ),
    "test_inject_rounding.py::test_merging_into_an_fp8_checkpoint_tells_what_is_lost[.ckpt]": (
        "torch", "2.1", "it writes no fp8 into a .ckpt",
    ),
    "test_peft_config.py::test_the_unet_s_output_is_peft_s[bias of the factors]": (
        "peft", "0.12", "its LoraConfig has no lora_bias",
    ),
    "test_peft_config.py::test_the_unet_s_output_is_peft_s[patterns]": (
        "peft", "0.12", "one pattern gives a layer both its rank and its alpha",
    ),
    "test_peft_config.py::test_the_unet_s_output_is_peft_s[OFT": ("peft", "0.12", "its OFT takes no block size"),
    "test_peft_config.py::test_the_unet_s_output_is_peft_s[LoKr": ("peft", "0.12", "its LoKr leaves out alpha / rank"),
    "test_peft_config.py::test_patterns_mean_what_they_mean_to_peft": ("peft", "0.12", "it has no get_pattern_key"),
    "test_train_compiled.py::test_no_compiler_is_reported": (
        "torch", "2.1", "torch_compile is refused before a compiler is looked for",
    ),
    "test_train_network.py::test_half_precision_on_the_way": (
        "torch", "2.1", "it refuses the float32 mask that transformers' CLIP puts beside a bf16 query",
    ),
    "test_train_peft.py::test_kinds_are_pefts[lokr": (
        "peft", "0.12", "its LoKr leaves out alpha / rank",
    ),
}  # fmt: skip
"""Beginning of a test's name below tests/ → package, its newest version that is too old, what that lacks."""


def skip_what_is_too_old(items: list[pytest.Item]) -> None:
    """Marks the tests of the table as skipped, with the reason, where the installed package is that old."""
    for item in items:
        for name, (package, newest, why) in SKIPPED_WITH.items():
            if item.nodeid.removeprefix("tests/").startswith(name) and _is_at_most(package, newest):
                item.add_marker(pytest.mark.skip(reason=f"{package} {version(package)}: {why}"))


def _is_at_most(package: str, newest: str) -> bool:
    try:
        major, minor = version(package).split(".")[:2]
    except PackageNotFoundError:
        return False
    return [int(major), int(minor)] <= [int(number) for number in newest.split(".")]
