"""Checkpoints are recognised and filled: small random models are written under LDM's names and read back."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_ext.errors import FileError
from lora_ext.file.containers import load_tensors
from lora_ext.host.checkpoint_layout import detect_checkpoint_layout
from lora_ext.host.ldm_config import CheckpointHints
from lora_ext.host.standalone.folder_safety import weights_variant
from lora_ext.host.standalone.loader import StandaloneModel, hookable_model_of, load_model
from lora_ext.host.standalone.rendering import (
    RenderJob,
    decode_latents,
    encode_image,
    encode_prompt,
    sample_latents,
)
from lora_ext.host.standalone.sampling import parse_sampling_plan
from lora_ext.layer_names import TE, UNET, LayerId, find_layer_id, layer_name_table
from lora_ext.protocols import VAE_SCALE_FACTOR

PREFIXES = {"SD1": ("cond_stage_model.transformer.",), "SD2": ("cond_stage_model.model.",)}
PREFIXES["SDXL"] = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")
WIDTH = 64  # one attention head of CLIP


class WordTokenizer:
    start_id, end_id, comma_id, size = 62, 63, 1, 64

    def encode(self, text: str) -> list[int]:
        return [min(len(word), 61) for word in text.split()]


# --- small models, and their LDM names -------------------------------------------------------------------------------


def small_unet(family: str, channels: int = 4) -> UNet2DConditionModel:
    torch.manual_seed(0)
    common = {"in_channels": channels, "layers_per_block": 2, "sample_size": 8}
    if family == "SD1":
        return UNet2DConditionModel(
            **common, block_out_channels=(32, 32, 64, 64), cross_attention_dim=WIDTH, attention_head_dim=8
        )
    if family == "SD2":
        return UNet2DConditionModel(
            **common,
            block_out_channels=(64, 64, 128, 128),
            cross_attention_dim=WIDTH,
            attention_head_dim=(1, 1, 2, 2),
            use_linear_projection=True,
        )
    return UNet2DConditionModel(
        **common,
        block_out_channels=(64, 64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        cross_attention_dim=2 * WIDTH,
        attention_head_dim=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=48 + 48,
    )


def small_text(family: str, second: bool = False) -> CLIPTextModel:
    torch.manual_seed(2 + second)
    open_clip = family == "SD2" or second
    kind = CLIPTextModelWithProjection if second else CLIPTextModel
    network = kind(
        CLIPTextConfig(
            vocab_size=64, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=3, num_attention_heads=1,
            hidden_act="gelu" if open_clip else "quick_gelu", projection_dim=48,
        )
    )  # fmt: skip
    return told_apart(network)  # type: ignore[return-value]


def small_vae() -> AutoencoderKL:
    torch.manual_seed(4)
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=4,
    ).eval()  # fmt: skip


def names_by_layer(part: str, network: nn.Module) -> dict[LayerId, str]:
    found = ((find_layer_id(part, name), name) for name, _ in network.named_modules())
    return {layer_id: name for layer_id, name in found if layer_id is not None}


def ldm_unet(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    table, found = layer_name_table(UNET), names_by_layer(UNET, unet)
    deepest = len(unet.config.block_out_channels) - 1
    out = {}
    for layer_id, name in found.items():
        ldm = table.ldm[layer_id][0]
        if re.search(r"output_blocks\.\d+\.2\.conv", ldm) and f"up_blocks.{deepest - deepest}" in name:
            ldm = ldm if "CrossAttnUpBlock2D" in unet.config.up_block_types[0] else table.ldm[layer_id][-1]
        module = unet.get_submodule(name)
        out |= {
            f"model.diffusion_model.{ldm}.{leaf}": tensor for leaf, tensor in module.named_parameters(recurse=False)
        }
    return out


def ldm_vae(vae: AutoencoderKL) -> dict[str, Tensor]:
    last = len(vae.config.block_out_channels) - 1
    out = {}
    for name, tensor in vae.state_dict().items():
        ldm = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        ldm = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", ldm)
        ldm = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{last - int(m[1])}.block", ldm)
        ldm = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", ldm)
        ldm = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", ldm)
        ldm = ldm.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        ldm = ldm.replace("conv_shortcut", "nin_shortcut")
        for old, new in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            ldm = ldm.replace(f"attn_1.{old}", f"attn_1.{new}")
        square = "attn_1" in ldm and tensor.ndim == 2
        out["first_stage_model." + ldm] = tensor[:, :, None, None] if square else tensor
    return out


def ldm_text(text: CLIPTextModel, prefix: str, width: int = WIDTH) -> dict[str, Tensor]:
    state = text.state_dict()
    if not prefix.endswith("model."):
        return {prefix + name: tensor for name, tensor in state.items()}
    out = {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": state.get("text_projection.weight", torch.eye(width)).T,
    }
    table, layers = layer_name_table(TE), text.text_model.encoder.layers
    for layer_id, name in names_by_layer(TE, text).items():
        if "_proj" not in name and name != "text_projection":
            module = text.get_submodule(name)
            out |= {f"{table.ldm[layer_id][0]}.{leaf}": t for leaf, t in module.named_parameters(recurse=False)}
    for number, layer in enumerate(layers):
        block, attention = f"transformer.resblocks.{number}.attn.", layer.self_attn
        for leaf in ("weight", "bias"):
            rows = [getattr(getattr(attention, f"{which}_proj"), leaf) for which in "qkv"]
            out[f"{block}in_proj_{leaf}"] = torch.cat(rows)
            out[f"{block}out_proj.{leaf}"] = getattr(attention.out_proj, leaf)
    return {prefix + name: tensor for name, tensor in out.items()}


def told_apart(network: nn.Module) -> nn.Module:
    """The network with other numbers in each bias and norm: fresh ones are all 0 or 1, and exchanging two of them
    would not be noticed."""
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@cache
def parts_of(family: str, channels: int = 4) -> tuple[UNet2DConditionModel, AutoencoderKL, list[CLIPTextModel]]:
    texts = [small_text(family, bool(number)) for number in range(len(PREFIXES[family]))]
    return told_apart(small_unet(family, channels)), told_apart(small_vae()), texts  # type: ignore[return-value]


@cache
def state_of(family: str, channels: int = 4) -> dict[str, Tensor]:
    unet, vae, texts = parts_of(family, channels)
    state = {**ldm_unet(unet), **ldm_vae(vae)}
    for text, prefix in zip(texts, PREFIXES[family], strict=True):
        state |= ldm_text(text, prefix)
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def write(folder: Path, family: str, channels: int = 4) -> Path:
    path = folder / f"{family}.safetensors"
    save_file(state_of(family, channels), path)
    return path


def read(path: Path, **options) -> StandaloneModel:
    return load_model(path, tokenizer=WordTokenizer(), device="cpu", **options)


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    """Whether every tensor that `ours` has is the one of `theirs`."""
    state = theirs.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())


# --- tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(("family", "channels"), [("SD1", 4), ("SD1", 9), ("SD2", 4), ("SD2", 9), ("SDXL", 4)])
def test_reads_back_what_was_written(tmp_path: Path, family: str, channels: int) -> None:
    model = read(write(tmp_path, family, channels), prediction="epsilon")
    unet, vae, texts = parts_of(family, channels)
    assert model.family == family and model.is_inpainting == (channels == 9)
    assert same(model.unet, unet) and same(model.vae, vae)
    assert len(model.unet.state_dict()) == len(unet.state_dict()) and len(model.text_encoders) == len(texts)
    for encoder, text in zip(model.text_encoders, texts, strict=True):
        assert same(encoder.module, text)
    x, t, context = (
        torch.randn(1, channels, 16, 16),
        torch.tensor([5]),
        torch.randn(1, 77, unet.config.cross_attention_dim),
    )
    added = {"text_embeds": torch.randn(1, 48), "time_ids": torch.randn(1, 6)} if family == "SDXL" else None
    with torch.no_grad():
        ours, theirs = (net(x, t, context, added_cond_kwargs=added).sample for net in (model.unet, unet))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert model.scaling_factor == (0.13025 if family == "SDXL" else 0.18215)
    assert not any(p.requires_grad for part in model.parts().values() for p in part.parameters())


@pytest.mark.long
@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_draws(tmp_path: Path, family: str) -> None:
    """A picture comes out, the same again, another with another prompt."""
    model = read(write(tmp_path, family), prediction="v" if family == "SD2" else None)
    job = RenderJob("aa (bbb:1.2)", "", [1], parse_sampling_plan("Euler a", steps=2), 64, 64)
    first = sample_latents(model, job)
    assert torch.equal(first, sample_latents(model, job)) and bool(first.isfinite().all())
    assert decode_latents(model, first).shape == (1, 3, 64, 64)
    other = sample_latents(model, RenderJob("cccc", "", [1], job.plan, 64, 64))
    assert not torch.equal(first, other)


def test_inpainting_models_draw_too(tmp_path: Path) -> None:
    model = read(write(tmp_path, "SD1", 9))
    picture = sample_latents(model, RenderJob("aa", "b", [1, 2], parse_sampling_plan("DDIM", steps=2), 64, 64))
    assert picture.shape == (2, 4, 64 // VAE_SCALE_FACTOR, 64 // VAE_SCALE_FACTOR)


def test_states_of_sd2_are_the_last_layer_but_one(tmp_path: Path) -> None:
    model = read(write(tmp_path, "SD2"), prediction="epsilon")
    text = small_text("SD2")
    tokens = torch.tensor([[62, 2, 63, *[0] * 74]])
    with torch.no_grad():
        states = text(tokens, output_hidden_states=True).hidden_states[-2]
        expected = text.text_model.final_layer_norm(states)
    assert torch.allclose(encode_prompt(model, "aa", (64, 64), 1).states, expected, atol=1e-6)
    assert torch.equal(*(encode_prompt(model, "aa", (64, 64), skip).states for skip in (1, 2)))


def test_sdxl_conditions(tmp_path: Path) -> None:
    model = read(write(tmp_path, "SDXL"))
    given, empty = encode_prompt(model, "aa", (128, 64), 1), encode_prompt(model, "", (128, 64), 1, negative=True)
    assert given.states.shape == (1, 77, 2 * WIDTH)
    assert given.pooled is not None and given.pooled.shape == (1, 48)
    assert given.sizes is not None and given.sizes.tolist() == [[64, 128, 0, 0, 64, 128]]
    assert empty.pooled is not None and not empty.states.any() and not empty.pooled.any()
    assert empty.sizes is not None and torch.equal(empty.sizes, given.sizes)


@pytest.mark.long
def test_v_of_sd2_shows_when_the_network_runs(tmp_path: Path) -> None:
    """Without a yaml the web UI's test decides; a U-Net that answers far below its input predicts v."""
    path = write(tmp_path, "SD2")
    assert read(path).prediction == "epsilon"
    state = load_tensors(path).tensors
    state["model.diffusion_model.out.2.bias"] = torch.full((4,), -3.0)
    save_file(state, path)
    assert read(path).prediction == "v"
    assert read(path, prediction="epsilon").prediction == "epsilon"


