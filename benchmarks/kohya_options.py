"""Every option of kohya's `train_network.py` and `sdxl_train_network.py`, and what `train` makes of it.

    python benchmarks/kohya_options.py [--scripts CHECKOUT [--versions v0.7.0 … main]] [--page FILE]
        [--diffusers CHECKOUT --cloneofsimo CHECKOUT]

CHECKOUT is a git repository of kohya-ss/sd-scripts. With it, each version's own parser is built (its imports of other
packages are replaced by empty modules) and the list in tests/data/kohya_options.json is renewed: names, values and
versions. The page docs/KOHYA_OPTIONS.md is then made from that list and this project's parser: each option is given to
`train`, with each of its values, and the page has what came of it. A test compares the page with the program. The last
two renew tests/data/other_trainers_options.json: the options of diffusers' LoRA scripts and of cloneofsimo's lora_pti.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lora_ext.errors import TrainError
from lora_ext.train.config.kohya_options import IGNORED_OPTIONS, UNSUPPORTED_OPTIONS
from lora_ext.train.config.other_trainers_options import RENAMED_OPTIONS, TRANSLATED_OPTIONS
from lora_ext.train.config.recipe import recipe_options
from lora_ext.train.config.recipe_io import RecipeParser, recipe_from_arguments, recipe_parser, settings_from_recipe

ROOT = Path(__file__).parents[1]
OPTIONS, PAGE = ROOT / "tests/data/kohya_options.json", ROOT / "docs/KOHYA_OPTIONS.md"
OTHERS = ROOT / "tests/data/other_trainers_options.json"
DIFFUSERS = tuple(
    f"examples/{folder}/{name}.py"
    for folder, names in {
        "text_to_image": ("train_text_to_image_lora", "train_text_to_image_lora_sdxl"),
        "dreambooth": ("train_dreambooth_lora", "train_dreambooth_lora_sdxl"),
    }.items()
    for name in names
)
LORA_PTI = "lora_diffusion/cli_lora_pti.py"
SCRIPTS = ("train_network", "sdxl_train_network")
VERSIONS = ("v0.6.6", "v0.7.0", "v0.8.8", "v0.9.1", "v0.10.1", "main")
OF_THE_COMMAND = {
    "config_file": "a TOML file, or the JSON of kohya's GUI",
    "debug_dataset": "lists every picture with its size, bucket and caption, and ends",
    "output_config": "prints the settings as TOML and ends",
}
"""Options of the command `train` that are no settings of a run."""
EXAMPLES = {
    "network_args": "conv_dim=4", "optimizer_args": "weight_decay=0.1", "face_crop_aug_range": "2.0,4.0",
    "max_token_length": "150", "resolution": "512", "lr_scheduler_args": "min_lr_ratio=0.1",
    "optimizer_type": "AdamW AdamW8bit PagedAdamW PagedAdamW8bit PagedAdamW32bit Lion8bit PagedLion8bit Lion "
    "SGDNesterov SGDNesterov8bit DAdaptation DAdaptAdamPreprint DAdaptAdaGrad DAdaptAdam DAdaptAdan DAdaptAdanIP "
    "DAdaptLion DAdaptSGD Adafactor Prodigy RAdamScheduleFree AdamWScheduleFree SGDScheduleFree",
    "lr_scheduler": "linear cosine cosine_with_restarts polynomial constant constant_with_warmup adafactor "
    "inverse_sqrt cosine_with_min_lr warmup_stable_decay piecewise_constant",
    "lr_scheduler_type": "StepLR", "network_module": "networks.lora networks.dylora networks.lora_fa "
    "networks.loha networks.lokr networks.oft lycoris.kohya",
    "caption_extension": ".txt", "lr_warmup_steps": "10",
    "bucket_reso_steps": "64", "min_bucket_reso": "256", "max_bucket_reso": "1024",
}  # fmt: skip
"""Values that an option is tried with where its type alone does not tell one."""
READER = """
import importlib, importlib.abc, importlib.machinery, json, sys, types, warnings
from pathlib import Path
warnings.simplefilter("ignore")
root, name = sys.argv[1:]
class Empty(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Empty(name, (Nothing,), {})
    __or__ = __ror__ = __getitem__ = lambda cls, other: cls
    __iter__ = lambda cls: iter(())
    __lt__ = lambda cls, other: False
    __ge__ = lambda cls, other: True
class Nothing(metaclass=Empty):
    def __init__(self, *args, **more): pass
    def __call__(self, *args, **more): return args[0] if args and callable(args[0]) else self
    __getattr__ = lambda self, name: Nothing() if not name.startswith("__") else object.__getattribute__(self, name)
    __getitem__ = lambda self, key: self
    __iter__ = lambda self: iter(())
    __lt__ = lambda self, other: False
    __ge__ = lambda self, other: True
class EmptyModule(types.ModuleType):
    __path__ = []
    __getattr__ = lambda self, name: getattr(Nothing, name)
own = {path.stem for path in Path(root).iterdir()}
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, full, path=None, target=None):
        if full.split(".")[0] in own | sys.stdlib_module_names:
            return None
        return importlib.machinery.ModuleSpec(full, self, is_package=True)
    create_module = lambda self, spec: EmptyModule(spec.name)
    exec_module = lambda self, module: None
