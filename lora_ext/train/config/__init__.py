"""Training settings: the recipe, its checks, its formats, optimizers and block settings."""
