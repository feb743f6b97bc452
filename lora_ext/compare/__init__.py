"""Comparison sheets."""
