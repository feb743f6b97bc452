"""What the file tools write, drawn by the built-in extension and by ours: the same pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server import GOLDEN, IN_FORGE, Made, WebUI, apart

from lora_ext import cli

LIERLA, C3LIER, CHECKPOINT = "LIERLA", "C3LIER", "CHECKPOINT"
RESULTS: dict[str, list[list[object]]] = {  # what is made → the commands, each of which finds the results before it
    "t-merge": [["merge", "--models", LIERLA, C3LIER, "--ratios", 0.6, -0.4]],
    "t-svd": [["svd-merge", "--models", LIERLA, C3LIER, "--ratios", 0.6, 0.7, "--new_rank", 6]],
    "t-small": [["resize", "--model", C3LIER, "--new_rank", 3]],
    "t-dynamic": [["resize", "--model", C3LIER, "--new_rank", 8, "--dynamic_method=sv_fro", "--dynamic_param=0.9"]],
    "t-blocks": [["reweight", "--model", LIERLA, "--lbw", "OUTALL", "--te", 0.5]],
    "t-back": [["convert", "--model", LIERLA, "--to", "diffusers"], ["convert", "--model", "t-back-0.safetensors"]],
    "t-split-0004": [["split-dylora", "--model", LIERLA, "--unit", 4]],
    "t-out": [
        ["merge", "--sd_model", CHECKPOINT, "--models", C3LIER, "--save_precision", "float"],
        ["extract", "--model_org", CHECKPOINT, "--model_tuned", "t-out-0.safetensors", "--dim", 16, "--conv_dim", 16,
         "--min_diff", 0],
    ],
}  # fmt: skip
BUILT_IN, OURS = "built-in", "LoRA ext"


def sources(data: Path) -> dict[str, Path]:
    """The files that commands begin with: those of the reference data, or of the Forge that is running."""
    loras, checkpoints = (data / "models" / kind if IN_FORGE else GOLDEN for kind in ("Lora", "Stable-diffusion"))
    return {
        LIERLA: loras / "lierla.safetensors",
        C3LIER: loras / "c3lier.safetensors",
        CHECKPOINT: next(checkpoints.glob("tiny*.safetensors")),
    }


@pytest.fixture(scope="module")
def pictures(webui: WebUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Made]]]:
    """Who draws → file → picture, the files lying in the web UI's Lora folder."""
    if webui.data is None:
        pytest.skip("a web UI given by URL: its files stay as they are")
    folder, scratch = webui.data / "models" / "Lora", tmp_path_factory.mktemp("results")
    given = sources(webui.data)
    for name, commands in RESULTS.items():
        for i, command in enumerate(commands):
            last = i == len(commands) - 1
            to = folder / f"{name.removesuffix('-0004')}.safetensors" if last else scratch / f"{name}-{i}.safetensors"
            words = [
                str(scratch / str(word) if str(word).startswith("t-") else given.get(str(word), word))
                for word in command
            ]
            assert cli.main([*words, "--save_to", str(to)]) == 0
    made: dict[str, dict[str, Made]] = {}
    for who in (BUILT_IN, OURS):
        webui.options(lora_ext_in_charge=who)
        webui.call("/sdapi/v1/refresh-loras", {})
        tags = {"none": "", **{name: f"<lora:{name}:0.8>" for name in (*RESULTS, "lierla", "c3lier")}}
        made[who] = {name: webui.make(tag) for name, tag in tags.items()}
    yield made
    for path in folder.glob("t-*"):
        Path(path).unlink()


@pytest.mark.parametrize("name", RESULTS)
def test_the_builtin_draws_what_we_draw(pictures: dict[str, dict[str, Made]], name: str) -> None:
    theirs, ours = pictures[BUILT_IN], pictures[OURS]
    assert apart(theirs[name], ours[name]) <= 2
    assert apart(theirs[name], theirs["none"]) > 2


@pytest.mark.parametrize(("name", "same"), [("t-back", "lierla"), ("t-out", "c3lier")])
def test_exact_results_draw_what_their_source_draws(pictures: dict[str, dict[str, Made]], name: str, same: str) -> None:
    for made in pictures.values():
        assert apart(made[name], made[same]) <= 2
