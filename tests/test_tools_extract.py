"""Extraction: kohya's reference cases, the optimum error, laws, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import test_host_checkpoint as small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_tools_checkpoint_merge import full_file, golden, of
from torch import Tensor

from lora_ext import cli
from lora_ext.errors import LoraError
from lora_ext.file.loading import load_lora_file
from lora_ext.file.lora_file import LoraFile
from lora_ext.layer_names import TE, TE2, UNET
from lora_ext.tools import extract as tool
from lora_ext.tools.checkpoint_keys import find_weight_locations
from lora_ext.tools.extract import extract_lora, is_extracted_layer
from lora_ext.tools.merge_into_checkpoint import merge_into_checkpoint


def deltas(org: Path, tuned: Path) -> dict:
    """Site → tuned − org in float64."""
    before, after = load_file(org), load_file(tuned)
    found = find_weight_locations({name: tuple(t.shape) for name, t in before.items()})
    return {s: p.weight_view(after[p.key]).double() - p.weight_view(before[p.key]).double() for s, p in found.items()}


def optimum(delta: Tensor, rank: int) -> float:
    """The least error that a matrix of this rank can have (Eckart–Young), float64."""
    return float((np.linalg.svd(delta.flatten(1).numpy(), compute_uv=False)[rank:] ** 2).sum() ** 0.5)


def delta_of(file: LoraFile, layer_id, like: Tensor) -> Tensor:
    return file.adapters[layer_id].delta(like.float()).double()


# --- reference numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "dim", "conv_dim", "save_as"),
    [
        ("extract_dim4", 4, None, torch.float32),
        ("extract_dim4_conv3", 4, 3, torch.float32),
        ("extract_dim32_over", 32, None, torch.float16),
    ],
)
def test_kohyas_cases(case: str, dim: int, conv_dim: int | None, save_as: torch.dtype) -> None:
    """The same layers, ranks and alphas; an error at the optimum where kohya's clamp leaves more."""
    org, tuned = golden("tiny_ckpt_ldm_fp32"), golden("tiny_tuned_ldm")
    file, report = extract_lora(org, tuned, dim=dim, conv_dim=conv_dim, dtype=save_as)
    theirs, full = load_lora_file(golden(case)), deltas(org, tuned)
    assert file.adapters.keys() == theirs.adapters.keys()
    assert {layer.name for layer in report.layers} == {str(layer_id) for layer_id in file.adapters}
    for name in ("ss_network_module", "ss_v2", "ss_base_model_version"):
        assert file.metadata[name] == theirs.metadata[name]
    for layer_id, adapter in file.adapters.items():
        assert adapter.rank == theirs.adapters[layer_id].rank and adapter.alpha == adapter.rank
        error = float((delta_of(file, layer_id, full[layer_id]) - full[layer_id]).norm())
        rounding = 1e-3 if save_as == torch.float16 else 1e-6
        assert error <= 1.001 * optimum(full[layer_id], adapter.rank) + rounding * float(full[layer_id].norm()), (
            layer_id
        )
        assert (
            error <= 1.001 * float((delta_of(theirs, layer_id, full[layer_id]) - full[layer_id]).norm()) + rounding
        ), layer_id


def test_clamped_as_kohya_does() -> None:
    """Not to the last digit: its threshold hangs on the signs that LAPACK gives the vectors."""
    org, tuned = golden("tiny_ckpt_ldm_fp32"), golden("tiny_tuned_ldm")
    file, report = extract_lora(org, tuned, dim=4, conv_dim=3, clamp_quantile=0.99)
    theirs, full = load_lora_file(golden("extract_dim4_conv3")), deltas(org, tuned)
    assert max(layer.loss for layer in report.layers) > 0.01
    for layer in report.layers:  # what the report says is the loss with the clamp
        layer_id = next(layer_id for layer_id in file.adapters if str(layer_id) == layer.name)
        error = float((delta_of(file, layer_id, full[layer_id]) - full[layer_id]).norm() / full[layer_id].norm())
        assert layer.loss == pytest.approx(min(error, 1), abs=1e-4)
    ratios = [
        float((delta_of(file, layer_id, full[layer_id]) - full[layer_id]).norm())
        / float((delta_of(theirs, layer_id, full[layer_id]) - full[layer_id]).norm())
        for layer_id in file.adapters
    ]
    assert np.median(ratios) == pytest.approx(1, abs=0.05)


