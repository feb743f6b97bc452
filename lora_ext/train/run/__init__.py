"""A training run: set-up, steps, loss, log, samples, files, saved states and reports."""
