"""The built-in Lora extension: registers itself before the UI is built."""

from extra_networks_lora import ExtraNetworkLora
from modules import extra_networks, script_callbacks


def before_ui():
    network = ExtraNetworkLora()
    extra_networks.register_extra_network(network)
    extra_networks.register_extra_network_alias(network, "lyco")


script_callbacks.on_before_ui(before_ui)