def test_text_encoder_that_is_the_same_is_left_out() -> None:
    org, tuned = golden("tiny_ckpt_ldm_fp32"), golden("tiny_tuned_ldm_te_same")
    file, report = extract_lora(org, tuned, dim=4)
    assert {layer_id.part for layer_id in file.adapters} == {UNET}
    assert any("text encoder left out" in note for note in report.notes)
    file, report = extract_lora(org, tuned, dim=4, min_diff=-1.0)
    assert {layer_id.part for layer_id in file.adapters} == {UNET}  # nothing of it differs
    assert all(name.startswith("te") for name in report.unchanged)


# --- laws ------------------------------------------------------------------------------------------------------------


LAYERS: dict[str, tuple[int, ...]] = {
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (12, 10),
    "model.diffusion_model.middle_block.1.proj_in.weight": (9, 11, 1, 1),
    "model.diffusion_model.output_blocks.3.0.in_layers.2.weight": (8, 6, 3, 3),
    "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight": (16, 8),
}


@settings(max_examples=20)
@given(st.integers(0, 999), st.integers(1, 8), st.integers(1, 8))
def test_of_base_plus_a_rank_is_that_rank(seed: int, rank: int, dim: int) -> None:
    """extract(base, base + ΔW of rank r, dim r) = ΔW; at a smaller dim the best of that rank."""
    rng = np.random.default_rng(seed)
    draw: Callable[..., Tensor] = lambda *size: torch.from_numpy(rng.normal(size=size)).float()  # noqa: E731
    before = {key: draw(*shape) for key, shape in LAYERS.items()}
    moved = {key: (draw(s[0], rank) @ draw(rank, int(np.prod(s[1:])))).reshape(s) for key, s in LAYERS.items()}
    with tempfile.TemporaryDirectory() as folder:
        org, tuned = Path(folder) / "a.safetensors", Path(folder) / "b.safetensors"
        save_file(before, org)
        save_file({key: t + moved[key] for key, t in before.items()}, tuned)
        file, report = extract_lora(org, tuned, dim=dim, conv_dim=dim)
        full = deltas(org, tuned)
    assert len(file.adapters) == len(LAYERS) == report.matched
    for layer_id, delta in full.items():
        error = float((delta_of(file, layer_id, delta) - delta).norm())
        assert error <= 1.001 * (optimum(delta, dim) if dim < rank else 0) + 3e-6 * float(delta.norm()), layer_id


@pytest.mark.long
@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_of_a_merge_is_what_was_merged(tmp_path: Path, family: str) -> None:
    """extract(base, base + ΔW of rank r, dim r) = ΔW, in every naming of layers; the file says what it is."""
    path = small.write(tmp_path, family)
    file = full_file(path)
    kept = {
        layer_id: a
        for layer_id, a in file.adapters.items()
        if is_extracted_layer(layer_id, small_shape(path, layer_id), True)
    }
    merge_into_checkpoint(path, [of(LoraFile(kept), 0.5)], tmp_path / "tuned.safetensors")
    out = tmp_path / "out.safetensors"
    options = ["--model_org", path, "--model-tuned", tmp_path / "tuned.safetensors", "--save_to", out, "--json"]
    assert tool.main([str(o) for o in [*options, "--dim", 2, "--conv_dim", 2, "--v2"]]) == 0
    again = load_lora_file(out)
    assert again.adapters.keys() == kept.keys()
    assert {layer_id.part for layer_id in kept} == ({UNET, TE, TE2} if family == "SDXL" else {UNET, TE})
    for layer_id, adapter in kept.items():
        like = torch.zeros(small_shape(path, layer_id))
        wanted, found = 0.5 * adapter.delta(like), again.adapters[layer_id].delta(like)
        assert torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()) + 1e-6), layer_id
    assert again.metadata["ss_network_dim"] == "2" and len(again.metadata["sshs_model_hash"]) == 64
    assert "extracted from tuned" in again.metadata["ss_training_comment"]


