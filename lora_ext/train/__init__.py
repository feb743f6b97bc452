"""Training of LierLa, C3Lier and DyLoRA networks: `config`, `data`, `network` and `run`, each above the one before."""
