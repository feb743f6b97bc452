"""PEFT folders with an `adapter_config.json` act as strongly as in PEFT."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tiny, text_encoder, unet
from torch import Tensor, nn

import lora_ext
from lora_ext.adapter_spec import AdapterSpec
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.cli import main
from lora_ext.errors import FileError
from lora_ext.file.loading import load_lora_file
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.peft_config import PeftConfig
from lora_ext.file.saving import save_lora_file
from lora_ext.inspect_file import format_inspection, inspect_lora_file
from lora_ext.tools.convert import convert_lora
from lora_ext.tools.merge import merge_loras
from lora_ext.tools.resize import resize_lora
from lora_ext.tools.reweight import reweight_lora

peft = pytest.importorskip("peft")

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CONFIGS: dict[str, Callable[[], Any]] = {
    "alpha": lambda: peft.LoraConfig(r=4, lora_alpha=16, target_modules=ATTENTION, init_lora_weights=False),
    "alpha below the rank": lambda: peft.LoraConfig(
        r=4, lora_alpha=1, target_modules=[*ATTENTION, "proj_in", "conv1"], init_lora_weights=False
    ),
    "rslora": lambda: peft.LoraConfig(
        r=6, lora_alpha=16, use_rslora=True, target_modules=ATTENTION, init_lora_weights=False
    ),
    "patterns": lambda: peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=ATTENTION,
        rank_pattern={"attn1.to_k": 2, r".*attn2\.(to_q|to_v)": 6},
        alpha_pattern={
            "^down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": 3,
            "attn1.to_q": 5,
            r"up_blocks.*attn2\.(to_q|to_v)": 1,
            r"mid_block\.attentions\.\d\..+to_v": 2,
        },
        init_lora_weights=False,
    ),
    "rslora and patterns": lambda: peft.LoraConfig(
        r=4,
        lora_alpha=8,
        use_rslora=True,
        target_modules=ATTENTION,
        rank_pattern={"to_k": 2},
        alpha_pattern={"to_k": 5},
        init_lora_weights=False,
    ),
    "DoRA": lambda: peft.LoraConfig(
        r=4, lora_alpha=12, use_dora=True, target_modules=[*ATTENTION, "conv1"], init_lora_weights=False
    ),
    "bias of the factors": lambda: peft.LoraConfig(
        r=4, lora_alpha=12, lora_bias=True, target_modules=["to_out.0", "proj_in", "conv1"], init_lora_weights=False
    ),
    "OFT": lambda: peft.OFTConfig(
        oft_block_size=4, target_modules=[*ATTENTION, "proj_in"], use_cayley_neumann=True, init_weights=False
    ),
    "OFT by exact rotations of one block": lambda: peft.OFTConfig(
        oft_block_size=4, target_modules=ATTENTION, use_cayley_neumann=False, block_share=True, init_weights=False
    ),
    "LoHa": lambda: peft.LoHaConfig(
        r=4, alpha=12, target_modules=ATTENTION, alpha_pattern={"to_q": 2}, init_weights=False
    ),
    "LoKr": lambda: peft.LoKrConfig(
        r=2, alpha=12, target_modules=ATTENTION, alpha_pattern={"to_q": 2}, init_weights=False
    ),
    "LoKr of full matrices": lambda: peft.LoKrConfig(r=64, alpha=16, target_modules=ATTENTION),
}


def train(module: nn.Module, config: Any, folder: Path) -> nn.Module:
    """The module with PEFT's adapter of random numbers, which is saved."""
    torch.manual_seed(5)
    wrapped = peft.get_peft_model(module, config)
    for name, parameter in wrapped.named_parameters():
        if "magnitude" in name:
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
        elif any(mark in name for mark in ("lora_", "hada_", "lokr_", "oft_")):
            parameter.data.copy_(torch.randn_like(parameter) * 0.1)
    wrapped.save_pretrained(folder)
    return wrapped.eval()


def seen(model: Tiny) -> tuple[Tensor, ...]:
    return model.draw()


def near(one: tuple[Tensor, ...], two: tuple[Tensor, ...], limit: float = 1e-5) -> bool:
    """A whole network's rounding is more than a layer's."""
    return all(
        float((a - b).abs().max()) <= limit * max(1.0, float(b.abs().max())) for a, b in zip(one, two, strict=True)
    )