@pytest.mark.long
@pytest.mark.parametrize(("family", "part"), [("SD1", TE), ("SD2", TE), ("SDXL", TE), ("SDXL", TE2)])
@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj", "out_proj"])
def test_each_projection_is_found_where_it_is(tmp_path: Path, family: str, part: str, name: str) -> None:
    """One projection of transformers' model was tuned: the file has that one layer, also out of OpenCLIP's stack."""
    path, second = small.write(tmp_path, family), part == TE2
    text, prefix = small.small_text(family, second), small.PREFIXES[family][second]
    tuned = text.text_model.encoder.layers[1].self_attn.get_submodule(name)
    change = torch.outer(torch.linspace(-1, 1, small.WIDTH), torch.linspace(0, 1, small.WIDTH))
    with torch.no_grad():
        tuned.weight += change
    state = {**small.state_of(family), **small.ldm_text(text, prefix)}
    save_file({key: tensor.detach().contiguous() for key, tensor in state.items()}, tmp_path / "tuned.safetensors")
    file, _ = extract_lora(path, tmp_path / "tuned.safetensors", dim=1)
    ((layer_id, adapter),) = file.adapters.items()
    assert (layer_id.part, layer_id.layer) == (part, f"layers.1.self_attn.{name}")
    assert torch.allclose(adapter.delta(change), change, atol=1e-5)


def small_shape(path: Path, layer_id) -> tuple[int, ...]:
    return find_weight_locations({name: tuple(t.shape) for name, t in small.state_of(path.stem).items()})[
        layer_id
    ].shape


def test_which_layers_are_taken(tmp_path: Path) -> None:
    path = small.write(tmp_path, "SD1")
    tuned = tmp_path / "tuned.safetensors"
    save_file({name: t + 0.1 if t.is_floating_point() else t for name, t in small.state_of("SD1").items()}, tuned)
    lierla, _ = extract_lora(path, tuned, dim=1)
    wide, _ = extract_lora(path, tuned, dim=1, conv_dim=1)
    leaves = {layer_id.layer.split(".")[-1] for layer_id in lierla.adapters if layer_id.part == UNET}
    assert leaves == {"to_q", "to_k", "to_v", "0", "proj", "2", "proj_in", "proj_out"}
    more = {layer_id.layer.split(".")[-1] for layer_id in wide.adapters.keys() - lierla.adapters.keys()}
    assert more == {"conv1", "conv2", "time_emb_proj", "conv_shortcut", "conv"}
    assert lierla.variant == "LoRA-LierLa" and wide.variant == "LoRA-C3Lier"
    assert not any(layer_id.layer in ("conv_in", "conv_out") for layer_id in wide.adapters)


@pytest.mark.parametrize(("method", "param"), [("sv_ratio", 3.0), ("sv_fro", 0.8), ("sv_cumulative", 0.5)])
def test_dynamic_ranks(tmp_path: Path, method: str, param: float) -> None:
    org, tuned = golden("tiny_ckpt_ldm_fp32"), golden("tiny_tuned_ldm")
    file, _ = extract_lora(org, tuned, dim=8, conv_dim=8, dynamic_method=method, dynamic_param=param)
    full, ranks = deltas(org, tuned), {a.rank for a in file.adapters.values()}
    assert len(ranks) > 1 and max(ranks) <= 8 and file.metadata["ss_network_dim"] == "Dynamic"
    for layer_id, adapter in file.adapters.items():
        values = np.linalg.svd(full[layer_id].flatten(1).numpy(), compute_uv=False)
        if method == "sv_ratio":
            index = int((values > values[0] / param).sum())
        else:
            power, share = (values**2, param**2) if method == "sv_fro" else (values, param)
            index = int(np.searchsorted(np.cumsum(power) / power.sum(), share)) + 1
        assert adapter.rank == min(max(1, min(index, len(values) - 1)) + 1, 8, len(values)), layer_id


