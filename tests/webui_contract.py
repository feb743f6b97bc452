"""What `lora_ext/host/a1111` asks of the web UI, and the scenarios in which it is recorded what the web UI does.

`record` drives a web UI that has the extension `tests/webui/recorder`: the real one, or the stand-in of `tests/a1111`.
"""

from __future__ import annotations

import ast
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import lora_ext

HOST = Path(lora_ext.__file__).parent / "host" / "a1111"
ENTRY = HOST.parents[2] / "scripts" / "lora_ext_entry.py"
FILE = Path(__file__).parent / "data" / "webui_contract.json"
"""The recording of the real web UI 1.10.1."""

OBJECTS = {
    "p": "all_hr_negative_prompts all_hr_prompts all_negative_prompts all_prompts all_seeds all_subseeds batch_size "
    "cached_c cached_hr_c cached_hr_uc cached_uc close comment comments enable_hr extra_generation_params "
    "extra_network_data get_conds height hr_c hr_extra_network_data hr_negative_prompts hr_prompt hr_prompts "
    "hr_resize_x hr_resize_y hr_scale hr_uc is_hr_pass iteration n_iter negative_prompt negative_prompts prompt "
    "prompts rng sample sample_hr_pass sampler_name seed seeds setup_conds steps subseeds width",
    "rng": "next seed_resize_from_h seed_resize_from_w seeds shape subseed_strength subseeds",
    "network_params": "items named positional",
    "params": "denoiser sampling_step text_cond text_uncond total_sampling_steps x",
    "denoiser": "p step steps total_steps",
    "plot": "AxisOption axis_options",
    "script_data": "basedir module path script_class",
    "sd_model": "alphas_cumprod alphas_cumprod_original cond_stage_model cond_stage_model_empty_prompt "
    "first_stage_model first_stage_model.decoder first_stage_model.encoder first_stage_model.quant_conv "
    "forge_objects is_sd1 is_sd2 is_sd3 is_sdxl lowvram model model.diffusion_model parameterization scale_factor "
    "sd_checkpoint_info",
    "encoder": "encode_embedding_init_text process_texts tokenize tokenize_line wrapped wrapped.transformer",
    "checkpoint_info": "calculate_shorthash filename hash model_name name_for_extra sha256",
    "embedding": "filename loaded name shape shorthash vec vectors",
    "embedding_db": "expected_shape register_embedding register_embedding_by_name skipped_embeddings word_embeddings",
    "state": "assign_current_image begin end id_live_preview interrupted job request_restart sampling_step "
    "sampling_steps server_command skipped stopping_generation textinfo",
    "model_data": "loaded_sd_models sd_model",
    "optimization": "apply is_available",
}
"""Objects that the code reaches through variables → the attributes that it uses."""

MORE = {
    "modules.processing": "StableDiffusionProcessingImg2Img StableDiffusionProcessingTxt2Img.sample "
    "StableDiffusionProcessingImg2Img.sample StableDiffusionProcessingTxt2Img.sample_hr_pass decode_latent_batch "
    "StableDiffusionProcessing.setup_conds StableDiffusionProcessing.parse_extra_network_prompts "
    "StableDiffusionProcessing.get_conds_with_caching",
    "modules.sd_models": "send_model_to_cpu send_model_to_trash reload_model_weights",
    "modules.devices": "dtype dtype_inference dtype_unet dtype_vae unet_needs_upcast",
    "modules.extra_networks": "ExtraNetwork.activate ExtraNetwork.deactivate activate deactivate",
    "modules.shared": "loaded_hypernetworks opts.CLIP_stop_at_last_layers opts.sd_vae opts.randn_source "
    "opts.eta_noise_seed_delta opts.token_merging_ratio opts.upcast_attn opts.emphasis "
    "opts.use_old_emphasis_implementation cmd_opts.ckpt_dir cmd_opts.ckpt_dirs cmd_opts.lora_dir cmd_opts.lora_dirs "
    "cmd_opts.lyco_dir_backcompat cmd_opts.gradio_auth cmd_opts.api_auth OptionInfo.info",
    "modules.script_callbacks": "CFGDenoiserParams add_callback",
    "networks": "available_networks loaded_networks load_networks network_apply_weights network_reset_cached_weight",
}
"""Names that the code reaches by text: module → names."""

TAG = "<lora:lierla:0.8:lbw=OUTD>"
INFOTEXT = (
    f"a photo of a cat {TAG}\nNegative prompt: a dog\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 42, Size: 128x128, "
    'Hires prompt: "a big cat <lora:lierla:1>", Lora hashes: "lierla: 0123456789ab", '
    'Lora block weights: "lierla:lbw=1,0", Lora block seed: 42'
)
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
SAME_CONFIG, OWN_CONFIG, FIRST = "tiny-sd15.ckpt", "other.safetensors", "tiny-sd15.safetensors"
"""Checkpoints: one whose weights are loaded into the model that is there, one that needs a model of its own."""


