"""The wheel, installed outside the clone, serves the whole page; a wheel made from the source archive is the same."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import fresh
from program import ROOT, Server

from lora_ext.web.page_files import MODULES, PACKAGE_FOLDER, page_folder, page_modules

ASSETS = ("style.css", "javascript/lora_ext/**/*.mjs", "localizations/*.json")
NOT_SOURCE = (".*", "__pycache__", "*.egg-info", "build", "dist", "out", "outputs", "node_modules")


def _build(what: str, source: Path, into: Path) -> Path:
    """Runs a hook of the build backend (`wheel` or `sdist`) as pip does: in the project's folder, in a new process."""
    into.mkdir(exist_ok=True)
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{what}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(into)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything is built."""
    pytest.importorskip("setuptools")
    return tmp_path_factory.mktemp("installed")


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """A copy of the project, so that no earlier build adds to it and none is left in it."""
    return Path(shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*NOT_SOURCE)))


@pytest.fixture(scope="module")
def archive(folder: Path, source: Path) -> Path:
    """The unpacked source archive."""
    with tarfile.open(_build("sdist", source, folder / "sdist")) as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.2 has no filters
        packed.extractall(folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(folder: Path, archive: Path) -> Path:
    """The wheel made from the source archive, which is how pip installs a source archive."""
    return _build("wheel", archive, folder / "from-sdist")


@pytest.fixture(scope="module")
def site(folder: Path, wheel: Path) -> Path:
    """A folder of installed packages with nothing but ours."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


@pytest.fixture(scope="module")
def installed(folder: Path, site: Path) -> Iterator[Server]:
    """`lora-ext ui` of the installed package, started outside the clone."""
    (folder / "data").mkdir()
    (folder / "elsewhere").mkdir()
    running = Server(folder / "data", str(site), root=folder / "elsewhere")
    yield running
    running.stop()


def _files(home: Path) -> dict[str, bytes]:
    found = {p.relative_to(home).as_posix(): p.read_bytes() for asset in ASSETS for p in home.glob(asset)}
    assert len(found) > 10
    return found


def test_both_wheels_have_every_file_of_the_page(folder: Path, source: Path, wheel: Path) -> None:
    contents = []
    for made in (wheel, _build("wheel", source, folder / "from-clone")):
        with zipfile.ZipFile(made) as packed:
            contents.append({n: packed.read(n) for n in packed.namelist() if ".dist-info/" not in n})
    assert contents[0] == contents[1]
    page = {name.removeprefix("lora_ext/page/"): data for name, data in contents[0].items() if "/page/" in name}
    guide = ("docs/guide/troubleshooting.md", "docs/guide/images/regularisation.png")
    assert page == {**_files(ROOT), **{name: (ROOT / name).read_bytes() for name in guide}}
    package = {p.relative_to(ROOT).as_posix() for p in PACKAGE_FOLDER.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert {name for name in contents[0] if "/page/" not in name} == package


def test_the_source_archive_is_the_whole_project(source: Path, archive: Path) -> None:
    project = {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file() and "egg-info" not in str(p)}
    packed = {p.relative_to(archive).as_posix() for p in archive.rglob("*") if p.is_file()}
    assert project - packed == set()


def test_the_clone_shows_its_own_files() -> None:
    assert page_folder() == ROOT
    assert page_modules() == sorted((ROOT / "javascript" / "lora_ext").rglob("*.mjs"))


def test_every_asset_is_served(installed: Server) -> None:
    with urllib.request.urlopen(installed.url, timeout=60) as answer:
        named = set(re.findall(r"lora-ext/(?:assets|v1/modules)/([\w./-]+)", answer.read().decode("utf-8")))
    files = _files(ROOT)
    served = {name: name.removeprefix(f"{MODULES.as_posix()}/") for name in files if "localizations/" not in name}
    assert named >= set(served.values())
    for name, data in files.items():
        if name.startswith("localizations/"):
            assert installed.api(f"/strings?language={Path(name).stem}")["Generate"]
        else:
            below = "v1/modules" if name.endswith(".mjs") else "assets"
            with urllib.request.urlopen(f"{installed.url}/lora-ext/{below}/{served[name]}", timeout=60) as answer:
                assert answer.read() == data


def test_the_page_opens(installed: Server, browser: Any) -> None:
    with fresh(browser, 60_000) as (page, errors):
        failed: list[str] = []
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        page.goto(installed.url)
        page.wait_for_selector("#lora-ext .lx-tabs")
        assert page.locator("#lora-ext .lx-tabs button").count() >= 7
        # only the style sheet gives the buttons this cursor
        assert page.locator("#lora-ext .lx-tabs button").first.evaluate("b => getComputedStyle(b).cursor") == "pointer"
        assert not errors
        assert not [url for url in failed if url.startswith(installed.url)]
