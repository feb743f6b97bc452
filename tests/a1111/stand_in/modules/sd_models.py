"""Checkpoints, and the models made of them. Weights are random ones of the checkpoint's own seed."""

from types import SimpleNamespace

import torch
from tiny_ldm import VAE, UNet
from torch import nn

from modules import devices, script_callbacks, sd_hijack, shared


class CheckpointInfo:
    """config: checkpoints of one configuration can share a model."""

    def __init__(self, filename, seed, config):
        self.filename, self.seed, self.config = str(filename), seed, config
        self.name = self.title = self.filename.replace("\\", "/").rpartition("/")[2]
        self.name_for_extra = self.model_name = self.name.rpartition(".")[0]
        self.hash, self.sha256 = f"{seed:08x}", f"{seed:064x}"

    def calculate_shorthash(self):
        return self.sha256[:10]


checkpoints = {}
"""Name → `CheckpointInfo`; `start.py` fills it."""
model_data = SimpleNamespace(sd_model=None, loaded_sd_models=[])


class LatentDiffusion(nn.Module):
    """SD1 in miniature, with the attributes of the web UI's models."""

    is_sd1, is_sd2, is_sdxl, is_sd3 = True, False, False, False
    parameterization, scale_factor, lowvram = "eps", 0.18215, False

    def __init__(self, info):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(info.seed)
            self.model = nn.Module()
            self.model.diffusion_model = UNet()
            self.first_stage_model = VAE()
            self.cond_stage_model = sd_hijack.TextEncoder()
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.register_buffer("alphas_cumprod", (1 - betas).cumprod(0))
        self.alphas_cumprod_original = self.alphas_cumprod
        self.sd_checkpoint_info = info
        self.eval()

    @property
    def sigmas(self):
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod) ** 0.5

    def noise(self, x, sigma, context):
        """What the U-Net takes for noise in `x`, of which `sigma` is the level."""
        time = (self.sigmas - sigma).abs().argmin().expand(len(x))
        return self.model.diffusion_model(x / (sigma**2 + 1) ** 0.5, time, context=context)


def send_model_to_cpu(m):
    m.to(devices.cpu)


def send_model_to_device(m):
    m.to(devices.device)


def send_model_to_trash(m):
    m.to("meta")


def load_model(checkpoint_info=None, already_loaded_state_dict=None):
    """A model of its own for a checkpoint."""
    from modules import extra_networks, processing

    info = checkpoint_info or select_checkpoint()
    if model_data.sd_model:
        send_model_to_trash(model_data.sd_model)
        model_data.loaded_sd_models.remove(model_data.sd_model)
    sd_model = LatentDiffusion(info)
    send_model_to_device(sd_model)
    _use(sd_model)
    script_callbacks.run("model_loaded", sd_model)
    with torch.no_grad():
        extra_networks.activate(processing.StableDiffusionProcessingTxt2Img(), {})
        sd_model.cond_stage_model_empty_prompt = sd_model.cond_stage_model([""])


def reload_model_weights(sd_model=None, info=None, forced_reload=False):
    """The model of the checkpoint that is chosen, or of `info`: one that is kept, the weights of the one that is there,
    or a new one."""
    info, before = info or select_checkpoint(), model_data.sd_model
    if before is not None and before.sd_checkpoint_info is info and not forced_reload:
        return before
    send_model_to_cpu(before)
    kept = [model for model in model_data.loaded_sd_models if model.sd_checkpoint_info is info]
    if kept:
        send_model_to_device(kept[0])
        return _use(kept[0])
    if len(model_data.loaded_sd_models) < shared.opts.sd_checkpoints_limit:
        model_data.sd_model = None
        load_model(info)
        return model_data.sd_model
    send_model_to_cpu(before)
    if before.sd_checkpoint_info.config != info.config:
        send_model_to_trash(before)
        load_model(info)
        return model_data.sd_model
    before.load_state_dict(LatentDiffusion(info).state_dict())
    before.sd_checkpoint_info = info
    script_callbacks.run("model_loaded", before)
    return before


def _use(sd_model):
    others = [model for model in model_data.loaded_sd_models if model is not sd_model]
    model_data.sd_model, model_data.loaded_sd_models = sd_model, [sd_model, *others]
    return sd_model


def select_checkpoint():
    return checkpoints[shared.opts.sd_model_checkpoint]
