"""File → file: merge, resize, split, reweight, convert, extract, metadata.

Every verb is a pure function on `LoraFile`s that returns a `Report` beside its result, and `main(argv)` around it.
"""
