"""Build the embedded model from nothing: `python -m lora_ext.embedded.build --out DIR`.

Draws the images, trains the autoencoder, then the U-Net and the text encoder, writes the checkpoint
and says what share of the fixed prompts the images obey. Stopped and started again with the same
folder, it goes on where it was. With `--earlier FOLDER` it goes on from a model made before, whose encoder it
keeps (`python -m lora_ext merge --sd_model CHECKPOINT --save_to FOLDER` writes such a folder).
(`lora_ext.training.sample_loras` trains the LoRAs for it.)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from .export import export_checkpoint
from .sampling import EmbeddedNetworks, sample_images
from .shapes import SCENE_PROMPTS, image_grid, obeys, share_obeyed
from .tokenizer import write_tokenizer
from .train_unet import LocalSgdProcess, load_averaged_parameters, make_examples, new_networks, train_unet
from .train_vae import plain_scenes, sharpen_decoder, train_vae


def parse_build_arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m lora_ext.embedded.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and what is half done")
    parser.add_argument("--earlier", type=Path, help="diffusers folder of the model to go on from")
    parser.add_argument("--vae-minutes", type=float, default=12)
    parser.add_argument("--decoder-minutes", type=float, default=6)
    parser.add_argument("--minutes", type=float, default=40, help="for the U-Net and the text encoder")
    parser.add_argument("--rate", type=float, default=8e-4, help="their highest learning rate")
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--processes", type=int, default=2, help="of one thread each, for the U-Net")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for everything else")
    return parser.parse_args()


def main() -> None:
    """Do all of it."""
    options = parse_build_arguments()
    torch.set_num_threads(options.threads)
    work: Path = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    write_tokenizer(options.out / "tokenizer")
    if options.earlier:
        vae = AutoencoderKL.from_pretrained(options.earlier, subfolder="vae")
        torch.save(vae.state_dict(), work / "vae.pt")
    vae = train_vae(work, options.vae_minutes)
    (work / "peers").unlink(missing_ok=True)
    torch.multiprocessing.spawn(run_training_process, (options, work), options.processes)
    nets = new_networks(options.out / "tokenizer", vae)
    load_averaged_parameters(nets, work / "unet.pt")
    sharpen_decoder(nets, work, options.decoder_minutes)
    print(
        f"{export_checkpoint(nets, options.out)}: "
        f"{save_prompt_sheet(nets, SCENE_PROMPTS, work / 'base.png'):.0%} of the prompts obeyed"
    )


def run_training_process(rank: int, options: argparse.Namespace, work: Path) -> None:
    """One of the processes that train the U-Net and the text encoder, on images of its own."""
    torch.set_num_threads(1)
    vae = train_vae(work, 0)  # made already: this reads it
    nets = new_networks(options.out / "tokenizer", vae, options.earlier)
    examples = make_examples(
        vae, nets.tokenizer, plain_scenes(options.pictures // options.processes, 3 + rank), 4 + rank
    )
    peers = LocalSgdProcess(rank, options.processes)
    peers.join(work)
    torch.manual_seed(100 + rank)
    train_unet(nets, examples, work, options.minutes, options.rate, peers)


def save_prompt_sheet(nets: EmbeddedNetworks, prompts: tuple[str, ...], path: Path) -> float:
    """Sample the prompts, save the sheet, return the share obeyed."""
    images = sample_images(nets, prompts)
    image_grid(images).save(path)
    for image, prompt in zip(images, prompts, strict=True):
        if not obeys(image, prompt):
            print("  not obeyed:", prompt)
    return share_obeyed(images, prompts)


if __name__ == "__main__":
    main()