def test_large_layers_come_within_1e_4_of_the_optimum(tmp_path: Path) -> None:
    """A difference of full rank with a flat tail, as tuning leaves it."""
    generator = torch.Generator().manual_seed(0)
    name = "model.diffusion_model.input_blocks.8.1.transformer_blocks.0.attn1.to_{}.weight"
    draw: Callable[..., Tensor] = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
    base = {name.format(leaf): draw(512, 512) for leaf in "qk"}
    change = {"q": draw(512, 512), "k": draw(512, 40) @ draw(40, 512) / 40 + draw(512, 512) * 0.3}
    save_file(base, tmp_path / "a.safetensors")
    save_file({key: t + 0.01 * change[key[-8]] for key, t in base.items()}, tmp_path / "b.safetensors")
    file, report = extract_lora(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dim=16)
    for layer_id, delta in deltas(tmp_path / "a.safetensors", tmp_path / "b.safetensors").items():
        error = float((delta_of(file, layer_id, delta) - delta).norm())
        assert error <= (1 + 1e-4) * optimum(delta, 16)
        (layer,) = (layer for layer in report.layers if layer.name == str(layer_id))
        assert layer.kept == pytest.approx((1 - (error / float(delta.norm())) ** 2) ** 0.5, rel=1e-3)


def test_a_folder_against_a_file(tmp_path: Path) -> None:
    """Layers are compared by where they are, whatever the two containers call them."""
    path = small.write(tmp_path, "SD1")
    unet, _, (text,) = small.parts_of("SD1")
    unet.save_pretrained(tmp_path / "model" / "unet")
    text.save_pretrained(tmp_path / "model" / "text_encoder")
    (tmp_path / "model" / "model_index.json").write_text("{}")
    with pytest.raises(LoraError, match="are equal"):
        extract_lora(path, tmp_path / "model", conv_dim=4)
    ckpt = tmp_path / "tuned.ckpt"
    file = full_file(path, only="unet.MID.attention")
    merge_into_checkpoint(path, [of(file)], ckpt)
    found, _ = extract_lora(tmp_path / "model", ckpt, dim=2)
    assert found.adapters.keys() == {
        layer_id for layer_id in file.adapters if is_extracted_layer(layer_id, (1, 1), False)
    } - {layer_id for layer_id in file.adapters if "norm" in layer_id.layer}


# --- memory ----------------------------------------------------------------------------------------------------------

