"""Loading the text files that people write."""

from __future__ import annotations

from pathlib import Path

from ...errors import TrainError


def load_utf8(path: Path) -> str:
    """Loads a text file.

    Args:
        path: The file.

    Returns:
        Its text, without a byte order mark.

    Raises:
        TrainError: The file is missing, cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise TrainError(f"{path} is not UTF-8 text; save it again as UTF-8") from None
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror or error}") from None
