"""The extension inside the web UI (AUTOMATIC1111 1.10.1): applies `<lora:…>` tags, and hands them back when it unloads.

`scripts/lora_ext_entry.py` creates one `A1111Extension` and registers its callbacks.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from modules import errors, processing, shared

from ...adapter_spec import AdapterSpec, Presets, resolve_tag
from ...errors import LoraError
from ...file.lora_library import LibraryEntry, LoraLibrary
from ...fit_report import FitReport
from ...lora_tags import LoraTag, parse_tag_items
from ...region_masks import MASKS_FOLDER, MaskFolders
from .. import block_weights_infotext as infotext
from ..infotext import format_hashes
from . import builtin_lora as builtin
from . import models as model
from . import part_encoder, settings
from . import prompt_conditions as conditions
from . import prompt_warnings as notes
from . import tag_owner as owners
from .bundled_embeddings import BundledEmbeddings
from .call_sigma import call_sigma
from .current_image import ResolvedTags, clear_conditioning, set_if_given, show_weights
from .model_switching import ModelSwitchHooks, ReloadUiHook
from .out_of_memory import OutOfMemoryHooks
from .region_prompts import RegionSettings, restore_masks_of, restore_region_settings
from .script_lifetime import SCRIPT_LIFETIME
from .webui_job import while_nothing_is_generated


class A1111Extension:
    """The extension's callbacks in the web UI, and what they keep between images.

    `unload` leaves the web UI as it was before the extension was loaded.
    """

    def __init__(self) -> None:
        self.host_interface = settings.A1111HostInterface()
        settings.register_settings(while_nothing_is_generated(self.update_tag_ownership))
        self.models = model.AppliedNetworksByModel(
            lambda: self.host_interface.option("mode"), lambda text: self._notify(self._current_processing(), text)
        )
        self.memory_retry = OutOfMemoryHooks(self.models.run_image)
        self.tag_ownership = owners.TagOwnership(owners.LoraExtraNetwork(self), owners.ImageObserver(self.on_image))
        self.embeddings = BundledEmbeddings()
        self.model_switch_hooks = ModelSwitchHooks(self.models.remove, self.after_model_switch)
        self.reload_ui_hook = ReloadUiHook()
        self.is_sampling = False
        self._current_processing: Callable[[], Any] = lambda: None
        self._library: LoraLibrary | None = None
        self._conditioning_key: object = None
        self._conditions = conditions.PassConditions()
        self._reported_fits: set[str] = set()

    # --- who applies the tags

    def update_tag_ownership(self, *_: Any) -> None:
        """Takes `<lora:…>` tags over or hands them back, as the setting says. It may be called any number of times."""
        self.tag_ownership.register_observer()
        is_chosen = self.host_interface.option("in_charge") == settings.OWNER_LORA_EXT
        if is_chosen and not self.tag_ownership.is_ours:
            owners.run_all_steps(
                "taking <lora:…> over",
                builtin.remove_builtin_loras,
                self.tag_ownership.register_network,
                self._forget_conditioning,
            )
        elif is_chosen:
            self.tag_ownership.register_network()
        elif self.tag_ownership.is_ours:
            owners.run_all_steps("handing <lora:…> back", self.remove_all, self.tag_ownership.restore_previous_owners)

    def remove_all(self) -> None:
        """Removes all LoRA files from all models: restores each original parameter."""
        owners.run_all_steps("removing", self.models.close, self._remove_embeddings, self._forget_conditioning)

    def on_app_started(self, *_: Any) -> None:
        """Called when the web UI has started, for the first time or after Reload UI."""
        self.update_tag_ownership()
        SCRIPT_LIFETIME.mark_loaded()

    def unload(self) -> None:
        """Leaves the web UI as it was before the extension was loaded."""
        owners.run_all_steps(
            "unloading",
            SCRIPT_LIFETIME.mark_unloaded,
            self.remove_all,
            self.tag_ownership.close,
            self.model_switch_hooks.close,
            self.reload_ui_hook.close,
            self.memory_retry.close,
        )

    def on_image(self, p: Any) -> None:
        """Called for each image after its tags were handed out; removes all files where another extension applies them.

        Another extension may take `<lora:…>` over for any image (sd-webui-loractl does when its box is ticked). Files
        that were applied before would stay: in images without a tag, and twice in images with one. When the other
        extension hands the tags back, the built-in extension gets them; here they are taken over again.

        Args:
            p: the web UI's `StableDiffusionProcessing` of the image.
        """
        if self.tag_ownership.is_ours:
            return
        tags = owners.tag_items_of(p)
        if self.tag_ownership.is_handed_back and self.host_interface.option("in_charge") == settings.OWNER_LORA_EXT:
            self.update_tag_ownership()
            self.apply_tags(p, tags)
            return
        if self._conditioning_key is not None:
            self.remove_all()
        for text in owners.ignored_tag_messages(tags, self.tag_ownership.owner):
            self._notify(p, text)

    def other_tag_owner(self) -> str:
        """Returns the name of the extension that applies `<lora:…>` tags in place of this one, "" where there is none.

        It is the built-in extension where the setting says so or the model is not supported (SD3, Flux).
        """
        sd_model = model.current_sd_model()
        unloaded = sd_model is None or not getattr(sd_model, "sd_checkpoint_info", None)
        if self.tag_ownership.is_ours and (unloaded or model.is_supported_model(sd_model)):
            return ""
        owner = self.tag_ownership.previous_owner if self.tag_ownership.is_ours else self.tag_ownership.owner
        return owners.extension_name(owner)

    # --- one image

    def apply_tags(self, p: Any, items: list[list[str]], params_list: Any = ()) -> None:
        """Applies LoRA tags to the model in use. Errors in tags become warnings, never exceptions.

        Args:
            p: the web UI's `StableDiffusionProcessing`.
            items: for each tag its parts between the colons, without `lora`.
            params_list: the same tags as the web UI passes them, for the built-in extension.
        """
        part_encoder.PartEncoder.remove(p)
        sd_model = model.current_sd_model()
        if getattr(p, "prompts", None) is None and not hasattr(sd_model, "cond_stage_model_empty_prompt"):
            return  # called while the web UI loads a model, perhaps during an image: nothing is applied to it yet
        self.is_sampling = False
        if not self.tag_ownership.is_ours:  # by an alias, which stays ours when another extension takes `lora`
            for item in items:
                self._notify(
                    p,
                    f"<lyco:{':'.join(item)}> is not applied: {self.other_tag_owner()} applies LoRA tags; "
                    "write <lora:…>",
                )
            return
        if not model.is_supported_model(sd_model) or self.host_interface.option("in_charge") != settings.OWNER_LORA_EXT:
            self._leave_to_builtin(p, params_list)
            return
        if builtin.has_builtin_loras():
            builtin.remove_builtin_loras()
        builtin.add_default_network_tag(p, items)
        chosen = self._resolve_tags(p, items)
        self._current_processing = weakref.ref(p)
        self.models.begin_batch(p, sd_model)
        fits = self._apply_specs(sd_model, chosen)
        self._write_infotext(p, chosen)
        if self.models.conditions or chosen.conditions.regions:
            part_encoder.PartEncoder.install(p, chosen.conditions, chosen.specs, self.models.encode_as)
        self._report_problems(p, chosen, fits)
        self._notify_once(p, notes.batch_tag_warnings(p))

    def _resolve_tags(self, p: Any, tag_items: Sequence[list[str]]) -> ResolvedTags:
        """Parses tags and loads their files. An error in one does not affect the others."""
        seeds = getattr(p, "seeds", None) or getattr(p, "all_seeds", None) or [0]
        masks = MaskFolders((self.host_interface.data_dir() / MASKS_FOLDER,))
        dividing = RegionSettings.of_webui(self.host_interface.option)
        found = conditions.pass_conditions(p, tag_items, model.current_sd_model(), masks, dividing)
        chosen = ResolvedTags(seed=int(seeds[0]), conditions=found, masks=masks)
        chosen.problems += found.batch_regions.notes
        presets, by_default = self.host_interface.presets(), conditions.condition_settings(self.host_interface.option)
        before: list[LoraTag] = []
        for item, part in zip(tag_items, found.parts_of_tags, strict=True):
            try:
                request = parse_tag_items(item)
                region = None if found.batch_regions.other else masks.region_of(request)
                scope = found.scope_of(request, part, by_default, before)
                before.append(request)
                if getattr(p, "is_hr_pass", False):
                    request = request.for_hires_pass()
                chosen.problems += found.batch_regions.tag_notes(request, part)
                if found.batch_regions.other:
                    request = replace(request, at=None)
                entry = self.entry(request.name)
                spec = resolve_tag(request, self.library, presets, seed=chosen.seed)
                spec = replace(spec, scope=scope, region=None if spec.region is None else region)
            except LoraError as error:
                chosen.problems.append(str(error))
            except Exception as error:
                errors.report(f"lora-ext: reading <lora:{':'.join(item)}>", exc_info=True)
                chosen.problems.append(f"<lora:{':'.join(item)}> cannot be applied: {error}")
            else:
                self._add_tag(chosen, request, entry, spec, presets)
        self.library.save_cache()
        return chosen

    def _add_tag(
        self, resolved: ResolvedTags, tag: LoraTag, entry: LibraryEntry, spec: AdapterSpec, presets: Presets
    ) -> None:
        resolved.specs.append(spec)
        digest = builtin.infotext_hash(entry)
        if digest:
            resolved.hashes[tag.name] = digest
        row = infotext.block_weights_row(tag, spec.block_curve or spec.blocks)
        if row is not None:
            resolved.rows.append(row)
            resolved.has_random_weights |= infotext.has_random_block_weights(tag, presets)

    def _apply_specs(self, sd_model: Any, resolved: ResolvedTags) -> list[FitReport] | None:
        """Applies the files of resolved tags."""
        self.models.specs = tuple(resolved.specs)
        self._conditions = resolved.conditions
        self.models.conditions = conditions.acting_conditions(resolved.specs, resolved.conditions)
        fits, problems = self._apply_to_model(sd_model)
        resolved.problems += problems
        return fits

    def _apply_to_model(self, sd_model: Any) -> tuple[list[FitReport] | None, list[str]]:
        """Applies the selected files to a model; on an error nothing is applied.

        Returns:
            How files fit where something changed, else None, and sentences for the user.
        """
        try:
            fits = self.models.apply(sd_model)
            return fits, self.embeddings.set_files(sd_model, [spec.file for spec in self.models.specs])
        except Exception as error:
            self.models.close()
            if not isinstance(error, LoraError):
                errors.report("lora-ext: applying", exc_info=True)
            return None, [f"nothing is applied: {error}"]

    def after_model_switch(self) -> None:
        """Applies the selection to the model in use, which may have changed during an image (refiner)."""
        sd_model = model.current_sd_model()
        if self.is_sampling and self.tag_ownership.is_ours and model.is_supported_model(sd_model):
            fits, problems = self._apply_to_model(sd_model)
            for text in [*problems, *(str(fit) for fit in fits or () if fit.is_worth_telling)]:
                self.host_interface.notify(text)

    def on_step(self, params: Any) -> None:
        """Called before each U-Net call: moves the schedules of tags to this step."""
        denoiser = getattr(params, "denoiser", None)
        if not self.tag_ownership.is_ours or denoiser is None or not self.models.specs:
            return
        self.is_sampling = True
        sd_model = model.current_sd_model()
        if model.is_supported_model(sd_model):
            self.models.apply(sd_model)
            total = denoiser.total_steps or denoiser.steps or 1
            if denoiser.step == 0 and getattr(denoiser, "p", None) is not None:
                self._notify_once(denoiser.p, self.models.no_effect_messages(sd_model, total))
            self.models.at_step(sd_model, denoiser.step, total, lambda: call_sigma(params))
            if problem := part_encoder.begin_rows(self.models, self._conditions, sd_model, params):
                self._notify_once(denoiser.p, [problem])
            if self.host_interface.option("show_curve"):
                show_weights(getattr(denoiser, "p", None), denoiser.step, self.models.scheduled_weights(sd_model))

    def on_model_loaded(self, sd_model: Any) -> None:
        """Called when a model was loaded: forgets what is known about its layers, which are new."""
        self.models.remove(sd_model)

    # --- infotext and warnings

    def _write_infotext(self, p: Any, resolved: ResolvedTags) -> None:
        """Writes the infotext, and drops cached conditioning where the text encoder's weights changed."""
        state = (
            self.models.mode_key(model.current_sd_model()),
            [(u.file, u.te, u.blocks, u.dyn, u.scope) for u in resolved.specs],
        )
        if state != self._conditioning_key:
            clear_conditioning(p)
            self._conditioning_key = state
        params = p.extra_generation_params
        hires = bool(getattr(p, "is_hr_pass", False))
        if not hires or not hasattr(p, "lora_hashes"):
            p.lora_hashes = {}
            p.lora_rows = resolved.rows
            for key in (
                "Lora hashes",
                infotext.BLOCK_WEIGHTS_KEY,
                infotext.HIRES_BLOCK_WEIGHTS_KEY,
                infotext.BLOCK_SEED_KEY,
                *conditions.INFOTEXT_KEYS,
            ):
                params.pop(key, None)
        if getattr(shared.opts, "lora_add_hashes_to_infotext", True):
            p.lora_hashes.update(resolved.hashes)
            set_if_given(params, "Lora hashes", format_hashes(p.lora_hashes))
        if not hires:
            set_if_given(params, infotext.BLOCK_WEIGHTS_KEY, infotext.format_block_weights_rows(resolved.rows))
        elif resolved.rows != p.lora_rows:
            set_if_given(params, infotext.HIRES_BLOCK_WEIGHTS_KEY, infotext.format_block_weights_rows(resolved.rows))
        if resolved.has_random_weights:
            params[infotext.BLOCK_SEED_KEY] = resolved.seed
        p.lora_ext_masks = {**getattr(p, "lora_ext_masks", {}), **resolved.masks.files_to_keep()}
        by_default = conditions.condition_settings(self.host_interface.option)
        params.update(conditions.settings_infotext(resolved.conditions, by_default, resolved.masks.hashes()))

    def _report_problems(self, p: Any, resolved: ResolvedTags, fits: list[FitReport] | None) -> None:
        """Reports problems for each image, and how files fit once after each change."""
        for text in resolved.problems:
            self._notify(p, text)
        if fits is not None:
            reports = {str(fit): fit for fit in fits if fit.is_worth_telling}
            for text in reports:
                if text not in self._reported_fits:
                    self._notify(p, text)
            self._reported_fits = set(reports)

    def _notify_once(self, p: Any, texts: Iterable[str]) -> None:
        """Reports sentences once for all batches of a job."""
        reported = p.lora_ext_said = getattr(p, "lora_ext_said", set())
        for text in [text for text in dict.fromkeys(texts) if text not in reported]:
            self._notify(p, text)
            reported.add(text)

    def _notify(self, p: Any, text: str) -> None:
        if p is not None and settings.WARN_BELOW_IMAGE in self.host_interface.option("warnings"):
            p.comment(text)
        self.host_interface.notify(text)

    def on_infotext_pasted(self, _: str, params: dict[str, Any]) -> None:
        """Called when an infotext is pasted: writes block weights that would come out otherwise now as numbers."""
        conditions.restore_settings(params, conditions.condition_settings(self.host_interface.option))
        restore_region_settings(params, RegionSettings.of_webui(self.host_interface.option))
        for text in restore_masks_of(params, self.host_interface.data_dir() / MASKS_FOLDER):
            self.host_interface.notify(text)
        presets = self.host_interface.presets()
        first = params.get(infotext.BLOCK_WEIGHTS_KEY)
        for prompt, key in (("Prompt", infotext.BLOCK_WEIGHTS_KEY), ("Hires prompt", infotext.HIRES_BLOCK_WEIGHTS_KEY)):
            rows = params.get(key) or first
            if rows and params.get(prompt):
                params[prompt] = infotext.restore_block_weights(params[prompt], rows, presets)

    # --- files

    @property
    def library(self) -> LoraLibrary:
        """The index of LoRA files, created when it is first needed."""
        if self._library is None:
            cache, optional = self.host_interface.data_dir() / "index.json", self.host_interface.optional_dirs()
            self._library = LoraLibrary(self.host_interface.lora_dirs(), cache_path=cache, optional=optional)
        self._library.max_loaded = max(1, int(self.host_interface.option("keep_files")))
        return self._library

    def entry(self, name: str) -> LibraryEntry:
        """Returns a file's entry of the index, refreshed where the file on disk has changed.

        Raises:
            FileError: no LoRA file has this name.
        """
        return self.library.find_current(name)

    # --- helpers

    def _leave_to_builtin(self, p: Any, params_list: Any) -> None:
        """Passes tags to the built-in extension, for unsupported models (SD3, Flux) and where a setting says so.

        A tag that it could not apply is left out, since it would then apply none of the prompt.
        """
        if self._conditioning_key is not None:
            self.remove_all()
        before = self.tag_ownership.previous_owner
        missing = [params for params in params_list if builtin.lacks_file(params.items[0])]
        if before is not None:
            before.activate(p, owners.tags_for_builtin([params for params in params_list if params not in missing]))
        for params in missing:
            self._notify(p, f"<lora:{':'.join(params.items)}> is not applied: no file has the name {params.items[0]}")
        for text in owners.ignored_tag_messages([params.items for params in params_list], before):
            self._notify(p, text)

    def _remove_embeddings(self) -> None:
        if model.current_sd_model() is not None:
            self.embeddings.set_files(model.current_sd_model(), ())

    def _forget_conditioning(self) -> None:
        """Drops cached conditioning, which another extension's files may have changed."""
        self._conditioning_key = None
        for kind in (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
            clear_conditioning(kind)
