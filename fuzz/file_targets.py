"""Readers of binary files: LoRA files of every kind, checkpoints, pickles, pictures, states."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from makers import KINDS, MAKERS, SHAPES, make, suits
from PIL import Image
from safetensors.torch import save

from lora_ext.errors import LoraError
from lora_ext.file.folder_listing import load_metadata_quickly
from lora_ext.file.loading import assemble_lora_file, load_lora_file
from lora_ext.file.safetensors_file import load_safetensors_header, parse_safetensors_header
from lora_ext.file.torch_file import load_torch_file
from lora_ext.host.checkpoint_layout import check_is_supported, detect_checkpoint_layout
from lora_ext.inspect_file import format_inspection, inspect_lora_file
from lora_ext.region_masks import load_mask_image
from lora_ext.tools.checkpoint_keys import find_weight_locations
from lora_ext.tools.convert import convert_lora
from lora_ext.tools.merge import merge_loras
from lora_ext.tools.resize import resize_lora
from lora_ext.tools.reweight import reweight_lora
from lora_ext.train.data.image_files import check_image_data, load_training_image
from lora_ext.web.rank_energy import measure_rank_energy

from . import TESTS
from .engine import Target
from .mutations import LONGEST

KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
PICTURE = Path("a.png")


CLONEOFSIMO = json.dumps({
    "__metadata__": {"unet": '["CrossAttention", "Attention"]', "unet:0:rank": "2", "<s1>": "<embed>"},
    "unet:0:up": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]},
    "unet:0:down": {"dtype": "F32", "shape": [2, 4], "data_offsets": [32, 64]},
    "<s1>": {"dtype": "F32", "shape": [4], "data_offsets": [64, 80]},
}).encode()  # fmt: skip


def file_targets(folder: Path) -> list[Target]:
    """The targets. folder: for the files that readers want."""
    lora = {
        f"{KEY}.lora_up.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]},
        f"{KEY}.lora_down.weight": {"dtype": "F16", "shape": [2, 4], "data_offsets": [32, 48]},
        f"{KEY}.alpha": {"dtype": "F32", "shape": [], "data_offsets": [48, 52]},
        "__metadata__": {"ss_network_dim": "2", "ss_tag_frequency": '{"a": {"b": 1}}', "ss_v2": "False"},
    }
    words = [f".{name}".encode() for kind in KINDS for name in _tensors(kind)]
    checkpoint = [
        "model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.out.2.weight",
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "conditioner.embedders.1.model.ln_final.weight", "first_stage_model.decoder.conv_in.weight",
    ]  # fmt: skip
    shapes = json.dumps({name: [320, 4, 3, 3] for name in checkpoint}).encode()
    path, pickle = folder / "a.safetensors", folder / "a.pt"
    return [
        Target("safetensors, bytes", lambda data: _header(data), [_packed(json.dumps(lora).encode())], words, 2),
        Target(
            "safetensors, header",
            lambda data: _file(path, _packed(data)),
            [json.dumps(lora).encode(), *_trainers_headers()],
            words,
            0.5,
        ),
        Target("tensors of every kind", _kinds, [bytes([kind, 0, 0]) for kind in range(len(KINDS))], (), 0.02),
        Target("pickle of tensors", lambda data: _pickle(pickle, data), _pickles(), _PICKLE_WORDS, 0.3),
        Target("checkpoint's names", _checkpoint, [shapes], [name.encode() for name in checkpoint], 0.5),
        Target("pictures", _picture, _pictures(), (b"Exif\0\0", b"\xff\xe1", b"eXIf", b"iCCP", b"IDAT"), 0.3),
    ]


def _trainers_headers() -> list[bytes]:
    """The headers of small files of every kind, and of those that LyCORIS, peft and diffusers wrote."""
    kinds = [save({f"{KEY}.{name}": tensor for name, tensor in _tensors(kind).items()}) for kind in KINDS]
    files = [path.read_bytes() for path in sorted((TESTS / "data" / "interop").rglob("*.safetensors"))]
    headers = [data[8 : 8 + int.from_bytes(data[:8], "little")] for data in [*kinds, *files]]
    return [header for header in headers if len(header) < LONGEST] + [CLONEOFSIMO]


def _packed(header: bytes) -> bytes:
    """A safetensors file with this header and data of the length that it claims, up to a limit."""
    ends = [0]
    try:
        rows = json.loads(header)
        ends += [row["data_offsets"][1] for key, row in rows.items() if key != "__metadata__"]
        length = max(0, min(max(ends), 4096))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        length = 52
    return len(header).to_bytes(8, "little") + header + bytes(int(length))


def _header(data: bytes) -> None:
    parse_safetensors_header(io.BytesIO(data), Path("a.safetensors"), len(data))


def _file(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    load_metadata_quickly(path)
    load_safetensors_header(path)
    load_lora_file(path)
    format_inspection(inspect_lora_file(path))


def _tensors(kind: str) -> dict[str, torch.Tensor]:
    return make(kind, next(shape for shape in SHAPES.values() if suits(kind, shape)), rng=np.random.default_rng(0))


def _kinds(data: bytes) -> None:
    """The first byte is a kind; each three that follow change a tensor of it."""
    data = data or b"\0"
    layer = _tensors(KINDS[data[0] % len(KINDS)])
    for place in range(1, min(len(data) - 2, 24), 3):
        names, (which, what, number) = list(layer), data[place : place + 3]
        if names:
            _change(layer, names[which % len(names)], what, number)
    file = assemble_lora_file({f"{KEY}.{name}": tensor for name, tensor in layer.items()}, {}, Path("a.safetensors"))
    uses = (
        lambda: resize_lora(file, 2), lambda: convert_lora(file, "diffusers"), lambda: convert_lora(file, "kohya", 2),
        lambda: reweight_lora(file, te=0.5, unet=0.5), lambda: merge_loras([file, file]), lambda: measure_rank_energy(file),
    )  # fmt: skip
    for use in uses:
        try:
            use()
        except LoraError:
            continue


def _change(layer: dict[str, torch.Tensor], name: str, what: int, number: int) -> None:
    """Changes the shape, the dtype or the values of one tensor, or takes it out."""
    tensor = layer[name]
    size = list(tensor.shape)
    if what % 8 == 0:
        del layer[name]
    elif what % 8 == 1 and size:
        size[number % len(size)] = (0, 1, 2, 3, 5, 7, 12, 17)[number // 8 % 8]
        layer[name] = torch.ones(size, dtype=tensor.dtype)
    elif what % 8 == 2:
        layer[name] = tensor.transpose(0, -1).contiguous() if size else tensor[None]
    elif what % 8 == 3:
        layer[name] = tensor[(None,) * (number % 4)] if number % 2 else tensor.flatten()
    elif what % 8 == 4:
        layer[name] = tensor.to((torch.float16, torch.int8, torch.bool, torch.float64, torch.bfloat16)[number % 5])
    elif what % 8 == 5 and tensor.is_floating_point():
        layer[name] = torch.full_like(tensor, (float("nan"), float("inf"), 0.0, 1e30)[number % 4])
    elif what % 8 == 6:
        layer.update(_tensors(KINDS[number % len(MAKERS)]))
    elif what % 8 == 7:
        layer[name] = torch.tensor((0.0, -1.0, float("nan"), 1e30)[number % 4])


_PICKLE_WORDS = (
    b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"(lp0\n", b"R.", b"}", b"]", b"h\0",
    b"\x80\x02", b"\x8a\xff", b"I999999999999\n", b"Q", b"0", b"1", b"2", b"ctorch\nfloat32\n",
)  # fmt: skip


def _pickles() -> list[bytes]:
    seeds = []
    contents: list[object] = [{f"{KEY}.lora_up.weight": torch.ones(2, 2), "alpha": 4.0, "name": "x"}, [torch.ones(1)]]
    for content in contents:
        out = io.BytesIO()
        torch.save(content, out)
        with zipfile.ZipFile(out) as archive:
            seeds.append(next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")))
    return seeds


def _pickle(path: Path, data: bytes) -> None:
    """The pickle in an archive as torch writes it, with its storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", bytes(64))
    load_torch_file(path)


def _checkpoint(data: bytes) -> None:
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError):
        return
    shapes = {
        name: tuple(size)
        for name, size in (rows.items() if isinstance(rows, dict) else ())
        if isinstance(size, list) and len(size) < 9 and all(type(n) is int and 0 <= n < 2**63 for n in size)
    }
    find_weight_locations(shapes)
    check_is_supported(shapes)
    detect_checkpoint_layout(shapes)


def _pictures() -> list[bytes]:
    image = Image.new("RGB", (6, 4), "red")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x"
    seeds = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        out = io.BytesIO()
        image.save(out, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
        seeds.append(out.getvalue())
    for mode in ("RGBA", "LA", "P", "I;16", "CMYK"):
        out = io.BytesIO()
        Image.new(mode, (3, 3)).save(out, "TIFF" if mode == "CMYK" else "PNG")
        seeds.append(out.getvalue())
    return seeds


def _picture(data: bytes) -> None:
    for read in (load_training_image, check_image_data, load_mask_image):
        try:
            read(PICTURE, data)
        except LoraError:
            continue
