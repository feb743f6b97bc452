"""Files that are not for SD1, SD2 or SDXL: which architecture, or what else they are. One table, a row a family.

The names of a file's layers decide; where several families share names, the width of the model and the metadata too.
A text encoder decides nothing: CLIP-L is a part of SD1, SDXL, SD3 and Flux.1 alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from ..layer_names import UNET, LayerId


@dataclass(frozen=True)
class ForeignArchitecture:
    """One row: a family of files that are not for SD1, SD2 or SDXL, and how to recognise it.

    Attributes:
        name: what the family is called.
        layers: a regular expression that the beginning of a layer's name matches (in small letters, with `_` for `.`,
            without the prefixes that come before the model's own names).
        metadata: a regular expression for what trainers and Stability AI's model specification call the model.
        widths: widths of the model, where other families have the same layer names; empty for any.
        description: what such a file is; "" for "a LoRA for NAME".
        advice: what to do with it.
        kind: "LoRA", or what else the file is.
        has_sd_layer_names: whether its U-Net has the layer names of SD, so that only the metadata can tell.
    """

    name: str
    layers: str = r"(?!)"
    metadata: str = r"(?!)"
    widths: tuple[int, ...] = ()
    description: str = ""
    advice: str = "cannot act on SD1, SD2 and SDXL models"
    kind: str = "LoRA"
    has_sd_layer_names: bool = False

    def sentence(self, name: str) -> str:
        """Formats one sentence for the user about a file of this family.

        Args:
            name: what the sentence calls the file.

        Returns:
            The sentence without a full stop.
        """
        what = self.description or f"a LoRA for {self.name}"
        return f"{name} is {what} and {self.advice}; it is not applied"


def _unsupported(name: str, layers: str) -> ForeignArchitecture:
    """The row of a kind of adapter, for layers of SD, that has no class in `adapters`."""
    return ForeignArchitecture(
        name,
        layers,
        description=f"of the kind {name}",
        advice="cannot be applied: merge it into its model and extract a LoRA",
        kind=name,
    )


_FLUX = r"double_blocks_\d+_|single_blocks_\d+_|single_transformer_blocks_\d+_|distilled_guidance_layer_"
_LUMINA = r"(layers|noise_refiner|context_refiner)_\d+_(attention_|attn_|feed_forward_|adaln_modulation)"
_DIT = r"transformer_blocks_\d+_attn[12]_"
_MMDIT = r"transformer_blocks_\d+_(attn_|ff_|norm1|ff_context)"

FOREIGN_ARCHITECTURES = (
    ForeignArchitecture("Flux.2", _FLUX, r"flux[-_. ]?2", widths=(6144,)),
    ForeignArchitecture("Chroma", r"distilled_guidance_layer_", r"chroma"),
    ForeignArchitecture(
        "HunyuanVideo",
        r"(double|single)_blocks_\d+_((img|txt)_(mlp_fc|mod_linear)|modulation_linear)|double_blocks_19_|txt_in_individual",
        r"hunyuan[-_ ]?video|framepack|networks\.lora_(hv|framepack)",
    ),
    ForeignArchitecture("AuraFlow", r"joint_transformer_blocks_\d+_", r"aura[-_ ]?flow"),
    ForeignArchitecture("HiDream", r"(double|single)_stream_blocks_\d+_", r"hidream"),
    ForeignArchitecture("Flux.1", _FLUX, r"flux"),
    ForeignArchitecture("Stable Diffusion 3", r"joint_blocks_\d+_", r"(?<![a-z])sd[-_ ]?v?3|stable-diffusion-v?3"),
    ForeignArchitecture("Stable Diffusion 3", _MMDIT, widths=(1536, 2432)),
    ForeignArchitecture(
        "Qwen-Image", r"transformer_blocks_(\d+_(img|txt)_(mlp|mod)|(19|[2-5]\d)_attn_)", r"qwen[-_ ]?image|lora_qwen"
    ),
    ForeignArchitecture("Z-Image", _LUMINA, r"z[-_ ]?image", widths=(3840,)),
    ForeignArchitecture("Lumina 2", _LUMINA, r"lumina", widths=(2304,)),
    ForeignArchitecture("Lumina 2 or Z-Image", _LUMINA),
    ForeignArchitecture("Cosmos", r"blocks_\d+_(self_attn|cross_attn)_(q|k|v|output)_proj_", r"cosmos|anima\b"),
    ForeignArchitecture(
        "Wan video",
        r"blocks_\d+_(self_attn|cross_attn)_(q|k|v|o|k_img|v_img)_|blocks_\d+_ffn_",
        r"(?<![a-z])wan([-_ .\d]|video|x|$)",
    ),
    ForeignArchitecture(
        "Hunyuan-DiT", r"blocks_\d+_(attn1_wqkv|attn1_out_proj|attn2_(q|kv)_proj|default_modulation)", r"hunyuan"
    ),
    ForeignArchitecture("PixArt", r"blocks_\d+_(attn_qkv|cross_attn_kv_linear)", r"pixart"),
    ForeignArchitecture("Krea 2", r"blocks_\d+_attn_w[qkvo]_", r"krea[-_ ]?2"),
    ForeignArchitecture("Kandinsky 5", r"(visual|text)_transformer_blocks_\d+_", r"kandinsky[-_ ]?5"),
    ForeignArchitecture("Ernie-Image", r"layers_\d+_self_attention_to_", r"ernie[-_ ]?image"),
    ForeignArchitecture("LTX-Video", r"(?!)", r"ltx[-_ ]?v"),
    ForeignArchitecture("CogVideoX", _DIT, r"cogvideo", widths=(1920,)),
    ForeignArchitecture("Sana", _DIT, r"(?<![a-z])sana(?![a-z])", widths=(2240,)),
    ForeignArchitecture("PixArt or Sana", _DIT, widths=(1152,)),
    ForeignArchitecture("LTX-Video or Cosmos", _DIT, widths=(2048,)),
    ForeignArchitecture("OmniGen", r"layers_\d+_(self_attn_qkv_proj|mlp_gate_up_proj)", r"omnigen"),
    ForeignArchitecture(
        "Stable Cascade", r"lora_prior_(unet|te)_|down_blocks_\d+_\d+_(channelwise|attention_attn|mapper)", r"cascade"
    ),
    ForeignArchitecture("Kolors", r"(?!)", r"kolors", has_sd_layer_names=True),
    ForeignArchitecture(
        "Kandinsky 2 or DeepFloyd IF", r"(down|up|mid)_blocks?_(\d_)?attentions_\d_(add_[kv]_proj|to_[qkv]_)"
    ),
    ForeignArchitecture(
        "AnimateDiff",
        r"(down|up|mid)_blocks?_(\d_)?motion_modules_",
        r"animatediff",
        description="a motion LoRA for AnimateDiff",
        advice="acts on its motion module only, through its own extension",
    ),
    ForeignArchitecture(
        "diffusion transformer",
        rf"{_MMDIT}|{_DIT}|blocks_\d+_attn[12]_|encoder_block_\d+_layer_",
        description="a LoRA for a diffusion transformer (such as Stable Diffusion 3, Flux.1 or PixArt)",
    ),
    ForeignArchitecture(
        "language model",
        r"layers_\d+_(self_attn_(q|k|v|o)_proj|mlp_(gate|up|down)_proj)",
        description="a LoRA for a language model",
    ),
    _unsupported("AdaLoRA", r".*_lora_e$"),
    _unsupported("VeRA", r".*_vera_lambda_[bd]$|vera_[ab]$"),
    _unsupported("T-LoRA", r".*_(q_layer|p_layer)_weight$|.*_lambda_layer$"),
    _unsupported("OFT of PEFT before 0.16", r".*_oft_r$"),
    _unsupported("BOFT of PEFT", r".*_boft_[rs]$"),
    _unsupported("IA3 of PEFT", r".*_ia3_l$"),
    _unsupported("VB-LoRA", r".*_vblora_|vblora_"),
    _unsupported("RandLoRA", r".*_randlora_|randlora_"),
    _unsupported("FourierFT", r".*_fourierft_"),
    _unsupported("HRA", r".*_hra_u$"),
    _unsupported("MiSS", r".*_(miss|bone)_block$"),
    ForeignArchitecture(
        "embedding",
        r"(emb_params|string_to_param|clip_[lgh])$|<.+>$",
        description="a textual-inversion embedding",
        advice="not a LoRA: put it into the embeddings folder and write its name into the prompt",
        kind="embedding",
    ),
    ForeignArchitecture(
        "ControlNet",
        r"lora_controlnet|control_model_|lllite_|input_hint_block_|controlnet_cond_embedding_|zero_convs_",
        description="a ControlNet",
        advice="not a LoRA: put it into the ControlNet extension's model folder",
        kind="ControlNet",
    ),
    ForeignArchitecture(
        "IP-Adapter",
        r"ip_adapter_|image_proj_",
        description="an IP-Adapter",
        advice="not a LoRA: it acts through the ControlNet extension",
        kind="IP-Adapter",
    ),
    ForeignArchitecture(
        "T2I-Adapter",
        r"(adapter_)?body_\d+_(resnets_\d+_)?block[12]_weight$",
        description="a T2I-Adapter",
        advice="not a LoRA: put it into the ControlNet extension's model folder",
        kind="T2I-Adapter",
    ),
    ForeignArchitecture(
        "checkpoint",
        r"first_stage_model_|cond_stage_model_|conditioner_embedders_|(input_blocks_0_0|out_2|time_embed_0)_weight$"
        r"|(conv_in|conv_out|time_embedding_linear_1)_weight$",
        description="a whole checkpoint",
        advice="not a LoRA: put it into the folder of checkpoints",
        kind="checkpoint",
    ),
    ForeignArchitecture(
        "VAE",
        r"(decoder|encoder)_(up|down|mid)_|(decoder|encoder)_(up|down|mid)_blocks?_|(post_)?quant_conv_"
        r"|((de|en)coder_layers_)?\d+_conv_[024]_weight$",
        description="a VAE",
        advice="not a LoRA: put it into the folder of VAEs",
        kind="VAE",
    ),
    ForeignArchitecture(
        "text encoder",
        r"(text_model_)?embeddings_(token|position)_embedding_weight$|shared_weight$",
        description="a text encoder",
        advice="not a LoRA: it is a part of a checkpoint",
        kind="text encoder",
    ),
    ForeignArchitecture(
        "upscaler",
        r"conv_first_|1_sub_\d+_|rrdb_trunk_|body_\d+_(rdb\d|weight$)|before_rg_|layers_\d+_residual_group_",
        description="an upscaler",
        advice="not a LoRA: put it into the folder of upscalers (ESRGAN, RealESRGAN, SwinIR, DAT)",
        kind="upscaler",
    ),
)
"""Tried in order: narrower rows come first. `(?!)` fits nothing."""

_PREFIX = re.compile(
    r"(?:(?:base_model_model|lora_unet|lora_transformer|lycoris_unet|lycoris|oft_unet|diffusion_model|unet|model|lora_te\d"
    r"|text_encoders?_?\d?|t5xxl|params(?:_ema)?|transformer(?!_blocks))_)*"
)
"""What files write before a model's own names."""

