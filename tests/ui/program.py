"""The tab as a process of its own, on the standalone page or on one of gradio's, and pictures to train on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent.parent
TOKEN = "the-token-of-the-tests"


class Server:
    """`python -m lora_ext ui` on a folder of its own, or another program with its options.

    packages: a folder that is searched before the environment's packages. root: where it starts; a package in it comes
    first of all. program: how Python is called.
    """

    def __init__(
        self, data: Path, packages: str | None, *, root: Path = ROOT, program: Sequence[str] = ("-m", "lora_ext", "ui")
    ) -> None:
        self.data, self.warmed = data, set[Path]()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        path = os.pathsep.join(filter(None, [packages, str(root), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "LORA_EXT_TOKEN": TOKEN, "PYTHONPATH": path}
        command = [sys.executable, *program, "--data_dir", str(data), "--port", str(self.port)]
        self.log = (data / "server.log").open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            [*command, "--device", "cpu"], cwd=root, env=env, stdout=self.log, stderr=self.log
        )
        self._wait()

    def _wait(self) -> None:
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/lora-ext/v1/jobs", timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        raise AssertionError((self.data / "server.log").read_text(encoding="utf-8"))

    def api(self, path: str, method: str = "GET", body: object = None) -> Any:
        """An answer of the API."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "X-Lora-Ext": TOKEN}
        request = urllib.request.Request(f"{self.url}/lora-ext/v1{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def warm(self) -> None:
        """Draws once, so that no test waits for the model to be loaded, and each has a picture to choose."""
        self.api("/generate", "POST", {"prompt": "a circle", "steps": 1})
        self.idle(stop=False)
        self.warmed = set((self.data / "outputs").rglob("*"))

    def idle(self, *, stop: bool = True, seconds: float = 400) -> None:
        """Until no job works or waits. stop: cancels them."""
        end = time.monotonic() + seconds
        while rows := [row for row in self.api("/jobs")["jobs"] if row["state"] in ("waiting", "running")]:
            for row in rows if stop else ():
                self.api(f"/jobs/{row['id']}/cancel", "POST", {})
            assert time.monotonic() < end, rows
            time.sleep(0.2)

    def clean(self) -> None:
        """Removes networks and pictures that tests made, so that a test begins as any other, also at its second try."""
        for made in (self.data / "loras").iterdir():
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        drawings = set((self.data / "outputs").rglob("*"))
        for drawn in sorted(drawings - self.warmed, reverse=True):  # files before their folders
            drawn.rmdir() if drawn.is_dir() else drawn.unlink()
        # no file has this name; the program looks at its folders after each move, and lists what was removed until then
        self.api("/library/move", "POST", {"moves": [{"name": "no file", "to": "none"}]})

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


def dataset(folder: Path, count: int = 6) -> None:
    """Small pictures, two of them without a caption."""
    folder.mkdir(parents=True)
    for number in range(count):
        picture = Image.new("RGB", (64, 64), (40 * number, 80, 200 - 30 * number))
        ImageDraw.Draw(picture).ellipse((12, 12, 52, 52), fill=(220, 30 * number, 40))
        picture.save(folder / f"p{number}.png")
        if number > 1:
            (folder / f"p{number}.txt").write_text("a circle, plain", encoding="utf-8")
