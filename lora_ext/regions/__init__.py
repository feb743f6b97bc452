"""Where a LoRA acts: regions of the picture from text, their masks, and prompts divided into regions. Pure, no host."""

from .prompt_words import DividedPrompt, divide_prompt
from .region import Region, combine_masks, parse_region

__all__ = ["DividedPrompt", "Region", "combine_masks", "divide_prompt", "parse_region"]
