"""Pivotal tuning (Roich et al. 2021, arXiv:2106.05744; for text-to-image cloneofsimo's lora): first a new token, then
the network with it. The token is trained by textual inversion (Gal et al. 2022, arXiv:2208.01618).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...counted_words import counted
from ...errors import TrainError
from ...lora_tags import surround_with_spaces
from ...protocols import SampleSpec, TrainableModel
from ..config.recipe import Recipe
from ..data.batch import Batch
from ..data.captions import CaptionRules
from ..data.dataset import Dataset
from ..network.trainable_network import TrainableNetwork
from .objective import TrainingObjective
from .process_group import ProcessGroup
from .training_step import fill_missing_gradients

DEFAULT_INIT_WORD = "*"
"""The word whose embedding a new token starts from without `init_word`, as in the web UI."""
OnInversionStep = Callable[[int, int, str], None]
"""(step, steps, text) → shows the progress."""


class TrainableEmbedding:
    """A new token and its vectors: one Parameter (count, width) for each text encoder.

    The norm of a vector is limited to the largest norm of the word it started from, so that the token does not outweigh
    the rest of the prompt.

    Args:
        model: The model.
        recipe: The settings with `token_string`. Raises TrainError without one, or for one without a token.

    Attributes:
        token: The token's text.
        vectors: The Parameters, (count, width).
        max_norms: The largest norm of a vector, for each text encoder.
    """

    def __init__(self, model: TrainableModel, recipe: Recipe) -> None:
        if not recipe.token_string:
            raise TrainError("a new token needs token_string")
        self.model, self.recipe, self.token = model, recipe, recipe.token_string
        if not model.token_count(self.token):
            raise TrainError(f"token_string {self.token!r} has no token, so prompts cannot contain it; use letters")
        count = recipe.num_vectors_per_token
        starts = model.token_embeddings(recipe.init_word or DEFAULT_INIT_WORD, count)
        self.vectors = [nn.Parameter(_with_noise(start).to(model.device)) for start in starts]
        self.max_norms = [float(start.norm(dim=-1).max()) for start in starts]

    def parameter_group(self) -> dict[str, object]:
        """The parameter group for an optimizer that trains the token together with the network."""
        return {"params": list(self.vectors), "lr": self.recipe.inversion_lr, "name": "word", "weight_decay": 0.0}

    @torch.no_grad()
    def clip_norms(self) -> None:
        """Scales vectors that are too long down to `max_norms`, without waiting for the device."""
        for vector, longest in zip(self.vectors, self.max_norms, strict=True):
            vector.mul_((longest / vector.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0))

    def tensors(self) -> dict[str, Tensor]:
        """The vectors as a LoRA file contains them (`bundle_emb.NAME.…`) and the web UI reads them."""
        names = ("string_to_param.*",) if len(self.vectors) == 1 else ("clip_l", "clip_g")
        return {name: v.detach().float().cpu().clone() for name, v in zip(names, self.vectors, strict=True)}

    @torch.no_grad()
    def load_vectors(self, saved: Sequence[Tensor]) -> None:
        """Loads saved vectors. Raises TrainError if their shapes differ."""
        if [tuple(v.shape) for v in saved] != [tuple(v.shape) for v in self.vectors]:
            raise TrainError(
                f"the saved vectors of {self.token!r} are {[list(v.shape) for v in saved]}, this model and recipe need "
                f"{[list(v.shape) for v in self.vectors]}; resume with the model and num_vectors_per_token as before"
            )
        for vector, values in zip(self.vectors, saved, strict=True):
            vector.copy_(values)

    # --- captions

    def caption_with_token(self, caption: str, rules: CaptionRules | None = None) -> str:
        """Puts the token into a caption where the text encoder reads it: in place of the initial word, else in front.

        Call it inside `with_token_embedding`.

        Args:
            caption: The caption.
            rules: Its rules; their prefix and suffix may contain the token already.
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
        """Puts the token into all training captions; returns how many did not have it."""
        data.subsets = tuple(
            replace(subset, caption_rules=self._rules_with_token(subset.caption_rules)) for subset in data.subsets
        )
        subsets = data.subsets
        changed_images = tuple(
            p
            if subsets[p.subset].regularisation
            else replace(p, caption=self.caption_with_token(p.caption, subsets[p.subset].caption_rules))
            for p in data.images
        )
        missing = sum(
            surround_with_spaces(before.caption, self.token) != after.caption
            for before, after in zip(data.images, changed_images, strict=True)
            if not subsets[before.subset].regularisation
        )
        data.images = changed_images
        return missing

    def _rules_with_token(self, rules: CaptionRules) -> CaptionRules:
        """The rules with spaces around the token in prefix and suffix."""
        prefix, suffix = rules.caption_prefix, rules.caption_suffix
        return replace(
            rules,
            caption_prefix=prefix and surround_with_spaces(prefix, self.token),
            caption_suffix=suffix and surround_with_spaces(suffix, self.token),
        )

    def sample_with_token(self, sample_spec: SampleSpec) -> SampleSpec:
        """A sample with spaces around the token in its prompts."""
        return replace(
            sample_spec,
            prompt=surround_with_spaces(sample_spec.prompt, self.token),
            negative=surround_with_spaces(sample_spec.negative, self.token),
        )

    def prepare_captions(self, data: Dataset, notify: Callable[[str], None]) -> None:
        """Puts the token into all training captions and reports what is unusual.

        Args:
            data: The data set; its captions are changed.
            notify: Called with each sentence.

        Raises:
            TrainError: The token is cut off in every caption.
        """
        missing = self.add_token_to_captions(data)
        if missing:
            notify(f"{self.token!r} was put into {counted(missing, 'caption')} that did not contain it")
        train = [p for p in data.images if not data.subsets[p.subset].regularisation]
        regular = [p for p in data.images if data.subsets[p.subset].regularisation]
        unread = [
            p
            for p in train
            if not self._count_token(self._full_caption(p.caption, data.subsets[p.subset].caption_rules))
        ]
        if unread:
            where = f"in {len(unread)} of {counted(len(train), 'caption')}, such as that of {unread[0].path}"
            if len(unread) == 1:
                where = f"in 1 of {counted(len(train), 'caption')}, that of {unread[0].path}"
            why = f"{self.token!r} is not read {where}: what is after {self.recipe.max_token_length} tokens is cut off"
            if len(unread) == len(train):
                raise TrainError(f"{why}; shorten caption_prefix and the captions, or set max_token_length 150 or 225")
            notify(why)
        count = sum(bool(self._count_token(p.caption)) for p in regular)
        if count:
            notify(
                f"{self.token!r} is in {counted(count, 'caption')} of regularisation pictures, which keep what the "
                "model already knows; choose a rarer token_string, or change those captions"
            )

    @staticmethod
    def _full_caption(caption: str, rules: CaptionRules) -> str:
        return " ".join(text for text in (rules.caption_prefix, caption, rules.caption_suffix) if text)

    # --- training

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
        """Trains the token alone for `inversion_steps`, with the network detached.

        A batch without the token (regularisation images, dropped captions) does not train it and is counted.

        Args:
            model: The model.
            network: The network, attached.
            data: The data set.
            process_group: The processes that train together.
            on_progress: Called after each step.
            is_cancelled: Asked after each step.
            notify: Called with sentences about batches without the token.

        Returns:
            Whether the user stopped it.

        Raises:
            TrainError: The vectors became NaN, or no batch had the token.
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
                    fill_missing_gradients(self.vectors)  # of a process whose batch lacks the token
                    process_group.average_in_place([v.grad for v in self.vectors if v.grad is not None])
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    self.clip_norms()
                else:
                    without += 1
                on_progress(step, steps, f"training the token {self.token!r}")
                stopped = process_group.any_process(is_cancelled())
                if stopped:
                    break
        if without:
            notify(
                f"{without} of {counted(done, 'batch', 'batches')} had no caption with {self.token!r} and did not "
                "train it"
            )
        if without == done and not stopped:
            raise TrainError(f"no batch had a caption with {self.token!r}; lower caption_dropout_rate, or leave it out")
        if not all(bool(vector.isfinite().all()) for vector in self.vectors):
            raise TrainError(f"{self.token!r} became NaN; try a lower inversion_lr than {recipe.inversion_lr:g}")
        for vector in self.vectors:
            vector.requires_grad_(recipe.inversion_continue)
        return stopped


def _with_noise(start: Tensor) -> Tensor:
    """Adds noise of a thousandth of the norm to each vector; equal vectors would otherwise stay equal."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(start.shape, generator=generator).to(start.device)
    return start + 1e-3 * start.norm(dim=-1, keepdim=True) * noise / noise.norm(dim=-1, keepdim=True)


def endless_batches(data: Dataset, process_group: ProcessGroup) -> Iterator[Batch]:
    """Batches of one epoch after another."""
    epoch = 0
    while True:
        yield from data.epoch_batches(epoch, process_group.rank, process_group.world_size)
        epoch += 1
