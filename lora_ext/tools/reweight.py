"""Write block weights and the weights of text encoder and U-Net into a LoRA file, as a tag does in a prompt."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..adapter_spec import AdapterSpec, unused_rule_notes
from ..adapters import Adapter
from ..block_weights import UNIFORM_WEIGHTS, BlockWeights, parse_block_weights, parse_element_rules
from ..command_line import CommandParser, check_output_path, parse_precision
from ..errors import ToolError
from ..file.loading import load_lora_file
from ..file.lora_file import LoraFile, is_tensor_finite
from ..layer_names import LayerId
from ..progress import Track
from .constant_alpha import note_misread_alphas
from .layer_changes import make_stored_adapter, open_source, with_adapters
from .many_files import run_tool
from .report import LayerReport, ToolReport
from .result_metadata import carry_metadata, save_with_report, source_record, with_network_dims


def reweight_lora(
    file: LoraFile,
    blocks: BlockWeights = UNIFORM_WEIGHTS,
    *,
    te: float = 1.0,
    unet: float = 1.0,
    dtype: torch.dtype | None = None,
) -> tuple[LoraFile, ToolReport]:
    """Makes the file that has the effect at weight 1 that `file` has at these weights.

    A layer's weight is multiplied into its alpha, so that factors stay bit-identical, or into the tensors of kinds
    without an alpha. Layers with weight 0 are left out.

    Args:
        file: the file to change; it is not changed in place.
        blocks: block weights.
        te: weight of the text encoders.
        unet: weight of the U-Net.
        dtype: of the result's factors; None keeps each layer's own.

    Returns:
        The reweighted file and the report.

    Raises:
        ToolError: NaN, a weight that a layer's kind cannot hold (DoRA, BOFT, OFTv2) or that overflows, or only weights
            of 0.
    """
    file, report = open_source("reweight", file)
    for note in unused_rule_notes(blocks, file.adapters):
        report.add_note(note)
    spec = AdapterSpec(file, te=te, unet=unet, blocks=blocks)
    adapters: dict[LayerId, Adapter] = {}
    left_out = []
    for layer_id, adapter in file.adapters.items():
        weight = spec.weight_at(layer_id)
        if not weight:
            left_out.append(str(layer_id))
            continue
        made = adapter.times(weight)
        if made is None:
            raise ToolError(
                f"{layer_id} cannot be written at weight {weight:g}: the change by {_name(adapter)} depends on the "
                "base model's weights, and no file of its kind holds a share of it; give its blocks weight 0 or 1, "
                "leave the weights in the prompt (lbw=), or merge it into a checkpoint (merge --sd_model --lbws)"
            )
        if not all(
            is_tensor_finite(tensor) for name, tensor in made.tensors.items() if tensor is not adapter.tensors.get(name)
        ):
            raise ToolError(f"{layer_id} cannot be written at weight {weight:g}: the result would hold NaN or infinity")
        adapters[layer_id] = make_stored_adapter(made.tensors, dtype, layer_id, report) if dtype else made
        report.layers.append(LayerReport(str(layer_id), adapter.rank, adapter.rank, note=f"weight {weight:g}"))
    if not adapters:
        raise ToolError(f"every layer of {file.name} has weight 0; nothing would be left")
    if all(spec.weight_at(layer_id) == 1 for layer_id in file.adapters):
        report.add_note("every weight is 1: no layer was changed")
    if left_out:
        report.left_out[file.name] = left_out
        report.add_note("layers with weight 0 are left out")
    note_misread_alphas(adapters, report)
    comment = f"reweighted: lbw={blocks.format_weights()} te={te:g} unet={unet:g}"
    result = with_adapters(
        file, adapters, carry_metadata(file.metadata, comment, [source_record(file, lbw=blocks.format_weights())])
    )
    return with_adapters(result, adapters, with_network_dims(result, result.metadata)), report


def _name(adapter: Adapter) -> str:
    return "a DoRA" if adapter.magnitude() is not None else "an OFTv2" if adapter.kind == "OFTv2" else "a BOFT"


def _parser() -> CommandParser:
    parser = (
        CommandParser("reweight", "Write block weights into a LoRA file.")
        .add_input_files("--model", "the file to change")
        .add_output_options(device=False, many=True)
    )
    text = "block weights: a preset, or 12, 17, 20, 25 or 26 numbers separated by commas"
    parser.add_argument("--lbw", metavar="PRESET|NUMBERS", help=text)
    parser.add_argument("--lbwe", metavar="RULES", help="rules for single layers, such as IN05-OUT05:attn:0")
    parser.add_argument("--te", type=float, default=1.0, help="weight of the text encoders")
    parser.add_argument("--unet", type=float, default=1.0, help="weight of the U-Net")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `lora_ext reweight`.

    Args:
        argv: the command line without the command's name; None reads that of the program.

    Returns:
        The exit status.
    """
    args = _parser().parse_args(argv)
    _block_weights(args)  # what is wrong with them is said once, and not for each file
    return run_tool(_run, args)


def _block_weights(args: argparse.Namespace) -> BlockWeights:
    blocks = parse_block_weights(args.lbw) if args.lbw else UNIFORM_WEIGHTS
    return replace(blocks, rules=parse_element_rules(args.lbwe)) if args.lbwe else blocks


def _run(args: argparse.Namespace, track: Track) -> ToolReport:
    """Reweights one file, which is too quick for a bar."""
    check_output_path(args.save_to, [args.model], overwrite=args.overwrite)
    result, report = reweight_lora(
        load_lora_file(args.model),
        _block_weights(args),
        te=args.te,
        unet=args.unet,
        dtype=parse_precision(args.save_precision),
    )
    return save_with_report(result, report, args)