def weights(module: nn.Module) -> tuple[Tensor, ...]:
    return tuple(tensor.clone() for _, tensor in sorted(module.state_dict().items()))


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
def test_the_unet_s_output_is_peft_s(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    other = Tiny()
    other.unet = train(unet(), CONFIGS[name](), folder)  # type: ignore[assignment]
    expected, model = seen(other), Tiny()
    plain = seen(model)
    assert not near(plain, expected)
    for source in (folder / "adapter_model.safetensors", folder):
        for mode in ("live", "baked"):
            with lora_ext.apply(model, source, mode=mode) as loras:
                assert near(seen(model), expected), mode
                assert loras.fits[0].ok and loras.fits[0].name == "mine" and not loras.fits[0].assumed
    merged = weights(other.unet.merge_and_unload())  # type: ignore[operator]
    with lora_ext.apply(model, folder, mode="baked"):
        assert near(weights(model.unet), merged, 1e-6)
    file = load_lora_file(folder)
    assert (
        file.name == "mine"
        and not file.notes
        and "alpha from adapter_config.json" in format_inspection(inspect_lora_file(folder))
    )
    for changed in (
        save_lora_file(file, tmp_path / "kohya.safetensors", key_format="kohya"),
        save_lora_file(file, tmp_path / "own.safetensors"),
        save_lora_file(convert_lora(file, "kohya")[0], tmp_path / "converted.safetensors"),
    ):
        with lora_ext.apply(model, changed, mode="baked"):
            assert near(seen(model), expected), changed


def test_the_text_encoder_s_output_is_peft_s(tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=4,
        lora_alpha=9,
        use_rslora=True,
        target_modules=["q_proj", "fc1"],
        alpha_pattern={"layers.1.self_attn.q_proj": 3},
        init_lora_weights=False,
    )
    other, model = Tiny(), Tiny()
    other.text_encoder = train(text_encoder(), config, tmp_path)  # type: ignore[assignment]
    with lora_ext.apply(model, tmp_path, mode="baked"):
        assert near(seen(model), seen(other))
        assert near(weights(model.text_encoder), weights(other.text_encoder.merge_and_unload()), 1e-6)  # type: ignore[operator]


@pytest.mark.long
def test_what_is_assumed_without_a_configuration_is_said(tmp_path: Path) -> None:
    train(unet(), CONFIGS["alpha"](), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    (tmp_path / "adapter_config.json").unlink()
    said = "there is no adapter_config.json beside it, so alpha = rank is assumed"
    with AppliedNetworks(Tiny()) as applied:
        (fit,) = applied.apply([AdapterSpec(load_lora_file(path))])
    assert said in str(fit) and not fit.ok and fit.name == "adapter_model"
    assert said in format_inspection(inspect_lora_file(path))
    bare = save_lora_file(load_lora_file(path), tmp_path / "diffusers.safetensors", key_format="diffusers")
    with AppliedNetworks(Tiny()) as applied:
        (fit,) = applied.apply([AdapterSpec(load_lora_file(bare))])
    assert "alpha = rank is assumed" in str(fit) and fit.ok
    assert "alpha = rank is assumed" in format_inspection(inspect_lora_file(bare))
    for name in (path, bare):  # the tools too, whose results are at that strength
        file = load_lora_file(name)
        for _, report in (
            merge_loras([file]),
            resize_lora(file, 2),
            convert_lora(file, "kohya"),
            reweight_lora(file, unet=0.5),
        ):
            assert any("alpha = rank is assumed" in note and file.name in note for note in report.notes)


@pytest.mark.long
@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 9999, "\xff"])
def test_a_configuration_that_cannot_be_read_is_reported(text: str, tmp_path: Path) -> None:
    train(unet(), CONFIGS["alpha"](), tmp_path)
    (tmp_path / "adapter_config.json").write_bytes(text.encode("latin-1"))
    file = load_lora_file(tmp_path)
    assert "adapter_config.json beside it cannot be read" in file.notes[0] and "alpha = rank" in file.notes[0]
    assert file.config is None  # inspect must not say that the strength is from that file