class Driven(Protocol):
    """A web UI with the recorder."""

    def events(self, *, fail: str = "") -> list[str]:
        """What was written down since the last call. fail: what is to raise next."""
        ...

    def describe(self, wanted: dict[str, Any]) -> dict[str, Any]: ...

    def txt2img(self, **request: Any) -> bool:
        """Whether pictures came."""
        ...

    def img2img(self, **request: Any) -> bool: ...

    def plot(self, prompt: str, values: str) -> bool:
        """X/Y/Z plot along the recorder's axis."""
        ...

    def options(self, **values: Any) -> None: ...

    def paste(self, infotext: str) -> None: ...

    def reload(self) -> None:
        """Reload UI."""
        ...


def record(webui: Driven) -> dict[str, Any]:
    """All scenarios. Orders of calls by scenario, then names, objects and facts."""
    begun, end = webui.events(), time.monotonic() + 300
    while "load_model ends" not in begun and time.monotonic() < end:  # it answers before its model is there
        time.sleep(0.2)
        begun += webui.events()
    # the page is built meanwhile: whether a network is registered before the model is there differs from start to start
    loading = [event for event in begun if _of_the_model(event) and not event.startswith("activate")]
    orders: dict[str, Any] = {
        "start": _folded([event for event in begun if not _of_the_model(event)]),
        "start: the model, in a thread of its own": _folded(loading),
    }

    def scenario(name: str, act: Callable[[], object], fail: str = "") -> None:
        webui.events(fail=fail)
        came = act()
        orders[name] = _folded(webui.events()) + ([f"answered {came}"] if isinstance(came, bool) else [])

    def text(prompt: str = f"a cat {TAG}", **more: Any) -> Callable[[], object]:
        return lambda: webui.txt2img(prompt=prompt, **more)

    def choose(checkpoint: str) -> Callable[[], object]:
        return lambda: webui.options(sd_model_checkpoint=checkpoint)

    webui.options(sd_model_checkpoint=FIRST)
    scenario("txt2img", text())
    scenario("txt2img again: conditioning is kept", text())
    scenario("txt2img without a tag", text("a cat"))
    scenario("two batches of two", text(batch_size=2, n_iter=2))
    scenario("an upper-case tag and an alias", text("a cat <LORA:a:1> <lyco:b:1> <lora:a=b=c:x=1>"))
    scenario("hires", text(**HIRES, hr_prompt="a big cat <lora:lierla:0.5>"))
    scenario("img2img", lambda: webui.img2img(prompt=f"a cat {TAG}", denoising_strength=0.5))
    scenario("interrupt", text(n_iter=2), fail="interrupt 1")
    scenario("an extra network raises", text(), fail="activate")
    scenario("a denoiser callback raises", text(), fail="cfg_denoiser")
    scenario("the U-Net raises", text(), fail="U-Net 1")
    scenario("the decoder raises", text(), fail="decode_latent_batch")
    scenario("X/Y/Z plot", lambda: webui.plot(f"a cat {TAG}", "red, green"))
    scenario("paste", lambda: webui.paste(INFOTEXT))
    for title, name in (("same configuration", SAME_CONFIG), ("other configuration", OWN_CONFIG)):
        scenario(f"checkpoint of the {title}", choose(name))
    webui.options(sd_checkpoints_limit=2)
    scenario("checkpoint with two kept", choose(FIRST))
    scenario("checkpoint that was kept", choose(OWN_CONFIG))
    scenario("checkpoint that was kept, again", choose(FIRST))
    scenario("hires with another checkpoint", text(**HIRES, hr_checkpoint_name=OWN_CONFIG))
    scenario("refiner", text(refiner_checkpoint=OWN_CONFIG, refiner_switch_at=0.5))
    scenario("txt2img after the refiner", text())
    described = webui.describe({"names": used_names(), "objects": {k: v.split() for k, v in OBJECTS.items()}})
    scenario("Reload UI", webui.reload)
    return {"orders": orders, **described}


def _of_the_model(event: str) -> bool:
    return event.startswith(("load_model", "model_loaded", "send_model", "activate: no prompts"))


def _folded(events: list[str]) -> list[str]:
    """`X begins`, `X ends` with nothing in between → `X`."""
    folded: list[str] = []
    for event in events:
        name = event.removesuffix(" ends")
        if event.endswith(" ends") and folded and folded[-1] == f"{name} begins":
            folded[-1] = name
        else:
            folded.append(event)
    return folded


def used_names() -> list[str]:
    """Every `modules.…` that the code names, read off its text: imports, attributes, and `getattr` with a literal."""
    found = {f"{module}.{name}" for module, names in MORE.items() for name in names.split()}
    for path in (ENTRY, *HOST.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and not node.level and str(node.module).split(".")[0] == "modules"
            for alias in node.names
        }
        found |= set(imported.values())
        found |= {name for node in ast.walk(tree) if (name := _dotted(node, imported))}
    return sorted(name for name in found if ".opts.lora_ext_" not in name)


def _dotted(node: ast.AST, imported: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return imported.get(node.id, "")
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value, imported)
        return base and f"{base}.{node.attr}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        base, name = _dotted(node.args[0], imported), node.args[1]
        return f"{base}.{name.value}" if base and isinstance(name, ast.Constant) else ""
    return ""


def recording() -> dict[str, Any]:
    """What the real web UI did."""
    return dict(json.loads(FILE.read_text(encoding="utf-8")))
