"""The file tools' command lines: what they write, say and refuse, in the user's words."""

from __future__ import annotations

import json
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import test_file_cloneofsimo as simo
import torch
from makers import make
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_ext import command_line, progress
from lora_ext.cli import CLI_COMMANDS, main
from lora_ext.errors import LoraError, ToolError
from lora_ext.file import hashes, load_lora_file
from lora_ext.file.lora_file import LoraFile
from lora_ext.tools.merge import merge_loras
from lora_ext.tools.merge_layer import MERGE_METHODS, MergeOptions
from lora_ext.tools.report import LayerReport, ToolReport
from lora_ext.tools.resize import resize_lora

DATA = Path(__file__).parent / "data" / "kohya"
A, B = DATA / "in" / "c3_r8a4_c6a3.safetensors", DATA / "in" / "c3_r8a2_c6a1.5.safetensors"
HALF = DATA / "lierla_r8a4_fp16.safetensors"
DYLORA = DATA / "in" / "dylora_r16_u4_lierla.safetensors"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in an empty folder: (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def runs(*argv: object) -> tuple[int, str, str]:
        try:
            status = main([str(arg) for arg in argv])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return (status, *capsys.readouterr())

    return runs


def metadata(path: str | Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        return dict(file.metadata())


COMMANDS: dict[str, list[object]] = {
    "merge": ["--models", A, B, "--ratios", 0.7, -0.5],
    "svd-merge": ["--models", A, B, "--ratios", 0.7, 0.5, "--new-rank", 3, "--new_conv_rank", 2],
    "resize": ["--model", A, "--new-rank=3"],
    "reweight": ["--model", A, "--lbw", "OUTALL"],
    "convert": ["--model", A, "--to", "diffusers"],
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_result_is_a_whole_file_with_hashes_and_sources(verb: str, run: Run) -> None:
    status, out, err = run(verb, *COMMANDS[verb], "--save-to", "out.safetensors")
    assert status == 0, err
    assert "written: out.safetensors" in out and "of the norm kept" in out
    said = metadata("out.safetensors")
    assert hashes.model_hash("out.safetensors")  # a sound file
    model, legacy = hashes.kohya_hashes(load_file("out.safetensors"), said)
    assert said["ss_output_name"] == "out"
    assert len(said["sshs_model_hash"]) == 64 and len(said["sshs_legacy_hash"]) == 8
    assert (said["sshs_model_hash"], said["sshs_legacy_hash"]) == (model, legacy)
    sources = json.loads(said["lora_ext_sources"])
    assert [s["name"] for s in sources] == (["c3_r8a4_c6a3", "c3_r8a2_c6a1.5"] if "merge" in verb else ["c3_r8a4_c6a3"])
    assert sources[0]["hash"] == hashes.model_hash(A)
    assert said["ss_v2"] == "False" and said["ss_base_model_version"] == "sd_v1"
    assert said["ss_training_comment"]


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_report_as_json(verb: str, run: Run) -> None:
    status, out, err = run(verb, *COMMANDS[verb], "--save_to", "out.safetensors", "--json")
    output = json.loads(out)
    assert status == 0 and not err
    assert output["matched"] == len(output["layers"]) == len(load_lora_file("out.safetensors").adapters)
    assert {"layer", "old_rank", "new_rank", "kept"} <= output["layers"][0].keys()
    assert output["totals"]["layers"] == len(output["layers"]) and 0 < output["totals"]["kept"] <= 1
    if verb in ("svd-merge", "resize"):
        assert output["largest_loss"]["kept"] == min(row["kept"] for row in output["layers"])


def test_help_and_mistakes_are_one_line(run: Run) -> None:
    for verb in (*COMMANDS, "split-dylora", "metadata"):
        assert verb in CLI_COMMANDS
        status, out, _ = run(verb, "--help")
        assert status == 0 and verb in out
    status, _, err = run("resize", "--model", A, "--new_rank", 4, "--save_to", "o.safetensors", "--dynamic_metod", "x")
    assert status == 2 and err.count("\n") == 1 and "did you mean '--dynamic_method'" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["merge", "--models", A, B, "--ratios", "1"], ["1 ratio for 2 files"]),
        (["merge", "--models", A, B, "--lbws", "OUTAL", "ALL"], ["OUTAL", "did you mean 'OUTALL'"]),
        (["merge", "--models", A, "nowhere.safetensors"], ["nowhere.safetensors"]),
        (["merge", "--models", A, "--ratios", "nan"], ["--ratios", "'nan'"]),
        (["reweight", "--model", A, "--te", "-inf"], ["--te"]),
        (["merge", "--models", A, B, "--method", "factors", "--ratios", "0", "0"], ["weight 0"]),
        (["svd-merge", "--models", A, B, "--new_rank", "0"], ["at least 1"]),
        (["svd-merge", "--models", A, B, "--new_conv_rank", "0"], ["the rank is 0", "at least 1"]),
        (["resize", "--model", A, "--new_conv_rank", "0"], ["the rank is 0", "at least 1"]),
        (["svd-merge", "--models", A, B, "--clamp_quantile", "99"], ["between 0 and 1"]),
        (["resize", "--model", A, "--new_rank", "4", "--dynamic_method", "sv_fro"], ["--dynamic_param"]),
        (["resize", "--model", A, "--new_rank", "4", "--dynamic_method=sv_fro", "--dynamic_param=9"], ["0 and 1"]),
        (["resize", "--model", A, "--new_rank", "4", "--device", "nonsense"], ["nonsense"]),
        (["reweight", "--model", A, "--lbw", "1,2,3"], ["3 block weights"]),
        (["reweight", "--model", A, "--te", "0", "--unet", "0"], ["weight 0"]),
        (["split-dylora", "--model", A], ["--unit"]),
        (["split-dylora", "--model", A, "--unit", "4", "--alpha", "trained"], ["--alpha keep"]),
        (["split-dylora", "--model", DYLORA, "--unit", "99"], ["99", "16"]),
    ],
)  # fmt: skip
def test_errors_say_what_fits(argv: list[object], words: list[str], run: Run) -> None:
    status, _, err = run(*argv, "--save_to", "out.safetensors")
    sentence, *others = err.rstrip("\n").split("\n")  # a progress bar ends in \r
    assert status == 2 and all(line.startswith("  what to do: python -m lora_ext help ") for line in others)
    assert len(others) < 2 and all(word in sentence for word in words), err
    assert not list(Path().iterdir())


