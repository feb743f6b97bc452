"""Training data: folders, captions, buckets, the order of samples, and batches."""
