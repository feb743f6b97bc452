"""A stand-in of the web UI's `modules`, as far as `lora_ext/host/a1111` uses them.

Written from `tests/data/webui_contract.json`, which records what the real web UI 1.10.1 does: the same signatures, the
same orders of calls. It holds none of the web UI's code. `tests/a1111/test_a1111_contract.py` compares the two.
"""
