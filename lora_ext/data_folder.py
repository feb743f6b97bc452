"""Where the standalone program keeps what belongs to the user."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_data_folder() -> Path:
    """`LORA_EXT_DATA`, else the system's place for a user's application data."""
    given = os.environ.get("LORA_EXT_DATA")
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming")) / "lora-ext"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "lora-ext"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "lora-ext"
