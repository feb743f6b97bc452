"""Test-only extension: records what the web UI does at the places that `lora_ext/host/a1111` uses.

Runs in the real web UI (see `record_contract.py`) and in the stand-in (see `tests/a1111`): what both write down must be
equal. It writes facts only: names, signatures, types, and the order of calls.

Nothing here changes what the web UI does, except `fail`, which lets one call raise.
"""

import functools
import importlib
import inspect
import sys
from types import SimpleNamespace

import torch
from modules import (
    extra_networks,
    lowvram,
    processing,
    prompt_parser,
    rng,
    script_callbacks,
    scripts,
    sd_hijack,
    sd_hijack_optimizations,
    sd_models,
    shared,
)

CALLS = (
    (processing, "process_images"),
    (processing, "decode_latent_batch"),
    (processing, "create_infotext"),
    (processing.StableDiffusionProcessing, "setup_prompts"),
    (processing.StableDiffusionProcessing, "parse_extra_network_prompts"),
    (processing.StableDiffusionProcessing, "setup_conds"),
    (processing.StableDiffusionProcessing, "close"),
    (processing.StableDiffusionProcessingTxt2Img, "sample"),
    (processing.StableDiffusionProcessingTxt2Img, "sample_hr_pass"),
    (processing.StableDiffusionProcessingImg2Img, "sample"),
    (prompt_parser, "get_learned_conditioning"),
    (prompt_parser, "get_multicond_learned_conditioning"),
    (rng, "ImageRNG"),
    (sd_models, "reload_model_weights"),
    (sd_models, "send_model_to_cpu"),
    (sd_models, "send_model_to_device"),
    (sd_models, "send_model_to_trash"),
    (sd_models, "load_model"),
    (lowvram, "send_everything_to_cpu"),
    (type(shared.state), "begin"),
    (type(shared.state), "end"),
    (type(shared.state), "interrupt"),
    (type(shared.state), "request_restart"),
)
"""The functions whose calls are written down."""

record = sys.modules.setdefault("zz_contract_record", SimpleNamespace(events=[], replaced=[], fail="", objects={}))
"""Survives Reload UI, which loads this file again."""


def note(text):
    record.events.append(text)


def keep(**objects):
    """Objects that only exist while the web UI works; their attributes are described by `attributes`."""
    record.objects.update(objects)


# --- calls


def watch_calls():
    for owner, name in CALLS:
        original = vars(owner)[name]
        title = f"{owner.__name__}.{name}" if inspect.isclass(owner) else name
        if inspect.isclass(original):
            replacement = type(name, (original,), {"__init__": watched(original.__init__, title)})
        else:
            replacement = watched(original, title)
        setattr(owner, name, replacement)
        record.replaced.append((owner, name, original))


def watched(original, title):
    @functools.wraps(original)
    def replacement(*args, **kwargs):
        note(f"{title} begins")
        if record.fail == title:
            record.fail = ""
            note(f"{title} is made to raise")
            raise RuntimeError("made to raise by the recorder")
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            note(f"{title} raises {type(error).__name__}")
            raise
        note(f"{title} ends")
        return result

    return replacement


def unwatch_calls():
    for owner, name, original in reversed(record.replaced):
        setattr(owner, name, original)
    record.replaced.clear()


# --- extra networks and callbacks


class Network(extra_networks.ExtraNetwork):
    """Registered beside the others; called for every pass of every picture."""

    def __init__(self):
        super().__init__("zz_recorder")

    def activate(self, p, params_list):
        if p.prompts is None:
            note("activate: no prompts (a model was just loaded)")
            return
        data = p.hr_extra_network_data if p.is_hr_pass else p.extra_network_data
        tags = {name: [params.items for params in found] for name, found in data.items()}
        in_prompts = sum("<" in prompt for prompt in p.prompts), sum("<" in prompt for prompt in p.all_prompts)
        note(
            f"activate: {'hires' if p.is_hr_pass else 'first'} pass, batch {p.iteration}, {len(p.prompts)} prompts, "
            f"prompts and all prompts with tags {in_prompts}, tags {tags}, given "
            f"{[params.items for params in params_list]}, seeds {p.seeds} of {p.all_seeds}, "
            f"conditioning cached {p.cached_c[0] is not None}, autocast {autocast()}, grad {torch.is_grad_enabled()}"
        )
        keep(p=p, rng=p.rng, network_params=(params_list or [extra_networks.ExtraNetworkParams(["a"])])[0])
        if record.fail == "activate":
            record.fail = ""
            note("activate is made to raise")
            raise RuntimeError("made to raise by the recorder")

    def deactivate(self, p):
        note(f"deactivate: {'hires' if p.is_hr_pass else 'first'} pass")


