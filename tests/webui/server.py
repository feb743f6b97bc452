"""A real web UI for tests: started on a throw-away data folder, or one that already runs."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("LORA_EXT_GOLDEN", ROOT.parent / "shared" / "golden")) / "webui"
SHIPPED = ("scripts", "lora_ext", "javascript", "style.css", "localizations", "docs", "install.py", "metadata.ini")
FLAGS = (
    "--use-cpu all --no-half --no-half-vae --precision full --api --skip-torch-cuda-test --skip-version-check "
    "--no-download-sd-model --do-not-download-clip"
).split()
CAT = "a photo of a cat"
WRITTEN = ("lora_ext", "models", "embeddings", "extensions")
"""Folders of a data folder that tests write into."""
IN_FORGE = bool(os.environ.get("LORA_EXT_FORGE")) and not os.environ.get("LORA_EXT_WEBUI")
"""Whether the tests of AUTOMATIC1111's web UI run in a Forge."""
SIDE = 64 if IN_FORGE else 128
"""Width and height of pictures in pixels: the model that Forge accepts is larger."""
REQUEST: dict[str, Any] = {
    "negative_prompt": "", "steps": 4, "width": SIDE, "height": SIDE, "seed": 42, "cfg_scale": 7,
    "sampler_name": "Euler", "scheduler": "Automatic", "do_not_save_samples": True, "do_not_save_grid": True,
}  # fmt: skip
TOKEN = os.environ.get("LORA_EXT_TOKEN", "the-token-of-the-tests")
"""Our API's; a web UI that runs already has to be started with it in LORA_EXT_TOKEN."""
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Made:
    """Pictures of one request: `pixels` (n, height, width, 3) as integers, and what the web UI says about them."""

    pixels: np.ndarray
    info: dict[str, Any]
    images: list[str] = field(repr=False)

    @property
    def told(self) -> dict[str, Any]:
        """The infotext's extra parameters."""
        return dict(self.info["extra_generation_params"])

    @property
    def embeddings(self) -> str:
        """What the infotext says of embeddings: names in Forge and Neo, names and hashes elsewhere."""
        return str(self.told.get("TI") or self.told["TI hashes"])

    @property
    def comments(self) -> str:
        """What stands under the picture."""
        return "\n".join(json.loads(self.told["Probe comments"]))


def picture(image: str) -> np.ndarray:
    """An image of an answer as integers (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB"), dtype=int)


def apart(one: Made, two: Made) -> int:
    """The greatest difference of two results, of 255."""
    assert one.pixels.shape == two.pixels.shape
    return int(abs(one.pixels - two.pixels).max())


PLOT = "x/y/z plot"
"""The script that draws a grid over axes."""


def plot_choices(webui: WebUI) -> list[str]:
    """The axes that the plot offers, in order."""
    return list(_plot_rows(webui)[0]["choices"])


def plot_arguments(webui: WebUI, *axes: tuple[str, str], single: bool = False) -> list[Any]:
    """The plot's arguments in the order of this web UI: without legend and margin, values as text.

    Args:
        webui: the web UI; its kin have more arguments than AUTOMATIC1111's.
        axes: the title and the values of each axis, x first.
        single: whether the single images are given too.
    """
    rows = _plot_rows(webui)
    args = [False if isinstance(row["value"], bool) else row["value"] for row in rows]
    for number, (title, values) in enumerate((*axes, *[("Nothing", "")] * (3 - len(axes)))):
        args[3 * number : 3 * number + 3] = [rows[0]["choices"].index(title), values, []]
    args[next(i for i, row in enumerate(rows) if row["label"] == "Include Sub Images")] = single
    args[-1] = True
    return args


def _plot_rows(webui: WebUI) -> list[dict[str, Any]]:
    info = webui.call("/sdapi/v1/script-info")
    return list(next(row for row in info if row["name"] == PLOT and not row["is_img2img"])["args"])


def basic(login: str) -> str:
    """The header's value that gives NAME:PASSWORD."""
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def tracebacks(log: str) -> list[str]:
    """The tracebacks in a log, each with its error."""
    return re.findall(r"Traceback \(most recent call last\):\n(?:[ \t*].*\n|\n)*\S.*", log)