def change(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.long
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"peft_type": "ADALORA"}, "peft_type 'ADALORA'"),
        ({"peft_type": "VERA"}, "peft_type 'VERA'"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save are not read"),
        ({"bias": "lora_only"}, "trained with bias='lora_only'"),
        ({"init_lora_weights": "pissa"}, "changes the base model's weights too"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base model's weights too"),
        ({"lora_alpha": None}, "has no lora_alpha"),
        ({"alpha_pattern": {"(a+)+x": 3}}, "too complex"),
        ({"alpha_pattern": {"(": 3}}, "too complex"),
    ],
)
def test_what_cannot_be_honoured_is_reported(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    train(unet(), CONFIGS["alpha"](), tmp_path)
    change(tmp_path, **values)
    with AppliedNetworks(Tiny()) as applied:
        (fit,) = applied.apply([AdapterSpec(load_lora_file(tmp_path))])
    assert said in str(fit) and not fit.ok


UNSUPPORTED: dict[str, Callable[[], Any]] = {
    "AdaLoRA": lambda: peft.AdaLoraConfig(init_r=4, target_r=2, total_step=100, target_modules=["to_q"]),
    "VeRA": lambda: peft.VeraConfig(r=4, target_modules=["to_q"], save_projection=True),
    "IA3 of PEFT": lambda: peft.IA3Config(target_modules=["to_q"], feedforward_modules=[]),
    "BOFT of PEFT": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=["to_q"]),
    "HRA": lambda: peft.HRAConfig(r=2, target_modules=["to_q"]),
    "FourierFT": lambda: peft.FourierFTConfig(n_frequency=8, target_modules=["to_q"]),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_other_kinds_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    layer = nn.ModuleDict({"mid_block": nn.ModuleDict({"attentions": nn.ModuleList([attention()])})})
    peft.get_peft_model(layer, UNSUPPORTED[kind]()).save_pretrained(tmp_path)
    file = load_lora_file(tmp_path)
    assert not file.adapters and file.foreign_architecture is not None
    assert f"of the kind {kind} and cannot be applied" in file.foreign_architecture.sentence("x")


def attention() -> nn.Module:
    """One query layer under the name that diffusers' U-Net has."""
    names = ["to_q", "attn1", "0", "transformer_blocks"]
    module: nn.Module = nn.Linear(16, 16)
    for name in names:
        module = nn.ModuleDict({name: module})
    return module


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(.*)*x",
        "(x|x)*y",
        ".*.*.*.*.*z",
        "(?=a)b",
        r"(a)\1",
        "a{1,9}b",
        "(|".join("ab" * 40),
        "x" * 300 + ".*",
    ],
)
def test_a_stranger_s_pattern_ends_soon(pattern: str) -> None:
    config = PeftConfig({"lora_alpha": 4, "alpha_pattern": {pattern: 2, "to_q": 8}})
    begun = time.perf_counter()
    assert config._alpha("a" * 200 + ".to_q") == 8 and config.notes()
    assert time.perf_counter() - begun < 1


def test_many_patterns_take_no_time() -> None:
    patterns = {f"blocks.{number}.to_q": number for number in range(100_000)}
    begun = time.process_time()
    config = PeftConfig({"lora_alpha": 4, "alpha_pattern": {**patterns, "attn1.to_q": 7, "to_q": 8}})
    assert {config._alpha(f"x.{number}.attn1.to_q") for number in range(1000)} == {7} and not config.notes()
    assert time.process_time() - begun < 5


def test_patterns_mean_what_they_mean_to_peft() -> None:
    from peft.utils.other import get_pattern_key

    names = [
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0",
        "mid_block.attentions.0.proj_in",
        "conv_in",
    ]
    for pattern in (
        *("to_q", "attn1.to_q", r"attn1\.to_q", "^conv_in", "^to_q", "q", "proj_in$", "to_out.0", "conv_in"),
        *(
            ".*",
            ".*to_q",
            "attn.*",
            r"mid_block.*(proj_in|proj_out)",
            r"up_blocks\.\d\..+",
            "[cd].*in",
            "(?:a|b).*to_q",
        ),
    ):
        config = PeftConfig({"lora_alpha": 1, "alpha_pattern": {pattern: 2}})
        for name in names:
            expected = 2 if (get_pattern_key([pattern], name) == pattern and name != pattern) or name == pattern else 1
            assert config._alpha(name) == expected, (pattern, name)


