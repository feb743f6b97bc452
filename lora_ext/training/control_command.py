"""`python -m lora_ext control OUTPUT_DIR --output_name NAME …`: asks something of a training run at work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..command_line import CommandParser
from ..console import print_text
from ..errors import TrainError, did_you_mean
from ..train.run.run_requests import RunRequest, write_control_file


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `control`; returns 0. The run itself says when it has done what is asked. Raises LoraError."""
    parser = CommandParser("control", "Ask a training run at work to sample, save, stop or change its learning rates.")
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="the run's output_dir")
    parser.add_argument("--output_name", default="last", help="the run's output_name")
    parser.add_argument("--sample", action="store_true", help="generate the sample prompts after this step")
    parser.add_argument("--save", action="store_true", help="save the file and a state after this step")
    parser.add_argument("--stop", action="store_true", help="end the run after this step, saved so that it can resume")
    text = "factor on the learning rates that the run was started with, from the next step on; 1 is as started"
    parser.add_argument("--lr_factor", type=float, metavar="X", help=text)
    args = parser.parse_args(argv)
    request = RunRequest(sample=args.sample, save=args.save, stop=args.stop, lr_factor=args.lr_factor)
    if request == RunRequest():
        raise TrainError("nothing is asked: give --sample, --save, --stop or --lr_factor 0.5")
    if not args.output_dir.is_dir():
        raise TrainError(f"there is no folder {args.output_dir}; give the output_dir of the run")
    print_text(write_control_file(args.output_dir, args.output_name, request))
    print_text(f"{args.output_name} takes this file after its next step.")
    logged = [path.stem for path in args.output_dir.glob("*.csv") if not path.stem.endswith(".validation")]
    if args.output_name not in logged:
        hint = did_you_mean(args.output_name, logged)
        print_text(f"No run of that name has taken a step in {args.output_dir} yet{hint}")
    return 0
