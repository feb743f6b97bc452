"""Everything on the CPU in float32."""

from contextlib import nullcontext

import torch

device = cpu = torch.device("cpu")
dtype = dtype_vae = dtype_unet = dtype_inference = torch.float32
unet_needs_upcast = fp8 = False


def autocast(disable=False):
    return nullcontext()


def torch_gc():
    pass