def test_the_library_names_the_folder_and_notices_the_configuration(tmp_path: Path) -> None:
    train(unet(), CONFIGS["alpha"](), tmp_path / "loras" / "mine")
    library = LoraLibrary([tmp_path / "loras"], cache_path=tmp_path / "index.json")
    entry = library.find("mine")
    assert library.find("adapter_model") is entry and library.find("mine/adapter_model") is entry
    assert library.shortest_name(entry) == "mine" and entry.is_up_to_date
    file = entry.load()
    assert {a.alpha for a in file.adapters.values()} == {16.0} and entry.load() is file
    before, version = entry.content_hash, library.version
    own = entry.hash
    change(tmp_path / "loras" / "mine", lora_alpha=2)
    assert not entry.is_up_to_date
    assert {a.alpha for a in entry.load().adapters.values()} == {2.0}
    library.refresh()
    again = library.find("mine")
    assert library.version != version and again.content_hash != before and again.hash == own
    (tmp_path / "loras" / "mine" / "adapter_config.json").unlink()
    assert not again.is_up_to_date
    assert {a.alpha for a in again.load().adapters.values()} == {None}
    library.refresh()
    assert library.find("adapter_model").name == "adapter_model"


def test_a_configuration_beside_several_files_is_of_peft_s_own(tmp_path: Path) -> None:
    train(unet(), CONFIGS["alpha"](), tmp_path)
    data = (tmp_path / "adapter_model.safetensors").read_bytes()
    renamed = tmp_path / "style.safetensors"
    renamed.write_bytes(data)
    assert load_lora_file(renamed).config is None and load_lora_file(tmp_path).config is not None
    (tmp_path / "adapter_model.safetensors").unlink()
    assert load_lora_file(renamed).config is not None and load_lora_file(renamed).name == "style"
    assert {a.alpha for a in load_lora_file(renamed).adapters.values()} == {16.0}
    with pytest.raises(FileError, match="is a folder"):
        load_lora_file(tmp_path)


def test_a_tool_s_result_holds_the_strength_itself(tmp_path: Path) -> None:
    train(unet(), CONFIGS["rslora"](), tmp_path / "mine")
    file = load_lora_file(tmp_path / "mine")
    result, _ = resize_lora(file, 6)
    path = save_lora_file(result, tmp_path / "resized.safetensors")
    model = Tiny()
    with lora_ext.apply(model, tmp_path / "mine", mode="baked"):
        expected = seen(model)
    with lora_ext.apply(model, path, mode="baked"):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(seen(model), expected, strict=True))


def test_metadata_are_not_edited_away_from_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy would act at another strength."""
    train(unet(), CONFIGS["rslora"](), tmp_path / "mine")
    source, elsewhere = tmp_path / "mine" / "adapter_model.safetensors", tmp_path / "copy.safetensors"
    assert main(["metadata", str(tmp_path / "mine")]) == 0 and capsys.readouterr().out
    before = load_lora_file(source).adapters
    assert main(["metadata", str(source), "--set", "a=b", "--save_to", str(elsewhere)]) == 2
    assert "with convert first" in capsys.readouterr().err and not elsewhere.exists()
    assert main(["metadata", str(source), "--set", "a=b", "--overwrite"]) == 0
    assert main(["metadata", str(tmp_path / "mine"), "--set", "c=d", "--overwrite"]) == 0
    after = load_lora_file(source)
    assert after.metadata["c"] == "d" and after.metadata["a"] == "b" and after.config
    assert [a.scaling() for a in after.adapters.values()] == [a.scaling() for a in before.values()]


def test_a_result_is_not_written_where_a_configuration_would_change_it(tmp_path: Path) -> None:
    """A conversion to diffusers' keys onto the file itself acted at the square of its strength."""
    train(unet(), CONFIGS["rslora"](), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    before, result = path.read_bytes(), convert_lora(load_lora_file(path), "diffusers")[0]
    with pytest.raises(FileError, match="scaled by the adapter_config"):
        save_lora_file(result, path, overwrite=True)
    assert path.read_bytes() == before
    save_lora_file(convert_lora(load_lora_file(path), "kohya")[0], path, overwrite=True)  # holds its alpha
    assert load_lora_file(path).config is None
