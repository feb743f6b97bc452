"""Kinds that train: against recorded outputs and gradients of LyCORIS' modules, and the laws of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import Tiny
from tiny_trainable_model import pictures, tiny_model
from tiny_trainable_model import recipe as train_recipe
from torch import Tensor, nn

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.errors import TrainError
from lora_ext.file.loading import load_lora_file
from lora_ext.file.saving import save_lora_file
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.inject import BAKED, find_layer_targets
from lora_ext.layer_names import LayerId
from lora_ext.train.config.block_settings import ModuleRanks, RankAndAlpha
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.config.recipe_metadata import network_metadata, settings_from_metadata
from lora_ext.train.data.dataset import Dataset
from lora_ext.train.network.layer_targets import count_by_sort, trained_layers
from lora_ext.train.network.new_adapters import NewLayer, new_tensors
from lora_ext.train.network.trainable_adapter import TrainableAdapter
from lora_ext.train.network.trainable_factors import TrainableFactors
from lora_ext.train.network.trainable_network import TrainableNetwork
from lora_ext.train.run.preflight import run_preflight
from lora_ext.train.run.training_run import TrainingRun
from lora_ext.training.standalone_run import SilentHost

PATH = Path(__file__).parent / "data" / "training" / "lycoris_kinds.safetensors"
RECORDED = load_file(PATH)
with safe_open(PATH, "pt") as stored:
    CASES: dict[str, tuple[str, dict[str, Any]]] = json.loads(stored.metadata()["cases"])
LAYERS = sorted({tuple(key.split(".")[:2]) for key in RECORDED})
NAMES = {"weight_decompose": "dora_wd"}


def recipe_of(case: str) -> Recipe:
    algo, options = CASES[case]
    names = {NAMES.get(n, n): value for n, value in options.items() if n not in ("lora_dim", "train_on_input")}
    module = {"network_module": "c3lier", "network_dim": options.get("lora_dim", 2), "network_alpha": 3.0}
    kind = {} if algo == "norm" else {"algo": algo.replace("locon", "lora")}
    return recipe_from_settings({**module, **kind, **names})


def layer_of(t: dict[str, Tensor], name: str) -> nn.Module:
    weight = t["W"]
    if name == "layer":
        layer: nn.Module = nn.LayerNorm(len(weight))
    elif name == "group":
        layer = nn.GroupNorm(2, len(weight))
    elif weight.dim() == 2:
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    else:
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2)
    layer.load_state_dict({"weight": weight, "bias": t["b"]})
    return layer.requires_grad_(False)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "hooked"])
@pytest.mark.parametrize(("case", "name"), LAYERS, ids=map(" ".join, LAYERS))
def test_outputs_and_gradients_are_lycoris(case: str, name: str, half: bool) -> None:
    """`hooked`: another hook on the layer, so that its own backward pass is kept, as for quantised layers."""
    t = {k.removeprefix(f"{case}.{name}."): v for k, v in RECORDED.items() if k.startswith(f"{case}.{name}.")}
    layer, recipe = layer_of(t, name), recipe_of(case)
    where = LayerId("unet", "MID", "ff.net.2" if case == "ia3 input" else "layer")
    alpha = 3.0 * (recipe.network_dim**0.5 if recipe.rs_lora else 1.0)
    new = new_tensors(NewLayer(where, layer.weight, True, RankAndAlpha(recipe.network_dim, alpha), recipe, None))
    recorded = {k.removeprefix("tensor."): v for k, v in t.items() if k.startswith("tensor.")}
    assert {n: p.shape for n, p in new.trained.items()} == {n: p.shape for n, p in recorded.items()}
    for key, constant in new.constant.items():
        torch.testing.assert_close(constant.float(), t[f"constant.{key}"])
    new.trained = recorded
    made = TrainableAdapter(new, alpha, lambda: layer._parameters["weight"])
    layer.register_forward_pre_hook(made.before_forward)
    layer.register_forward_hook(made.after_forward, always_call=True)
    if half:
        layer.register_forward_hook(lambda *_: None)
    x = t["x"].clone().requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, t["y"], rtol=1e-4, atol=1e-4)
    y.square().sum().backward()
    trained = zip(made.names, made.trained_tensors(), strict=True)
    for key, got in [("gx", x.grad), *((f"grad.{n}", p.grad) for n, p in trained)]:
        torch.testing.assert_close(got, t[key], rtol=1e-3, atol=2e-4 * float(t[key].abs().max()) + 1e-6, msg=key)
    assert not {"weight", "bias"} & layer.__dict__.keys()


# --- every kind on a model

WIDE = {"network_module": "c3lier", "conv_dim": 2}
KINDS: dict[str, dict[str, Any]] = {
    "loha": {"algo": "loha", **WIDE},
    "lokr": {"algo": "lokr", "factor": 4},
    "glora": {"algo": "glora", **WIDE},
    "ia3": {"algo": "ia3"},
    "full": {"algo": "full", "train_norm": True},
    "diag-oft": {"algo": "diag-oft", "rescaled": True, "constraint": 0.01},
    "boft": {"algo": "boft", **WIDE, "conv_dim": 4},
    "oft": {"algo": "oft", "network_alpha": 0.01},
    "dora": {"dora_wd": True, "rs_lora": True},
    "dora of inputs": {"algo": "loha", "dora_wd": True, "wd_on_out": False},
    "tucker": {"use_tucker": True, **WIDE},
    "norm": {"train_norm": True, "network_targets": "all"},
}
"""Name → settings; rank 4."""
SOME = ("*up_blocks_1_attentions_1*", "*up_blocks_1_resnets_1*", "*up_blocks_1_upsamplers*", "*encoder_layers_0*")
"""A few layers of each sort, so that the tests are quick."""


def recipe_of_kind(kind: str) -> Recipe:
    return recipe_from_settings({"network_dim": 4, "network_alpha": 2.0, "network_include": SOME, **KINDS[kind]})


@pytest.fixture(scope="module")
def model() -> Tiny:
    tiny = Tiny()
    for part in tiny.parts().values():
        part.requires_grad_(False)
    return tiny


def output(model: Tiny) -> Tensor:
    text = model.text_encoder(torch.arange(7)[None]).last_hidden_state
    return model.unet(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)), 3, text).sample


def network_of(model: Tiny, recipe: Recipe, **more: Any) -> TrainableNetwork:
    return TrainableNetwork(model.parts(), recipe, generator=torch.Generator().manual_seed(1), **more)


@torch.no_grad()
def learned(network: TrainableNetwork) -> TrainableNetwork:
    """With tensors as after some training."""
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.03)
    return network


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_is_what_a_file_applies(model: Tiny, kind: str, tmp_path: Path) -> None:
    recipe = recipe_of_kind(kind)
    plain = output(model)
    fresh = network_of(model, recipe)
    with fresh:
        torch.testing.assert_close(output(model), plain, rtol=1e-4, atol=1e-5)
    network = learned(fresh).eval()
    with network:
        trained = output(model)
        trained.square().mean().backward()
    for name, p in network.named_parameters():  # attention over the one pixel in the middle does not ask for q and k
        alone = "mid_block" in name and ("attn1_to_q" in name or "attn1_to_k" in name)
        assert p.grad is not None and p.grad.isfinite().all() and (alone or p.grad.any()), name
    assert not torch.allclose(trained, plain, rtol=1e-2, atol=1e-3) and torch.equal(output(model), plain)
    save_lora_file(network.to_lora_file(), tmp_path / "a.safetensors")
    file = load_lora_file(tmp_path / "a.safetensors")
    with AppliedNetworks(model, BAKED) as applied, torch.no_grad():
        assert all(fit.ok for fit in applied.apply([AdapterSpec(file)]))
        torch.testing.assert_close(output(model), trained.detach(), rtol=1e-4, atol=1e-5)
    again = network_of(model, recipe, file=file).eval()
    assert not again.untrained_layers
    for (name, p), (_, q) in zip(network.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(p, q), name
    found, warnings = settings_from_metadata(network_metadata(recipe))
    assert not warnings and network_metadata(recipe_from_settings(found)) == network_metadata(recipe)
    assert list(network_of(model, recipe_from_settings(found)).factors) == list(network.factors)


def test_another_kind_is_not_continued(model: Tiny) -> None:
    file = learned(network_of(model, recipe_of_kind("oft"))).to_lora_file()
    for settings in ({"algo": "loha"}, {"network_alpha": 0.5}, {"network_dim": 2}, {"algo": "lora"}):
        with pytest.raises(TrainError, match=r"the file has OFT, and .* is trained; set algo and dora_wd as in"):
            network_of(model, recipe_from_settings({**KINDS["oft"], "network_dim": 4, **settings}), file=file)


def test_an_error_within_a_layer_leaves_its_weight(model: Tiny) -> None:
    with network_of(model, recipe_of_kind("full")), pytest.raises(RuntimeError):
        model.unet(torch.zeros(1, 4, 8, 8), 3, torch.zeros(1, 7, 5))
    assert not any({"weight", "bias"} & module.__dict__.keys() for module in model.unet.modules())


def test_dropouts_of_kinds(model: Tiny) -> None:
    """The same masks in the recomputed forward pass of gradient checkpointing and in both passes of a step."""
    settings = {"algo": "loha", "rank_dropout": 0.5, "module_dropout": 0.2, "network_dim": 4, "network_include": SOME}
    recipe = recipe_from_settings(settings)
    network = learned(network_of(model, recipe)).train()
    with network, torch.no_grad():
        made = []
        for seed in (1, 1, 2):
            network.begin_step(torch.Generator().manual_seed(seed))
            made.append(output(model))
            assert torch.equal(output(model), made[-1])
    assert torch.equal(made[0], made[1]) and not torch.equal(made[1], made[2])
    skipped = [layer for layer in network.factors_by_layer.values() if layer.skipped]
    assert 0 < len(skipped) < len(network.factors_by_layer) / 2


@pytest.mark.parametrize("kind", ["loha", "lokr", "full", "ia3", "tucker"])
def test_norms_are_limited(model: Tiny, kind: str) -> None:
    network = learned(network_of(model, recipe_of_kind(kind)))
    before = network.delta_norms()
    limit = float(before.mean())
    report = network.limit_delta_norms(limit)
    torch.testing.assert_close(network.delta_norms(), before.clamp(max=limit), rtol=1e-4, atol=1e-6)
    assert int(report.scaled) == int((before > limit).sum())


def test_half_precision_keeps_small_changes(model: Tiny) -> None:
    """ΔW is far below the rounding of W in bfloat16, and is not lost in W + ΔW."""
    layer = nn.Linear(8, 8, bias=False).to(torch.bfloat16).requires_grad_(False)
    recipe = recipe_from_settings({"algo": "full"})
    made = TrainableAdapter(
        new_tensors(NewLayer(LayerId("unet", "MID", "x"), layer.weight, False, RankAndAlpha(4, 4.0), recipe, None)),
        4.0,
        lambda: layer._parameters["weight"],
    )
    with torch.no_grad():
        made.trained_tensors()[0].fill_(1e-4)
        layer.weight.fill_(1.0)
    layer.register_forward_pre_hook(made.before_forward)
    layer.register_forward_hook(made.after_forward, always_call=True)
    x = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    y = layer(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(made.trained_tensors()[0].grad, x.detach().float().expand(8, -1))


FEW = ("*down_blocks_0_attentions_0*", "*down_blocks_0_resnets_0*", "*encoder_layers_0*")


RESUMED = [pytest.param(kind, marks=[pytest.mark.long]) for kind in ("loha", "full", "boft", "dora", "pissa", "fixed")]


@pytest.mark.parametrize("kind", RESUMED)
def test_resuming_is_the_same_to_the_bit(kind: str, tmp_path: Path) -> None:
    run = {"max_train_epochs": None, "max_train_steps": 3, "save_every_n_steps": 2, "save_state": True}
    settings = {"pissa": {"init_lora_weights": "pissa"}, "fixed": {"freeze_down": True}}.get(kind) or KINDS[kind]
    more = {**settings, "network_include": FEW, **run}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        TrainingRun(tiny_model(), train_recipe(pictures(tmp_path / "data"), tmp_path / "a", **more), SilentHost()).run()
        state = tmp_path / "a" / "last-step00000002-state"
        made = train_recipe(tmp_path / "data", tmp_path / "b", **more, resume=str(state))
        TrainingRun(tiny_model(), made, SilentHost()).run()
    finally:
        torch.set_num_threads(threads)
    whole, resumed = (load_file(tmp_path / folder / "last.safetensors") for folder in "ab")
    early = load_file(tmp_path / "a" / "last-step00000002.safetensors")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert any(not torch.equal(whole[key], early[key]) for key in whole)


# --- names and choices


LYCORIS = {"network_module": "lycoris.kohya", "network_dim": "8", "network_alpha": "4"}
NAMED: list[tuple[dict[str, Any], str]] = [
    ({**LYCORIS, "network_args": ["algo=loha"]}, "c3lier loha 8 None None targets=all"),
    (
        {**LYCORIS, "network_args": ["algo=locon", "conv_dim=2", "preset=unet-only"]},
        "c3lier lora 8 2 4.0 targets=all unet",
    ),
    ({**LYCORIS, "network_args": ["algo=lokr", "conv_dim=0", "conv_alpha=1"]}, "lierla lokr 8 None None targets=all"),
    ({**LYCORIS, "network_args": ["preset=attn-mlp", "algo=glora", "conv_dim=4"]}, "lierla glora 8 None None"),
    ({**LYCORIS, "network_args": ["algo=locon", "preset=attn-only"]}, "lierla lora 8 None None targets=attention"),
    (
        {**LYCORIS, "network_args": ["preset=unet-convblock-only", "algo=diag-oft", "constraint=0.1"]},
        "c3lier diag-oft 8 None None targets=resnet unet",
    ),
    ({**LYCORIS, "network_args": ["algo=dylora", "block_size=2"]}, "dylora lora 8 8 4.0 targets=all"),
    ({**LYCORIS, "network_args": ["algo=dylora", "preset=full-lin"]}, "dylora lora 8 None None targets=all"),
    ({"network_module": "networks.loha"}, "lierla loha 4 None None"),
    ({"network_module": "networks.lokr", "network_args": ["conv_dim=2", "factor=4"]}, "c3lier lokr 4 2 None"),
    ({"network_module": "networks.oft"}, "lierla oft 4 None None targets=attention unet"),
    (
        {"network_module": "networks.oft", "network_args": ["enable_all_linear=True", "enable_conv=True"]},
        "c3lier oft 4 None None unet",
    ),
    ({"network_module": "networks.lora", "network_args": ["dora_wd=True"]}, "lierla lora 4 None None"),
]
"""Settings of kohya's or LyCORIS' networks → module, algo, rank, conv_dim, conv_alpha, targets, U-Net only."""


@pytest.mark.parametrize(("given", "want"), NAMED)
def test_names_of_kohya_and_lycoris(given: dict[str, Any], want: str) -> None:
    r = recipe_from_settings(given)
    targets = f" targets={r.network_targets}" if r.network_targets != "transformer" else ""
    unet = " unet" if r.network_train_unet_only else ""
    assert f"{r.network_module} {r.algo} {r.network_dim} {r.conv_dim} {r.conv_alpha}{targets}{unet}" == want


REFUSED: list[tuple[list[str], str]] = [
    (["algo=lohaa"], "algo 'lohaa' cannot be trained.*did you mean 'loha'"),
    (["preset=full-linear"], "preset 'full-linear' is not one of.*did you mean 'full-lin'"),
    (["use_scalar=True"], "use_scalar is not supported here"),
    (["algo=loha", "factor=4"], "factor is for algo lokr, not loha"),
    (["algo=ia3", "dora_wd=True"], "dora_wd is for algo lora or loha or lokr, not ia3"),
    (["algo=full", "rs_lora=True"], "rs_lora is for algo"),
    (["algo=lokr", "factor=0"], "factor must be -1 or at least 1"),
    (["wd_on_output=False"], "set dora_wd"),
    (["preset=attn-mlp", "use_tucker=True"], "use_tucker is for 3x3 layers"),
    (["algo=dylora", "dora_wd=True"], "DyLoRA trains plain LoRA"),
    (["algo=loha", "dropout=0.1"], "network_dropout acts between the two factors"),
    (["enable_conv=True"], "belong to networks.oft"),
]


@pytest.mark.parametrize(("args", "said"), REFUSED)
def test_what_a_network_has_not_is_refused(args: list[str], said: str) -> None:
    module = "networks.lora" if args == ["enable_conv=True"] else "lycoris.kohya"
    with pytest.raises(TrainError, match=said):
        recipe_from_settings({"network_module": module, "network_args": args})


def test_what_has_no_effect_is_said() -> None:
    said: list[str] = []
    args = ["bypass_mode=True", "train_on_input=True", "preset=attn-mlp", "conv_dim=4", "rank_dropout_scale=False"]
    recipe_from_settings({"network_module": "lycoris.kohya", "network_args": args}, notify=said.append)
    assert [text.split(" (")[0] for text in said] == [
        "not used here: network_args bypass_mode",
        "not used here: network_args train_on_input",
        "not used here: conv_dim",
    ]


def names_of_layers(model: Tiny, **settings: Any) -> set[str]:
    recipe = recipe_from_settings({"network_dim": 2, "rank_dropout": 0, **settings})
    ranks = ModuleRanks(recipe)
    found = [(i, t) for part, root in model.parts().items() for i, t in find_layer_targets(part, root).items()]
    return {str(layer_id) for layer_id, target in found if ranks.for_layer(layer_id, tuple(target.shape)) is not None}


def test_targets_are_parts_of_each_other(model: Tiny) -> None:
    whole = names_of_layers(model, network_module="c3lier", network_targets="all")
    linear = names_of_layers(model, network_targets="all")
    plain = names_of_layers(model)
    attention = names_of_layers(model, network_targets="attention")
    crossed = names_of_layers(model, network_targets="cross_attention")
    alone = names_of_layers(model, network_targets="self_attention")
    fed = names_of_layers(model, network_targets="cross_attention_ff")
    text = {name for name in plain if name.startswith("te.")}
    assert crossed | alone == attention and crossed & alone == text & attention
    assert all(".attn2." in n or n.startswith("te.") for n in crossed) and {n for n in fed - crossed if ".ff." in n}
    assert attention < plain < linear < whole and {n.split(".")[1] for n in plain - attention} >= {"MID", "BASE"}
    resnet = names_of_layers(model, network_module="c3lier", network_targets="resnet", network_train_unet_only=True)
    outer = {n for n in whole if ".time_embedding." in n}
    assert resnet == {n for n in whole - plain if not n.startswith("te.")} - outer and len(outer) == 2
    assert {"unet.IN00.conv_in", "unet.conv_out"} <= resnet
    assert linear - plain - outer == {n for n in resnet if "time_emb_proj" in n or "conv_shortcut" in n}


def test_patterns_choose_layers(model: Tiny) -> None:
    plain = names_of_layers(model)
    keys = names_of_layers(model, network_include=["*to_k", "lora_te_*_k_proj"])
    assert {n.rpartition(".")[2] for n in keys} == {"to_k", "k_proj"} and keys < plain
    rest = names_of_layers(model, network_exclude=["unet.mid_block.*", "*attn2*"])
    assert rest == {n for n in plain if ".MID." not in n and "attn2" not in n}
    ia3 = names_of_layers(model, network_module="lycoris.kohya", network_args=["algo=ia3", "preset=ia3"])
    wanted = ("to_k", "to_v", "ff.net.2", "k_proj", "v_proj", "mlp.fc2")
    assert ia3 == {n for n in plain if n.endswith(wanted)}


def test_trained_layers_are_counted(tmp_path: Path) -> None:
    """In the report and in the file, by sort; a pattern that matches no layer is named."""
    tiny = tiny_model()
    patterns = {"network_include": ["*attn2*", "*resnets*", "*atn1*"], "network_exclude": ["*conv*"]}
    made = train_recipe(pictures(tmp_path / "data"), tmp_path / "out", **patterns)
    text = run_preflight(Dataset.from_recipe(made), tiny).text()
    assert "trained layers: 24 cross-attention\n" in text and text.count("matches no layer") == 1
    assert "! '*atn1*' matches no layer of this model" in text
    assert json.loads(network_of(tiny, made).metadata()["ss_trained_layers"]) == {"cross-attention": 24}  # type: ignore[arg-type]
    whole = recipe_from_settings({"network_module": "c3lier", "train_norm": True, "network_targets": "all"})
    assert count_by_sort(trained_layers(tiny.parts(), whole)[0]) == {
        "input, output and time layers": 4, "norms": 68, "projections": 12, "self-attention": 24, "cross-attention": 24,
        "feed-forward": 12, "resnets": 78, "samplers": 6, "text encoder": 12,
    }  # fmt: skip


def rates(model: Tiny, **settings: Any) -> dict[str, tuple[float, int]]:
    network = network_of(model, recipe_from_settings({"learning_rate": 1e-4, "network_include": SOME, **settings}))
    groups = network.parameter_groups()
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(map(id, network.parameters()))
    return {g["name"]: (pytest.approx(g["lr"]), len(g["params"])) for g in groups}


def test_loraplus_raises_the_up_factors_rate(model: Tiny) -> None:
    """kohya's groups: lora_up at the ratio, its own one for each part; also with DoRA and a Tucker core."""
    assert rates(model) == {"unet": (1e-4, 2 * 12), "text_encoder": (1e-4, 2 * 6)}
    arguments = ["loraplus_lr_ratio=16", "loraplus_text_encoder_lr_ratio=4"]
    assert rates(model, network_args=arguments, unet_lr=2e-4) == {
        "unet": (2e-4, 12), "unet plus": (32e-4, 12), "text_encoder": (1e-4, 6), "text_encoder plus": (4e-4, 6),
    }  # fmt: skip
    dora = rates(model, loraplus_unet_lr_ratio=2, dora_wd=True)
    assert dora == {"unet": (1e-4, 2 * 12), "unet plus": (2e-4, 12), "text_encoder": (1e-4, 3 * 6)}
    with pytest.raises(TrainError, match="loraplus_lr_ratio is for algo lora, not loha"):
        recipe_from_settings({"algo": "loha", "loraplus_lr_ratio": 16})