def test_yaml_beside(tmp_path: Path) -> None:
    path = write(tmp_path, "SD1")
    yaml = path.with_suffix(".yaml")
    yaml.write_text(
        "model: {params: {parameterization: v, scale_factor: 0.2, linear_start: 0.001, linear_end: 0.01,"
        " unet_config: {params: {num_heads: 4}}, cond_stage_config: {params: {num_attention_heads: 2}}}}"
    )
    model = read(path)
    assert (model.prediction, model.scaling_factor) == ("v", 0.2)
    assert model.unet.config.attention_head_dim == [4, 4, 4, 4]
    assert model.text_encoders[0].module.config.num_attention_heads == 2
    assert float(model.noise_schedule.alphas_cumprod[0]) == pytest.approx(0.999)
    yaml.write_text("model: [")
    with pytest.raises(FileError, match=r"SD1\.yaml is not a readable configuration"):
        read(path)


def test_sgm_yaml() -> None:
    target = {"scaling_config": {"target": "sgm.modules.diffusionmodules.denoiser_scaling.VScaling"}}
    yaml = {"model": {"params": {"denoiser_config": {"params": target}, "network_config": {"params": {}}}}}
    shapes = {name: tensor.shape for name, tensor in state_of("SDXL").items()}
    assert detect_checkpoint_layout(shapes, CheckpointHints(yaml=yaml)).prediction == "v"
    assert detect_checkpoint_layout(shapes).prediction == "epsilon"
    assert detect_checkpoint_layout({**shapes, "v_pred": (0,)}).prediction == "v"
    assert detect_checkpoint_layout({**shapes, "ztsnr": (0,)}).zero_terminal_snr


