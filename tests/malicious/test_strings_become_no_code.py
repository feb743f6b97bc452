"""Text from a request, a file's metadata, a saved run, a preset or a config that tries to become code."""

from __future__ import annotations

import ast
import json
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lora_ext.errors import FileError, LoraError, TrainError
from lora_ext.train.config.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    optimizer_class_and_settings,
    parse_optimizer_args,
)
from lora_ext.train.config.recipe import Recipe, UserOptimizerClass
from lora_ext.train.config.recipe_io import recipe_from_arguments, recipe_from_settings, recipe_parser
from lora_ext.train.config.recipe_metadata import settings_from_metadata
from lora_ext.training.train_command import main as train_command

sys.path.insert(0, str(Path(__file__).parent.parent))
MODULE = "lora_ext_attack"
ATTACK = {"optimizer_type": "transformers.pipeline", "optimizer_args": ["model=evil", "trust_remote_code=True"]}


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that Python finds and that leaves a file behind when it is imported."""
    ran = tmp_path / "ran"
    folder = tmp_path / "modules"
    folder.mkdir()
    code = f"open({str(ran)!r}, 'w').close()\nfrom torch.optim import SGD as Evil\n"
    (folder / f"{MODULE}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield ran
    sys.modules.pop(MODULE, None)


def toml_of(settings: dict[str, Any], folder: Path) -> Path:
    path = folder / "config.toml"
    path.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items()), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", [f"{MODULE}.Evil", "transformers.pipeline", "os.system", "builtins.exec"])
def test_settings_name_no_code(name: str, trap: Path, tmp_path: Path) -> None:
    """From a request, a preset, metadata or a config file: a name is looked up in the table, nothing is imported."""
    settings = {"optimizer_type": name, "optimizer_args": ["x=1"]}
    config = toml_of(settings, tmp_path)
    ways: list[Callable[[], Any]] = [
        lambda: recipe_from_settings(settings),
        lambda: recipe_from_settings({}, Recipe(**settings)),
        lambda: optimizer_class_and_settings(Recipe(optimizer_type=name)),
        lambda: recipe_from_arguments(recipe_parser().parse_args(["--config_file", str(config)])),
        lambda: recipe_from_arguments(recipe_parser().parse_args([]), Recipe(optimizer_type=name)),
        lambda: recipe_from_settings(json.loads(json.dumps(settings))),
    ]
    for way in ways:
        with pytest.raises(TrainError, match="accepted on the command line only"):
            way()
    assert not trap.exists() and MODULE not in sys.modules


def test_the_users_own_command_line_names_a_class(trap: Path, tmp_path: Path) -> None:
    recipe = recipe_from_arguments(recipe_parser().parse_args(["--optimizer_type", f"{MODULE}.Evil"]))
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1e-3}]
    assert type(build_optimizer(recipe, groups)) is torch.optim.SGD and trap.exists()
    # and over a config's own
    config = toml_of({"optimizer_type": "AdamW"}, tmp_path)
    given = ["--config_file", str(config), "--optimizer_type", "torch.optim.Optimizer"]
    assert (
        optimizer_class_and_settings(recipe_from_arguments(recipe_parser().parse_args(given)))[0]
        is torch.optim.Optimizer
    )


def test_trust_does_not_outlive_the_command_line() -> None:
    """What is written down of a run and read back is no command line."""
    recipe = recipe_from_arguments(recipe_parser().parse_args(["--optimizer_type", "torch.optim.Optimizer"]))
    assert isinstance(recipe.optimizer_type, UserOptimizerClass)
    from lora_ext.train.config.recipe_io import recipe_to_toml, settings_from_recipe
    from lora_ext.train.run.training_state import recipe_as_json

    assert "torch.optim.Optimizer" in recipe_to_toml(recipe)
    for settings in (recipe_as_json(recipe), json.loads(json.dumps(settings_from_recipe(recipe)))):
        with pytest.raises(TrainError, match="accepted on the command line only"):
            recipe_from_settings({"optimizer_type": settings["optimizer_type"]})


def test_a_class_of_the_table_by_its_path_is_that_row() -> None:
    for name, row in OPTIMIZERS.items():
        if not row.settings and name != "DAdaptation":
            assert recipe_from_settings({"optimizer_type": f"{row.module}.{row.name}"})
    assert (
        optimizer_class_and_settings(recipe_from_settings({"optimizer_type": "torch.optim.AdamW"}))[0]
        is torch.optim.AdamW
    )


@pytest.mark.parametrize("noted", ["transformers.pipeline", f"{MODULE}.Evil", "a.b.c"])
def test_metadata_that_names_code_is_reported(noted: str, trap: Path) -> None:
    settings, told = settings_from_metadata(
        {"ss_network_dim": "8", "ss_optimizer": f"{noted}(model=evil,trust_remote_code=True)"}
    )
    assert settings == {"network_dim": 8}
    assert len(told) == 1 and noted in told[0] and "ss_optimizer" in told[0] and "left out" in told[0]
    assert not trap.exists()


@pytest.mark.parametrize("note", ["ss_datasets", "ss_network_args", "ss_optimizer"])
def test_metadata_that_is_made_to_be_slow_or_deep(note: str) -> None:
    for value in ("[" * 100_000, '{"a":' * 100_000, "AdamW(" + "a=1," * 1_000_000 + ")"):
        settings, told = settings_from_metadata({"ss_network_dim": "8", note: value})
        assert settings == {"network_dim": 8} and all(len(sentence) < 1000 for sentence in told)


def test_a_begun_command_line_does_not_run_what_a_file_names(
    trap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "told.safetensors"
    noted = {"ss_network_dim": "8", "ss_optimizer": f"{MODULE}.Evil(lr=1)"}
    save_file({"x": torch.zeros(1)}, path, metadata=noted)
    assert train_command(["--recipe_from", str(path), "--output_config"]) == 0
    out, said = capsys.readouterr()
    assert "optimizer" not in out and f"{MODULE}.Evil" in said
    assert not trap.exists()


def test_the_api_runs_no_name(trap: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from test_web import Client, lora

    api = Client(tmp_path)
    noted = {"ss_network_dim": "8", "ss_optimizer": "transformers.pipeline(model=evil,trust_remote_code=True)"}
    lora(tmp_path / "loras" / "bait.safetensors", 4, **noted)
    api.app_state.catalogue.refresh(now=True)
    for attack in (ATTACK, {"optimizer_type": f"{MODULE}.Evil"}):
        for route in ("/train", "/train/preflight"):
            answer = api("POST", route, 400, json={"settings": attack})
            assert "accepted on the command line only" in answer["error"]
    found = api("GET", "/train/begin?name=bait")
    assert found["settings"] == {"network_dim": 8}
    assert any("transformers.pipeline" in sentence for sentence in found["told"])
    # a run's record that was tampered with
    run = tmp_path / "outputs" / "train" / "old"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"name": "old", "settings": ATTACK, "files": []}), encoding="utf-8")
    assert "command line" in api("POST", "/train/old/compare", 400)["error"]
    assert not trap.exists()
    api.app_state.jobs.close()


@pytest.mark.parametrize("value", ["(" * 100_000, "[" * 3000 + "]" * 3000, "-" * 100_000 + "1", "9" * 5000, "{1:2}",
                                   "b'x'", "{1,2}", "[[1]]", "..."])  # fmt: skip
def test_an_optimizers_settings_are_plain_values(value: str) -> None:
    with pytest.raises(TrainError, match="optimizer_args"):
        parse_optimizer_args([f"betas={value}"])


def test_settings_of_known_optimizers_reach_no_import() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1e-3}]
    for text in ("params=os.system", "betas=__import__('os')", "foreach=os.system('x')", "lr=(1).__class__"):
        try:
            build_optimizer(recipe_from_settings({"optimizer_type": "AdamW", "optimizer_args": [text]}), groups)
        except LoraError as error:
            assert "optimizer_args" in str(error) or "AdamW" in str(error)


# --- folders that transformers and diffusers load --------------------------------------------------------------------


class Runs:
    """Pickled, it asks for a call when it is loaded."""

    def __reduce__(self) -> Any:
        return (print, ("ran",))


BAD_FOLDERS: dict[str, tuple[str, bytes, str]] = {
    "attention from the hub": (
        "config.json",
        b'{"text_config": {"attn_implementation": "evil/kernel"}}',
        "evil/kernel",
    ),
    "attention, as saved": ("config.json", b'{"_attn_implementation": "evil/kernel:fn"}', "evil/kernel"),
    "a PEFT adapter": ("adapter_config.json", b'{"base_model_name_or_path": "/elsewhere"}', "adapter_config.json"),
    "a pickle": ("pytorch_model.bin", pickle.dumps(Runs()), "builtins.print|print"),
}


def folder_with(tmp_path: Path, name: str, content: bytes) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_model_folder_names_no_code(case: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from transformers import CLIPTextModel

    from lora_ext.host.standalone.blip import BlipCaptioner
    from lora_ext.host.standalone.clip_image import ClipImageModel
    from lora_ext.host.standalone.diffusers_folder import _load_network

    name, content, said = BAD_FOLDERS[case]
    folder = folder_with(tmp_path, name, content)
    with pytest.raises(FileError, match=said):
        BlipCaptioner(folder)
    with pytest.raises(FileError, match=said):
        ClipImageModel(folder)
    with pytest.raises(FileError, match=said):
        _load_network(CLIPTextModel, folder.parent, "model", torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("extension", ["/../../secret", "..\\x", ".t/xt", "\0", "", "."])
def test_a_captions_suffix_is_no_path(extension: str, tmp_path: Path) -> None:
    from PIL import Image

    from lora_ext.train.data.captioning import caption_folder
    from lora_ext.train.data.dataset_folders import find_subsets

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(TrainError, match=r"caption.*\.txt is usual"):
        caption_folder(tmp_path, lambda images: ["x"] * len(images), extension=extension, overwrite=True)
    if extension:  # without one the usual ones are looked for
        with pytest.raises(TrainError, match=r"caption.*\.txt is usual"):
            find_subsets(Recipe(train_data_dir=str(tmp_path), caption_extension=extension))


@pytest.mark.parametrize(
    "text", ["=HYPERLINK(1)", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "-0.5", "1", "a cat"]
)
def test_a_table_for_excel_holds_no_formula(text: str) -> None:
    from lora_ext.compare.scores import spreadsheet_text

    shown = spreadsheet_text(text)
    assert shown == (text if text in ("-0.5", "1", "a cat") else f"'{text}")


# --- the source itself -----------------------------------------------------------------------------------------------

SOURCE = Path(__file__).parent.parent.parent
CALLS = re.compile(
    r"(eval|exec|compile|__import__|(\w+\.)?import_module|os\.(system|popen|exec\w+|spawn\w+)|runpy\.\w+"
    r"|subprocess\.\w+|c?[pP]ickle\.\w+|dill\.\w+|marshal\.\w+|yaml\.(?!safe_load)\w*load\w*|joblib\.load)"
)
"""What makes text into code, a module or a command."""
KNOWN = {
    "lora_ext/__init__.py": "names of our own modules, from a table",
    "lora_ext/cli.py": "names of our own modules, from a table",
    "scripts/lora_ext_entry.py": "our own package under a name of its own",
    "lora_ext/train/config/optimizers.py": "from the table of optimizers, or typed on the user's own command line",
    "lora_ext/train/config/toml_file.py": "a tuple of names in the code",
    "lora_ext/train/data/faces.py": "cv2",
    "lora_ext/inject/quantized_weight.py": "bitsandbytes",
    "lora_ext/web/file_moves.py": "send2trash",
}


def truth(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def makes_code(call: ast.Call) -> bool:
    options = {option.arg: option.value for option in call.keywords}
    name = ast.unparse(call.func)
    if name == "torch.load":
        return not truth(options.get("weights_only"))
    return bool(CALLS.fullmatch(name)) or "trust_remote_code" in options or truth(options.get("shell"))


def test_no_other_place_makes_text_into_code() -> None:
    """A new place belongs into KNOWN with its reason, and its texts into the attacks above."""
    found = {}
    for path in [*(SOURCE / "lora_ext").rglob("*.py"), *(SOURCE / "scripts").glob("*.py"), SOURCE / "install.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and makes_code(node):
                found[path.relative_to(SOURCE).as_posix()] = ast.unparse(node)
    assert found.keys() <= KNOWN.keys(), found


NETWORK = frozenset(
    "urllib.request http.client ftplib smtplib socket ssl requests httpx aiohttp huggingface_hub".split()
)
MAY_IMPORT = {
    "lora_ext/host/standalone/blip.py": "try_to_load_from_cache, which reads the disk alone",
    "lora_ext/host/standalone/clip_image.py": "try_to_load_from_cache",
    "lora_ext/host/standalone/tokenizer_files.py": "try_to_load_from_cache",
    "lora_ext/train/run/hub_upload.py": "train --push_to_hub, which the tab refuses",
    "lora_ext/ui/standalone_server.py": "whether a port of this machine is free",
    "lora_ext/web/allowed_hosts.py": "this machine's own names",
    "lora_ext/file/name_claims.py": "this machine's name, which says whose a claim is",
}


def imported_modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def test_no_other_place_asks_another_machine() -> None:
    """A new place belongs into MAY_IMPORT with its reason."""
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in [*(SOURCE / "lora_ext").rglob("*.py"), *(SOURCE / "scripts").glob("*.py"), SOURCE / "install.py"]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if NETWORK.intersection(imported_modules(node))
    }
    assert found == MAY_IMPORT.keys(), sorted(found ^ MAY_IMPORT.keys())
