"""Training: recipe (every knob, once), networks, loss, optimizers, data, the loop."""