@pytest.mark.long
def test_older_names_and_ckpt(tmp_path: Path) -> None:
    """CLIP without `text_model.`, in a torch file with `state_dict`, fp16, and position ids of a careless merge."""
    path = write(tmp_path, "SD1")
    state = {
        k.replace("transformer.text_model.", "transformer."): t.half() for k, t in load_tensors(path).tensors.items()
    }
    state["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77)[None].float()
    old = tmp_path / "old.ckpt"
    torch.save({"state_dict": state, "global_step": 7}, old)
    model, half = read(old), read(old, precision="fp16")
    assert model.unet.dtype == torch.float32 and half.unet.dtype == torch.float16
    assert torch.allclose(
        encode_prompt(model, "a", (8, 8), 1).states, encode_prompt(read(path), "a", (8, 8), 1).states, atol=0.02
    )
    assert model.sha256 == read(old).sha256 and model.name == "old"


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ({"a": (1,)}, "no Stable Diffusion checkpoint"),
        ({"lora_unet_x.lora_down.weight": (4, 4)}, "it is a LoRA"),
        ({"model.diffusion_model.x_embedder.proj.weight": (4,)}, "Stable Diffusion 3"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (320, 8, 3, 3)}, "8 input channels"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "no text encoder"),
    ],
)
def test_refuses(shapes: dict[str, tuple[int, ...]], text: str) -> None:
    with pytest.raises(FileError, match=text):
        detect_checkpoint_layout(shapes)


