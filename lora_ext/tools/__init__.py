"""Tools that make one file from others: merge, resize, split, reweight, convert, extract, metadata.

Every tool is a function from `LoraFile`s to a result and a `ToolReport`, with a command line `main(argv)` around it.
"""
