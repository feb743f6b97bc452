"""The floor of `resize` and `svd-merge`: what cannot be left out of them, each piece alone, in processor seconds.

    python benchmarks/tools_floor.py FILE [FILE …] [--rank 32] [--out OUT.safetensors]

One file is resized, several are merged. The pieces run layer after layer on this machine's libraries, without checks,
reports, names or metadata: the files are read into memory, their factors made float32, both Gram matrices computed
(NumPy's symmetric product), one Cholesky factor and the product around it, all eigenvectors of it up to rank 160 (above
it, as many products as the program's subspaces need), the two factors of the result, sha256 of what was read and made,
and the result written. Set OMP_NUM_THREADS=1. A whole command above this sum has something to gain; below it, not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from lora_ext.file.safetensors_file import load_safetensors_data
from lora_ext.singular_values import leading_eigenpairs


def main() -> None:
    """Prints the pieces and their sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("floor.safetensors"))
    args = parser.parse_args()
    spent: dict[str, float] = defaultdict(float)
    pieces(args.files, args.rank, args.out, defaultdict(float))  # the first one warms up
    pieces(args.files, args.rank, args.out, spent)
    for name, seconds in spent.items():
        print(f"{name:28} {seconds:6.3f} s")
    print(f"{'all':28} {sum(spent.values()):6.3f} s")


def pieces(files: list[Path], rank: int, out: Path, spent: dict[str, float]) -> None:
    """Does the work and adds what each piece took to `spent`."""

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        spent[name] += time.process_time() - begun

    with timed("reading"):
        loaded = [load_safetensors_data(path) for path in files]
    with timed("sha256"):
        for _, _, data in loaded:
            hashlib.sha256(data.numpy().data).hexdigest()
    names = [key.removesuffix(".lora_up.weight") for key in loaded[0][0] if key.endswith(".lora_up.weight")]
    result: dict[str, torch.Tensor] = {}
    for name in names:
        with timed("float32"):
            ups = [tensors[f"{name}.lora_up.weight"].flatten(1) for tensors, _, _ in loaded]
            downs = [tensors[f"{name}.lora_down.weight"].flatten(1) for tensors, _, _ in loaded]
            up, down = torch.cat(ups, 1).float(), torch.cat(downs).float()
        with timed("Gram matrices"):
            gram_up, gram_down = (torch.from_numpy(a.T @ a) for a in (up.numpy(), down.numpy().T))
        with timed("Cholesky factor"):
            root = torch.linalg.cholesky_ex(gram_up, upper=True)[0]
        with timed("product around it"):
            core = root @ gram_down @ root.T
        with timed("eigenvectors"):
            squares, vectors = leading_eigenpairs(core, rank)
            vectors, values = vectors[:, :rank], squares[:rank].sqrt()
        with timed("factors"):
            right = root.T @ (vectors / values**1.5)
            made = up @ (gram_down @ right), (right.T * values[:, None]) @ down
        with timed("rounding"):
            result |= {f"{name}.lora_up.weight": made[0].half(), f"{name}.lora_down.weight": made[1].half()}
    with timed("sha256"):
        for tensor in result.values():
            hashlib.sha256(tensor.numpy().data).digest()
    with timed("writing"):
        save_file(result, out)
        with out.open("rb+") as written:
            os.fsync(written.fileno())
    out.unlink()


if __name__ == "__main__":
    main()
