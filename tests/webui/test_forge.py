"""In a running Forge: what cannot act there yet is said or refused, and nothing breaks.

LORA_EXT_FORGE: its folder, with a checkpoint it accepts in models/Stable-diffusion. It is started on a throw-away data
folder, on the CPU.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from server import WebUI, apart, copy_extension, launch

from lora_ext.address import kohya_key, site_of

FLAGS = (
    "--skip-prepare-environment --skip-torch-cuda-test --skip-version-check --skip-python-version-check "
    "--no-download-sd-model --always-cpu --attention-pytorch --api"
).split()
SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 3}
TAG = "<lora:noise:1>"


def lora_for(checkpoint: Path, target: Path) -> None:
    """A LoRA of random numbers on the checkpoint's attention and feed-forward layers, U-Net and text encoder."""
    random = torch.Generator().manual_seed(0)
    tensors = {}
    roots = {"model.diffusion_model.": "unet", "cond_stage_model.transformer.": "te"}
    with safe_open(str(checkpoint), "pt") as file:
        for key in file.keys():  # noqa: SIM118
            root = next((root for root in roots if key.startswith(root)), None)
            if root is None or not key.endswith(".weight") or not ("attn" in key or "mlp" in key):
                continue
            site, shape = site_of(roots[root], key.removeprefix(root).removesuffix(".weight")), file.get_slice(key)
            if site is None or len(shape.get_shape()) != 2:
                continue
            rows, columns = shape.get_shape()
            name = kohya_key(site)
            tensors[f"{name}.lora_up.weight"] = torch.randn(rows, 4, generator=random) * 0.15
            tensors[f"{name}.lora_down.weight"] = torch.randn(4, columns, generator=random) * columns**-0.5
            tensors[f"{name}.alpha"] = torch.tensor(4.0)
    assert len(tensors) > 100
    save_file(tensors, target)


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """Forge with this extension and the probe."""
    where = os.environ.get("LORA_EXT_FORGE")
    if not where:
        pytest.skip("LORA_EXT_FORGE gives no folder of a Forge")
    folder, data = Path(where), tmp_path_factory.mktemp("forge")
    checkpoint = next((folder / "models" / "Stable-diffusion").glob("*.safetensors"))
    copy_extension(data)
    for kind in ("Stable-diffusion", "Lora"):
        (data / "models" / kind).mkdir(parents=True)
    os.link(checkpoint, data / "models" / "Stable-diffusion" / checkpoint.name)
    lora_for(checkpoint, data / "models" / "Lora" / "noise.safetensors")
    webui = launch(folder, data, base=FLAGS)
    yield webui
    webui.stop()


def test_it_starts_and_says_who_applies_the_tags(forge: WebUI) -> None:
    assert "Traceback" not in forge.log()
    assert forge.call("/lora-ext/v1/jobs")["applied_by"] == "the built-in Lora extension"
    assert [row["name"] for row in forge.call("/lora-ext/v1/library")["rows"]] == ["noise"]


def test_plain_tags_act_and_others_are_said(forge: WebUI) -> None:
    clean = forge.make("", **SMALL)
    plain = forge.make(TAG, **SMALL)
    assert apart(plain, clean) > 5 and plain.comments == ""
    assert apart(forge.make("<lyco:noise:1>", **SMALL), plain) == 0
    parts = forge.make("<lora:noise:te=0:unet=1>", **SMALL)
    assert apart(parts, plain) > 1 and parts.comments == ""
    for text, part in (("1:lbw=OUTALL", "lbw=OUTALL"), ("1:step=1-2", "step=1-2"), ("1:dyn=2", "dyn=2")):
        told = forge.make(f"<lora:noise:{text}>", **SMALL)
        assert f"{part} has no effect: the built-in Lora extension applies" in told.comments
        assert apart(told, plain) == 0
    assert apart(forge.make("", **SMALL), clean) == 0
    assert "Traceback" not in forge.log()


def test_training_and_sheets_are_refused_before_any_work(forge: WebUI) -> None:
    outputs = forge.data / "lora_ext" / "outputs" if forge.data else Path()
    for path, body, verb in (
        ("/train", {"settings": {"output_name": "x"}}, "train"),
        ("/train/preflight", {"settings": {"output_name": "x"}}, "train"),
        ("/compare", {"lora": "noise", "x": "preset:IND,ALL"}, "compare"),
        ("/compare/blocks", {"lora": "noise", "way": "lowered"}, "blocks"),
    ):
        with pytest.raises(AssertionError, match=f"400 .*cannot train or draw sheets.*python -m lora_ext {verb}"):
            forge.call(f"/lora-ext/v1{path}", body)
    assert not [path for path in outputs.rglob("*") if path.is_file()]
    assert forge.call("/lora-ext/v1/jobs")["jobs"] == []


def test_axes_that_could_not_act_are_refused(forge: WebUI) -> None:
    info = forge.call("/sdapi/v1/script-info")
    plot = next(row for row in info if row["name"] == "x/y/z plot" and not row["is_img2img"])
    offered = plot["args"][0]["choices"]
    for axis, values in (("LoRA block preset", "IND,ALL"), ("LoRA stop step", "1,2"), ("LoRA rank (DyLoRA)", "2,4")):
        args = [offered.index(axis), values, [], 0, "", [], 0, "", []]
        args += [False, True, False, False, False, False, False, 0, True]
        with pytest.raises(AssertionError, match=re.escape(f"{axis} would change nothing: the built-in")):
            forge.make(TAG, **SMALL, script_name="x/y/z plot", script_args=args)


def test_switching_and_reload_ui_throw_nothing(forge: WebUI) -> None:
    clean, plain = forge.make("", **SMALL), forge.make(TAG, **SMALL)
    before = forge.log().count("Traceback")
    forge.options(lora_ext_in_charge="built-in")
    assert apart(forge.make(TAG, **SMALL), plain) == 0
    forge.options(lora_ext_in_charge="LoRA ext")
    assert apart(forge.make(TAG, **SMALL), plain) == 0
    forge.call("/probe/reload-ui", {})
    time.sleep(8)
    forge.wait()
    assert apart(forge.make(TAG, **SMALL), plain) == 0
    assert apart(forge.make("", **SMALL), clean) == 0
    assert forge.log().count("Traceback") == before