def test_ranks_and_rates_by_expression(model: Tiny) -> None:
    arguments = ["network_reg_dims=attn2_to_[qk]=8, attn2=2,proj_in=0", "network_reg_lrs=attn2.*to_k=1e-3,attn=2e-4"]
    made = network_of(model, recipe_from_settings({"network_include": SOME, "network_args": arguments}))
    ranks = {layer_id.layer.split(".", 3)[-1]: module.rank for layer_id, module in made.factors_by_layer.items()}  # type: ignore[attr-defined]
    assert ranks["attn2.to_k"] == ranks["attn2.to_q"] == 8 and ranks["attn2.to_v"] == 2 and ranks["attn1.to_k"] == 4
    assert not any("proj_in" in key for key in made.factors)
    found = {group["name"]: group["lr"] for group in made.parameter_groups()}
    assert found["unet rate 0.001"] == 1e-3 and found["text_encoder rate 0.0002"] == 2e-4
    for wrong in ("attn2", "(=4", "attn2=x", "=4", "attn2=-1"):
        with pytest.raises(TrainError, match="is not EXPRESSION=NUMBER"):
            recipe_from_settings({"network_reg_dims": wrong})
    with pytest.raises(TrainError, match="too large"):
        recipe_from_settings({"network_reg_dims": "attn2=5000"})


