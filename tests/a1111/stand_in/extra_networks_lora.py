"""The built-in Lora extension's place in the table of extra networks."""

import networks
from modules import extra_networks


class ExtraNetworkLora(extra_networks.ExtraNetwork):
    def __init__(self):
        super().__init__("lora")

    def activate(self, p, params_list):
        names = [params.positional[0] for params in params_list]
        if names or networks.loaded_networks:
            networks.load_networks(names)
            networks.apply_to_all()

    def deactivate(self, p):
        pass
