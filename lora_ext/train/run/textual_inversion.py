"""Pivotal tuning (Roich et al. 2021, arXiv:2106.05744; for text-to-image: cloneofsimo's lora): first a new word, then
the network with it. The word is learned by textual inversion (Gal et al. 2022, arXiv:2208.01618).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...errors import TrainError
from ...lora_tags import set_apart
from ...protocols import Sample, Trainee
from ..config.recipe import Recipe
from ..data.batch import Batch
from ..data.captions import CaptionRules
from ..data.dataset import Dataset
from ..network.trainable_network import Network
from .process_group import Processes
from .training_step import Objective, fill_gradients

ANY = "*"
"""What a new word begins as where the recipe does not say (the web UI's choice)."""
Tell = Callable[[int, int, str], None]


class Word:
    """A new word and its vectors: one Parameter (count, width) for each text encoder.

    A vector is kept no longer than the longest of the words that it began as, so that it does not drown the others.
    """

    def __init__(self, trainee: Trainee, recipe: Recipe) -> None:
        if not recipe.token_string:
            raise TrainError("a new word needs token_string")
        self.trainee, self.recipe, self.name = trainee, recipe, recipe.token_string
        if not trainee.token_count(self.name):
            raise TrainError(f"token_string {self.name!r} has no token, so it cannot stand in a prompt; choose letters")
        count = recipe.num_vectors_per_token
        begun = trainee.word_vectors(recipe.init_word or ANY, count)
        self.vectors = [nn.Parameter(_apart(start).to(trainee.device)) for start in begun]
        self.longest = [float(start.norm(dim=-1).max()) for start in begun]

    def group(self) -> dict[str, object]:
        """For an optimizer that goes on with the word beside the network."""
        return {"params": list(self.vectors), "lr": self.recipe.inversion_lr, "name": "word", "weight_decay": 0.0}

    @torch.no_grad()
    def shorten(self) -> None:
        """Brings vectors that grew too long back to the length allowed, without waiting for the device."""
        for vector, longest in zip(self.vectors, self.longest, strict=True):
            vector.mul_((longest / vector.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0))

    def tensors(self) -> dict[str, Tensor]:
        """As a LoRA file carries it (`bundle_emb.NAME.…`) and the web UI reads it."""
        names = ("string_to_param.*",) if len(self.vectors) == 1 else ("clip_l", "clip_g")
        return {name: v.detach().float().cpu().clone() for name, v in zip(names, self.vectors, strict=True)}

    @torch.no_grad()
    def load(self, saved: Sequence[Tensor]) -> None:
        """Vectors that were saved. Raises TrainError where they are not of this word's size."""
        if [tuple(v.shape) for v in saved] != [tuple(v.shape) for v in self.vectors]:
            raise TrainError(
                f"the saved vectors of {self.name!r} are {[list(v.shape) for v in saved]}, this model and recipe take "
                f"{[list(v.shape) for v in self.vectors]}; resume with the model and num_vectors_per_token of then"
            )
        for vector, values in zip(self.vectors, saved, strict=True):
            vector.copy_(values)

    # --- captions

    def spoken(self, caption: str, rules: CaptionRules | None = None) -> str:
        """The caption with the word where the text encoder reads it: in the place of the initial word, else in front.

        Call it while the word is the model's (`new_word`). rules: whose prefix and suffix may have the word already.
        """
        caption = set_apart(caption, self.name)
        if self._read(self._whole(caption, rules or CaptionRules())):
            return caption
        first = self.recipe.init_word
        pattern = rf"(?<!\w){re.escape(first)}(?!\w)" if first else r"(?!)"
        changed, times = re.subn(pattern, lambda _: self.name, caption, flags=re.IGNORECASE)
        if times and self._read(changed := set_apart(changed, self.name)):
            return changed
        return f"{self.name} {caption}".strip()

    def _read(self, caption: str) -> int:
        return self.trainee.word_places(self.name, caption, self.recipe.max_token_length)

    def speak(self, data: Dataset) -> int:
        """Puts the word into the captions of all training pictures; returns how many did not have it."""
        data.subsets = tuple(replace(subset, captions=self._rules(subset.captions)) for subset in data.subsets)
        subsets = data.subsets
        spoken = tuple(
            p
            if subsets[p.subset].regularisation
            else replace(p, caption=self.spoken(p.caption, subsets[p.subset].captions))
            for p in data.pictures
        )
        missing = sum(
            set_apart(before.caption, self.name) != after.caption
            for before, after in zip(data.pictures, spoken, strict=True)
            if not subsets[before.subset].regularisation
        )
        data.pictures = spoken
        return missing

    def _rules(self, rules: CaptionRules) -> CaptionRules:
        """The same with the word set apart in what is put before and behind every caption."""
        prefix, suffix = rules.caption_prefix, rules.caption_suffix
        return replace(
            rules,
            caption_prefix=prefix and set_apart(prefix, self.name),
            caption_suffix=suffix and set_apart(suffix, self.name),
        )

    def in_prompt(self, wish: Sample) -> Sample:
        """A sample's prompts with the word where it is read."""
        return replace(wish, prompt=set_apart(wish.prompt, self.name), negative=set_apart(wish.negative, self.name))

    def announce(self, data: Dataset, say: Callable[[str], None]) -> None:
        """`speak`, and sentences about it. Raises TrainError where no caption would have the word."""
        missing = self.speak(data)
        if missing:
            say(f"{self.name!r} was put into {missing} captions that did not have it")
        train = [p for p in data.pictures if not data.subsets[p.subset].regularisation]
        regular = [p for p in data.pictures if data.subsets[p.subset].regularisation]
        deaf = [p for p in train if not self._read(self._whole(p.caption, data.subsets[p.subset].captions))]
        if deaf:
            where = f"in {len(deaf)} of {len(train)} captions, such as that of {deaf[0].path}"
            why = f"{self.name!r} is not read {where}: what is after {self.recipe.max_token_length} tokens is cut off"
            if len(deaf) == len(train):
                raise TrainError(f"{why}; shorten caption_prefix and the captions, or set max_token_length 150 or 225")
            say(why)
        heard = sum(bool(self._read(p.caption)) for p in regular)
        if heard:
            say(
                f"{self.name!r} is in {heard} captions of regularisation pictures, which teach what the model knows "
                "already; choose a rarer token_string, or change those captions"
            )

    @staticmethod
    def _whole(caption: str, rules: CaptionRules) -> str:
        return " ".join(text for text in (rules.caption_prefix, caption, rules.caption_suffix) if text)

    # --- learning

    def learn(
        self,
        trainee: Trainee,
        network: Network,
        data: Dataset,
        team: Processes,
        tell: Tell,
        asked: Callable[[], bool],
        say: Callable[[str], None],
    ) -> bool:
        """Learns the word alone for `inversion_steps`, the network off. Returns whether it was stopped.

        A batch without the word (regularisation pictures, dropped captions) teaches it nothing and is counted.
        Raises TrainError where it becomes NaN, or where no batch had it.
        """
        recipe, steps = self.recipe, self.recipe.inversion_steps
        objective = Objective(trainee, recipe, network, learns_text=True)
        optimizer = torch.optim.AdamW(self.vectors, lr=recipe.inversion_lr, weight_decay=0.0)
        stopped, without, done = False, 0, 0
        with network.resting():
            for step, batch in zip(range(1, steps + 1), batches(data, team), strict=False):
                loss = objective(batch)
                has_word, done = loss.requires_grad, step
                if has_word:
                    loss.backward()
                if team.any(has_word):
                    fill_gradients(self.vectors)  # of a process whose batch lacks the word
                    team.mean([v.grad for v in self.vectors if v.grad is not None])
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    self.shorten()
                else:
                    without += 1
                tell(step, steps, f"learning the word {self.name!r}")
                stopped = team.any(asked())
                if stopped:
                    break
        if without:
            say(f"{without} of {done} batches had no caption with {self.name!r} and taught it nothing")
        if without == done and not stopped:
            raise TrainError(f"no batch had a caption with {self.name!r}; lower caption_dropout_rate, or leave it out")
        if not all(bool(vector.isfinite().all()) for vector in self.vectors):
            raise TrainError(f"{self.name!r} became NaN; try a lower inversion_lr than {recipe.inversion_lr:g}")
        for vector in self.vectors:
            vector.requires_grad_(recipe.inversion_continue)
        return stopped


def _apart(start: Tensor) -> Tensor:
    """Equal vectors moved apart by a thousandth of their length, or they would stay equal."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(start.shape, generator=generator).to(start.device)
    return start + 1e-3 * start.norm(dim=-1, keepdim=True) * noise / noise.norm(dim=-1, keepdim=True)


def batches(data: Dataset, team: Processes) -> Iterator[Batch]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        yield from data.epoch(epoch, team.rank, team.world)
        epoch += 1