def test_base_weights_are_the_model_that_is_trained(tmp_path: Path) -> None:
    """As with the files merged into the model: the same first loss; afterwards the model is as before."""
    tiny = tiny_model()
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for rank, path in enumerate(paths, 2):
        save_lora_file(learned(network_of(tiny, recipe_from_settings({"network_dim": rank}))).to_lora_file(), path)
    run = {"max_train_epochs": None, "max_train_steps": 1, "seed": 5}
    given = {"base_weights": [str(path) for path in paths], "base_weights_multiplier": [0.5]}
    before = {n: p.clone() for n, p in tiny.parts()["unet"].named_parameters()}
    data = pictures(tmp_path / "data")

    def first_loss(model: StandaloneTrainableModel, **more: Any) -> float:
        return TrainingRun(model, train_recipe(data, tmp_path / "out", **run, **more), SilentHost()).run().loss

    found = first_loss(tiny, **given)
    assert all(torch.equal(p, before[n]) for n, p in tiny.parts()["unet"].named_parameters())
    plain = first_loss(tiny)
    with AppliedNetworks(tiny, BAKED) as applied:
        files = [load_lora_file(path) for path in paths]
        applied.apply([AdapterSpec(files[0], te=0.5, unet=0.5), AdapterSpec(files[1])])
        assert found == pytest.approx(first_loss(tiny), rel=1e-6) and found != pytest.approx(plain, rel=1e-5)
    with pytest.raises(TrainError, match="give one each"):
        recipe_from_settings({"base_weights_multiplier": "0.5"})


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_within_the_weight_is_saved_as_the_difference(model: Tiny, init: str, tmp_path: Path) -> None:
    recipe = recipe_from_settings(
        {"network_dim": 4, "network_alpha": 2.0, "network_include": SOME, "init_lora_weights": init}
    )
    plain, network = output(model), network_of(model, recipe)
    with network:
        torch.testing.assert_close(output(model), plain, rtol=1e-4, atol=1e-5)
    for layer_id, made in network.factors_by_layer.items():
        assert isinstance(made, TrainableFactors)
        weight = network.targets_by_layer[layer_id].module.weight.flatten(1)
        product = made.up[:4].t() @ made.down[:4].flatten(1)
        if init == "pissa":  # scale · U·D is the best approximation of rank 4
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            torch.testing.assert_close(0.5 * product, u[:, :4] * s[:4] @ v[:4], rtol=1e-2, atol=2e-2)
        else:
            q, r = torch.linalg.qr(weight)
            torch.testing.assert_close(product, q[:, :4] @ r[:4])
    learned(network).eval()
    with network:
        trained = output(model)
        trained.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    save_lora_file(network.to_lora_file(), tmp_path / "a.safetensors")
    file = load_lora_file(tmp_path / "a.safetensors")
    assert {adapter.rank for adapter in file.adapters.values()} == {8}
    with AppliedNetworks(model, BAKED) as applied, torch.no_grad():
        assert all(fit.ok for fit in applied.apply([AdapterSpec(file)]))
        torch.testing.assert_close(output(model), trained.detach(), rtol=1e-4, atol=1e-5)