class WebUI:
    """A web UI's HTTP API. `data` is its data folder, None for one that was running already; `login` NAME:PASSWORD."""

    def __init__(
        self, url: str, data: Path | None = None, process: subprocess.Popen[bytes] | None = None, login: str = ""
    ) -> None:
        self.url, self.data, self.process, self.login = url.rstrip("/"), data, process, login

    def call(self, path: str, body: object = None, method: str | None = None) -> Any:
        """The JSON answer of one request."""
        headers = {"Content-Type": "application/json", "X-Lora-Ext": TOKEN}
        if self.login:
            headers["Authorization"] = basic(self.login)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with _OPENER.open(request, timeout=300) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read().decode(errors='replace')[:2000]}") from None

    def options(self, **values: object) -> None:
        """Changes settings."""
        self.call("/sdapi/v1/options", values)

    def make(self, prompt: str, **more: Any) -> Made:
        """Pictures: text to image, or image to image where `init_images` is given.

        A prompt that is only tags or words of a test gets CAT before it.
        """
        prompt = prompt if prompt.startswith(CAT) else f"{CAT} {prompt}".strip()
        body = {**REQUEST, "prompt": prompt, **more}
        if body.get("enable_hr"):  # which Forge asks for, and others do not know
            body.setdefault("hr_additional_modules", ["Use same choices"])
        answer = self.call("/sdapi/v1/img2img" if "init_images" in more else "/sdapi/v1/txt2img", body)
        pixels = np.stack([picture(image) for image in answer["images"]])
        return Made(pixels, json.loads(answer["info"]), answer["images"])

    def weights(self) -> dict[str, Any]:
        """The hash of every weight of the model in use, hooks counted, and which model it is."""
        return dict(self.call("/probe/weights"))

    def wait(self, seconds: float = 300) -> None:
        """Until it answers and its model is loaded."""
        end = time.time() + seconds
        while time.time() < end:
            if self.process and self.process.poll() is not None:
                raise AssertionError(f"the web UI ended:\n{self.log()[-4000:]}")
            if self.process and "Startup time" not in self.log():
                time.sleep(0.5)  # a request that comes before its API is added makes the web UI fail
                continue
            try:
                self.call("/probe/registry")
                self.call("/sdapi/v1/options")
                return
            except (OSError, AssertionError):
                time.sleep(0.5)
        raise AssertionError(f"the web UI does not answer:\n{self.log()[-4000:]}")

    def reload(self) -> None:
        """Reload UI, until it answers again; `wait` says why nothing is asked before."""
        starts, end = self.log().count("Startup time") if self.process else 0, time.time() + 300
        self.call("/probe/reload-ui", {})
        time.sleep(0 if self.process else 8)
        while self.process and self.log().count("Startup time") == starts:
            assert time.time() < end, self.log()[-2000:]
            time.sleep(0.2)
        self.wait()

    def log(self) -> str:
        """What it wrote to its console."""
        return (self.data / "log.txt").read_text(errors="replace") if self.data else ""

    def stop(self) -> None:
        """Ends it, if it was started here."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def prepare(data: Path) -> None:
    """A data folder with the extension, the probe, and the small model and LoRA files of the reference data."""
    copy_extension(data)
    for kind, names in (
        ("Stable-diffusion", ("tiny-sd15.safetensors", "tiny-sd15.yaml")),
        ("Lora", ("lierla.safetensors", "c3lier.safetensors")),
    ):
        (data / "models" / kind).mkdir(parents=True)
        for name in names:
            shutil.copyfile(GOLDEN / name, data / "models" / kind / name)


def copy_extension(data: Path) -> None:
    """The extension (this checkout, or the zip that LORA_EXT_RELEASE names) and the probe into a data folder."""
    extension = data / "extensions" / "lora-ext"
    if release := os.environ.get("LORA_EXT_RELEASE"):
        with zipfile.ZipFile(release) as packed:
            packed.extractall(extension.parent)
    for name in () if release else SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, extension / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        elif source.exists():
            shutil.copy(source, extension / name)
    shutil.copytree(Path(__file__).parent / "probe", data / "extensions" / "zz-lora-ext-probe")


@contextlib.contextmanager
def files_as_before(data: Path | None) -> Iterator[None]:
    """Removes what tests add to the data folder of a web UI that is given by its URL: the next run begins alike."""

    def present() -> set[Path]:
        return set() if data is None else {path for part in WRITTEN for path in (data / part).rglob("*")}

    before = present()
    yield
    for path in sorted(present() - before, reverse=True):  # what is in a folder before the folder
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()
        else:
            path.unlink(missing_ok=True)


def dataset(data: Path) -> None:
    """Four small pictures, twice an epoch, in the data folder of a web UI."""
    folder = data / "lora_ext" / "datasets" / "shapes" / "2_shape"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    for number in range(4):
        picture = Image.new("RGB", (64, 64), tuple(int(c) for c in random.integers(0, 255, 3)))
        ImageDraw.Draw(picture).ellipse((8, 8, 40 + 4 * number, 50), fill=(250, 40, 20))
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a red disc, number {number}", encoding="utf-8")


def python_of(folder: Path) -> str:
    """The web UI's Python."""
    return os.environ.get("LORA_EXT_WEBUI_PYTHON", str(folder / "venv" / "bin" / "python"))


def launch(folder: Path, data: Path, *flags: str, base: Sequence[str] = FLAGS) -> WebUI:
    """Starts the web UI of `folder` on the data folder and waits for it. base: options that this web UI needs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    drop = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "COMMANDLINE_ARGS")
    env = {name: value for name, value in os.environ.items() if name not in drop}
    env |= {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "LORA_EXT_TOKEN": TOKEN,
    }
    for name in ("no_proxy", "NO_PROXY"):
        env[name] = ",".join(filter(None, (env.get(name), "localhost,127.0.0.1")))
    command = [python_of(folder), "launch.py", *base, "--port", str(port), "--data-dir", str(data), *flags]
    with (data / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    assert process.stdin
    process.stdin.write(b"\n")  # Neo waits for Enter where the settings are not of its own version
    process.stdin.close()
    login = flags[flags.index("--api-auth") + 1] if "--api-auth" in flags else ""
    webui = WebUI(f"http://127.0.0.1:{port}", data, process, login)
    try:
        webui.wait()
    except BaseException:
        webui.stop()
        raise
    return webui