sys.meta_path.insert(0, Finder())
sys.path.insert(0, root)
sys.argv = [name]
actions = importlib.import_module(name).setup_parser()._actions
rows = [
    {"name": text[2:], "type": getattr(a.type, "__name__", None), "nargs": a.nargs, "default": a.default,
     "flag": a.nargs == 0, "choices": [str(c) for c in a.choices or () if c is not None]}
    for a in actions for text in a.option_strings if text.startswith("--") and a.dest != "help"
]
print("\\n" + json.dumps(rows, default=str))
"""


def read_options(checkout: Path, versions: list[str]) -> dict[str, dict[str, Any]]:
    """Option → its newest form and the versions and scripts that have it."""
    found: dict[str, dict[str, Any]] = {}
    for version in versions:
        with tempfile.TemporaryDirectory() as folder:
            patterns = [":(glob)*.py", ":(glob)library/**/*.py", ":(glob)networks/**/*.py"]
            archive = subprocess.run(
                ["git", "-C", str(checkout), "archive", version, *patterns], check=True, capture_output=True
            )
            subprocess.run(["tar", "x", "-C", folder], input=archive.stdout, check=True)
            for script in SCRIPTS:
                if not (Path(folder) / f"{script}.py").exists():
                    continue
                command = [sys.executable, "-B", "-c", READER, folder, script]
                text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                for row in json.loads(text.splitlines()[-1]):
                    old = found.get(row["name"], {"versions": [], "scripts": []})
                    new = {**row, "default": str(row["default"])[:80]}
                    new["versions"] = list(dict.fromkeys([*old["versions"], version]))
                    new["scripts"] = list(dict.fromkeys([*old["scripts"], script]))
                    found[row["name"]] = new
    return dict(sorted(found.items()))


def read_other_options(diffusers: Path, cloneofsimo: Path) -> dict[str, dict[str, Any]]:
    """Option of another trainer → its form, as its source declares it."""
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, kind: str | None, flag: bool, where: str) -> None:
        scripts = list(dict.fromkeys([*found.get(name, {}).get("scripts", []), where]))
        found[name] = {"name": name, "type": kind, "flag": flag, "choices": [], "scripts": scripts}

    for path in DIFFUSERS:
        for node in ast.walk(_source(diffusers, path)):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                more = {word.arg: ast.unparse(word.value) for word in node.keywords}
                for text in node.args:
                    flag = "store_true" in more.get("action", "")
                    add(ast.literal_eval(text)[2:], more.get("type"), flag, Path(path).stem)
    function = next(
        node
        for node in _source(cloneofsimo, LORA_PTI).body
        if isinstance(node, ast.FunctionDef) and node.name == "train"
    )
    for argument in function.args.args:
        kind = ast.unparse(argument.annotation) if argument.annotation else "str"
        add(argument.arg, kind, kind == "bool", "lora_pti")
    return dict(sorted(found.items()))


def _source(checkout: Path, path: str) -> ast.Module:
    command = ["git", "-C", str(checkout), "show", f"HEAD:{path}"]
    return ast.parse(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def values_of(option: dict[str, Any]) -> list[list[str]]:
    """The command-line values that an option is tried with."""
    if option["flag"]:
        return [[]]
    if option["choices"]:
        return [[choice] for choice in option["choices"]]
    usual = {"int": "3", "float": "0.5"}.get(option["type"] or "", "text")
    return [[value] for value in EXAMPLES.get(option["name"], usual).split(" ")]


@functools.cache
def _parser() -> RecipeParser:
    return recipe_parser()


def tried(name: str, values: list[str]) -> tuple[dict[str, Any], list[str], str]:
    """What a command line with one option becomes: (settings that it changes, what is said, what is wrong with it)."""
    said: list[str] = []
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            args = _parser().parse_args([f"--{name}", *values])
        return settings_from_recipe(recipe_from_arguments(args, None, said.append)), said, ""
    except SystemExit:
        return {}, said, errors.getvalue().strip()
    except TrainError as error:
        return {}, said, str(error)


def verdict(option: dict[str, Any]) -> tuple[str, str]:
    """(real, alias, no effect here, not supported or unrecognised; its sentence) of an option."""
    name = option["name"]
    if name in OF_THE_COMMAND:
        return "real", OF_THE_COMMAND[name]
    results = [(values, *tried(name, values)) for values in values_of(option)]
    wrong = [(values, problem) for values, _, _, problem in results if problem]
    if any(word in problem for _, problem in wrong for word in ("unknown option", "unrecognized")):
        return "unrecognised", wrong[0][1]
    if name in UNSUPPORTED_OPTIONS:
        fine = ", ".join(values[0] for values, _, _, problem in results if not problem and values)
        return "not supported", UNSUPPORTED_OPTIONS[name] + (f"; {fine} changes nothing and is accepted" * bool(fine))
    if name in IGNORED_OPTIONS:
        return "no effect here", IGNORED_OPTIONS[name]
    if name in RENAMED_OPTIONS:
        return "alias", f"`--{RENAMED_OPTIONS[name]}`"
    if name in TRANSLATED_OPTIONS:
        return "alias", TRANSLATED_OPTIONS[name]
    if name not in recipe_options():
        sets = {key: value for _, settings, _, _ in results for key, value in settings.items()}
        return "alias", "sets " + ", ".join(f"{key} {value}" for key, value in sets.items())
    refused = [values[0] for values, problem in wrong if f"{name} must be" in problem or f"unknown {name}" in problem]
    help_text = recipe_options()[name][1].help
    return "real", help_text + (f"; not {', '.join(refused)}" if refused else "")


def other_page(options: dict[str, dict[str, Any]]) -> str:
    """The page's part about other trainers."""
    rows = []
    for name, option in options.items():
        kind, sentence = verdict(option)
        rows.append(
            f"| `--{name}` | {kind} | {sentence.replace('|', chr(92) + '|')} | {', '.join(option['scripts'])} |"
        )
    return f"""
## Other trainers

The options of diffusers' LoRA scripts and of cloneofsimo's `lora_pti`. Where kohya's scripts have an option of the same
name, it has kohya's meaning. Defaults are those of this program. `lora_add`'s modes are those of `lora-ext merge
FIRST SECOND OUTPUT --mode MODE`.

| option | here | what it does, or why not | of |
| --- | --- | --- | --- |
{chr(10).join(rows)}
"""