def test_gradients_of_a_start_within_the_weight() -> None:
    """Those of W − s·U₀·D₀ + s·U·D by plain autograd, where only U and D learn."""
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5).requires_grad_(False), torch.randn(3, 6)
    start = torch.randn(2, 6), torch.randn(2, 5)
    made = TrainableFactors((5, 6), RankAndAlpha(2, 3.0), None, None, start)
    with torch.no_grad():
        made.ups[0].add_(1.0)
        made.downs[0].mul_(0.5)
    down, up = (p.detach().clone().requires_grad_() for p in (made.downs[0], made.ups[0]))
    y = made.after_forward(layer, (x,), layer(x))
    wanted = layer(x) + 1.5 * (x @ down.t() @ up - x @ start[0].t() @ start[1])
    torch.testing.assert_close(y, wanted)
    y.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(made.downs[0].grad, down.grad)
    torch.testing.assert_close(made.ups[0].grad, up.grad)


@pytest.mark.parametrize(
    "more",
    [{"algo": "loha"}, {"dora_wd": True}, {"rank_dropout": 0.1}, {"scale_weight_norms": 1}, {"network_weights": "a"}],
)
def test_what_excludes_a_start_within_the_weight(more: dict[str, Any]) -> None:
    with pytest.raises(TrainError, match="init_lora_weights pissa"):
        recipe_from_settings({"init_lora_weights": "pissa", **more})