def autocast():
    return "on" if torch.is_autocast_enabled() else "off"


def on_before_ui():
    note("before_ui")
    add_axis()


def on_ui_tabs():
    note("ui_tabs")
    return []


def on_model_loaded(sd_model):
    note(f"model_loaded: the model in use {sd_models.model_data.sd_model is sd_model}")


def on_cfg_denoiser(params):
    denoiser = params.denoiser
    note(
        f"cfg_denoiser: call {denoiser.step} of {denoiser.total_steps}, steps {denoiser.steps}, "
        f"{params.x.shape[0]} rows, p given {denoiser.p is not None}"
    )
    keep(params=params, denoiser=denoiser)
    if record.fail.startswith("interrupt") and record.fail == f"interrupt {denoiser.step}":
        record.fail = ""
        shared.state.interrupt()
    if record.fail == "cfg_denoiser":
        record.fail = ""
        note("cfg_denoiser is made to raise")
        raise RuntimeError("made to raise by the recorder")
    if record.fail == f"U-Net {denoiser.step}":
        record.fail = ""
        handle = shared.sd_model.model.diffusion_model.register_forward_pre_hook(fail_once)
        record.handle = handle


def fail_once(*_):
    record.handle.remove()
    note("U-Net is made to raise")
    raise RuntimeError("made to raise by the recorder")


def on_infotext_pasted(infotext, params):
    note(f"infotext_pasted: {len(infotext)} characters, {type(params).__name__} of {len(params)}")
    record.pasted = dict(params)


def on_script_unloaded():
    note("script_unloaded")
    unwatch_calls()


# --- the X/Y/Z plot


def add_axis():
    for data in scripts.scripts_data:
        if data.script_class.__module__ == "xyz_grid.py":
            keep(plot=data.module, script_data=data)
            option = data.module.AxisOption(
                "Recorder", str, apply_axis, format_value=format_axis, confirm=confirm_axis, cost=0.5
            )
            data.module.axis_options.append(option)


def confirm_axis(p, xs):
    note(f"axis confirm: {type(xs).__name__} {xs}, prompt {p.prompt!r}")


def apply_axis(p, x, xs):
    note(f"axis apply: {x!r} of {xs}, prompt {p.prompt!r}")
    p.prompt = f"{p.prompt} {x}"


def format_axis(p, option, x):
    note(f"axis format: {x!r}")
    return str(x)


# --- names, signatures and types


