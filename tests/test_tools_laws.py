"""Laws of the file tools: what each promises, for every kind, rank, alpha and dtype that there is."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import KINDS, MAKERS, SHAPES, make, suitable_layer, suits
from torch import Tensor

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.adapters import Adapter, adapter_from_tensors
from lora_ext.block_weights import BLOCK_PRESETS, BlockWeights, parse_block_weights, parse_element_rules
from lora_ext.errors import ToolError
from lora_ext.file import load_lora_file, save_lora_file
from lora_ext.file.lora_file import LoraFile
from lora_ext.layer_names import LayerId, find_layer_id
from lora_ext.lowrank import LowRank
from lora_ext.rank_reduction import RankRule, approximate_delta, reduce_rank
from lora_ext.tools.convert import convert_lora
from lora_ext.tools.merge import merge_loras
from lora_ext.tools.merge_layer import MergeOptions
from lora_ext.tools.resize import resize_lora
from lora_ext.tools.result_metadata import SPLIT_SCALE_KEY
from lora_ext.tools.reweight import reweight_lora
from lora_ext.tools.split_dylora import DYLORA_SCALE_RULES, split_dylora

LAYERS: dict[str, tuple[int, ...]] = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (12, 10),
    "down_blocks.1.resnets.0.conv1": (8, 6, 3, 3),
    "mid_block.attentions.0.proj_in": (9, 11, 1, 1),
    "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.2": (10, 14),
}
TEXT = {"text_model.encoder.layers.1.mlp.fc1": (16, 8)}
PLAIN = ["lora", "lora-tucker", "loha", "loha-tucker", "lokr", "full"]


def layer_id(name: str) -> LayerId:
    found = find_layer_id("te" if name in TEXT else "unet", name)
    assert found is not None
    return found


def file_of(kind: str, seed: int, rank: int = 3, *, alpha: float | None = 2.0, names: str = "uuuut") -> LoraFile:
    """A file with one adapter of `kind` (LoRA where that does not suit) at every layer of LAYERS and TEXT."""
    rng = np.random.default_rng(seed)
    adapters: dict[LayerId, Adapter] = {}
    for name, shape in {**LAYERS, **TEXT}.items():
        tensors = make(kind if suits(kind, shape) else "lora", shape, rank, rng=rng)
        if alpha is None:
            tensors.pop("alpha", None)
        elif "alpha" in tensors and kind.split("-")[0] in ("lora", "loha", "lokr"):
            tensors["alpha"] = torch.tensor(alpha)
        adapter = adapter_from_tensors(tensors)
        assert adapter is not None
        adapters[layer_id(name)] = adapter
    return LoraFile(adapters, {"ss_v2": "False"})


def base(where: LayerId) -> Tensor:
    """The weight of a layer of a model that these files fit."""
    shape = next(shape for name, shape in {**LAYERS, **TEXT}.items() if layer_id(name) == where)
    return torch.from_numpy(np.random.default_rng(zlib.crc32(str(where).encode())).normal(0, 1, shape)).float()


def acts(file: LoraFile, where: LayerId) -> Tensor:
    """ΔW of a file at a layer of that model; zero where the file has none."""
    adapter = file.adapters.get(where)
    return torch.zeros_like(base(where)) if adapter is None else adapter.delta(base(where))


def close(a: Tensor, b: Tensor, tolerance: float = 2e-5) -> bool:
    return bool((a.double() - b.double()).norm() <= tolerance * max(1.0, float(b.double().norm())))


RATIOS = st.floats(-2, 2).map(lambda value: round(value, 3))


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(["lora", "lora-tucker", "loha", "full"]), st.integers(1, 5), RATIOS,
                          st.sampled_from([None, 1.0, 0.3, 8.0])), min_size=1, max_size=4))  # fmt: skip
def test_concat_then_apply_is_apply_all(rows: list[tuple[str, int, float, float | None]]) -> None:
    files = [file_of(kind, i, rank, alpha=alpha) for i, (kind, rank, _, alpha) in enumerate(rows)]
    ratios = [ratio for _, _, ratio, _ in rows]
    if not any(ratios):
        with pytest.raises(ToolError, match="weight 0"):
            merge_loras(files, ratios)
        return
    made, report = merge_loras(files, ratios)
    for where in files[0].adapters:
        meant = sum(ratio * acts(file, where) for ratio, file in zip(ratios, files, strict=True))
        assert close(acts(made, where), meant)  # type: ignore[arg-type]
    assert report.matched == 5 and report.kept == 1.0


@settings(max_examples=25)
@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 9), RATIOS, RATIOS, st.sampled_from(sorted(BLOCK_PRESETS)))
def test_svd_merge_is_the_best_at_its_rank(seed: int, rank: int, new: int, r1: float, r2: float, lbw: str) -> None:
    files = [file_of("lora", seed, rank), file_of("loha", seed + 1, 2)]
    blocks = [parse_block_weights(lbw), parse_block_weights("ALL0.5")]
    if not r2 and (not r1 or lbw == "NONE"):
        return  # nothing would be left
    made, report = merge_loras(files, [r1, r2], MergeOptions("svd", new), blocks=blocks)
    kept = {layer.name: layer.kept for layer in report.layers}
    for where in made.adapters:
        weights = [r * b.weight_of(where.block) for r, b in zip((r1, r2), blocks, strict=True)]
        meant = sum(w * acts(f, where).double() for w, f in zip(weights, files, strict=True))
        values = torch.linalg.svdvals(meant.flatten(1))  # type: ignore[union-attr]
        best = float(values[new:].norm())
        error = float((acts(made, where) - meant).norm())  # type: ignore[operator]
        assert error <= best * 1.001 + 2e-5 * float(values.norm())
        if float(values.norm()) > 1e-6:
            assert kept[str(where)] == pytest.approx(float(values[:new].norm() / values.norm()), abs=1e-4)


@settings(max_examples=15)
@given(st.integers(0, 99), st.integers(1, 5), RATIOS, RATIOS, st.sampled_from([None, 1.0, 5.0]))
def test_factors_is_the_older_scripts_average(seed: int, rank: int, r1: float, r2: float, second: float | None) -> None:
    """(Σ|sᵢ|Uᵢ)(Σ sᵢDᵢ)·α₁/r, sᵢ = √(αᵢ/α₁)·rᵢ; cloneofsimo's `lpl` is that without alphas at r and 1 − r."""
    files = [file_of("lora", seed, rank, alpha=None), file_of("lora", seed + 1, rank, alpha=second)]
    if not r1 or not r2:
        return
    made, _ = merge_loras(files, [r1, r2], MergeOptions("factors"))
    scales = (r1, r2 * ((second or rank) / rank) ** 0.5)
    for where in made.adapters:
        (up1, down1), (up2, down2) = (
            (t["lora_up.weight"].flatten(1), t["lora_down.weight"].flatten(1))
            for t in (file.adapters[where].tensors for file in files)
        )
        meant = (abs(scales[0]) * up1 + abs(scales[1]) * up2) @ (scales[0] * down1 + scales[1] * down2)
        assert close(acts(made, where).flatten(1), meant)