def test_folders_are_their_files(run: Run) -> None:
    Path("both").mkdir()
    for name, file in (("m10", A), ("m2", B)):
        shutil.copy(file, f"both/{name}.safetensors")
    Path("both/notes.txt").touch()
    assert run("merge", "--models", "both/m10.safetensors", "both", "--save_to", "o.safetensors")[0] == 0
    assert [row["name"] for row in json.loads(metadata("o.safetensors")["lora_ext_sources"])] == ["m10", "m2"]
    assert json.loads(run("conflicts", "both", "--json")[1])["pairs"][0]["first"] == "m2"
    Path("empty").mkdir()
    for verb in (("merge", "--save_to", "n.safetensors", "--models"), ("conflicts",)):
        assert run(*verb, "empty") == (2, "", "lora-ext: empty has no LoRA file (.safetensors, .pt, .ckpt, .bin)\n")
    assert "--processes: 0 is less than 1" in run("inspect", "both", "--processes", 0)[2]


def test_where_it_may_not_write(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(A, "a.safetensors")
    before = Path("a.safetensors").read_bytes()
    words = ("resize", "--model", "a.safetensors", "--new_rank", 4, "--save_to")
    for target, word in (
        ("a.safetensors", "is one of the inputs; choose another name or give --overwrite"),
        ("missing/o.safetensors", "there is no folder missing"),
        ("o.pt", "o.safetensors"),
    ):
        status, _, err = run(*words, target)
        assert status == 2 and word in err
    assert Path("a.safetensors").read_bytes() == before
    assert run(*words, "a.safetensors", "--overwrite")[0] == 0
    assert load_lora_file("a.safetensors").metadata["ss_network_dim"] == "4"
    status, _, err = run(*words, "a.safetensors")
    assert status == 2 and "--overwrite" in err
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    status, _, err = run(*words, "b.safetensors")
    assert status == 2 and "MB free" in err and not Path("b.safetensors").exists()


def test_an_interrupt_leaves_no_half_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(items: Sequence[Any], text: str) -> Iterator[Any]:
        yield items[0]
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("lora_ext.tools.many_files.progress_bar", interrupted)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a program begun in the background ignores it
    status, _, err = run("resize", "--model", A, "--new_rank", 4, "--save_to", "out.safetensors")
    assert status == 130 and "interrupted" in err and not list(Path().iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", ["lora_up.weight", "lora_down.weight", "alpha"])
def test_damaged_numbers_name_their_layer(suffix: str, value: float, tmp_path: Path) -> None:
    """Also where a layer stays as it is, and where the tool finds the number only while it computes."""
    tensors = load_file(A)
    name = next(key for key in tensors if key.endswith(f"attn1_to_q.{suffix}"))
    tensors[name].flatten()[:1] = value
    save_file(tensors, tmp_path / "bad.safetensors")
    works = [lambda f, rank=rank: resize_lora(f, rank) for rank in (1, 2, 99)]
    works += [lambda f, method=method: merge_loras([f, f], None, MergeOptions(method, 2)) for method in MERGE_METHODS]
    works.append(lambda f: resize_lora(f, 4, dynamic_method="sv_ratio", dynamic_param=5))
    for work in works:
        with pytest.raises(ToolError, match=rf"bad\.safetensors contains NaN or infinity .*{name}"):
            work(load_lora_file(tmp_path / "bad.safetensors"))


def test_what_fp16_cannot_hold_names_its_layer(tmp_path: Path) -> None:
    tensors = load_file(A)
    name = next(key for key in tensors if key.endswith("attn1_to_q.lora_up.weight"))
    tensors[name] = tensors[name] * 1e16
    save_file(tensors, tmp_path / "big.safetensors")
    with pytest.raises(ToolError, match=r"attn1.to_q.*does not fit float16.*bf16"):
        resize_lora(load_lora_file(tmp_path / "big.safetensors"), 4, dtype=torch.float16)
    resize_lora(load_lora_file(tmp_path / "big.safetensors"), 4, dtype=torch.bfloat16)


def test_alpha_that_diffusers_key_format_cannot_hold_in_fp16(run: Run) -> None:
    tensors = {key: torch.tensor(1e9) if key.endswith("alpha") else t for key, t in load_file(HALF).items()}
    save_file(tensors, "big.safetensors")
    words = ("convert", "--model", "big.safetensors", "--to", "diffusers", "--save_to", "out.safetensors")
    status, _, err = run(*words)
    assert status == 2 and "does not fit float16" in err and "bf16" in err and not Path("out.safetensors").exists()
    assert run(*words, "--save_precision", "float")[0] == 0


def test_precisions(run: Run) -> None:
    for given, meant in ((None, torch.float16), ("bf16", torch.bfloat16), ("float", torch.float32)):
        more = ["--save_precision", given] if given else []
        argv = ["resize", "--model", HALF, "--new_rank", 4, "--save_to", "o.safetensors", "--overwrite", *more]
        assert run(*argv)[0] == 0
        assert {a.dtype for a in load_lora_file("o.safetensors").adapters.values()} == {meant}
    assert run("merge", "--models", HALF, A, "--save_to", "m.safetensors")[0] == 0
    assert {a.dtype for a in load_lora_file("m.safetensors").adapters.values()} == {torch.float32}


def test_concat_of_one_alpha_keeps_the_factors_bit_by_bit() -> None:
    file = load_lora_file(HALF)
    made, _ = merge_loras([file, file])
    for layer_id, adapter in file.adapters.items():
        rank = adapter.rank or 0
        if made.adapters[layer_id].rank == 2 * rank:
            for name, tensor in adapter.tensors.items():
                if tensor.dim():
                    axis = 1 if "up" in name else 0
                    assert torch.equal(made.adapters[layer_id].tensors[name].narrow(axis, 0, rank), tensor)


def test_files_without_a_layer_in_common() -> None:
    file = load_lora_file(A)
    parts = [{s: a for s, a in file.adapters.items() if (s.part == "unet") == unet} for unet in (True, False)]
    unet, text = (LoraFile(part, file.metadata) for part in parts)
    made, report = merge_loras([unet, text])
    assert len(made.adapters) == len(file.adapters) and report.matched == 0
    some, other = (
        LoraFile({s: a for i, (s, a) in enumerate(unet.adapters.items()) if i % 2 == odd}, {}) for odd in (0, 1)
    )
    with pytest.raises(ToolError, match="no layer in common"):
        merge_loras([some, other])
    with pytest.raises(LoraError, match="no files"):
        merge_loras([])


def test_layers_of_another_shape_are_reported_with_their_base() -> None:
    file = load_lora_file(A)
    layer_id, adapter = next((s, a) for s, a in file.adapters.items() if s.layer.endswith("attn2.to_k"))
    wider = {n: torch.zeros(t.shape[0], t.shape[1] * 2) if "down" in n else t for n, t in adapter.tensors.items()}
    other = LoraFile({layer_id: type(adapter)(wider)}, {})
    with pytest.raises(ToolError, match=r"attn2.to_k.*shape"):
        merge_loras([file, other])


def test_only_in_one_and_not_understood_are_reported(run: Run) -> None:
    lierla = DATA / "in" / "lierla_r8a4.safetensors"
    tensors = {**load_file(lierla), "lora_unet_nonsense.lora_up.weight": torch.zeros(2, 2)}
    save_file(tensors, "odd.safetensors")
    status, out, _ = run("merge", "--models", A, "odd.safetensors", "--save_to", "o.safetensors")
    assert status == 0 and "only in c3_r8a4_c6a3" in out and "1 key not understood in odd" in out
    assert "-> " in out and "kept" in out


def test_a_file_of_which_nothing_can_be_merged_fails(run: Run) -> None:
    """Kinds that need the base model's weights: left out beside others and said, an error where a file is all that."""
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_"
    dora, plain = make("lora-dora-out", (16, 12)), make("lora", (16, 12))
    save_file({f"{name}q.{n}": t for n, t in dora.items()}, "dora.safetensors")
    save_file({f"{name}{leaf}.{n}": t.clone() for leaf in "qk" for n, t in plain.items()}, "plain.safetensors")
    both = {**load_file("dora.safetensors"), **{f"{name}k.{n}": t for n, t in plain.items()}}
    save_file(both, "both.safetensors")
    status, _, err = run("merge", "--models", "plain.safetensors", "dora.safetensors", "--save_to", "a.safetensors")
    assert status == 2 and "nothing of dora can be merged" in err and "--sd_model" in err
    assert not Path("a.safetensors").exists()
    words = ("merge", "--models", "plain.safetensors", "both.safetensors", "--save_to")
    status, out, err = run(*words, "a.safetensors")
    assert "merge: 2 layers matched" in out
    assert status == 0 and "1 layer of both left out" in out and "not understood" not in out, err


@pytest.mark.long
def test_metadata_shows_sets_strips_and_keeps_tensors(run: Run) -> None:
    shutil.copy(A, "a.safetensors")
    assert "ss_network_dim: 8" in run("metadata", "a.safetensors")[1]
    assert json.loads(run("metadata", "a.safetensors", "--json")[1])["ss_v2"] == "False"
    status, _, err = run("metadata", "a.safetensors", "--set", "x=1")
    assert status == 2 and "--overwrite" in err
    edit = ("metadata", "a.safetensors", "--overwrite", "--set", "modelspec.title=a = b", "y=", "--remove", "ss_v2")
    assert run(*edit)[0] == 0
    said = metadata("a.safetensors")
    assert said["modelspec.title"] == "a = b" and said["y"] == "" and "ss_v2" not in said
    assert said["sshs_model_hash"] == hashes.kohya_hashes(load_file("a.safetensors"), said)[0]
    assert run("metadata", "a.safetensors", "--strip", "--save_to", "b.safetensors")[0] == 0
    assert not load_lora_file("b.safetensors").metadata
    for key, tensor in load_file(A).items():
        assert torch.equal(load_file("b.safetensors")[key], tensor)
    status, _, err = run("metadata", "a.safetensors", "--overwrite", "--remove", "ss_network_dm")
    assert status == 2 and "did you mean 'ss_network_dim'" in err
    assert run("metadata", "a.safetensors", "--overwrite", "--set", "novalue")[0] == 2
    assert "'x' twice" in run("metadata", "a.safetensors", "--overwrite", "--set", "x=1", "--set", "x=2")[2]


@pytest.mark.long
def test_pt_and_cloneofsimo_become_kohya(run: Run) -> None:
    diffusers = pytest.importorskip("diffusers")
    channels = {"block_out_channels": (8, 16, 24, 24), "norm_num_groups": 4}
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(**channels, cross_attention_dim=12, attention_head_dim=4)
    rows = simo.pairs_of(simo.layers_of(model, extended=False), "unet")
    torch.save(simo.flat(rows), "simo.pt")
    status, _, err = run("convert", "--model", "simo.pt", "--save_to", "simo.safetensors")
    assert status == 0, err
    assert all(key.startswith("lora_unet_") for key in load_file("simo.safetensors"))
    made = load_lora_file("simo.safetensors")
    assert made.key_format == "kohya" and len(made.adapters) == len(rows)
    for layer_id, up, down in rows:
        assert made.adapters[layer_id].alpha == simo.RANK  # without it kohya's scripts cannot merge
        low = made.adapters[layer_id].low_rank()
        assert low is not None and torch.allclose(low.delta(), up.float().flatten(1) @ down.float().flatten(1))
    torch.save(load_file(A), "a.pt")
    assert run("convert", "--model", "a.pt", "--save_to", "a.safetensors")[0] == 0
    for key, tensor in load_file(A).items():
        assert torch.equal(load_file("a.safetensors")[key], tensor)


def test_options_of_kohyas_scripts_are_understood(run: Run) -> None:
    """Also those that nothing here needs; what is given for nothing is said."""
    words = ("merge", "--models", A, B, "--shuffle", "--v2", "--new_rank", 3, "--concat")
    status, out, err = run(*words, "--save_to", "a.safetensors")
    assert status == 0 and "--new_rank changes nothing with --method concat" in out, err
    status, out, err = run("resize", "--model", A, "--dynamic_param", 5, "--save_to", "b.safetensors")
    assert status == 0 and "--dynamic_param changes nothing without --dynamic_method" in out, err
    assert load_lora_file("b.safetensors").metadata["ss_network_dim"] == "4"  # the script's default
    base, tuned = DATA / "tiny_ckpt_ldm_fp32.safetensors", DATA / "tiny_tuned_ldm.safetensors"
    words = ("--model_org", base, "--model_tuned", tuned, "--save_to")
    known = ("--v_parameterization", "--load_precision", "fp16", "--load_original_model_to", "cpu")
    assert run("extract", *words, "c.safetensors", *known)[0] == 0
    assert run("extract", *words, "d.safetensors", "--no_metadata")[0] == 0
    said, without = metadata("c.safetensors"), metadata("d.safetensors")
    assert said["modelspec.title"] == "c" and said["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert said.keys() - without.keys() == {key for key in said if key.startswith("modelspec.")}
    sources = json.loads(said["lora_ext_sources"])
    meant = [(path.name, hashes.legacy_hash(path), ratio) for path, ratio in ((tuned, 1), (base, -1))]
    assert [(source["name"], source["hash"], source["ratio"]) for source in sources] == meant


def test_what_became_plain_lora_says_so(run: Run) -> None:
    """No split of a resized DyLoRA, no LyCORIS module for what is LoRA now."""
    assert run("resize", "--model", DYLORA, "--new_rank", 4, "--save_to", "a.safetensors")[0] == 0
    assert run("resize", "--model", DYLORA, "--new_rank", 16, "--save_to", "same.safetensors")[0] == 0
    assert load_lora_file("a.safetensors").dylora_unit is None and load_lora_file("same.safetensors").dylora_unit
    said = {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "loha", "preset": "full"}'}
    tensors = make("loha", (16, 12))
    save_file({f"lora_unet_mid_block_attentions_0_proj_in.{n}": t for n, t in tensors.items()}, "h.safetensors", said)
    assert run("convert", "--model", "h.safetensors", "--save_to", "b.safetensors")[0] == 0
    assert run("convert", "--model", "h.safetensors", "--rank", 4, "--save_to", "c.safetensors")[0] == 0
    assert metadata("b.safetensors")["ss_network_module"] == "lycoris.kohya"
    assert metadata("c.safetensors")["ss_network_module"] == "networks.lora"
    assert json.loads(metadata("c.safetensors")["ss_network_args"]) == {"preset": "full"}


def test_report_totals() -> None:
    report = ToolReport("x", [LayerReport("a", 4, 2, 0.6, 3.0), LayerReport("b", 4, 4, 1.0, 4.0)], only_in={"f": ["b"]})
    assert report.matched == 1 and report.worst is report.layers[0]
    assert report.kept == pytest.approx(((0.6 * 3) ** 2 + 16) ** 0.5 / 5)
    assert report.layers[0].loss == pytest.approx(0.8)
    assert "1 only in f: b" in report.text() and "keeps 60.00% (error 80.00%)" in report.text()
    report = ToolReport("x", [LayerReport(str(i), 4, 8) for i in range(5)])
    assert "0 and 4 more" in report.text() and "0 and 4 more" not in report.text(verbose=True)
    report = ToolReport("x", [LayerReport("nothing", 8, 1, 0.6, 1e-7), LayerReport("a", 4, 2, 0.9, 3.0)])
    assert report.worst is report.layers[1]


def test_a_report_tells_the_worst_ten_layers_and_all_when_asked(run: Run) -> None:
    """The 60 lines of this small file are 700 to 1000 of a real one."""
    words = ("resize", "--model", HALF, "--new_rank", 2, "--save_to", "o.safetensors", "--overwrite")
    assert run(*words)[0] == 0
    _, brief, _ = run(*words)
    _, whole, _ = run(*words, "--verbose")
    output = json.loads(run(*words, "--json")[1])["layers"]
    rows = [line for line in brief.splitlines() if "->" in line and "%  " in line]
    names = [row.split("%  ")[1].split(" ")[0] for row in rows]
    worst = [layer["layer"] for layer in sorted(output, key=lambda layer: layer["kept"])[:10]]
    assert names == worst and len(brief.splitlines()) < 20
    assert f"… and {len(output) - 10} more layers" in brief and "--verbose" in brief
    assert all(layer["layer"] in whole for layer in output) and "--verbose" not in whole
    assert whole.splitlines()[-4:] == brief.splitlines()[-4:]  # the same summary comes last


def test_rows_without_a_loss_are_put_together() -> None:
    """Layers whose ranks differ in turn were a line each."""
    report = ToolReport("x", [LayerReport(str(i), 4 + i % 2, 8) for i in range(1000)])
    rows = report.text().splitlines()
    assert [row.split("%  ")[1] for row in rows[1:3]] == ["0 and 499 more", "1 and 499 more"] and len(rows) < 8
    assert len(report.text(verbose=True).splitlines()) > 1000


def test_progress_reaches_a_shell() -> None:
    seen: list[tuple[int, int, str]] = []
    resize_lora(load_lora_file(HALF), 4, track=progress.track_with_callback(lambda *row: seen.append(row)))
    assert seen[0] == (0, 60, "resize") and seen[-1] == (60, 60, "resize")


def test_options() -> None:
    assert command_line.widest_dtype([]) == torch.float32
    assert command_line.widest_dtype([torch.float16, torch.bfloat16]) == torch.float32
    assert command_line.widest_dtype([torch.float16]) == torch.float16
    with pytest.raises(ToolError, match="did you mean 'fp16'"):
        command_line.parse_precision("f16")
