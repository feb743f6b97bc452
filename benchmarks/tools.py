"""Speed and memory of the file tools, as ratios within one run, on synthetic SD1.5-shaped files made here.

    python benchmarks/tools.py [--threads 1] [--quick] [--folder DIR] [--only PART …]

Ours are whole commands: start-up, load, work, save. The peer is the naive method: whole files in memory, every layer's
full matrix, `torch.linalg.svd` of it. Its SVDs are timed once for each distinct shape and multiplied by how often the
shape occurs; its start-up, loading, products and saving are added as measured. Ratios are of CPU seconds (user and
system), which neighbours on the machine disturb less than they do the clock; the clock's are beside them. Peaks are
each process's own; this one imports nothing large, for a child's peak counts its parent's size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from figures import print_table
from tools_tasks import ROOT, naive_seconds

Row = tuple[str, ...]


class Cost(NamedTuple):
    """What a process took: CPU seconds, seconds on the clock, peak GiB."""

    cpu: float
    wall: float
    peak: float


def adopt_orphans() -> None:
    """Makes this process the parent of processes whose own parent ends first, so that `run` counts them (Linux)."""
    if sys.platform == "linux":
        import ctypes

        PR_SET_CHILD_SUBREAPER = 36
        if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            sys.exit("processes that outlive their parent cannot be counted here")


def run(command: Sequence[str], threads: int) -> tuple[Cost, str]:
    """What a process and all its children took, and what it printed. Exits when it fails."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        usages = [usage]
        with contextlib.suppress(ChildProcessError):  # the server of its workers, which ends after it
            while True:
                usages.append(os.wait4(-1, 0)[2])
        out.seek(0)
        text = out.read().decode()
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{text[-2000:]}")
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return Cost(cpu, wall, max(usage.ru_maxrss for usage in usages) / 2**20), text


def ours(threads: int, *words: object) -> Cost:
    """One of our commands, whole."""
    return run([sys.executable, "-m", "lora_ext", *map(str, words)], threads)[0]


def child(threads: int, task: str, *words: object) -> tuple[Cost, Any]:
    """A function of `tools_tasks` in a process of its own, and its result."""
    script = str(Path(__file__).with_name("tools_tasks.py"))
    cost, text = run([sys.executable, script, task, *map(str, words)], threads)
    return cost, json.loads(text.strip().splitlines()[-1])


# --- tables ----------------------------------------------------------------------------------------------------------


