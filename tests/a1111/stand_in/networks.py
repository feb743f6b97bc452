"""The built-in Lora extension: files that it was made to load are written into the layers' weights."""

import torch
from modules import shared

available_networks = {}
"""Name → a seed; `start.py` fills it."""
loaded_networks = []


def load_networks(names, te_multipliers=None, unet_multipliers=None, dyn_dims=None):
    loaded_networks[:] = [name for name in names if name in available_networks]


def network_apply_weights(self):
    """Brings one layer to `loaded_networks`; what it was before is kept beside it."""
    wanted = tuple(loaded_networks)
    if wanted == getattr(self, "network_current_names", ()):
        return
    if getattr(self, "network_weights_backup", None) is None:
        self.network_weights_backup = self.weight.detach().clone()
    with torch.no_grad():
        self.weight.copy_(self.network_weights_backup)
        for name in wanted:
            generator = torch.Generator().manual_seed(available_networks[name])
            self.weight += torch.randn(self.weight.shape, generator=generator) * 0.01
    self.network_current_names = wanted


def network_reset_cached_weight(self):
    self.network_current_names = ()
    self.network_weights_backup = None


def apply_to_all():
    """As if every layer of the model had been called."""
    for module in shared.sd_model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            network_apply_weights(module)
