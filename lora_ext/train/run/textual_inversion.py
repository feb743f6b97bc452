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
from ...lora_tags import surround_with_spaces
from ...protocols import SampleSpec, TrainableModel
from ..config.recipe import Recipe
from ..data.batch import Batch
from ..data.captions import CaptionRules
from ..data.dataset import Dataset
from ..network.trainable_network import TrainableNetwork
from .process_group import ProcessGroup
from .training_step import TrainingObjective, fill_missing_gradients

DEFAULT_INIT_WORD = "*"
"""What a new word begins as where the recipe does not say (the web UI's choice)."""
OnInversionStep = Callable[[int, int, str], None]


class TrainableEmbedding:
    """A new word and its vectors: one Parameter (count, width) for each text encoder.

    A vector is kept no longer than the longest of the words that it began as, so that it does not drown the others.
    """

    def __init__(self, model: TrainableModel, recipe: Recipe) -> None:
        if not recipe.token_string:
            raise TrainError("a new word needs token_string")
        self.model, self.recipe, self.token = model, recipe, recipe.token_string
        if not model.token_count(self.token):
            raise TrainError(
                f"token_string {self.token!r} has no token, so it cannot stand in a prompt; choose letters"
            )
        count = recipe.num_vectors_per_token
        begun = model.token_embeddings(recipe.init_word or DEFAULT_INIT_WORD, count)
        self.vectors = [nn.Parameter(_with_noise(start).to(model.device)) for start in begun]
        self.max_norms = [float(start.norm(dim=-1).max()) for start in begun]

    def parameter_group(self) -> dict[str, object]:
        """For an optimizer that goes on with the word beside the network."""
        return {"params": list(self.vectors), "lr": self.recipe.inversion_lr, "name": "word", "weight_decay": 0.0}

    @torch.no_grad()
    def clip_norms(self) -> None:
        """Brings vectors that grew too long back to the length allowed, without waiting for the device."""
        for vector, longest in zip(self.vectors, self.max_norms, strict=True):
            vector.mul_((longest / vector.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0))

    def tensors(self) -> dict[str, Tensor]:
        """As a LoRA file carries it (`bundle_emb.NAME.…`) and the web UI reads it."""
        names = ("string_to_param.*",) if len(self.vectors) == 1 else ("clip_l", "clip_g")
        return {name: v.detach().float().cpu().clone() for name, v in zip(names, self.vectors, strict=True)}

    @torch.no_grad()
    def load_vectors(self, saved: Sequence[Tensor]) -> None:
        """Vectors that were saved. Raises TrainError where they are not of this word's size."""
        if [tuple(v.shape) for v in saved] != [tuple(v.shape) for v in self.vectors]:
            raise TrainError(
                f"the saved vectors of {self.token!r} are {[list(v.shape) for v in saved]}, this model and recipe take "
                f"{[list(v.shape) for v in self.vectors]}; resume with the model and num_vectors_per_token of then"
            )
        for vector, values in zip(self.vectors, saved, strict=True):
            vector.copy_(values)

    # --- captions

    def caption_with_token(self, caption: str, rules: CaptionRules | None = None) -> str:
        """The caption with the word where the text encoder reads it: in the place of the initial word, else in front.

        Call it while the word is the model's (`new_word`). rules: whose prefix and suffix may have the word already.
        """
        caption = surround_with_spaces(caption, self.token)
        if self._count_token(self._full_caption(caption, rules or CaptionRules())):
            return caption
        first = self.recipe.init_word
        pattern = rf"(?<!\w){re.escape(first)}(?!\w)" if first else r"(?!)"
        changed, times = re.subn(pattern, lambda _: self.token, caption, flags=re.IGNORECASE)
        if times and self._count_token(changed := surround_with_spaces(changed, self.token)):
            return changed
        return f"{self.token} {caption}".strip()

    def _count_token(self, caption: str) -> int:
        return self.model.count_token_uses(self.token, caption, self.recipe.max_token_length)

    def add_token_to_captions(self, data: Dataset) -> int:
        """Puts the word into the captions of all training pictures; returns how many did not have it."""
        data.subsets = tuple(
            replace(subset, caption_rules=self._rules_with_token(subset.caption_rules)) for subset in data.subsets
        )
        subsets = data.subsets
        spoken = tuple(
            p
            if subsets[p.subset].regularisation
            else replace(p, caption=self.caption_with_token(p.caption, subsets[p.subset].caption_rules))
            for p in data.images
        )
        missing = sum(
            surround_with_spaces(before.caption, self.token) != after.caption
            for before, after in zip(data.images, spoken, strict=True)
            if not subsets[before.subset].regularisation
        )
        data.images = spoken
        return missing

    def _rules_with_token(self, rules: CaptionRules) -> CaptionRules:
        """The same with the word set apart in what is put before and behind every caption."""
        prefix, suffix = rules.caption_prefix, rules.caption_suffix
        return replace(
            rules,
            caption_prefix=prefix and surround_with_spaces(prefix, self.token),
            caption_suffix=suffix and surround_with_spaces(suffix, self.token),
        )

    def sample_with_token(self, sample_spec: SampleSpec) -> SampleSpec:
        """A sample's prompts with the word where it is read."""
        return replace(
            sample_spec,
            prompt=surround_with_spaces(sample_spec.prompt, self.token),
            negative=surround_with_spaces(sample_spec.negative, self.token),
        )

    def prepare_captions(self, data: Dataset, notify: Callable[[str], None]) -> None:
        """`speak`, and sentences about it. Raises TrainError where no caption would have the word."""
        missing = self.add_token_to_captions(data)
        if missing:
            notify(f"{self.token!r} was put into {missing} captions that did not have it")
        train = [p for p in data.images if not data.subsets[p.subset].regularisation]
        regular = [p for p in data.images if data.subsets[p.subset].regularisation]
        deaf = [
            p
            for p in train
            if not self._count_token(self._full_caption(p.caption, data.subsets[p.subset].caption_rules))
        ]
        if deaf:
            where = f"in {len(deaf)} of {len(train)} captions, such as that of {deaf[0].path}"
            why = f"{self.token!r} is not read {where}: what is after {self.recipe.max_token_length} tokens is cut off"
            if len(deaf) == len(train):
                raise TrainError(f"{why}; shorten caption_prefix and the captions, or set max_token_length 150 or 225")
            notify(why)
        heard = sum(bool(self._count_token(p.caption)) for p in regular)
        if heard:
            notify(
                f"{self.token!r} is in {heard} captions of regularisation pictures, which teach what the model knows "
                "already; choose a rarer token_string, or change those captions"
            )

    @staticmethod
    def _full_caption(caption: str, rules: CaptionRules) -> str:
        return " ".join(text for text in (rules.caption_prefix, caption, rules.caption_suffix) if text)

    # --- learning

    def train(
        self,
        model: TrainableModel,
        network: TrainableNetwork,
        data: Dataset,
        process_group: ProcessGroup,
        on_progress: OnInversionStep,
        is_cancelled: Callable[[], bool],
        notify: Callable[[str], None],
    ) -> bool:
        """Learns the word alone for `inversion_steps`, the network off. Returns whether it was stopped.

        A batch without the word (regularisation pictures, dropped captions) teaches it nothing and is counted.
        Raises TrainError where it becomes NaN, or where no batch had it.
        """
        recipe, steps = self.recipe, self.recipe.inversion_steps
        objective = TrainingObjective(model, recipe, network, trains_text=True)
        optimizer = torch.optim.AdamW(self.vectors, lr=recipe.inversion_lr, weight_decay=0.0)
        stopped, without, done = False, 0, 0
        with network.detached():
            for step, batch in zip(range(1, steps + 1), endless_batches(data, process_group), strict=False):
                loss = objective(batch)
                has_word, done = loss.requires_grad, step
                if has_word:
                    loss.backward()
                if process_group.any_process(has_word):
                    fill_missing_gradients(self.vectors)  # of a process whose batch lacks the word
                    process_group.average_in_place([v.grad for v in self.vectors if v.grad is not None])
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    self.clip_norms()
                else:
                    without += 1
                on_progress(step, steps, f"learning the word {self.token!r}")
                stopped = process_group.any_process(is_cancelled())
                if stopped:
                    break
        if without:
            notify(f"{without} of {done} batches had no caption with {self.token!r} and taught it nothing")
        if without == done and not stopped:
            raise TrainError(f"no batch had a caption with {self.token!r}; lower caption_dropout_rate, or leave it out")
        if not all(bool(vector.isfinite().all()) for vector in self.vectors):
            raise TrainError(f"{self.token!r} became NaN; try a lower inversion_lr than {recipe.inversion_lr:g}")
        for vector in self.vectors:
            vector.requires_grad_(recipe.inversion_continue)
        return stopped


def _with_noise(start: Tensor) -> Tensor:
    """Equal vectors moved apart by a thousandth of their length, or they would stay equal."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(start.shape, generator=generator).to(start.device)
    return start + 1e-3 * start.norm(dim=-1, keepdim=True) * noise / noise.norm(dim=-1, keepdim=True)


def endless_batches(data: Dataset, process_group: ProcessGroup) -> Iterator[Batch]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        yield from data.epoch_batches(epoch, process_group.rank, process_group.world_size)
        epoch += 1
