"""Comparison sheets: pictures of one prompt with other weights, files or settings side by side, and their scores."""
