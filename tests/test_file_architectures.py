"""Files for other architectures are named as such, and nothing of them is applied."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import Tiny
from torch import Tensor

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.api import apply
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.errors import FileError, ToolError
from lora_ext.file.loading import assemble_lora_file, load_lora_file
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.saving import save_safetensors
from lora_ext.generate.blocks_command import main as blocks
from lora_ext.inspect_file import format_inspection, inspect_lora_file
from lora_ext.tools.convert import convert_lora
from lora_ext.tools.merge import merge_loras
from lora_ext.tools.merge_into_checkpoint import merge_into_checkpoint
from lora_ext.tools.resize import resize_lora
from lora_ext.tools.reweight import reweight_lora
from lora_ext.web.rank_energy import measure_rank_energy

CLIP = "text_model_encoder_layers_0_self_attn_q_proj"


def layer(name: str, out: int = 64, into: int = 64, down: str = "lora_down", up: str = "lora_up") -> dict[str, Tensor]:
    return {f"{name}.{down}.weight": torch.randn(4, into), f"{name}.{up}.weight": torch.randn(out, 4)}


def peft(name: str, into: int = 64) -> dict[str, Tensor]:
    return layer(name, into=into, down="lora_A", up="lora_B")


# names as trainers write them: kohya, musubi, OneTrainer, ai-toolkit, diffusers, ComfyUI, XLabs
LAYERS = {
    "Flux.1": [
        layer("lora_unet_double_blocks_0_img_attn_qkv"),
        layer("lora_unet_single_blocks_37_linear1", into=3072),
        peft("transformer.single_transformer_blocks.0.attn.to_k", 3072),
        layer("lora_transformer_single_transformer_blocks_3_attn_to_q"),
        peft("diffusion_model.double_blocks.0.img_attn.qkv"),
        {"double_blocks.0.processor.qkv_lora1.down.weight": torch.randn(4, 3072)},
        peft("base_model.model.double_blocks.0.img_mod.lin"),
    ],
    "Flux.2": [peft("diffusion_model.double_blocks.0.img_attn.qkv", 6144)],
    "Chroma": [
        {**layer("lora_unet_double_blocks_0_img_attn_qkv"), **layer("lora_unet_distilled_guidance_layer_in_proj")}
    ],
    "HunyuanVideo": [layer("lora_unet_double_blocks_0_img_mlp_fc1"), layer("lora_unet_double_blocks_19_img_attn_qkv")],
    "Stable Diffusion 3": [
        layer("lora_unet_joint_blocks_0_x_block_attn_qkv"),
        peft("transformer.transformer_blocks.0.attn.to_q", 1536),
        peft("transformer.transformer_blocks.0.attn.add_k_proj", 2432),
    ],
    "AuraFlow": [peft("transformer.joint_transformer_blocks.0.attn.to_q")],
    "HiDream": [peft("diffusion_model.double_stream_blocks.0.block.attn1.to_q")],
    "Qwen-Image": [
        peft("transformer.transformer_blocks.0.img_mlp.net.2"),
        peft("transformer_blocks.59.attn.to_q", 3072),
    ],
    "Wan video": [
        peft("diffusion_model.blocks.0.self_attn.q"),
        layer("lora_unet_blocks_0_cross_attn_k_img"),
        layer("lora_unet_blocks_0_ffn_0"),
    ],
    "Cosmos": [peft("diffusion_model.blocks.0.self_attn.q_proj")],
    "Z-Image": [peft("diffusion_model.layers.0.attention.qkv", 3840)],
    "Lumina 2": [layer("lora_unet_layers_0_feed_forward_w1", into=2304)],
    "Lumina 2 or Z-Image": [layer("lora_unet_layers_0_attention_out")],
    "Hunyuan-DiT": [layer("lora_unet_blocks_0_attn1_Wqkv")],
    "PixArt": [layer("lora_unet_blocks_0_attn_qkv")],
    "PixArt or Sana": [peft("transformer.transformer_blocks.0.attn1.to_q", 1152)],
    "Krea 2": [peft("diffusion_model.blocks.0.attn.wq")],
    "Kandinsky 5": [peft("transformer.visual_transformer_blocks.0.self_attention.to_query")],
    "Ernie-Image": [peft("transformer.layers.0.self_attention.to_q")],
    "Stable Cascade": [layer("lora_prior_unet_down_blocks_0_0_channelwise_0")],
    "LTX-Video or Cosmos": [peft("diffusion_model.transformer_blocks.0.attn1.to_q", 2048)],
    "CogVideoX": [peft("transformer.transformer_blocks.0.attn1.to_q", 1920)],
    "Sana": [peft("transformer.transformer_blocks.0.attn2.to_k", 2240)],
    "AnimateDiff": [
        {
            "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor"
            ".to_q_lora.down.weight": torch.randn(4, 8)
        }
    ],
    "diffusion transformer": [
        peft("transformer.transformer_blocks.0.attn1.to_q"),
        peft("base_model.model.transformer_blocks.0.attn1.to_q"),
        layer("lora_te3_encoder_block_0_layer_0_SelfAttention_q"),
    ],
    "language model": [peft("base_model.model.model.layers.0.self_attn.o_proj")],
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_show_the_architecture(name: str) -> None:
    for tensors in LAYERS[name]:
        beside = {**layer(f"lora_te1_{CLIP}", 768, 768), "bundle_emb.x.clip_l": torch.ones(1, 768)}
        for held in (tensors, {**beside, **tensors}):
            file = assemble_lora_file(held, {})
            assert file.family == name, list(tensors)
            assert not file.adapters and not file.embeddings and file.unrecognized.keys() == held.keys()


SAID = {
    "Flux.1": ({"modelspec.architecture": "flux-1-dev/lora"}, {"ss_network_module": "networks.lora_flux"}),
    "Stable Diffusion 3": (
        {"modelspec.architecture": "stable-diffusion-3-medium/lora"},
        {"ss_base_model_version": "sd3m"},
        {"ss_network_module": "networks.lora_sd3"},
    ),
    "Wan video": ({"ss_base_model_version": "wan2.1"}, {"ss_network_module": "networks.lora_wan"}),
    "Qwen-Image": ({"modelspec.architecture": "Qwen-Image/lora"},),
    "Chroma": ({"ss_base_model_version": "chroma"},),
}


@pytest.mark.parametrize("name", SAID)
def test_metadata_tells_of_a_text_encoder_alone(name: str) -> None:
    te = layer(f"lora_te1_{CLIP}", 768, 768) | layer(f"lora_te2_{CLIP}", 1280, 1280)
    for metadata in SAID[name]:
        file = assemble_lora_file(te, {"ss_v2": "False", **metadata})
        assert file.family == name and not file.adapters


def test_what_is_for_our_models_stays(tmp_path: Path) -> None:
    """Text encoders alone, and metadata or a few strange keys beside a U-Net, make no other architecture."""
    one, two = layer(f"lora_te1_{CLIP}", 768, 768), layer(f"lora_te2_{CLIP}", 1280, 1280)
    for tensors in (one, two, {**one, **two}):
        assert assemble_lora_file(tensors, {}).family == "SDXL"
        assert assemble_lora_file(tensors, {"ss_base_model_version": "sdxl_base_v1-0"}).family == "SDXL"
    assert assemble_lora_file(one, {"ss_base_model_version": "sd_v1", "ss_v2": "False"}).family == "SD1"
    assert assemble_lora_file(layer(f"lora_te_{CLIP}", 1024, 1024), {}).family == "SD2"
    unet = layer("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 640, 768)
    assert assemble_lora_file({**unet, **one}, {"modelspec.architecture": "flux-1-dev/lora"}).family == "SD1"
    strange = {"lora_unet_single_blocks_0_linear1.lora_up.weight": torch.ones(8, 4)}
    assert assemble_lora_file({**unet, **strange}, {}).family == "SD1"
    assert assemble_lora_file(unet, {"modelspec.architecture": "kolors/lora"}).family == "Kolors"


OTHERS = {
    "textual-inversion embedding": {"emb_params": torch.ones(2, 768)},
    "embeddings folder": {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)},
    "ControlNet": {"lora_controlnet": torch.ones(1), "input_blocks.1.0.in_layers.2.up": torch.ones(8, 4)},
    "IP-Adapter": {"ip_adapter.1.to_k_ip.weight": torch.ones(8, 8), "image_proj.proj.weight": torch.ones(8, 8)},
    "checkpoint": {
        "first_stage_model.encoder.conv_in.weight": torch.ones(8, 8),
        "model.diffusion_model.out.0.weight": torch.ones(8),
    },
    "a whole model for Flux.1": {"double_blocks.0.img_attn.qkv.weight": torch.ones(8, 8)},
    "a whole model for AnimateDiff": {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": torch.ones(8)},
    "a whole model of another": {"encoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(8, 8)},
    "a whole checkpoint": {
        "conv_in.weight": torch.ones(8, 4, 3, 3),
        "down_blocks.0.resnets.0.conv1.weight": torch.ones(8, 8, 3, 3),
    },
    "T2I-Adapter": {
        "adapter.body.0.resnets.0.block1.weight": torch.ones(8, 8),
        "adapter.conv_in.weight": torch.ones(8),
    },
    "text encoder": {"text_model.embeddings.token_embedding.weight": torch.ones(8, 8)},
    "upscaler": {"model.0.weight": torch.ones(8, 3), "model.1.sub.0.RDB1.conv1.0.weight": torch.ones(8, 8)},
    "an upscaler": {
        "params_ema.conv_first.weight": torch.ones(8, 3),
        "params_ema.body.0.rdb1.conv1.weight": torch.ones(8),
    },
    "the kind AdaLoRA": {f"base_model.model.conv_in.lora_{kind}": torch.ones(4, 4) for kind in "ABE"},
    "PEFT before 0.16": {"base_model.model.conv_in.oft_r": torch.ones(4, 4, 4)},
    "BOFT of PEFT": {
        "base_model.model.conv_in.boft_R": torch.ones(1, 4, 4, 4),
        "base_model.model.conv_in.boft_s": torch.ones(4, 1),
    },
    "IA3 of PEFT": {"base_model.model.conv_in.ia3_l": torch.ones(4, 1)},
    "the kind VeRA": {"base_model.model.conv_in.vera_lambda_b": torch.ones(4), "base_model.vera_A": torch.ones(4, 4)},
    "the kind T-LoRA": {
        "lora_unet_conv_in.q_layer.weight": torch.ones(4, 4),
        "lora_unet_conv_in.p_layer.weight": torch.ones(4, 4),
        "lora_unet_conv_in.lambda_layer": torch.ones(1, 4),
        "lora_unet_conv_in.alpha": torch.tensor(4.0),
    },
    "VAE": {"decoder.up.0.block.0.conv1.weight": torch.ones(8, 8), "quant_conv.weight": torch.ones(8, 8)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_lora_is_named(what: str) -> None:
    file = assemble_lora_file(OTHERS[what], {})
    assert (
        file.foreign_architecture is not None
        and what in file.foreign_architecture.sentence("x")
        and file.family == "unknown"
    )


def test_torch_files_that_are_no_lora_are_named(tmp_path: Path) -> None:
    one = {"linear.0.weight": torch.ones(2, 2)}
    torch.save({768: (one, one), "step": 1, "name": "x"}, tmp_path / "hyper.pt")
    with pytest.raises(FileError, match="is a hypernetwork, not a LoRA"):
        load_lora_file(tmp_path / "hyper.pt")
    for content, what in (
        ({"params_ema": {"conv_first.weight": torch.ones(2, 2)}}, "upscaler"),
        ({"ip_adapter": {"1.to_k_ip.weight": torch.ones(2, 2)}, "image_proj": {}}, "IP-Adapter"),
    ):
        torch.save(content, tmp_path / "nested.pt")
        found = load_lora_file(tmp_path / "nested.pt").foreign_architecture
        assert found is not None and found.kind == what


@pytest.fixture
def flux(tmp_path: Path) -> LoraFile:
    """As kohya's flux_train_network.py saves one: both halves."""
    model = Tiny()
    width = model.text_encoder.config.hidden_size
    tensors = layer(f"lora_te1_{CLIP}", width, width) | layer("lora_unet_double_blocks_0_img_attn_qkv")
    return load_lora_file(save_safetensors(tensors, tmp_path / "flux.safetensors", metadata={}))


