"""Reading and writing files: containers, `LoraFile`, metadata and hashes, the folder index."""
