"""Hosts: the programs and libraries whose models LoRA files are applied to, one package each."""