def test_nothing_is_applied_and_one_sentence_says_so(flux: LoraFile) -> None:
    model = Tiny()
    plain = model.draw()
    sentence = "flux is a LoRA for Flux.1 and cannot act on SD1, SD2 and SDXL models; it is not applied"
    for mode in ("live", "baked"):
        with AppliedNetworks(model, mode) as applied:
            (fit,) = applied.apply([AdapterSpec(flux)])
            assert str(fit) == sentence and not fit.ok
            assert all(map(torch.equal, model.draw(), plain))
    with apply(model, {flux: 1.0}) as loras:
        assert str(loras.fits[0]) == sentence
    assert flux.path is not None
    assert sentence in format_inspection(inspect_lora_file(flux.path)) and "LoRA for Flux.1" in format_inspection(
        inspect_lora_file(flux.path)
    )


def test_tools_refuse_it(flux: LoraFile, tmp_path: Path) -> None:
    for work in (
        lambda: resize_lora(flux, 2),
        lambda: convert_lora(flux, "diffusers"),
        lambda: reweight_lora(flux, unet=0.5),
        lambda: merge_loras([flux, flux]),
        lambda: measure_rank_energy(flux),
    ):
        with pytest.raises(ToolError, match="flux is a LoRA for Flux"):
            work()
    checkpoint = tmp_path / "model.safetensors"
    save_safetensors({"x": torch.ones(1)}, checkpoint, metadata={})
    with pytest.raises(FileError, match="flux is a LoRA for Flux"):
        merge_into_checkpoint(checkpoint, [AdapterSpec(flux)], tmp_path / "out.safetensors")


def test_its_blocks_are_not_measured(flux: LoraFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert blocks(["--lora", str(flux.path), "--out", str(tmp_path / "out")]) == 2
    assert "flux is a LoRA for Flux.1" in capsys.readouterr().err
