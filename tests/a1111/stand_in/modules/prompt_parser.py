"""Prompts → conditioning. A text's conditioning is the same at all steps here: no `[a:b:0.5]`."""

import re
from collections import namedtuple
from types import SimpleNamespace

import torch

ScheduledPromptConditioning = namedtuple("ScheduledPromptConditioning", ["end_at_step", "cond"])


class SdConditioning(list):
    def __init__(self, prompts, is_negative_prompt=False, width=None, height=None, copy_from=None):
        super().__init__(prompts)
        self.is_negative_prompt, self.width, self.height = is_negative_prompt, width, height


class MulticondLearnedConditioning:
    def __init__(self, shape, batch):
        self.shape, self.batch = shape, batch


def get_learned_conditioning(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    return [[ScheduledPromptConditioning(steps, model.cond_stage_model([prompt])[0])] for prompt in prompts]


def get_multicond_learned_conditioning(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    parts = [re.split(r"\bAND\b", prompt) for prompt in prompts]
    made = iter(
        get_learned_conditioning(
            model, [text for texts in parts for text in texts], steps, hires_steps, use_old_scheduling
        )
    )
    batch = [[SimpleNamespace(schedules=next(made), weight=1.0) for _ in texts] for texts in parts]
    return MulticondLearnedConditioning(shape=(len(prompts),), batch=batch)


def at_step(texts, step):
    """(texts, tokens, width) of either kind."""
    if isinstance(texts, MulticondLearnedConditioning):
        texts = [part.schedules for parts in texts.batch for part in parts]
    return torch.stack([next(s.cond for s in schedules if step <= s.end_at_step) for schedules in texts])