def describe(name):
    """`modules.a.b.c` → what it is: a function or class with its signature, or the type of a value."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        return kind(follow(found, parts[count:]))
    return "absent"


ABSENT = object()


def follow(found, parts):
    for part in parts:
        found = getattr(found, part, ABSENT)
        if found is ABSENT:
            break
    return found


def kind(found):
    if found is ABSENT:
        return "absent"
    if inspect.ismodule(found):
        return "module"
    if inspect.isclass(found):
        return f"class {signature(found)}"
    if inspect.isroutine(found):
        return f"function {signature(found)}"
    if isinstance(found, torch.nn.Module):
        return "network"
    plain = type(found).__module__ in ("builtins", "torch") or isinstance(found, torch.Tensor)
    return type(found).__name__ if plain else "object"


def signature(found):
    if type(found).__name__ == "builtin_function_or_method":
        return "(...)"
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    if found.__class__ is type and found.__bases__[0].__name__ == found.__name__:  # our own class around it
        found = found.__bases__[0]
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    written = []
    for parameter in inspect.signature(found).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not any(w.startswith("*") for w in written):
            written.append("*")
        given = "" if parameter.default is inspect.Parameter.empty else f"={value(parameter.default)}"
        written.append(f"{marks.get(parameter.kind, '')}{parameter.name}{given}")
    return f"({', '.join(written)})"


def value(default):
    return repr(default) if isinstance(default, (type(None), bool, int, float, str, tuple)) else "..."


def attributes(wanted):
    """root → names → what each is. Roots are the objects kept while pictures were made, and those of `roots`."""
    found = {**record.objects, **roots()}
    return {
        root: {name: kind(follow(found.get(root, ABSENT), name.split("."))) for name in names}
        for root, names in wanted.items()
    }


def roots():
    sd_model = sd_models.model_data.sd_model
    hijack = sd_hijack.model_hijack
    return {
        "sd_model": sd_model,
        "encoder": sd_model.cond_stage_model,
        "checkpoint_info": sd_model.sd_checkpoint_info,
        "embedding_db": hijack.embedding_db,
        "model_hijack": hijack,
        "state": shared.state,
        "model_data": sd_models.model_data,
        "optimization": sd_hijack_optimizations.SdOptimizationSdp(),
    }


# --- results of calls that training makes


def facts():
    """What the functions that training calls return, and what they change."""
    state, sd_model = shared.state, sd_models.model_data.sd_model
    encoder = sd_model.cond_stage_model
    names = ("job", "job_count", "interrupted", "skipped", "stopping_generation", "textinfo", "sampling_step")
    found = {}
    state.interrupted = state.skipped = True
    state.begin(job="recorded")
    found["state after begin"] = {name: getattr(state, name) for name in names}
    state.end()
    found["state after end"] = {name: getattr(state, name) for name in names}
    before = state.id_live_preview
    state.assign_current_image(processing.Image.new("RGB", (8, 8)))
    found["assign_current_image"] = {"live previews more": state.id_live_preview - before}
    with torch.no_grad():
        out = encoder(["a cat", "a dog"])
        vectors = encoder.encode_embedding_init_text("a cat", 2)
        long = encoder(["a cat " * 60])
    chunks, count = encoder.tokenize_line("a cat")
    found["encoder"] = {
        "two texts": list(out.shape[:2]),
        "a long text": list(long.shape[:2]),
        "encode_embedding_init_text": [len(vectors), vectors.shape[1] == out.shape[2]],
        "tokenize_line": [len(chunks), count, type(chunks[0].fixes).__name__, len(chunks[0].tokens)],
        "process_texts": [type(item).__name__ for item in encoder.process_texts(["a cat"])],
        "process_texts count": encoder.process_texts(["a cat"])[1],
    }
    database = sd_hijack.model_hijack.embedding_db
    embedding = sd_hijack.model_hijack.embedding_db and embedding_of(vectors.detach())
    database.register_embedding(embedding, sd_model)
    fixes = encoder.tokenize_line("a zzrecorded cat")[0][0].fixes
    found["embedding"] = {
        "registered": database.word_embeddings.get("zzrecorded") is embedding,
        "read": [[fix.offset, fix.embedding.name] for fix in fixes],
        "count": encoder.process_texts(["a zzrecorded cat"])[1],
    }
    database.register_embedding_by_name(None, sd_model, "zzrecorded")
    found["embedding"]["taken off"] = "zzrecorded" not in database.word_embeddings
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=sd_model, prompt="a <lora:lierla:1> cat", seed=1, steps=1, width=64, height=64, sampler_name="Euler",
        do_not_save_samples=True, do_not_save_grid=True,
    )  # fmt: skip
    made = processing.process_images(p)
    found["a picture that scripts take no part in"] = {
        "infotext": made.infotexts[0].splitlines()[0], "prompts": p.prompts, "all prompts": p.all_prompts
    }  # fmt: skip
    p.close()
    return found


def embedding_of(vectors):
    from modules.textual_inversion import textual_inversion

    made = textual_inversion.create_embedding_from_data({"a": vectors}, "zzrecorded", filename="nowhere")
    keep(embedding=made)
    return made


# --- routes


def add_routes(_, app):
    note("app_started")
    extra_networks.register_extra_network(Network())

    @app.post("/contract/events")
    def events(begin: bool = False, fail: str = ""):
        """What was written down since the last time; `fail` names what is to raise next."""
        found, record.fail = list(record.events), fail
        if begin:
            record.events.clear()
        return found

    @app.post("/contract/describe")
    def described(wanted: dict):
        found = {"facts": facts(), "pasted": record.pasted, "objects": attributes(wanted["objects"])}
        return {**found, "names": {name: describe(name) for name in wanted["names"]}}

    @app.post("/contract/axis")
    def axis():
        """The place of the recorder's axis in the plot's list."""
        plot = record.objects["plot"]
        offered = [o for o in plot.axis_options if type(o) is plot.AxisOption or not o.is_img2img]
        return [option.label for option in offered].index("Recorder")

    @app.post("/contract/reload")
    def reload():
        shared.state.request_restart()


script_callbacks.on_before_ui(on_before_ui)
script_callbacks.on_ui_tabs(on_ui_tabs)
script_callbacks.on_app_started(add_routes)
script_callbacks.on_model_loaded(on_model_loaded)
script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
script_callbacks.on_infotext_pasted(on_infotext_pasted)
script_callbacks.on_script_unloaded(on_script_unloaded)
note("script imported")
watch_calls()
