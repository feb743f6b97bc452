"""Noise schedules: only their names matter here."""

from types import SimpleNamespace

schedulers = [SimpleNamespace(name=name.lower(), label=name) for name in ("Automatic", "Uniform", "Karras")]
