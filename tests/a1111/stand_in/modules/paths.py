"""The folders. `start.py` sets them before anything else is imported."""

models_path = data_path = extensions_dir = script_path = ""
