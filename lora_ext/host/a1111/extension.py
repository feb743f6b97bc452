"""The web UI (AUTOMATIC1111 1.10.1) as a host: takes over `<lora:…>`, and gives it back.

`scripts/lora_ext_entry.py` makes one `Host` and wires its callbacks; `Host.unload` leaves the web UI as it was.
Only files of this name (`a1111*.py`) import `modules.*`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from modules import call_queue, errors, processing, shared

from ...applied_networks import Fit, Presets, Use, resolve
from ...errors import LoraError
from ...file.lora_library import Entry, Library
from ...lora_tags import Request, request_of
from .. import block_weights_infotext as infotext
from ..infotext import lora_hashes
from . import builtin_lora as builtin
from . import models as model
from . import prompt_warnings as notes
from . import settings
from . import tag_owner as owners
from .bundled_embeddings import Embeddings
from .current_image import Chosen, clear_conditioning, set_given
from .model_switching import Restarting, Switching
from .out_of_memory import Retrying
from .script_lifetime import PAGE


class Host:
    """Everything of ours that lives in the web UI."""

    def __init__(self) -> None:
        self.shell = settings.A1111Shell()
        settings.add(call_queue.wrap_queued_call(self.settle))
        self.models = model.Models(lambda: self.shell.option("mode"), lambda text: self._say(self._picture(), text))
        self.retrying = Retrying(self.models.retrying)
        self.registry = owners.Registry(owners.LoraNetwork(self), owners.Watch(self.look))
        self.embeddings = Embeddings()
        self.switching = Switching(self.models.drop, self.after_switch)
        self.restarting = Restarting()
        self.sampling = False
        self._picture: Callable[[], Any] = lambda: None
        self._library: Library | None = None
        self._text_state: object = None
        self._told: set[str] = set()

    # --- who is in charge

    def settle(self, *_: Any) -> None:
        """Takes `<lora:…>` over, or gives it back, as the setting says; safe to call again."""
        self.registry.look_on()
        ours = self.shell.option("in_charge") == settings.OURS
        if ours and not self.registry.ours:
            owners.each("taking <lora:…> over", builtin.quiet, self.registry.take, self._forget_text)
        elif ours:
            self.registry.take()
        elif self.registry.ours:
            owners.each("handing <lora:…> back", self.release, self.registry.give_back)

    def release(self) -> None:
        """Removes everything from every model: each parameter is the original one again."""
        owners.each("removing", self.models.close, self._forget_embeddings, self._forget_text)

    def opened(self, *_: Any) -> None:
        """The web UI is up, for the first time or again."""
        self.settle()
        PAGE.enter()

    def unload(self) -> None:
        """Leaves the web UI as it was before us."""
        owners.each(
            "unloading",
            PAGE.leave,
            self.release,
            self.registry.close,
            self.switching.close,
            self.restarting.close,
            self.retrying.close,
        )

    def look(self, p: Any) -> None:
        """At every picture, after its tags were handed out: who does not apply them has nothing on the model.

        Another extension may take `<lora:…>` over at any picture (sd-webui-loractl does when its box is ticked); what
        was applied before would stay, in pictures without a tag and twice in those with one. One that hands the tags
        back hands them to the built-in extension; they come to us again, as the setting says.
        """
        if self.registry.ours:
            return
        tags = owners.tags_of(p)
        if self.registry.handed_back and self.shell.option("in_charge") == settings.OURS:
            self.settle()
            self.activate(p, tags)
            return
        if self._text_state is not None:
            self.release()
        for text in owners.without_effect(tags, self.registry.owner):
            self._say(p, text)

    def elsewhere(self) -> str:
        """Who applies `<lora:…>` where it is not us, by name, else "": the built-in extension, because the setting says
        so or because the model is of a kind that we do not know (SD3, Flux), or another extension."""
        sd_model = model.current()
        unloaded = sd_model is None or not getattr(sd_model, "sd_checkpoint_info", None)
        if self.registry.ours and (unloaded or model.knows(sd_model)):
            return ""
        owner = self.registry.before[0] if self.registry.ours else self.registry.owner
        return owners.name_of(owner)

    # --- a picture

    def activate(self, p: Any, items: list[list[str]], params_list: Any = ()) -> None:
        """Applies the tags given as their items to the model in use. Never raises for what a user wrote."""
        sd_model = model.current()
        if getattr(p, "prompts", None) is None and not hasattr(sd_model, "cond_stage_model_empty_prompt"):
            return  # a model just loaded, on which nothing is yet, perhaps in the midst of a picture
        self.sampling = False
        if not self.registry.ours:  # by the alias `lyco`, which stays ours when another extension takes `lora`
            for item in items:
                self._say(
                    p, f"<lyco:{':'.join(item)}> is not applied: {self.elsewhere()} applies LoRA tags; write <lora:…>"
                )
            return
        if not model.knows(sd_model) or self.shell.option("in_charge") != settings.OURS:
            self._leave_to_builtin(p, params_list)
            return
        if builtin.busy():
            builtin.quiet()
        builtin.add_default(p, items)
        chosen = self._choose(p, items)
        self._picture = weakref.ref(p)
        self.models.next_picture(p, sd_model)
        fits = self._apply(sd_model, chosen)
        self._note(p, chosen)
        self._tell(p, chosen, fits)
        self._say_once(p, notes.of(p))

    def _choose(self, p: Any, items: Sequence[list[str]]) -> Chosen:
        """Reads tags and files. What is wrong with one does not touch the others."""
        seeds = getattr(p, "seeds", None) or getattr(p, "all_seeds", None) or [0]
        chosen, presets = Chosen(seed=int(seeds[0])), self.shell.presets()
        for item in items:
            try:
                request = request_of(item)
                entry = self.entry(request.name)
                use = resolve(request, self.library, presets, seed=chosen.seed)
            except LoraError as error:
                chosen.problems.append(str(error))
            except Exception as error:
                errors.report(f"lora-ext: reading <lora:{':'.join(item)}>", exc_info=True)
                chosen.problems.append(f"<lora:{':'.join(item)}> cannot be applied: {error}")
            else:
                self._add(chosen, request, entry, use, presets)
        self.library.save()
        return chosen

    def _add(self, chosen: Chosen, request: Request, entry: Entry, use: Use, presets: Presets) -> None:
        chosen.uses.append(use)
        digest = entry.known_hash if getattr(shared.cmd_opts, "no_hashing", False) else entry.hash
        if digest:
            chosen.hashes[request.name] = digest
        row = infotext.row_of(request, use.blocks)
        if row is not None:
            chosen.rows.append(row)
            chosen.drawn |= infotext.drawn(request, presets)

    def _apply(self, sd_model: Any, chosen: Chosen) -> list[Fit] | None:
        """Brings the model to what was chosen."""
        self.models.uses = tuple(chosen.uses)
        fits, problems = self._bring(sd_model)
        chosen.problems += problems
        return fits

    def _bring(self, sd_model: Any) -> tuple[list[Fit] | None, list[str]]:
        """Puts the selection onto a model: how files fit where something changed, and what to tell.

        On an error nothing is applied, and that is told.
        """
        try:
            fits = self.models.ensure(sd_model)
            return fits, self.embeddings.set(sd_model, [use.file for use in self.models.uses])
        except Exception as error:
            self.models.close()
            if not isinstance(error, LoraError):
                errors.report("lora-ext: applying", exc_info=True)
            return None, [f"nothing is applied: {error}"]

    def after_switch(self) -> None:
        """The model in use may have changed in the midst of a picture (refiner): what was chosen goes onto it."""
        sd_model = model.current()
        if self.sampling and self.registry.ours and model.knows(sd_model):
            fits, problems = self._bring(sd_model)
            for text in [*problems, *(str(fit) for fit in fits or () if _worth_telling(fit))]:
                self.shell.say(text)

    def on_step(self, params: Any) -> None:
        """Before each call of the denoiser: schedules move to its step."""
        denoiser = getattr(params, "denoiser", None)
        if not self.registry.ours or denoiser is None or not self.models.uses:
            return
        self.sampling = True
        sd_model = model.current()
        if model.knows(sd_model):
            self.models.ensure(sd_model)
            total = denoiser.total_steps or denoiser.steps or 1
            if denoiser.step == 0 and getattr(denoiser, "p", None) is not None:
                self._say_once(denoiser.p, self.models.idle(sd_model, total))
            self.models.at_step(sd_model, denoiser.step, total)

    def on_model_loaded(self, sd_model: Any) -> None:
        """Other weights, or another model: what is known about its layers is of the old one."""
        self.models.drop(sd_model)

    # --- what is told

    def _note(self, p: Any, chosen: Chosen) -> None:
        """Infotext, and fresh conditioning where the text encoder's weights changed."""
        state = (self.models.key(model.current()), [(u.file, u.te, u.blocks, u.dyn) for u in chosen.uses])
        if state != self._text_state:
            clear_conditioning(p)
            self._text_state = state
        told = p.extra_generation_params
        hires = bool(getattr(p, "is_hr_pass", False))
        if not hires or not hasattr(p, "lora_hashes"):
            p.lora_hashes = {}
            p.lora_rows = chosen.rows
            for key in ("Lora hashes", infotext.KEY, infotext.HIRES_KEY, infotext.SEED_KEY):
                told.pop(key, None)
        if getattr(shared.opts, "lora_add_hashes_to_infotext", True):
            p.lora_hashes.update(chosen.hashes)
            set_given(told, "Lora hashes", lora_hashes(p.lora_hashes))
        if not hires:
            set_given(told, infotext.KEY, infotext.written(chosen.rows))
        elif chosen.rows != p.lora_rows:
            set_given(told, infotext.HIRES_KEY, infotext.written(chosen.rows))
        if chosen.drawn:
            told[infotext.SEED_KEY] = chosen.seed

    def _tell(self, p: Any, chosen: Chosen, fits: list[Fit] | None) -> None:
        """Problems each time; how files fit once a change."""
        for text in chosen.problems:
            self._say(p, text)
        if fits is not None:
            reports = {str(fit): fit for fit in fits if _worth_telling(fit)}
            for text in reports:
                if text not in self._told:
                    self._say(p, text)
            self._told = set(reports)

    def _say_once(self, p: Any, texts: Iterable[str]) -> None:
        """What all batches of a picture's settings would tell again."""
        said = p.lora_ext_said = getattr(p, "lora_ext_said", set())
        for text in [text for text in dict.fromkeys(texts) if text not in said]:
            self._say(p, text)
            said.add(text)

    def _say(self, p: Any, text: str) -> None:
        if p is not None and settings.PICTURE in self.shell.option("warnings"):
            p.comment(text)
        self.shell.say(text)

    def on_pasted(self, _: str, params: dict[str, Any]) -> None:
        """An infotext was pasted: block weights that would come out otherwise are put into its prompts as numbers."""
        presets = self.shell.presets()
        first = params.get(infotext.KEY)
        for prompt, key in (("Prompt", infotext.KEY), ("Hires prompt", infotext.HIRES_KEY)):
            rows = params.get(key) or first
            if rows and params.get(prompt):
                params[prompt] = infotext.restore(params[prompt], rows, presets)

    # --- files

    @property
    def library(self) -> Library:
        """The index of LoRA files, made when it is first needed."""
        if self._library is None:
            cache, optional = self.shell.data_dir() / "index.json", self.shell.optional_dirs()
            self._library = Library(self.shell.lora_dirs(), cache=cache, optional=optional)
        self._library.keep = max(1, int(self.shell.option("keep_files")))
        return self._library

    def entry(self, name: str) -> Entry:
        """The index's entry, looked up again when the file on disk is another one than before. Raises FileError."""
        entry = self.library.find(name)
        if not entry.fresh:
            self.library.refresh()
            entry = self.library.find(name)
        return entry

    # --- small things

    def _leave_to_builtin(self, p: Any, params_list: Any) -> None:
        """For models of kinds that we do not know (SD3, Flux), and where a picture's own settings say so."""
        if self._text_state is not None:
            self.release()
        before = self.registry.before[0]
        if before is not None:
            before.activate(p, params_list)
        for text in owners.without_effect([params.items for params in params_list], before):
            self._say(p, text)

    def _forget_embeddings(self) -> None:
        if model.current() is not None:
            self.embeddings.set(model.current(), ())

    def _forget_text(self) -> None:
        """Conditioning kept from before was made by someone else's rules."""
        self._text_state = None
        for kind in (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
            clear_conditioning(kind)


def _worth_telling(fit: Fit) -> bool:
    return bool(not fit.ok or fit.dead or fit.uncovered)
