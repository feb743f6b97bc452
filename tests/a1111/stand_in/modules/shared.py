"""Options, the state of the running job, and the model in use."""

import threading
from types import SimpleNamespace

from modules import devices, paths

cmd_opts = SimpleNamespace(
    api_auth=None, gradio_auth=None, gradio_auth_path=None, listen=False, server_name=None, ngrok=None, lowvram=False,
    no_hashing=False, ckpt_dir=None, lora_dir=f"{paths.models_path}/Lora",
    lyco_dir_backcompat=f"{paths.models_path}/LyCORIS",
)  # fmt: skip
demo = SimpleNamespace(share_url=None)
loaded_hypernetworks = []


class OptionInfo:
    def __init__(
        self, default=None, label="", component=None, component_args=None, onchange=None, section=None, refresh=None,
        comment_before="", comment_after="", infotext=None, restrict_api=False, category_id=None,
    ):  # fmt: skip
        self.default, self.label, self.component, self.component_args = default, label, component, component_args
        self.onchange, self.section, self.category_id = onchange, section, category_id
        self.comment_after = comment_after

    def info(self, info):
        self.comment_after += f"<span class='info'>({info})</span>"
        return self


def options_section(section_identifier, options_dict):
    for info in options_dict.values():
        info.section = section_identifier[:2]
    return options_dict


class Options:
    """A value is an attribute; one that nobody set is its option's default."""

    def __init__(self):
        vars(self).update(data={}, data_labels={})

    def __getattr__(self, name):
        if name in self.data:
            return self.data[name]
        if name in self.data_labels:
            return self.data_labels[name].default
        raise AttributeError(name)

    def __setattr__(self, name, value):
        assert name in self.data_labels
        self.data[name] = value

    def add_option(self, key, info):
        self.data_labels[key] = info
        self.data.setdefault(key, info.default)

    def set(self, key, value):
        """What the API and the settings page do."""
        before = getattr(self, key)
        self.data[key] = value
        if value != before and self.data_labels[key].onchange:
            self.data_labels[key].onchange()


opts = Options()
for _name, _default in {
    "CLIP_stop_at_last_layers": 1, "emphasis": "Original", "eta_noise_seed_delta": 0, "token_merging_ratio": 0.0,
    "extra_networks_default_multiplier": 1.0, "extra_networks_add_text_separator": " ",
    "lora_preferred_name": "Alias from file", "lora_add_hashes_to_infotext": True, "lora_bundled_ti_to_infotext": True,
    "randn_source": "GPU", "sd_lora": "None", "sd_vae": "Automatic", "upcast_attn": False,
    "use_old_emphasis_implementation": False, "use_old_scheduling": False, "persistent_cond_cache": True,
    "sd_model_checkpoint": "", "sd_checkpoints_limit": 1, "hires_fix_use_firstpass_conds": False,
}.items():  # fmt: skip
    opts.add_option(_name, OptionInfo(_default))


class State:
    """The job that is at work. Its attributes are the class's until they are set."""

    skipped = interrupted = stopping_generation = False
    job, job_no, job_count = "", 0, 0
    sampling_step = sampling_steps = id_live_preview = 0
    textinfo = current_image = server_command = None

    def begin(self, job="(unknown)"):
        self.skipped = self.interrupted = self.stopping_generation = False
        self.job, self.job_no, self.job_count = job, 0, -1
        self.sampling_step = self.id_live_preview = 0
        self.textinfo = self.current_image = None
        devices.torch_gc()

    def end(self):
        self.job, self.job_count = "", 0
        devices.torch_gc()

    def interrupt(self):
        self.interrupted = True

    def request_restart(self):
        self.interrupt()
        self.server_command = "restart"

    def assign_current_image(self, image):
        self.current_image = image
        self.id_live_preview += 1


state = State()


class Interrogator:
    """CLIP's and BLIP's captions."""

    loaded = False

    def load(self):
        self.loaded = True

    def unload(self):
        self.loaded = False

    def generate_caption(self, pil_image):
        assert self.loaded
        return f"a picture of {pil_image.width} pixels"

    def interrogate(self, pil_image):
        return f"a picture of {pil_image.width} pixels, in colour"


interrogator = Interrogator()
_loading = threading.RLock()


def __getattr__(name):
    """`shared.sd_model` loads a model where there is none; `sd_models.model_data.sd_model` does not."""
    if name != "sd_model":
        raise AttributeError(name)
    from modules import sd_models

    with _loading:
        if sd_models.model_data.sd_model is None:
            sd_models.load_model()
        return sd_models.model_data.sd_model