def page(options: dict[str, dict[str, Any]]) -> str:
    """The page in Markdown."""
    rows, counts = [], dict.fromkeys(("real", "alias", "no effect here", "not supported", "unrecognised"), 0)
    every = list(dict.fromkeys(version for option in options.values() for version in option["versions"]))
    every.sort(key=VERSIONS.index)
    for name, option in options.items():
        kind, sentence = verdict(option)
        counts[kind] += 1
        only = "" if option["versions"] == every else f"{option['versions'][0]} … {option['versions'][-1]}"
        rows.append(f"| `--{name}` | {kind} | {sentence.replace('|', chr(92) + '|')} | {only} |")
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"""# Options of kohya's scripts

What `lora-ext train` makes of every option of `train_network.py` and `sdxl_train_network.py`, versions
{", ".join(every)}. Made by `python benchmarks/kohya_options.py`, which gives each option with each of its values to the
program; a test compares this page with it. Of {len(options)} options: {told}.

*Real* options work as named there. An *alias* sets options of other names. An option with *no effect here* is accepted,
and a line says why it does nothing. One that is *not supported* ends the program with the sentence, if its value turns
something on. The last column is filled where not all of these versions have the option.

| option | here | what it does, or why not | versions |
| --- | --- | --- | --- |
{chr(10).join(rows)}
{other_page(json.loads(OTHERS.read_text(encoding="utf-8")))}"""


def _keep(found: dict[str, dict[str, Any]], path: Path) -> None:
    lines = [f"{json.dumps(name)}: {json.dumps(option)}" for name, option in found.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Renews the list and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=Path, metavar="CHECKOUT")
    parser.add_argument("--versions", nargs="*", default=list(VERSIONS))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--diffusers", type=Path, metavar="CHECKOUT")
    parser.add_argument("--cloneofsimo", type=Path, metavar="CHECKOUT")
    given = parser.parse_args()
    if given.scripts:
        _keep(read_options(given.scripts, given.versions), OPTIONS)
    if given.diffusers and given.cloneofsimo:
        _keep(read_other_options(given.diffusers, given.cloneofsimo), OTHERS)
    text = page(json.loads(OPTIONS.read_text(encoding="utf-8")))
    given.page.write_text(text, encoding="utf-8")
    print(next(line for line in text.splitlines() if " options: " in line))
    if "| unrecognised |" in text:
        sys.exit("\n".join(line for line in text.splitlines() if "| unrecognised |" in line))


if __name__ == "__main__":
    main()
