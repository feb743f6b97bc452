"""Writes docs/DEPENDENCIES.md: what this project asks for, the version that is tested, and its licence.

    python benchmarks/dependencies.py [--page FILE]

Licences are those of the installed packages' own metadata. Where `pip-audit` is installed and reaches its database,
known faults of the installed versions are listed too.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUR_NAME = "lora-ext"


def requirements() -> dict[str, list[str]]:
    """Package → the extras that ask for it; "always" for what every installation has."""
    found: dict[str, list[str]] = {}
    for line in metadata.requires(OUR_NAME) or []:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if name and name.group().lower() != OUR_NAME:
            users = found.setdefault(name.group().lower().replace("_", "-"), [])
            users += [use for use in [extra.group(1) if extra else "always"] if use not in users]
    return found


def licence(name: str) -> str:
    """A package's licence in a few words; "?" where its metadata tells none."""
    try:
        found = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return "not installed here"
    if text := found.get("License-Expression"):
        return text
    names = [row.rpartition(" :: ")[2] for row in found.get_all("Classifier") or [] if row.startswith("License ::")]
    first = (found.get("License") or "?").strip().splitlines()[0]
    return ", ".join(names) or first[:60]


def version(name: str) -> str:
    """The version that is installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def known_faults() -> str:
    """What pip-audit says of the installed packages, in Markdown."""
    if importlib.util.find_spec("pip_audit") is None:
        return "Known faults were not looked up: `pip-audit` is not installed."
    done = subprocess.run([sys.executable, "-m", "pip_audit", "-f", "json"], capture_output=True, text=True)
    if not done.stdout.strip():
        return "Known faults were not looked up: `pip-audit` did not reach its database."
    asked = requirements()
    found = [row for row in json.loads(done.stdout)["dependencies"] if row["name"].lower() in asked]
    unknown = [row["name"] for row in found if "skip_reason" in row]
    if len(unknown) == len(found):
        return "Known faults were not looked up: `pip-audit` found none of these packages in its database."
    rows = [
        f"| {row['name']} {row['version']} | {fault['id']} | {', '.join(fault['fix_versions']) or 'none'} |"
        for row in found
        for fault in row.get("vulns", [])
    ]
    table = ["| package | fault | mended in |", "| --- | --- | --- |", *rows] if rows else ["None are known."]
    return "\n".join([*table, *([f"\nNot looked up: {', '.join(unknown)}."] if unknown else [])])


def page() -> str:
    """The page, in Markdown."""
    lines = [
        "# Dependencies",
        "",
        f"What this project asks for, the version that was installed on {datetime.date.today()}, and its licence. "
        "Made by `python benchmarks/dependencies.py`. Inside a web UI nothing of this is installed or replaced: "
        "what the web UI has is used.",
        "",
        "| package | version | licence | asked for by |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {version(name)} | {licence(name)} | {', '.join(users)} |"
        for name, users in sorted(requirements().items())
    ]
    return "\n".join([*lines, "", "## Known faults", "", known_faults()]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "DEPENDENCIES.md")
    parser.parse_args().page.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