_PROBE = """
import re, sys
from pathlib import Path
from lora_ext.tools.extract import extract_lora

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

a, b, few = sys.argv[1:]
extract_lora(few, b)
before = peak()
extract_lora(a, b)
print(peak() - before)
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
def test_memory_is_that_of_a_layer_and_not_of_the_files(tmp_path: Path) -> None:
    """Two files of 48 MB."""
    generator = torch.Generator().manual_seed(0)
    names = [f"input_blocks.{i}.1.transformer_blocks.{d}.attn1.to_q" for i in (4, 5, 7, 8) for d in range(12)]
    base = {f"model.diffusion_model.{n}.weight": torch.randn(512, 512, generator=generator) for n in names}
    thin = torch.randn(512, 1, generator=generator)
    save_file(base, tmp_path / "a.safetensors")
    save_file(dict(list(base.items())[:2]), tmp_path / "few.safetensors")
    save_file({name: t + thin @ thin.T for name, t in base.items()}, tmp_path / "b.safetensors")
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("a", "b", "few")]
    done = subprocess.run([sys.executable, "-c", _PROBE, *paths], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16_000_000


# --- what is refused -------------------------------------------------------------------------------------------------


def test_refusals(tmp_path: Path) -> None:
    org, tuned = golden("tiny_ckpt_ldm_fp32"), golden("tiny_tuned_ldm")
    other = small.write(tmp_path, "SDXL")
    bad = load_file(tuned)
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    bad[key][0, 0] = float("nan")
    save_file(bad, tmp_path / "nan.safetensors")
    (tmp_path / "text.safetensors").write_text("version https://git-lfs")
    for arguments, match in (
        ((org, tmp_path / "none.safetensors"), "there is no checkpoint"),
        ((org, org), "are equal"),
        ((org, other), "is a model with .*, .* is a model with"),
        ((org, golden("c3_r8_fp16")), "holds no U-Net"),
        ((org, tmp_path / "nan.safetensors"), r"nan.safetensors contains NaN or infinity in unet.IN01.*to_q"),
        ((org, tmp_path / "text.safetensors"), "git-lfs"),
        ((org, tmp_path), "no model_index.json"),
    ):
        with pytest.raises(LoraError, match=match):
            extract_lora(*arguments)
    for options, match in (
        ({"dim": 0}, "at least 1"),
        ({"dynamic_method": "sv_fro"}, "--dynamic_param"),
        ({"dynamic_method": "sv_from"}, "did you mean 'sv_fro'"),
        ({"clamp_quantile": 2.0}, "between 0 and 1"),
    ):
        with pytest.raises(LoraError, match=match):
            extract_lora(org, tuned, **options)


def test_numbers_too_large_for_fp16_are_named(tmp_path: Path) -> None:
    key = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
    save_file({key: torch.zeros(4, 4)}, tmp_path / "a.safetensors")
    save_file({key: torch.eye(4) * 1e12}, tmp_path / "b.safetensors")
    with pytest.raises(LoraError, match=r"IN04.*does not fit float16"):
        extract_lora(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype=torch.float16)


@pytest.mark.parametrize(
    ("org", "tuned", "meant"),
    [
        (torch.float16, torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32, torch.float32),
        (torch.float16, torch.float8_e4m3fn, torch.float16),
    ],
)
def test_without_save_precision_the_dtype_is_that_of_the_checkpoints(
    tmp_path: Path, org: torch.dtype, tuned: torch.dtype, meant: torch.dtype
) -> None:
    """Two fp16 checkpoints came out as a float32 LoRA, twice as large as `--help` promises."""
    before = {key: torch.randn(shape) for key, shape in LAYERS.items()}
    save_file({key: t.to(org) for key, t in before.items()}, tmp_path / "a.safetensors")
    save_file({key: (t + torch.randn(t.shape)).to(tuned) for key, t in before.items()}, tmp_path / "b.safetensors")
    words = ["--model_org", "a", "--model_tuned", "b", "--save_to", "c"]
    words = [str(tmp_path / f"{word}.safetensors") if len(word) == 1 else word for word in words]
    assert tool.main([*words, "--conv_dim", "2"]) == 0
    made = load_file(tmp_path / "c.safetensors")
    assert {t.dtype for key, t in made.items() if key.endswith("weight")} == {meant}
    assert tool.main([*words, "--overwrite", "--save_precision", "float"]) == 0
    assert {t.dtype for t in load_file(tmp_path / "c.safetensors").values()} == {torch.float32}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    org, tuned, out = golden("tiny_ckpt_ldm_fp32"), golden("tiny_tuned_ldm"), tmp_path / "out.safetensors"
    words = ["--model_org", str(org), "--model_tuned", str(tuned), "--save_to", str(out), "--dim", "4"]
    assert tool.main([*words, "--save_precision", "fp16", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert (
        output["verb"] == "extract"
        and output["outputs"] == [str(out)]
        and len(output["layers"]) == len(load_lora_file(out).adapters)
    )
    with pytest.raises(LoraError, match="--overwrite"):
        tool.main(words)
    with pytest.raises(LoraError, match="--overwrite"):
        tool.main([*words[:5], str(tuned)])
    assert tool.main([*words, "--overwrite"]) == 0
    assert "extract" in capsys.readouterr().out
    if "extract" in cli.CLI_COMMANDS:
        assert cli.main(["extract", *words]) == 2