class Bench:
    """The files of one run, and its tables."""

    def __init__(self, folder: Path, threads: int, quick: bool) -> None:
        self.folder, self.threads, self.quick = folder, threads, quick
        self.flag = str(int(quick))
        self._times: dict[str, float] = {}

    def at(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def lora(self, kind: str, rank: int, seed: int) -> Path:
        """A LierLa or C3Lier file, made once."""
        path = self.at(f"{kind}-{rank}-{seed}")
        if not path.exists():
            child(2, "make_lora", path, rank, int(kind == "C3Lier"), seed, self.flag)
        return path

    def checkpoints(self) -> tuple[Path, Path]:
        """The original and the tuned one, made once."""
        org, tuned = self.at("org"), self.at("tuned")
        if not tuned.exists():
            child(2, "make_checkpoints", org, tuned, self.flag)
        return org, tuned

    def svds(self, wide: bool) -> float:
        """Seconds of all naive SVDs."""
        if not self._times:
            self._times = child(self.threads, "svd_times", self.flag)[1]
        return naive_seconds(self._times, wide, self.quick)

    def thin(self) -> Iterator[Row]:
        """resize and svd-merge, against naive."""
        out, naive = self.at("out"), self.at("naive")
        for kind in ("LierLa", "C3Lier"):
            one, two = (self.lora(kind, 128, seed) for seed in (0, 1))
            for verb, inputs, words in (
                ("resize", (one,), ("--model", one, "--new_rank", 32)),
                ("svd-merge", (one, two), ("--models", one, two, "--ratios", 0.7, 0.3, "--new_rank", 32)),
            ):
                cost = ours(self.threads, verb, *words, "--save_to", out, "--overwrite")
                rest, _ = child(self.threads, "naive_loras", naive, 32, *inputs)
                yield self.row(f"{verb} {kind} 128 -> 32", cost, rest, self.svds(kind == "C3Lier"))

    def row(self, what: str, cost: Cost, rest: Cost, svds: float = 0.0) -> Row:
        """Ours beside the naive method, whose SVDs take `svds` and everything else `rest`."""
        total = rest.cpu + svds
        return (what, f"{total / cost.cpu:.1f}x", f"{cost.cpu:.1f} s", f"{cost.wall:.1f} s", f"{total:.0f} s",
                f"{cost.peak:.2f} GiB", f"{rest.peak:.2f} GiB")  # fmt: skip

    def library(self) -> Iterator[Row]:
        """Many files in one command, a file; svd-merge where torch is loaded already. The files are links to two."""
        for kind, count in (("LierLa", 100), ("C3Lier", 40)):
            wide, one = kind == "C3Lier", self.lora(kind, 128, 0)
            count = 4 if self.quick else count
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                source, out = Path(scratch, "loras"), Path(scratch, "out")
                source.mkdir()
                for number in range(count):
                    os.link(one, source / f"{number:03}.safetensors")
                whole = ours(self.threads, "resize", "--model", source, "--new_rank", 32, "--save_to", out)
                assert len(list(out.glob("*.safetensors"))) == count
            rest, _ = child(self.threads, "naive_loras", self.at("naive"), 32, one)
            a_file = Cost(whole.cpu / count, whole.wall / count, whole.peak)
            yield self.row(f"resize {count} files {kind} 128 -> 32, a file", a_file, rest, self.svds(wide))
            pair = one, self.lora(kind, 128, 1)
            cost, found = child(self.threads, "merge_running", self.at("out"), 32, self.flag, *pair)
            rest, _ = child(self.threads, "naive_loras", self.at("naive"), 32, *pair)
            seen = f"{found['share']:.0%} of the machine's product rate ({found['rate'] / 1e9:.0f} GFLOP/s)"
            yield self.row(f"svd-merge {kind} 128 -> 32 in a running process; {seen}",
                           Cost(found["whole"], found["whole"], cost.peak), rest, self.svds(wide))  # fmt: skip

    def extract(self) -> Iterator[Row]:
        """extract, against naive."""
        org, tuned = self.checkpoints()
        out, naive = self.at("out"), self.at("naive")
        for label, words, wide in (("dim 32", (), False), ("dim 32, conv_dim 32", ("--conv_dim", 32), True)):
            cost = ours(self.threads, "extract", "--model_org", org, "--model_tuned", tuned, "--dim", 32, *words,
                        "--save_to", out, "--overwrite")  # fmt: skip
            _, error = child(2, "check_extract", org, tuned, out)
            rest, _ = child(self.threads, "naive_extract", naive, 32, int(wide), org, tuned)
            seen = f"error above the optimum {max(error['excess'], 0):.0e} ({error['shapes']} shapes)"
            yield self.row(f"extract {label}; {seen}", cost, rest, self.svds(wide))

    def checkpoint(self) -> Iterator[Row]:
        """merge into a checkpoint, against naive and against copying the file (reads, writes, syncs; in turn)."""
        org, _ = self.checkpoints()
        out, copy, naive = self.at("out"), self.at("copy"), self.at("naive")
        for kind in ("LierLa", "C3Lier"):
            lora = self.lora(kind, 32, 2)
            words = ("merge", "--sd_model", org, "--models", lora, "--ratios", 0.8, "--save_to", out, "--overwrite")
            pairs = []
            for _ in range(1 if self.quick else 3):
                copied, _ = child(self.threads, "copy_file", org, copy)
                pairs.append((ours(self.threads, *words), copied))
            cost, copied = (Cost(*map(statistics.median, zip(*side, strict=True))) for side in zip(*pairs, strict=True))
            same = {} if self.quick else child(2, "check_merge", org, out, lora, 0.8)[1]
            rest, _ = child(self.threads, "naive_merge", naive, org, lora, 0.8)
            seen = f"{same['same']} of {same['tensors']} tensors bit-identical to W + ΔW" if same else "not checked"
            yield self.row(f"merge rank-32 {kind} into a checkpoint; {seen}", cost, rest)
            yield self.row(f"the same against copying the file ({copied.wall:.1f} s on the clock, {copied.cpu:.1f} s "
                           f"CPU): {cost.wall / copied.wall:.2f}x of it", cost, copied)  # fmt: skip

    def startup(self) -> Iterator[Row]:
        """--help, and each verb on a file of one layer, beside importing torch alone."""
        tiny, out = self.at("tiny"), self.at("out")
        code = "import torch;from safetensors.torch import save_file;n='lora_unet_mid_block_attentions_0_proj_in.';"
        code += "t=torch.ones(4,4);save_file({n+'lora_up.weight':t,n+'lora_down.weight':t+1,n+'alpha':t[0,0].clone()},"
        run([sys.executable, "-c", f"{code}{str(tiny)!r},{{'ss_network_module':'networks.dylora'}})"], 1)
        key = "model.diffusion_model.middle_block.1.proj_in.weight"
        code = "import torch;from safetensors.torch import save_file;"
        for name, value in (("a", "zeros"), ("b", "ones")):
            run([sys.executable, "-c", f"{code}save_file({{{key!r}:torch.{value}(4,4)}},{str(self.at(name))!r})"], 1)
        to = ("--save_to", out, "--overwrite")
        verbs: dict[str, tuple[object, ...]] = {
            "--help": (),
            "resize": ("--model", tiny, "--new_rank", 2, *to),
            "merge": ("--models", tiny, tiny, *to),
            "svd-merge": ("--models", tiny, tiny, "--new_rank", 2, *to),
            "merge --sd_model": ("--sd_model", self.at("a"), "--models", tiny, *to),
            "extract": ("--model_org", self.at("a"), "--model_tuned", self.at("b"), *to),
            "split-dylora": ("--model", tiny, "--unit", 2, *to),
            "reweight": ("--model", tiny, "--unet", 0.5, *to),
            "convert": ("--model", tiny, "--to", "diffusers", *to),
            "metadata": (tiny,),
            "inspect": (tiny,),
        }
        times: dict[str, list[float]] = {"import torch": []}
        for turn in range(2 if self.quick else 6):
            alone = run([sys.executable, "-c", "import torch"], self.threads)[0].wall
            for verb, words in verbs.items():
                seconds = ours(self.threads, verb.split()[0], *words).wall
                if turn:
                    times.setdefault(verb, []).append(seconds)
            if turn:
                times["import torch"].append(alone)
        alone = statistics.median(times.pop("import torch"))
        for verb, found in times.items():
            seconds = statistics.median(found)
            yield (f"start-up: {verb}", f"{seconds:.2f} s" if verb == "--help" else f"torch {seconds - alone:+.2f} s",
                   "", f"{seconds:.2f} s", f"import torch {alone:.2f} s", "", "")  # fmt: skip


def growing(bench: Bench) -> Iterator[Row]:
    """The growth table; the last column would be constant for time ∝ layers · rank² · (m + n)."""
    for layers, rank, sides, seconds in child(bench.threads, "growth", bench.flag)[1]:
        share = seconds / (layers * rank**2 * sides) * 1e12
        name = f"{layers:.0f} layers of rank {rank:.0f}, m + n = {sides:.0f}"
        yield name, f"{seconds * 1000:.1f} ms", f"{share:.0f}"


def main() -> None:
    """Prints the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a twelfth of the layers; seconds, not minutes")
    parser.add_argument("--folder", type=Path, help="where the synthetic files are made and kept (10 GB)")
    parts = ("thin", "library", "extract", "checkpoint", "startup", "growth")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    args = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(args.folder or Path(scratch), args.threads, args.quick)
        bench.folder.mkdir(parents=True, exist_ok=True)
        title = f"{args.threads} thread(s){', a twelfth of the layers' if args.quick else ''}"
        head = ("what", "ratio (CPU)", "ours, CPU", "ours, clock", "naive, CPU", "our peak", "naive peak")
        for part in (p for p in parts if p in args.only):
            if part == "growth":
                print_table(("what", "resize to rank / 4", "ps per layer · rank² · (m + n)"), growing(bench), title)
            else:
                print_table(head, getattr(bench, part)(), title, peer="the naive method")


if __name__ == "__main__":
    main()