def test_names_what_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "SD1")
    state = load_tensors(path).tensors
    gone = state.pop("model.diffusion_model.input_blocks.1.1.proj_in.bias")
    save_file(state, path)
    with pytest.raises(FileError, match=r"U-Net lacks 1 of \d+ tensors: down_blocks.0.attentions.0.proj_in"):
        read(path)
    state["model.diffusion_model.input_blocks.1.1.proj_in.bias"] = gone[:3].clone()
    save_file(state, path)
    with pytest.raises(FileError, match=r"shape \(3,\) where \(32,\) belongs"):
        read(path)
    save_file({k: t for k, t in state.items() if not k.startswith("first_stage")}, path)
    with pytest.raises(FileError, match="no autoencoder"):
        read(path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    words = WordTokenizer()
    words.size = 49408
    with pytest.raises(FileError, match="49408 tokens, the text encoder 64"):
        load_model(write(tmp_path, "SD1"), tokenizer=words, device="cpu")


def test_words_of_a_folder(tmp_path: Path) -> None:
    """A tokenizer beside the checkpoint; a folder without one says so."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    pieces = ["a", "b", ",", "a</w>", "b</w>", ",</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    model = load_model(write(tmp_path, "SD1"), device="cpu")
    assert (model.tokenizer.start_id, model.tokenizer.end_id, model.tokenizer.comma_id) == (7, 8, 5)
    assert model.tokenizer.encode("ab, B") == [6, 5, 4]
    with pytest.raises(FileError, match="no CLIP tokenizer"):
        load_model(write(tmp_path, "SD1"), tokenizer=tmp_path / "nowhere", device="cpu")


@pytest.mark.parametrize("family", ["SD1", "SDXL"])
def test_diffusers_folders(tmp_path: Path, family: str) -> None:
    model = read(write(tmp_path, family))
    folder = tmp_path / "folder"
    for name, part in (("unet", model.unet), ("vae", model.vae)):
        part.save_pretrained(folder / name)
    for name, encoder in zip(("text_encoder", "text_encoder_2"), model.text_encoders, strict=False):
        encoder.module.save_pretrained(folder / name)
    with pytest.raises(FileError, match=r"model_index\.json"):
        read(folder)
    (folder / "model_index.json").write_text("{}")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": "v_prediction"}))
    again = read(folder)
    assert again.prediction == "v" and again.family == family and again.sha256 is None
    for ours, theirs in zip(again.parts().values(), model.parts().values(), strict=True):
        assert same(ours, theirs)


def test_a_picture_goes_through_the_autoencoder(tmp_path: Path) -> None:
    from PIL import Image

    model = read(write(tmp_path, "SD1"))
    latent = encode_image(model, Image.new("RGBA", (40, 30), (255, 0, 0, 0)), (64, 32))
    assert latent.shape == (1, 4, 4, 8)
    assert torch.equal(latent, encode_image(model, Image.new("RGB", (64, 32), "white"), (64, 32)))


def test_parts_of_a_pipeline(tmp_path: Path) -> None:
    class Pipe:
        unet, text_encoder, text_encoder_2 = nn.Linear(1, 1), nn.Linear(1, 1), None

    assert set(hookable_model_of(Pipe()).parts()) == {"unet", "te"}
    with pytest.raises(FileError, match="has no `unet`"):
        hookable_model_of(object())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precision": "fp15"}, "did you mean 'fp16'"),
        ({"prediction": "epsilom"}, "did you mean 'epsilon'"),
    ],
)
def test_options(tmp_path: Path, options: dict[str, str], text: str) -> None:
    with pytest.raises(FileError, match=text):
        read(tmp_path / "x.safetensors", **options)
    with pytest.raises(FileError, match="does not exist"):
        read(tmp_path / "x.safetensors")


@pytest.mark.long
@pytest.mark.parametrize(("variant", "shards"), [("fp16", None), ("bf16", None), ("fp16", "100KB"), (None, None)])
def test_a_folder_that_holds_one_variant_only(tmp_path: Path, variant: str | None, shards: str | None) -> None:
    """As most SDXL downloads; `merge` read such a folder, `generate` and `train` did not."""
    unet, vae, (text,) = parts_of("SD1")
    more = {"variant": variant} if variant else {}
    unet.save_pretrained(tmp_path / "unet", **more, **({"max_shard_size": shards} if shards else {}))
    vae.save_pretrained(tmp_path / "vae", **more)
    text.save_pretrained(tmp_path / "text_encoder", **more)
    (tmp_path / "model_index.json").write_text("{}")
    assert not variant or not list(tmp_path.glob("*/model.safetensors"))
    model = load_model(tmp_path, tokenizer=WordTokenizer(), device="cpu")
    assert all(torch.equal(p, q) for p, q in zip(unet.parameters(), model.unet.parameters(), strict=True))
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1 or not shards
    unet.save_pretrained(tmp_path / "unet")  # beside the plain file the variant is not looked at
    assert weights_variant(tmp_path / "unet") is None
