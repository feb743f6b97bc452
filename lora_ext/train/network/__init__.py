"""Trainable networks: factors, their autograd functions, and the network on a model."""