_ADAPTER_MARK = re.compile(
    r"lora|hada_|lokr_|oft_|[gd]ora|diff(_b)?$|(down|up|alpha|on_input|[wb]_norm|[ab][12]\.weight|ia3_l)$|ip_adapter"
)
"""What only the names of adapters contain."""
_DOWN = re.compile(r"(lora_down|lora_A|lora\.down|down|hada_w1_b)(\.\w+)?(\.weight)?$")
_MOST_NAMES = 4000
"""Names that are looked at, at most: the largest files have fewer."""
_METADATA_KEYS = ("ss_base_model_version", "modelspec.architecture", "ss_network_module")


def find_foreign_architecture(
    unrecognized: Mapping[str, Tensor], layer_ids: Iterable[LayerId], metadata: Mapping[str, str], base: str = ""
) -> ForeignArchitecture | None:
    """Recognises a file that is not for SD1, SD2 or SDXL.

    Args:
        unrecognized: key → tensor of everything that names no layer of those families.
        layer_ids: the layers of those families that the file has.
        metadata: the file's metadata.
        base: what a PEFT configuration calls the base model; "" for none.

    Returns:
        The family, or None for a file for SD1, SD2, SDXL or an unknown model.
    """
    stated = " ".join([*(str(metadata.get(key, "")) for key in _METADATA_KEYS), base]).lower()
    named = next((row for row in FOREIGN_ARCHITECTURES if re.search(row.metadata, stated)), None)
    ids = tuple(layer_ids)
    unet = sum(layer_id.part == UNET and bool(layer_id.block) for layer_id in ids)
    if unet and named is not None and named.has_sd_layer_names:
        return named
    found = _by_layers(unrecognized)
    # a layer has two or three tensors; a few unknown ones beside a whole U-Net do not make it another model's file
    if found is not None and found[1] > 2 * (unet if found[0].kind == "LoRA" else len(ids)):
        row = named or found[0]
        return row if ids or row.kind != "LoRA" or any(map(_ADAPTER_MARK.search, unrecognized)) else _whole_model(row)
    return named if not unet else None


def _whole_model(row: ForeignArchitecture) -> ForeignArchitecture:
    """What a file with the layers of a family and no adapter is."""
    return replace(
        row,
        description=f"a whole model {f'for {row.name}' if row.name[0].isupper() else 'of another architecture'}",
        advice="not a LoRA",
        kind="checkpoint",
    )


def _by_layers(unrecognized: Mapping[str, Tensor]) -> tuple[ForeignArchitecture, int] | None:
    """The first row that a name fits, and how many names fit any."""
    names = [_PREFIX.sub("", key.lower().replace(".", "_"), count=1) for key in islice(unrecognized, _MOST_NAMES)]
    widths = Counter(t.shape[1] for key, t in unrecognized.items() if t.dim() > 1 and _DOWN.search(key))
    width = widths.most_common(1)[0][0] if widths else 0
    rows = [row for row in FOREIGN_ARCHITECTURES if not row.widths or width in row.widths]
    fitting = [name for name in names if any(re.match(row.layers, name) for row in rows)]
    found = next((row for row in rows if any(re.match(row.layers, name) for name in fitting)), None)
    return None if found is None else (found, len(fitting))