@settings(max_examples=15)
@given(st.integers(0, 99), RATIOS, RATIOS, st.sampled_from([("svd", 0.9), ("svd", 0.99), ("factors", None)]))
def test_the_report_tells_the_loss_of_what_is_not_the_best(
    seed: int, r1: float, r2: float, how: tuple[str, float | None]
) -> None:
    files = [file_of("lora", seed + i) for i in (0, 1)]
    if not r1 or not r2:
        return
    made, report = merge_loras(files, [r1, r2], MergeOptions(how[0], 2, clamp_quantile=how[1]))
    for layer in report.layers:
        where = next(where for where in made.adapters if str(where) == layer.name)
        meant = r1 * acts(files[0], where).double() + r2 * acts(files[1], where).double()
        error = float((acts(made, where) - meant).norm() / meant.norm())
        assert layer.loss == pytest.approx(min(error, 1.0), abs=1e-3)


ALPHAS = st.sampled_from([None, 0.5, 1.0, 7.0, -2.0])


@settings(max_examples=25)
@given(st.sampled_from(PLAIN), st.integers(0, 999), st.integers(1, 6), ALPHAS)
def test_resize_to_full_rank_is_the_file(kind: str, seed: int, rank: int, alpha: float | None) -> None:
    file = file_of(kind, seed, rank, alpha=alpha)
    made, report = resize_lora(file, 64)
    for where in file.adapters:
        assert close(acts(made, where), acts(file, where))
    assert report.kept == pytest.approx(1.0, abs=1e-6)
    if kind == "lora":
        assert any("capped" in note for note in report.notes)
        assert all(torch.equal(t, made.adapters[s].tensors[n]) for s, a in file.adapters.items()
                   for n, t in a.tensors.items())  # fmt: skip


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from(PLAIN), st.integers(1, 4))
def test_resize_is_the_best_at_its_rank(seed: int, kind: str, rank: int) -> None:
    file = file_of(kind, seed, 5)
    made, _ = resize_lora(file, rank)
    for where in file.adapters:
        meant = acts(file, where).double()
        best = float(torch.linalg.svdvals(meant.flatten(1))[rank:].norm())
        assert float((acts(made, where) - meant).norm()) <= best * 1.001 + 2e-5 * float(meant.norm())
        assert made.adapters[where].rank == min(rank, file.adapters[where].rank or 99)