@pytest.mark.long
def test_files_hold_the_average_of_the_weights(tmp_path: Path) -> None:
    """Training is as without. Files have eₙ = dₙ·eₙ₋₁ + (1 − dₙ)·pₙ, dₙ = (1 + n) / (10 + n) at first; resumed too."""
    data, run = pictures(tmp_path / "data"), {"max_train_epochs": None, "max_train_steps": 3, "network_include": FEW}

    def files(name: str, **more: Any) -> list[dict[str, Tensor]]:
        made = train_recipe(data, tmp_path / name, **run, save_every_n_steps=1, save_state=True, **more)
        TrainingRun(tiny_model(), made, SilentHost()).run()
        steps = [f"last-step0000000{n}" for n in (1, 2)]
        return [load_file(tmp_path / name / f"{stem}.safetensors") for stem in (*steps, "last") if name != "resumed"]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain, latest, mean = files("plain"), files("latest", ema_decay=0), files("mean", ema_decay=0.9)
        files("resumed", ema_decay=0.9, resume=str(tmp_path / "mean" / "last-step00000001-state"))
    finally:
        torch.set_num_threads(threads)
    resumed = load_file(tmp_path / "resumed" / "last.safetensors")
    for key in plain[0]:
        assert all(torch.equal(a[key], b[key]) for a, b in zip(plain, latest, strict=True))
        for n in (2, 3):
            wanted = torch.lerp(mean[n - 2][key], plain[n - 1][key], 1 - (1 + n) / (10 + n))
            torch.testing.assert_close(mean[n - 1][key], wanted)
        assert torch.equal(resumed[key], mean[2][key])
    with pytest.raises(TrainError, match="averages the weights itself"):
        recipe_from_settings({"optimizer_type": "AdamWScheduleFree", "ema_decay": 0.9})


