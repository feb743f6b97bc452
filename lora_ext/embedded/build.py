"""Build the embedded model from nothing: `python -m lora_ext.embedded.build --out DIR`.

Draws the pictures, trains the autoencoder, then the U-Net and the text encoder, writes the checkpoint
and the sample LoRAs, and says what share of the fixed prompts the pictures obey. Stopped and started
again with the same folder, it goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .export import export
from .sampling import Networks, sample
from .shapes import PROMPTS, caption, obeys, score, sheet
from .tokenizer import write_tokenizer
from .train_lora import RECIPES, Recipe, recipe_scenes, train_lora
from .train_unet import Peers, make_examples, new_networks, plain_scenes, take_average, train_unet
from .train_vae import sharpen_decoder, train_vae


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m lora_ext.embedded.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and what is half done")
    parser.add_argument("--vae-minutes", type=float, default=12)
    parser.add_argument("--decoder-minutes", type=float, default=6)
    parser.add_argument("--minutes", type=float, default=40, help="for the U-Net and the text encoder")
    parser.add_argument("--lora-minutes", type=float, default=8, help="for each LoRA")
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--processes", type=int, default=2, help="of one thread each, for the U-Net")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for everything else")
    return parser.parse_args()


def main() -> None:
    """Do all of it."""
    options = arguments()
    torch.set_num_threads(options.threads)
    work: Path = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    write_tokenizer(options.out / "tokenizer")
    vae = train_vae(work, options.vae_minutes)
    (work / "peers").unlink(missing_ok=True)
    torch.multiprocessing.spawn(peer, (options, work), options.processes)
    nets = new_networks(options.out / "tokenizer", vae)
    take_average(nets, work / "unet.pt")
    sharpen_decoder(vae, work, options.decoder_minutes)
    print(f"{export(nets, options.out)}: {show(nets, PROMPTS, work / 'base.png'):.0%} of the prompts obeyed")
    for recipe in RECIPES:
        if not (options.out / "loras" / f"{recipe.name}.safetensors").exists():
            build_lora(nets, recipe, options.out, options.lora_minutes)


def peer(rank: int, options: argparse.Namespace, work: Path) -> None:
    """One of the processes that train the U-Net and the text encoder, on pictures of its own."""
    torch.set_num_threads(1)
    vae = train_vae(work, 0)  # made already: this reads it
    nets = new_networks(options.out / "tokenizer", vae)
    examples = make_examples(
        vae, nets.tokenizer, plain_scenes(options.pictures // options.processes, 3 + rank), 4 + rank
    )
    peers = Peers(rank, options.processes)
    peers.join(work)
    torch.manual_seed(100 + rank)
    train_unet(nets, examples, work, options.minutes, peers=peers)


def show(nets: Networks, prompts: tuple[str, ...], path: Path) -> float:
    """Sample the prompts, save the sheet, return the share obeyed."""
    pictures = sample(nets, prompts)
    sheet(pictures).save(path)
    for picture, prompt in zip(pictures, prompts, strict=True):
        if not obeys(picture, prompt):
            print("  not obeyed:", prompt)
    return score(pictures, prompts)


def build_lora(nets: Networks, recipe: Recipe, out: Path, minutes: float) -> None:
    """Train one LoRA, show its pictures at full and at part weight, and take it off again."""
    adapters = train_lora(nets, recipe, out / "loras", minutes)
    drawn, named = recipe_scenes(recipe, 20, 14)
    # The style's name is for the checker alone: the pictures are asked for without it.
    wanted = [f"{caption(scene)}, {recipe.style}" for scene in drawn]
    for strength in (0.4, 1.0):
        for adapter in adapters.values():
            adapter.strength = strength
        pictures = sample(nets, [caption(scene) for scene in named])
        sheet(pictures).save(out / "work" / f"{recipe.name}-{strength}.png")
        print(f"{recipe.name} at {strength}: {score(pictures, wanted):.0%} as wanted")
    for adapter in adapters.values():
        adapter.handle.remove()


if __name__ == "__main__":
    main()