@given(st.integers(0, 999), st.floats(1e-9, 1e4), st.integers(1, 6))
@settings(max_examples=30)
def test_approximations_do_not_depend_on_the_size_of_the_numbers(seed: int, size: float, rank: int) -> None:
    rng = np.random.default_rng(seed)
    up, gain, down = (torch.from_numpy(rng.normal(size=s)).float() for s in ((20, 6), 6, (6, 15)))
    low = LowRank(up * size, gain, down)
    values = torch.linalg.svdvals(low.delta().double())
    for best in (reduce_rank(low, rank), approximate_delta(low.delta(), rank)):
        assert best.low_rank.rank == rank
        assert torch.allclose(best.values[:rank].double(), values[:rank], rtol=1e-4, atol=3e-6 * float(values[0]))
        error = float((best.low_rank.delta().double() - low.delta().double()).norm())
        assert error <= 1.001 * float(values[rank:].norm()) + 3e-6 * float(values.norm())
        assert best.kept == pytest.approx(float(values[:rank].norm() / values.norm()), abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("decay", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("shape", [(520, 700), (900, 530), (288, 32, 3, 3)])
def test_large_matrices_are_within_the_promise(shape: tuple[int, ...], decay: float) -> None:
    """The error is within 0.1% of the optimum that the exact singular values give (here: within 0.01%)."""
    matrix = torch.from_numpy(np.random.default_rng(1).normal(size=(shape[0], int(np.prod(shape[1:]))))).float()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values * torch.logspace(0, -decay, len(values))
    matrix = (left * values) @ right
    exact = torch.linalg.svdvals(matrix.double())
    for rank in (1, 8, 32):
        best = approximate_delta(matrix.reshape(shape), rank)
        assert (
            float((best.low_rank.delta().reshape(matrix.shape).double() - matrix).norm())
            <= 1.0001 * exact[rank:].norm()
        )
    full = approximate_delta(matrix.reshape(shape), RankRule(20, "sv_fro", 0.5))
    assert torch.allclose(full.values.double(), exact, atol=3e-6 * float(exact[0]))


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("method", ["concat", "svd"])
def test_files_that_cancel_each_other_are_refused(kind: str, method: str) -> None:
    file, other = file_of(kind, 1), file_of(kind, 2)
    options = MergeOptions(method, 4)
    with pytest.raises(ToolError, match=r"^0.5 \* .*, -0.5 \* .*: at these ratios their changes cancel each other"):
        merge_loras([file, file], [0.5, -0.5], options)
    merge_loras([file, file], [0.5, -0.499], options)
    merge_loras([file, other], [0.5, -0.5], options)


def test_an_exact_merge_less_its_sources_is_refused_and_a_zero_file_too() -> None:
    one, two = file_of("lora", 1), file_of("lora", 2, rank=2)
    both, _ = merge_loras([one, two], [0.3, 0.7])
    with pytest.raises(ToolError, match="cancel each other"):
        merge_loras([both, one, two], [1, -0.3, -0.7])
    untrained = file_of("lora", 3)
    for adapter in untrained.adapters.values():
        adapter.tensors["lora_up.weight"].zero_()
    with pytest.raises(ToolError, match=r"ΔW is 0 everywhere \(never trained\?\), the result would change nothing"):
        merge_loras([untrained])
    merge_loras([untrained, one])


def test_convergence_is_not_asked_of_a_zero_matrix() -> None:
    for shape in ((6, 4), (300, 400), (8, 3, 3, 3)):
        best = approximate_delta(torch.zeros(shape), 4)
        assert best.low_rank.rank == 1 and best.kept == 1.0 and not bool(best.low_rank.delta().any())
    zero = LowRank(torch.zeros(6, 3), torch.ones(3), torch.ones(3, 5))
    assert reduce_rank(zero, 2).low_rank.rank == 1 and not bool(reduce_rank(zero, 2).low_rank.delta().any())


VECTORS = st.lists(st.sampled_from([0.0, 1.0, 0.5, -0.7, 1.3]), min_size=17, max_size=17)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(st.one_of(st.sampled_from(sorted(BLOCK_PRESETS)), VECTORS.map(lambda v: ",".join(map(str, v)))), RATIOS, RATIOS)
def test_reweight_then_apply_is_apply_with_lbw(kind: str, lbw: str, te: float, unet: float) -> None:
    file = file_of(kind, 7)
    spec = AdapterSpec(file, te=te, unet=unet, blocks=parse_block_weights(lbw))
    if not any(spec.weight_at(where) for where in file.adapters):
        with pytest.raises(ToolError, match="every layer"):
            reweight_lora(file, parse_block_weights(lbw), te=te, unet=unet)
        return
    try:
        made, report = reweight_lora(file, parse_block_weights(lbw), te=te, unet=unet)
    except ToolError as error:
        assert kind.startswith(("boft", "oftv2")) or "dora" in kind, error
        assert "cannot be written at weight" in str(error)
        return
    for where, adapter in file.adapters.items():
        if adapter.fits(base(where).shape):
            assert close(acts(made, where), spec.weight_at(where) * acts(file, where))
        shift, new = adapter.bias_delta(), made.adapters[where].bias_delta() if where in made.adapters else None
        if shift is not None and spec.weight_at(where):
            assert new is not None and close(new, spec.weight_at(where) * shift)
    assert len(report.layers) == len(made.adapters)


@pytest.mark.parametrize("weight", [float("nan"), 1e39])
@pytest.mark.parametrize("kind", ["lora", "full", "ia3-out", "oft-lycoris"])
def test_reweight_writes_no_infinity(kind: str, weight: float) -> None:
    with pytest.raises(ToolError, match="would hold NaN or infinity"):
        reweight_lora(file_of(kind, 7), unet=weight)


def test_reweight_takes_rules_and_keeps_factors() -> None:
    file = file_of("lora", 1)
    blocks = BlockWeights(rules=parse_element_rules("IN00-OUT11:attn:0.25"))
    made, _ = reweight_lora(file, blocks)
    for where, adapter in file.adapters.items():
        weight = 0.25 if "attn" in where.layer else 1.0
        assert close(acts(made, where), weight * acts(file, where))
        for name, tensor in adapter.tensors.items():
            assert name == "alpha" or torch.equal(tensor, made.adapters[where].tensors[name])


def test_what_changes_nothing_is_told() -> None:
    file = file_of("lora", 1)
    unused = BlockWeights(rules=parse_element_rules("IN00-OUT11:atn:0"))
    assert "resize changes ranks" in "".join(convert_lora(file, rank=2)[1].notes)
    assert "every weight is 1" in "".join(reweight_lora(file)[1].notes)
    assert "'IN00-OUT11:atn:0' applies to no layer" in "".join(reweight_lora(file, unused, te=0.5)[1].notes)
    assert not reweight_lora(file, te=0.5)[1].notes and not convert_lora(file)[1].notes


@settings(max_examples=25)
@given(st.sampled_from([None, *DYLORA_SCALE_RULES]), st.integers(1, 8), st.integers(1, 8), ALPHAS)
def test_split_at_full_rank_is_the_file_and_prefixes_act_as_trained(
    rule: str | None, full: int, unit: int, alpha: float | None
) -> None:
    file, unit = file_of("lora", 3, rank=full, alpha=alpha), min(unit, full)
    said = {"ss_network_module": "networks.dylora", "ss_network_args": f'{{"unit": "{unit}", "algo": "x"}}'}
    file = LoraFile(file.adapters, {**said, **({SPLIT_SCALE_KEY: rule} if rule else {})})
    files, report = split_dylora(file)
    assert list(files) == [*range(unit, full, unit), full] and vars(report.data())["alpha"] == (rule or "keep")
    for where, adapter in file.adapters.items():
        low = adapter.low_rank()
        assert low is not None
        assert torch.equal(acts(files[full], where), acts(file, where))
        for b in range(unit, full, unit):
            gain = {None: full / b, "full": 1.0, "prefix": full / b, "sqrt": (full / b) ** 0.5}[rule]
            assert close(acts(files[b], where), low.truncated(b).delta() * gain)
    for b, made in files.items():
        assert made.metadata["ss_network_dim"] == str(b) and made.metadata["ss_network_module"] == "networks.lora"
        assert "unit" not in made.metadata["ss_network_args"] and made.dylora_unit is None


@settings(max_examples=15)
@given(st.sampled_from(["lora", "lora-tucker"]), st.integers(0, 999), st.integers(1, 6), ALPHAS)
def test_convert_there_and_back_is_the_file(kind: str, seed: int, rank: int, alpha: float | None) -> None:
    file = file_of(kind, seed, rank, alpha=alpha)
    there, report = convert_lora(file, "diffusers")
    assert there.key_format == "diffusers" and not any("alpha" in a.tensors for a in there.adapters.values())
    with tempfile.TemporaryDirectory() as folder:
        written = load_lora_file(save_lora_file(there, Path(folder) / "d.safetensors"))
        back, _ = convert_lora(written, "kohya")
        again = load_lora_file(save_lora_file(back, Path(folder) / "k.safetensors"))
    assert again.key_format == "kohya" and len(report.layers) == 5
    for where in file.adapters:
        for step in (there, written, back, again):
            assert close(acts(step, where), acts(file, where), 1e-6)


def needs_no_weight(kind: str) -> bool:
    adapter = adapter_from_tensors(make(kind, SHAPES[suitable_layer(kind)]))
    return adapter is not None and adapter.magnitude() is None and adapter.delta_shape() is not None


OTHERS = [kind for kind in KINDS if MAKERS[kind].kind != "LoRA" and needs_no_weight(kind)]


@settings(max_examples=20)
@given(st.sampled_from(OTHERS), st.integers(0, 999), st.integers(1, 8))
def test_convert_is_the_best_at_its_rank(kind: str, seed: int, rank: int) -> None:
    file = file_of(kind, seed, 3)
    made, report = convert_lora(file, "kohya", rank)
    kept = {layer.name: layer.kept for layer in report.layers}
    for where, adapter in file.adapters.items():
        if adapter.kind == "LoRA" or not adapter.fits(base(where).shape):
            continue
        meant = acts(file, where).double()
        values = torch.linalg.svdvals(meant.flatten(1))
        error = float((acts(made, where) - meant).norm())
        assert error <= 1.001 * float(values[rank:].norm()) + 2e-5 * float(values.norm())
        assert kept[str(where)] == pytest.approx(float(values[:rank].norm() / values.norm()), abs=1e-4)
        assert made.adapters[where].rank == min(rank, len(values))


@pytest.mark.parametrize("kind", OTHERS)
def test_convert_makes_lora_of_other_kinds(kind: str) -> None:
    file = file_of(kind, 6, rank=2)
    made, report = convert_lora(file, "kohya", 64)
    assert set(made.kinds) == {"LoRA"}
    for where in file.adapters:
        if file.adapters[where].fits(base(where).shape):
            assert close(acts(made, where), acts(file, where))
    assert report.kept == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", ["lora-diff-bias", "lora-up-bias"])
def test_tools_keep_the_change_of_the_bias(kind: str) -> None:
    one, two = file_of(kind, 3), file_of(kind, 4)
    made = {
        "resize": resize_lora(one, 1)[0],
        "convert": convert_lora(one, "kohya")[0],
        "merge": merge_loras([one, two], ratios=[0.5, -2])[0],
    }
    for where, adapter in one.adapters.items():
        bias, other = adapter.bias_delta(), two.adapters[where].bias_delta()
        assert bias is not None and other is not None
        for tool, file in made.items():
            found = file.adapters[where].bias_delta()
            expected = 0.5 * bias - 2 * other if tool == "merge" else bias
            assert found is not None and torch.allclose(found, expected, atol=1e-6), tool
            assert "lora_up.bias" not in file.adapters[where].tensors, tool


def test_a_plain_lora_is_told_from_a_dylora_without_its_unit() -> None:
    with pytest.raises(ToolError, match=r"a plain LoRA has no ranks to split.*--unit"):
        split_dylora(file_of("lora", 1))
