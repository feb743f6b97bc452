"""`TrainingRun`: a recipe, a borrowed model and a shell → trained files.

It goes on from a saved state as if never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ...errors import TrainError
from ...file.lora_file import LoraFile
from ...progress import track_with_callback
from ...protocols import HostInterface, TrainableModel
from ..config.recipe import Recipe
from ..data.dataset import Dataset
from . import resume, sample_images, setup, training_state
from .error_advice import is_memory_full_error, nan_advice, out_of_memory_advice
from .output_files import TrainingFileSaver, modelspec_metadata, run_metadata
from .preflight import PreflightReport
from .process_group import ProcessGroup
from .textual_inversion import TrainableEmbedding
from .training_log import LogRow, PendingNumbers, TrainingLog, TrainingProgress
from .training_result import TrainingResult
from .training_state import TrainingState
from .training_step import TrainingStepper

OnTrainingProgress = Callable[[TrainingProgress], None]


@dataclass
class TrainingRun:
    """One training run.

    on_progress: is told how far it is, after each step whose numbers have arrived. team: the processes that train
    together.
    preflight_report: what was found before the first step.
    """

    model: TrainableModel
    recipe: Recipe
    host: HostInterface
    on_progress: OnTrainingProgress | None = None
    process_group: ProcessGroup = field(default_factory=ProcessGroup)

    def __post_init__(self) -> None:
        if self.recipe.output_dir is None:
            raise TrainError("there is no --output_dir: the folder for the results")
        self.folder = Path(self.recipe.output_dir)
        self.state = TrainingState(started=time.time())
        self.sample_images: list[sample_images.SampleImage] = []
        self.progress = TrainingProgress()
        self.last_state_folder: Path | None = None
        self.final_file: Path | None = None
        self.preflight_report: PreflightReport | None = None
        self.embedding: TrainableEmbedding | None = None
        self.stopped_in_inversion = False

    def run(self) -> TrainingResult:
        """Trains. Raises TrainError: nonsense in the recipe, no memory, a full disk, a loss that is no number."""
        begun = time.monotonic()
        try:
            with ExitStack() as stack:
                self._set_up(stack)
                stopped = self._train()
                return self._result(begun, stopped)
        except (RuntimeError, MemoryError) as error:
            if not is_memory_full_error(error):
                raise
            raise TrainError(out_of_memory_advice(self.recipe, self.model.device, error)) from error
        except OSError as error:
            what = f"{error.filename or 'a file'}: {error.strerror or error}"
            raise TrainError(f"{what}; what was saved before is untouched") from error

    # --- before the first step

    def _set_up(self, stack: ExitStack) -> None:
        """Borrows the model, looks at the data, makes the network, and goes on from a state if one is given."""
        recipe = self.recipe
        setup.check_model(recipe, self.model, self._notify)
        self.sample_specs = setup.checked_sample_specs(recipe, self.model)
        setup.create_output_folder(self.folder)
        resumed = resume.load_resumed_state(recipe, self._notify)
        self.state.seed = setup.choose_run_seed(recipe, resumed, self.process_group)
        recipe = self.recipe = replace(recipe, seed=self.state.seed)
        stack.enter_context(self.model.prepared_for_training(setup.training_model_options(recipe)))
        setup.fill_regularisation_folders(
            recipe, self.model, self.host, self.state.seed, self.process_group, track_with_callback(self._show_progress)
        )
        self.data = Dataset.from_recipe(
            recipe, self.state.seed, notify=self._notify, track=track_with_callback(self._show_progress)
        )
        recipe = self.recipe = self.data.recipe
        parts = {p: net for p, net in self.model.parts().items() if self._learns(p)}
        self.network = stack.enter_context(setup.build_network(parts, recipe, self._notify))
        if resumed is not None:
            resume.fit_state_to_run(
                resumed, recipe, self.network, self.data, self.process_group.world_size, self._notify
            )
        at = resumed or self.state
        self.epochs, self.steps = self.data.run_length(
            self.process_group.world_size, epoch=at.epoch, batch=at.batch, step=at.step
        )
        self.preflight_report = setup.report_preflight(
            self.data, self.model, self.network, self.process_group.world_size, self._notify
        )
        setup.fill_latent_cache(
            recipe, self.model, self.data, self.process_group, track_with_callback(self._show_progress)
        )
        extra = self._add_embedding(stack, resumed)
        self.stepper = TrainingStepper(self.model, self.network, recipe, self.process_group, self.steps, extra)
        setup.fill_caption_cache(
            recipe,
            self.model,
            self.data,
            self.stepper.objective.encode_captions,
            track_with_callback(self._show_progress),
        )
        if resumed is not None:
            self._resume(resumed)
        base = {
            **self.model.metadata(),
            **run_metadata(recipe, self.data, self.process_group.world_size, self.state.started),
        }
        base |= modelspec_metadata(recipe, self.model.family, self.model.prediction, recipe.output_name)
        self.saver = TrainingFileSaver(recipe, base, self.state.kept, self._notify)
        table = self.folder / f"{recipe.output_name}.csv" if self.process_group.is_main else None
        self.log = TrainingLog(table, smoothed=self.state.smoothed, notify=self._notify)
        self.log.open(self.state.step)
        stack.callback(self.log.close)
        self.tracker = (
            setup.open_tracker(recipe, self.folder, self.state.started) if self.process_group.is_main else None
        )
        if self.tracker is not None:
            stack.callback(self.tracker.close)

    def _learns(self, part: str) -> bool:
        return self.recipe.trains_unet if part == "unet" else self.recipe.trains_text

    def _add_embedding(self, stack: ExitStack, resumed: TrainingState | None) -> list[dict[str, Any]]:
        """Pivotal tuning: the new word, learned or from the state; returns what goes on learning beside the network."""
        if not self.recipe.token_string:
            return []
        self.embedding = word = TrainableEmbedding(self.model, self.recipe)
        stack.enter_context(self.model.with_token_embedding(word.token, word.vectors))
        word.prepare_captions(self.data, self._notify)
        self.sample_specs = [word.sample_with_token(wish) for wish in self.sample_specs]
        if resumed is not None:
            word.load_vectors(resumed.tensors.get("word", []))
        else:
            self.stopped_in_inversion = word.train(
                self.model,
                self.network,
                self.data,
                self.process_group,
                self._show_progress,
                self._is_cancelled,
                self._notify,
            )
        return [word.parameter_group()] if self.recipe.inversion_continue else []

    def _is_cancelled(self) -> bool:
        """Whether this process was asked to stop."""
        return self.host.cancelled() or self.model.is_stop_requested()

    def _resume(self, resumed: TrainingState) -> None:
        """The network, the optimizer and the place of the state, with the settings of the recipe."""
        resume.restore_stepper(resumed, self.stepper, self._notify)
        kept = resume.files_of_this_run(resumed, self.folder, self.recipe.output_name)
        self.state = replace(resumed, tensors={}, seed=self.state.seed, kept=kept)
        self.progress = replace(
            self.progress, step=resumed.step, steps=self.steps, epoch=resumed.epoch, epochs=self.epochs
        )

    # --- the steps

    def _train(self) -> bool:
        """All epochs that are left. Returns whether the user stopped it."""
        recipe = self.recipe
        if self.stopped_in_inversion:
            path = self._save(step=0)
            self._notify(f"stopped while the new word was learned: saved as far as it is in {path.name}")
            return True
        if recipe.sample_at_first and self.state.step == 0:
            self._generate_samples(None)
        for epoch in range(self.state.epoch, self.epochs):
            if self.state.step < self.steps and self._epoch(epoch):
                self._stop()
                return True
            if self.state.step >= self.steps:
                break
            self._after_epoch(epoch + 1)
        self._finish()
        return False

    def _epoch(self, epoch: int) -> bool:
        """The batches of an epoch that are left. Returns whether to stop."""
        group = self.recipe.gradient_accumulation_steps
        count = self.data.batch_count(epoch, self.process_group.world_size)
        batches = self.data.epoch_batches(
            epoch, self.process_group.rank, self.process_group.world_size, start=self.state.batch
        )
        images = 0
        for place, batch in enumerate(batches, start=self.state.batch):
            first = place // group * group
            self.stepper.backward(batch, min(group, count - first), epoch, place)
            images += len(batch) * self.process_group.world_size
            if (place + 1) % group and place + 1 < count:
                continue
            self._after_step(epoch, place + 1, images)
            images = 0
            if self.process_group.any_process(self._is_cancelled()):
                return True
            if self.state.step >= self.steps:
                return False
        self.state.epoch, self.state.batch = epoch + 1, 0
        return False

    def _after_step(self, epoch: int, batch: int, images: int) -> None:
        now, rates = self.state, self.stepper.learning_rates
        numbers = self.stepper.optimizer_step()
        now.step, now.epoch, now.batch = now.step + 1, epoch, batch
        self.log.add(
            PendingNumbers.start_copy(
                now.step, epoch + 1, numbers, (rates.get("unet", math.nan), rates.get("text_encoder", math.nan)), images
            )
        )
        self._report_rows(self.log.collect_rows())
        recipe = self.recipe
        if now.step < self.steps and _is_due(now.step, recipe.save_every_n_steps):
            self._save(step=now.step)
        if _is_due(now.step, recipe.sample_every_n_steps):
            self._generate_samples(None)

    def _after_epoch(self, number: int) -> None:
        """Files and samples of epoch `number`, which counts from 1; the last one's file is the run's own."""
        recipe = self.recipe
        if number < self.epochs and _is_due(number, recipe.save_every_n_epochs):
            self._save(epoch=number)
        if _is_due(number, recipe.sample_every_n_epochs):
            self._generate_samples(number)

    def _report_rows(self, rows: list[LogRow]) -> None:
        """Numbers that have arrived: to the tracker, the shell, the watcher. Raises TrainError on a NaN."""
        for row in rows:
            # a scaler leaves out steps whose gradients overflow; any other such step has spoiled the network
            if not math.isfinite(row.loss + (row.grad_norm if self.stepper.scaler is None else 0)):
                raise TrainError(nan_advice(self.recipe, row, self.stepper.learning_rates, self.last_state_folder))
            if self.tracker is not None:
                self.tracker.log(row)
        if rows:
            row = rows[-1]
            left = (self.steps - row.step) * self.log.seconds_per_step
            self.progress = replace(
                self.progress, step=row.step, steps=self.steps, epoch=row.epoch, epochs=self.epochs, loss=row.loss,
                smoothed=row.smoothed, rates=self.stepper.learning_rates,
                images_per_s=row.images_per_s, seconds_left=left,
            )  # fmt: skip
            self._report_progress()

    def _report_progress(self) -> None:
        if self.process_group.is_main:
            if not self.host.cancelled():  # a shell may raise then; the file and the state are to be saved first
                self.host.progress(self.progress.step, self.steps, str(self.progress))
            if self.on_progress is not None:
                self.on_progress(self.progress)

    # --- saving

    def _save(self, *, epoch: int | None = None, step: int | None = None) -> Path:
        """The network as a file, and a state beside it where the recipe says so."""
        recipe, path = self.recipe, self.saver.path(epoch=epoch, step=step)
        self._report_rows(self.log.collect_rows(everything=True))
        if self.process_group.is_main:
            now = {"ss_steps": str(self.state.step), "ss_epoch": str(self.progress.epoch)}
            path = self.saver.save(self._lora_file(), path, {**now, "ss_output_name": path.stem})
            kind, number = ("epoch", epoch) if epoch is not None else ("step", step)
            if number is not None:
                self.saver.record_and_prune(kind, number, path)
        if recipe.save_state and (epoch is not None or step is not None):
            self._save_state(epoch=epoch, step=step)
        self.progress = replace(self.progress, file=path)
        self.final_file = path
        self._report_progress()
        self.log.restart_timing()
        self.process_group.barrier()
        return path

    def _save_state(self, *, epoch: int | None = None, step: int | None = None) -> None:
        if not self.process_group.is_main:
            return
        recipe, now = self.recipe, self.state
        folder = self.folder / f"{self.saver.stem(epoch=epoch, step=step)}{training_state.STATE_FOLDER_SUFFIX}"
        now.smoothed, now.kept = (self.log.loss_mean, self.log.initial_weight), self.saver.kept
        now.batches, now.order = resume.batch_count_and_fingerprint(self.data, now.epoch, self.process_group.world_size)
        now.recipe, now.tensors = training_state.recipe_as_json(recipe), self.stepper.state_tensors()
        now.tensors["alphas"] = resume.alphas_by_layer(self.network)
        now.tensors["word"] = [v.detach().cpu().clone() for v in self.embedding.vectors] if self.embedding else []
        self.last_state_folder = training_state.save_training_state(now, folder)
        if self.last_state_folder != folder:
            self._notify(f"{folder.name} is open in another program: saved as {self.last_state_folder.name} beside it")
        now.tensors = {}
        kind, number = ("epoch_state", epoch) if epoch is not None else ("step_state", step)
        if number is not None:
            self.saver.record_and_prune(kind, number, self.last_state_folder)

    def _stop(self) -> None:
        """The user stopped: the file and the state of now, whatever the recipe says about states."""
        step = self.state.step
        path = self._save(step=step)
        self._save_state(step=step)
        self._notify(f"stopped at step {step}: saved {path.name}; go on with --resume {self.last_state_folder}")

    def _finish(self) -> None:
        self._save()
        if self.recipe.save_state or self.recipe.save_state_on_train_end:
            self._save_state()
        if _is_due(self.epochs, self.recipe.sample_every_n_epochs) and self.state.step:
            self._generate_samples(self.epochs)

    def _lora_file(self) -> LoraFile:
        self.stepper.set_inference(True)
        try:
            file = self.network.to_lora_file()
            return (
                replace(file, embeddings={self.embedding.token: self.embedding.tensors()}) if self.embedding else file
            )
        finally:
            self.stepper.set_inference(False)

    # --- samples

    def _generate_samples(self, epoch: int | None) -> None:
        """The prompts' pictures, shared out to the processes; the network acts whole while they are drawn."""
        if not self.sample_specs:
            return
        self.stepper.set_inference(True)
        try:
            with torch.no_grad():
                new = sample_images.generate_sample_images(
                    self.model, self.sample_specs, self.folder / "sample", self.recipe.output_name, self.state.step,
                    epoch, self.state.seed,
                    rank_and_world_size=(self.process_group.rank, self.process_group.world_size), notify=self._notify,
                )  # fmt: skip
        finally:
            self.stepper.set_inference(False)
        self.sample_images += new
        if new:
            self.progress = replace(self.progress, sample=new[-1].path)
        self._report_progress()
        self.log.restart_timing()
        self.process_group.barrier()

    # --- what is told

    def _show_progress(self, done: int, total: int, text: str) -> None:
        if self.process_group.is_main:
            self.host.progress(done, total, text)

    def _notify(self, text: str) -> None:
        if self.process_group.is_main:
            self.host.notify(text)

    def _result(self, begun: float, stopped: bool) -> TrainingResult:
        files = [Path(path) for kind in ("epoch", "step") for _, path in self.saver.kept.get(kind, [])]
        final = None if stopped else self.final_file
        return TrainingResult(
            final, self.state.step, self.progress.epoch, self.progress.smoothed, time.monotonic() - begun, stopped,
            (*files, *([final] if final else [])), tuple(self.sample_images), self.last_state_folder,
        )  # fmt: skip


def _is_due(number: int, every: int | None) -> bool:
    return bool(every) and number % int(every or 1) == 0
