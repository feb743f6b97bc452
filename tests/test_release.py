"""What is released: the zip for a web UI's `extensions` folder, and the workflow file that runs the tests elsewhere."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from lora_ext import __version__

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "tests.yml"
WEB_UI_NEEDS = (
    "scripts",
    "lora_ext",
    "javascript",
    "localizations",
    "style.css",
    "install.py",
    "metadata.ini",
    "LICENSE",
)
NOT_RELEASED = {"tests", "fuzz", "benchmarks", "release.sh", "package.json", "tsconfig.json", "eslint.config.mjs"}


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the release's zip unpacks to."""
    if not (ROOT / ".git").exists():
        pytest.skip("the zip is made from a commit, and this is no clone")
    folder = tmp_path_factory.mktemp("release")
    done = subprocess.run(["bash", "release.sh", str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(folder / f"lora-ext-{__version__}.zip") as packed:
        packed.extractall(folder)
    return folder / "lora-ext"


def test_the_changelog_begins_with_this_version() -> None:
    heading = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heading and re.fullmatch(rf"{re.escape(__version__)}, 20\d\d-\d\d-\d\d", heading[1])


def test_the_zip_has_what_a_web_ui_needs(extension: Path) -> None:
    listed = subprocess.run(["git", "ls-tree", "-r", "--name-only", "-z", "HEAD"], cwd=ROOT, capture_output=True)
    committed = {name for name in listed.stdout.decode().split("\0") if name}
    packed = {path.relative_to(extension).as_posix() for path in extension.rglob("*") if path.is_file()}
    assert {name for name in committed if name.partition("/")[0] in WEB_UI_NEEDS} <= packed <= committed
    assert {name.partition("/")[0] for name in packed} & NOT_RELEASED == set()
    assert [name for name in packed if name.startswith(".")] == []


@pytest.mark.long
def test_the_program_of_the_zip_runs(extension: Path) -> None:
    command = [sys.executable, "-m", "lora_ext", "inspect", "lora_ext/embedded/loras/framed.safetensors"]
    done = subprocess.run(command, cwd=extension, capture_output=True, text=True)
    assert done.returncode == 0 and "LierLa" in done.stdout, done.stderr


@pytest.mark.parametrize("missing", [(), ("einops",), ("safetensors", "einops")])
def test_install_py_adds_what_is_missing_and_changes_nothing_else(
    missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = ModuleType("launch")
    asked: list[str] = []
    launch.is_installed = lambda name: name not in missing  # type: ignore[attr-defined]
    launch.run_pip = lambda command, what: asked.append(command)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "launch", launch)
    runpy.run_path(str(ROOT / "install.py"))
    assert asked == [f"install {name}" for name in missing]  # no upgrade, no version: what is there stays
    assert [need for name in missing for need in requires(name) or () if "extra ==" not in need] == []


def test_the_workflow_runs_the_project_s_own_commands() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert [one for one in commands if not re.match(r"bash (tests/run|tests/pythons|release)\.sh\b", one)] == []
    assert all((ROOT / command.split()[1]).is_file() for command in commands) and len(commands) == len(jobs)
    matrix = jobs["systems"]["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "windows", "macos"}
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    assert all(job["runs-on"] and job.get("timeout-minutes", 360) <= 360 for job in jobs.values())
