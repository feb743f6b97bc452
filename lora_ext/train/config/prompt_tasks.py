"""What modes without pictures train: prompts, and the predictions that they have afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from .recipe import Recipe


@dataclass(frozen=True)
class PromptTask:
    """The prediction that a prompt has afterwards: base(start) + weight · guidance · (base(plus) − base(minus)).

    Attributes:
        start: The prompt whose prediction is the start.
        plus: The prompt towards which it moves; None if it does not move.
        minus: The prompt away from which it moves.
    """

    start: str
    plus: str | None = None
    minus: str = ""


def split_prompts(text: str | None) -> list[str]:
    """The prompts of a text in which `|` separates them."""
    return [part.strip() for part in (text or "").split("|") if part.strip()]


def prompt_tasks(recipe: Recipe) -> dict[str, PromptTask]:
    """What a recipe of mode ileco or slider trains.

    Args:
        recipe: The checked settings.

    Returns:
        Trained prompt → its task.

    Example:
        >>> prompt_tasks(Recipe(mode="ileco", original_prompt="red", target_prompt="blue"))
        {'red': PromptTask(start='blue', plus=None, minus='')}
    """
    kept = split_prompts(recipe.keep_prompts)
    tasks = {prompt: PromptTask(prompt) for prompt in ([*kept, ""] if kept else [])}  # guidance needs "" as it was
    originals = split_prompts(recipe.original_prompt)
    if recipe.mode == "ileco":
        targets = _one_each(recipe.target_prompt, originals)
        if recipe.target_guidance == 1:
            return tasks | {old: PromptTask(new) for old, new in zip(originals, targets, strict=True)}
        return tasks | {old: PromptTask(old, new, old) for old, new in zip(originals, targets, strict=True)}
    neutrals = originals or [""]
    plus, minus = (_one_each(text, neutrals) for text in (recipe.positive_prompt, recipe.negative_prompt))
    for attribute in split_prompts(recipe.kept_attributes) or [""]:
        for texts in zip(neutrals, plus, minus, strict=True):
            start, more, less = (f"{attribute} {text}".strip() for text in texts)
            tasks[start] = PromptTask(start, more, less)
    return tasks


def task_guidance(recipe: Recipe) -> float:
    """The factor on the difference of a task's two prompts."""
    return recipe.slider_guidance if recipe.mode == "slider" else recipe.target_guidance


def _one_each(text: str | None, originals: list[str]) -> list[str]:
    """The prompts of a text, or the only one, or "", for each of the originals."""
    prompts = split_prompts(text) or [""]
    return prompts * len(originals) if len(prompts) == 1 else prompts
