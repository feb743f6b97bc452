"""Models in memory without a web UI: loading, sampling and training with diffusers and transformers."""
