"""Test-only extension: lets the tests see what the web UI's API does not tell.

Comments under a picture go to the infotext ("Probe comments"); routes below /probe tell the model's weights as one
hash, who has `<lora:…>`, which embeddings are registered, how layers are changed, and reload the UI.
"""

import hashlib
import json
import sys
import time

import torch
from modules import extra_networks, script_callbacks, scripts, sd_models, shared
from PIL import Image


class Script(scripts.Script):
    def title(self):
        return "lora-ext probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def postprocess(self, p, processed):
        p.extra_generation_params["Probe comments"] = json.dumps(list(p.comments))


def weights():
    model = sd_models.model_data.sd_model
    digest, hooks = hashlib.sha256(), 0
    objects = getattr(model, "forge_objects", None)  # Forge: the model itself is no module
    parts = [model]
    if objects is not None:
        parts = [objects.unet.model, objects.clip.cond_stage_model, objects.vae.first_stage_model]
    for part in parts:
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(name.encode() + str(tensor.dtype).encode() + tensor.detach().cpu().float().numpy().tobytes())
        hooks += sum(len(module._forward_hooks) for module in part.modules())
    return {"hash": digest.hexdigest(), "hooks": hooks, "checkpoint": model.sd_checkpoint_info.name, "id": id(model)}


def way():
    from sd_webui_lora_ext.host.patched import model_patches
    from sd_webui_lora_ext.inject.live_layer import LIVE_LAYERS

    baked = sum(bool(layer.originals) for layer in LIVE_LAYERS.values())
    live = sum(layer.hook is not None for layer in LIVE_LAYERS.values())
    patches = [found for one in model_patches._PATCHES_BY_MODEL.values() for found in one._by_owner.values()]
    return {"baked": baked, "live": live, "patched": sum(map(len, patches))}


def native_side():
    """Pixels a side of a sheet's pictures that have no size of their own, and of a training's samples."""
    from sd_webui_lora_ext.compare.image_spec import ImageSpec
    from sd_webui_lora_ext.host.a1111 import image_renderer, trainable_model

    model = trainable_model.A1111TrainableModel(sd_models.model_data.sd_model)
    return [*image_renderer._size(ImageSpec()), model.native_size]


TIMES = {}
"""Processor seconds by name, since they were last asked for."""


def timed(owner, name, label):
    """Replaces a function by itself with a clock; what it calls that has one too is counted once."""
    original = getattr(owner, name)

    def replacement(*args, **kwargs):
        if TIMES.get("running"):
            return original(*args, **kwargs)
        TIMES["running"], begun = True, time.process_time()
        try:
            return original(*args, **kwargs)
        finally:
            TIMES[label] = TIMES.get(label, 0.0) + time.process_time() - begun
            TIMES["running"] = False

    setattr(owner, name, replacement)


def times():
    """How long tags, loading patched models and making factors of hooks took since the last call (Forge)."""
    from backend import memory_management
    from sd_webui_lora_ext.inject.row_groups import JoinedFactors

    if not TIMES:
        timed(extra_networks, "activate", "tags")
        timed(memory_management.LoadedModel, "model_load", "loading")
        timed(JoinedFactors, "groups", "factors")
    found = {name: value for name, value in TIMES.items() if name != "running"}
    TIMES.clear()
    TIMES["running"] = False
    return found


def adetailer_box():
    """ADetailer finds the middle of each picture, as if it were a face: the models that detect faces are not there."""
    (module,) = {data.module for data in scripts.scripts_data if data.path.endswith("!adetailer.py")}

    def detect(_model, image, _confidence):
        (width, height), mask = image.size, Image.new("L", image.size)
        box = [width // 4, height // 4, width * 3 // 4, height * 3 // 4]
        mask.paste(255, box)
        return module.PredictOutput(bboxes=[box], masks=[mask], confidences=[1.0], preview=image)

    module.mediapipe_predict = detect


def add_routes(_, app):
    app.get("/probe/times")(times)
    app.get("/probe/weights")(weights)
    app.get("/probe/way")(way)
    app.post("/probe/adetailer-box")(adetailer_box)
    app.get("/probe/native_side")(native_side)

    @app.get("/probe/registry")
    def registry():
        tables = {"lora": extra_networks.extra_network_registry, "lyco": extra_networks.extra_network_aliases}
        loaded = sum(name == "sd_webui_lora_ext.host.a1111.extension" for name in sys.modules)
        callbacks = sum("lora_ext_entry" in one.script for row in script_callbacks.callback_map.values() for one in row)
        found = {name: type(table.get(name)).__module__ for name, table in tables.items()}
        reload = getattr(sd_models, "reload_model_weights", None)  # missing in Neo
        return {**found, "loaded": loaded, "callbacks": callbacks, "reload": getattr(reload, "__module__", None)}

    @app.get("/probe/embeddings")
    def embeddings():
        try:
            from modules import sd_hijack

            database = sd_hijack.model_hijack.embedding_db
        except (ImportError, AttributeError):  # Forge, Neo
            database = sd_models.model_data.sd_model.text_processing_engine.embeddings
        return sorted(database.word_embeddings)

    @app.post("/probe/out-of-memory")
    def out_of_memory(part: str, call: int):
        """The call number `call` of the U-Net ("unet") or of the decoder ("decoder") finds no memory, once."""
        model, count = shared.sd_model, 0
        module = model.model.diffusion_model if part == "unet" else model.first_stage_model.decoder

        def fail(*_):
            nonlocal count
            count += 1
            if count == call:
                handle.remove()
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        handle = module.register_forward_pre_hook(fail)

    @app.post("/probe/reload-ui")
    def reload_ui():
        shared.state.request_restart()


script_callbacks.on_app_started(add_routes)