def test_only_the_up_factor_learns(model: Tiny) -> None:
    """LoRA-FA: D is normally distributed and fixed; it is in the groups, so that a state has it."""
    recipe = recipe_from_settings({"network_module": "networks.lora_fa", "network_include": SOME, "network_dim": 4})
    network = network_of(model, recipe)
    with network:
        output(model).square().mean().backward()
    for made in network.factors_by_layer.values():
        assert isinstance(made, TrainableFactors) and made.downs[0].grad is None and made.ups[0].grad is not None
        wide = made.down.shape[1]
        assert float(made.down.std()) == pytest.approx((2 / (wide + 4)) ** 0.5, rel=0.35)
    found = {group["name"]: (group["lr"], len(group["params"])) for group in network.parameter_groups()}
    assert found == {
        "unet": (1e-4, 12), "unet fixed": (0.0, 12), "text_encoder": (1e-4, 6), "text_encoder fixed": (0.0, 6)
    }  # fmt: skip
    again, warnings = settings_from_metadata(network_metadata(recipe))
    assert not warnings and again["freeze_down"] is True
    with pytest.raises(TrainError, match="freeze_down is for plain LoRA"):
        recipe_from_settings({"freeze_down": True, "algo": "loha"})


def test_autocast_does_not_round_the_change() -> None:
    layer = nn.Linear(8, 8).requires_grad_(False)
    recipe = recipe_from_settings({"algo": "loha", "network_dim": 2})
    where, size = LayerId("unet", "MID", "x"), RankAndAlpha(2, 2.0)
    made = TrainableAdapter(
        new_tensors(NewLayer(where, layer.weight, True, size, recipe, None)), 2.0, lambda: layer.weight
    )
    with torch.no_grad():
        made.trained_tensors()[2].normal_()
    wanted = made.to_adapter().delta(layer.weight)
    layer.register_forward_pre_hook(made.before_forward)
    layer.register_forward_hook(made.after_forward, always_call=True)
    x = torch.randn(3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.delta(), wanted)
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    torch.testing.assert_close(x.grad, (layer.weight + wanted).sum(0).expand(3, -1), rtol=2e-2, atol=5e-2)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in made.parameters())
