"""`TrainingRun`: trains a recipe's LoRA on a model and saves its files.

A resumed run continues from its saved state and gives the same result as one that was never stopped.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ...errors import TrainError
from ...file.lora_file import LoraFile
from ...inject.free_memory import is_out_of_memory
from ...progress import track_with_callback
from ...protocols import HostInterface, TrainableModel
from ..config.memory_check import check_process_count
from ..config.recipe import Recipe
from ..data.training_data import load_training_data
from . import first_pass, hub_upload, resume, sample_images, setup, training_state
from .error_advice import nan_advice, out_of_memory_advice
from .output_files import TrainingFileSaver, fixed_run_metadata
from .preflight import PreflightReport
from .process_group import ProcessGroup
from .rate_changes import change_rates, rate_metadata
from .run_reporter import OnTrainingProgress, RunReporter
from .run_requests import RunRequest, TakeRequest
from .start_position import find_length
from .textual_inversion import TrainableEmbedding
from .training_log import LogRow, PendingNumbers, TrainingLog, TrainingProgress
from .training_result import TrainingResult
from .training_state import TrainingState
from .training_step import TrainingStepper
from .validation import Validation, is_due, open_validation, report_best


@dataclass
class TrainingRun:
    """One training run.

    Attributes:
        model: The model; it is as before when the run ends.
        recipe: The settings. Raises TrainError without `output_dir`.
        host: Shows progress and notes, and says when the user stops the run.
        on_progress: Called with the progress after each step whose numbers have arrived.
        process_group: The processes that train together.
        take_request: Asked after each step of a run of one process: what the user wants now.
        preflight_report: The report made before the first step; None until then.
    """

    model: TrainableModel
    recipe: Recipe
    host: HostInterface
    on_progress: OnTrainingProgress | None = None
    process_group: ProcessGroup = field(default_factory=ProcessGroup)
    take_request: TakeRequest = RunRequest

    def __post_init__(self) -> None:
        if self.recipe.output_dir is None:
            raise TrainError("--output_dir is missing: give the folder for the results")
        self.folder = Path(self.recipe.output_dir)
        self.state = TrainingState(started=time.time())
        self.sample_images: list[sample_images.SampleImage] = []
        self.reporter = RunReporter(self.host, self.on_progress, self.process_group.is_main)
        self.last_state_folder: Path | None = None
        self.final_file: Path | None = None
        self.preflight_report: PreflightReport | None = None
        self.embedding: TrainableEmbedding | None = None
        self.stopped_in_inversion = self.is_ended_early = self.is_stop_requested = False
        self.validation: Validation | None = None

    @property
    def progress(self) -> TrainingProgress:
        """The latest progress."""
        return self.reporter.progress

    def run(self) -> TrainingResult:
        """Trains and saves.

        Returns:
            The files and the last numbers; `stopped` where the user stopped the run.

        Raises:
            TrainError: Settings contradict each other, memory or disk is full, or the loss is NaN.
        """
        begun = time.monotonic()
        try:
            stopped_copy, self.recipe = first_pass.train_first_pass(
                self.recipe, lambda first: replace(self, recipe=first).run(), self.reporter.notify
            )
            if stopped_copy is not None:
                return stopped_copy
            with ExitStack() as stack:
                self._set_up(stack)
                return self._result(begun, self._train())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainError(out_of_memory_advice(self.recipe, self.model.device, error)) from error
        except OSError as error:
            what = f"{error.filename or 'a file'}: {error.strerror or error}"
            raise TrainError(f"{what}; what was saved before is untouched") from error

    # --- before the first step

    def _set_up(self, stack: ExitStack) -> None:
        """Prepares the model, the data and the network, and restores the state that the recipe resumes from."""
        recipe, group, track = self.recipe, self.process_group, track_with_callback(self.reporter.show)
        check_process_count(recipe, group.world_size)
        setup.check_model(recipe, self.model, self.reporter.notify)
        self.sample_specs = setup.checked_sample_specs(recipe, self.model, self.reporter.notify)
        setup.create_output_folder(self.folder)
        resumed = resume.load_resumed_state(recipe, self.reporter.notify)
        self.state.seed = setup.choose_run_seed(recipe, resumed, group)
        recipe = self.recipe = setup.fit_to_network_weights(replace(recipe, seed=self.state.seed), self.reporter.notify)
        stack.enter_context(self.model.prepared_for_training(setup.training_model_options(recipe)))
        if recipe.base_weights or recipe.diff_load_1st_pass:
            stack.enter_context(setup.apply_base_weights(self.model, recipe, self.reporter.notify))
        setup.fill_image_folders(recipe, self.model, self.host, self.state.seed, group, track)
        self.data = load_training_data(recipe, self.state.seed, notify=self.reporter.notify, track=track)
        recipe = self.recipe = self.data.recipe
        trained = (recipe.trains_text, recipe.trains_unet)
        parts = {name: part for name, part in self.model.parts().items() if trained[name == "unet"]}
        self.network = stack.enter_context(setup.build_network(parts, recipe, self.reporter.notify))
        if resumed is not None:
            resume.fit_state_to_run(resumed, recipe, self.network, self.data, group.world_size, self.reporter.notify)
        at, notify = resumed or self.state, self.reporter.notify
        self.epochs, self.steps, left_out = find_length(self.data, group.world_size, at, notify)
        self.preflight_report = setup.report_preflight(self.data, self.model, self.network, group.world_size, notify)
        setup.fill_latent_cache(recipe, self.model, self.data, group, track)
        extra = self._add_embedding(stack, resumed)
        self.stepper = TrainingStepper(self.model, self.network, recipe, group, self.steps + left_out, extra)
        setup.fill_caption_cache(recipe, self.model, self.data, self.stepper.objective.encode_captions, track)
        if resumed is not None:
            self._resume(resumed)
        self.validation = open_validation(
            self.model, self.stepper, recipe, group, self.folder, self.state.step,
            track=track, notify=self.reporter.notify, embedding=self.embedding,
        )  # fmt: skip
        base = fixed_run_metadata(self.model, recipe, self.data, group.world_size, self.state.started)
        self.saver = TrainingFileSaver(recipe, base, self.state.kept, self.reporter.notify)
        table = self.folder / f"{recipe.output_name}.csv" if group.is_main else None
        self.log = TrainingLog(table, smoothed=self.state.smoothed, notify=self.reporter.notify)
        self.log.open(self.state.step)
        stack.callback(self.log.close)
        self.tracker = setup.open_tracker(recipe, self.folder, self.state.started, self.reporter.notify, group)
        if self.tracker is not None:
            stack.callback(self.tracker.close)

    def _add_embedding(self, stack: ExitStack, resumed: TrainingState | None) -> list[dict[str, Any]]:
        """Pivotal tuning: trains the token embedding or loads it from the state.

        Returns:
            The parameter groups that the run trains beside the network's.
        """
        if not self.recipe.token_string:
            return []
        self.embedding = embedding = TrainableEmbedding(self.model, self.recipe)
        stack.enter_context(self.model.with_token_embedding(embedding.token, embedding.vectors))
        embedding.prepare_captions(self.data, self.reporter.notify)
        self.sample_specs = [embedding.sample_with_token(spec) for spec in self.sample_specs]
        if resumed is not None:
            embedding.load_vectors(resumed.tensors.get("word", []))
        else:
            self.stopped_in_inversion = embedding.train(
                self.model, self.network, self.data, self.process_group,
                self.reporter.show, self._is_cancelled, self.reporter.notify,
            )  # fmt: skip
        return [embedding.parameter_group()] if self.recipe.inversion_continue else []

    def _is_cancelled(self) -> bool:
        """Whether this process was asked to stop."""
        return self.is_stop_requested or self.host.cancelled() or self.model.is_stop_requested()

    def _resume(self, resumed: TrainingState) -> None:
        """Restores network, optimizer and position from the state; the settings are the recipe's."""
        resume.restore_stepper(resumed, self.stepper, self.reporter.notify)
        kept = resume.files_of_this_run(resumed, self.folder, self.recipe.output_name)
        self.state = replace(resumed, tensors={}, seed=self.state.seed, kept=kept)
        self.reporter.progress = replace(
            self.progress, step=resumed.step, steps=self.steps, epoch=resumed.epoch, epochs=self.epochs
        )

    # --- the steps

    def _train(self) -> bool:
        """Trains the remaining epochs. Returns whether the user stopped the run."""
        recipe = self.recipe
        if self.stopped_in_inversion:
            path = self._save(step=0)
            self.reporter.notify(f"stopped while the new token was trained; the token so far is saved in {path.name}")
            return True
        if recipe.sample_at_first and self.state.step == 0:
            self._generate_samples(None)
        for epoch in range(self.state.epoch, self.epochs):
            if self.state.step < self.steps and self._epoch(epoch):
                self._stop()
                return True
            if self.state.step >= self.steps or self.is_ended_early:
                break
            self._after_epoch(epoch + 1)
            if self.is_ended_early:
                break
        self._finish()
        return False

    def _epoch(self, epoch: int) -> bool:
        """Trains the remaining batches of an epoch. Returns whether the user stopped the run."""
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
            if self.state.step >= self.steps or self.is_ended_early:
                return False
        self.state.epoch, self.state.batch = epoch + 1, 0
        return False

    def _after_step(self, epoch: int, batch: int, images: int) -> None:
        now, rates = self.state, self.stepper.learning_rates
        numbers = self.stepper.optimizer_step()
        now.step, now.epoch, now.batch = now.step + 1, epoch, batch
        both = rates.get("unet", math.nan), rates.get("text_encoder", math.nan)
        self.log.add(PendingNumbers.start_copy(now.step, epoch + 1, numbers, both, images))
        self._report_rows(self.log.collect_rows())
        recipe, request = self.recipe, self.take_request() if self.process_group.world_size == 1 else RunRequest()
        change_rates(self.stepper, now, request.lr_factor, self.reporter.notify)
        if now.step < self.steps and (request.save or is_due(now.step, recipe.save_every_n_steps)):
            self._save(step=now.step, with_state=request.save)
        self._validate(None)
        if request.sample or is_due(now.step, recipe.sample_every_n_steps):
            self._generate_samples(None)
        self.is_stop_requested = request.stop

    def _after_epoch(self, number: int) -> None:
        """Saves and samples after epoch `number` (from 1); the last epoch's file is saved by `_finish`."""
        recipe = self.recipe
        if number < self.epochs and is_due(number, recipe.save_every_n_epochs):
            self._save(epoch=number)
        self._validate(number)
        if is_due(number, recipe.sample_every_n_epochs):
            self._generate_samples(number)

    def _validate(self, epoch: int | None) -> None:
        """Measures the validation loss where it is due, and ends the run where it has stopped falling."""
        validation, step = self.validation, self.state.step
        if validation is None or not validation.is_due(step, epoch):
            return
        loss = validation.measure(step, epoch or self.state.epoch + 1, self.reporter.notify)
        if self.tracker is not None:
            self.tracker.log_value("loss/validation", loss, step)
        if validation.lowest()[0] == step:
            self._write_file(self.saver.best_path)
        self.is_ended_early = validation.has_stopped_improving()
        self.log.restart_timing()

    def _report_rows(self, rows: list[LogRow]) -> None:
        """Reports numbers that have arrived. Raises TrainError for NaN and infinity."""
        for row in rows:
            # with a gradient scaler an overflowing step was skipped; without one it has spoiled the network
            if not math.isfinite(row.loss + (row.grad_norm if self.stepper.scaler is None else 0)):
                raise TrainError(nan_advice(self.recipe, row, self.stepper.learning_rates, self.last_state_folder))
            if self.tracker is not None:
                self.tracker.log(row)
        if rows:
            row = rows[-1]
            self.reporter.report(
                self.steps, step=row.step, steps=self.steps, epoch=row.epoch, epochs=self.epochs, loss=row.loss,
                smoothed=row.smoothed, rates=self.stepper.learning_rates,
                images_per_s=row.images_per_s, seconds_left=(self.steps - row.step) * self.log.seconds_per_step,
            )  # fmt: skip

    # --- saving

    def _save(self, *, epoch: int | None = None, step: int | None = None, with_state: bool = False) -> Path:
        """Saves the network, and a state beside it where the recipe or `with_state` asks. Returns the file."""
        recipe, path = self.recipe, self.saver.path(epoch=epoch, step=step)
        self._report_rows(self.log.collect_rows(everything=True))
        path = self._write_file(path)
        if self.process_group.is_main:
            self.saver.record_and_prune(path, epoch=epoch, step=step)
        if (recipe.save_state or with_state) and (epoch is not None or step is not None):
            self._save_state(epoch=epoch, step=step)
        self.final_file = path
        self.reporter.report(self.steps, file=path)
        self.log.restart_timing()
        self.process_group.barrier()
        return path

    def _write_file(self, path: Path) -> Path:
        """Writes the network as it is now, in the main process. Returns where it is."""
        if not self.process_group.is_main:
            return path
        now = {"ss_steps": str(self.state.step), "ss_epoch": str(self.progress.epoch), **rate_metadata(self.state)}
        return self.saver.save(self._lora_file(), path, now)

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
            self.reporter.notify(
                f"{folder.name} is open in another program: saved as {self.last_state_folder.name} beside it"
            )
        now.tensors = {}
        self.saver.record_and_prune(self.last_state_folder, epoch=epoch, step=step, is_state=True)

    def _stop(self) -> None:
        """Saves the file and a state, also without `save_state`, because the user stopped the run."""
        path = self._save(step=self.state.step, with_state=True)
        self.reporter.notify(
            f"stopped at step {self.state.step}: saved {path.name}; continue with --resume {self.last_state_folder}"
        )

    def _finish(self) -> None:
        if self.state.step:
            self._validate(self.epochs)
        self._save()
        if self.recipe.save_state or self.recipe.save_state_on_train_end:
            self._save_state()
        if is_due(self.epochs, self.recipe.sample_every_n_epochs) and self.state.step:
            self._generate_samples(self.epochs)
        hub_upload.upload_result(self.recipe, self.final_file, self.process_group.is_main, self.reporter.notify)

    def _lora_file(self) -> LoraFile:
        with self.stepper.inference():
            file = self.network.to_lora_file()
        return replace(file, embeddings={self.embedding.token: self.embedding.tensors()}) if self.embedding else file

    # --- samples

    def _generate_samples(self, epoch: int | None) -> None:
        """Generates the sample images, shared out to the processes, with the network in inference mode."""
        if not self.sample_specs:
            return
        with self.stepper.inference(), torch.no_grad():
            new = sample_images.generate_sample_images(
                self.model, self.sample_specs, self.folder / "sample", self.recipe.output_name, self.state.step,
                epoch, self.state.seed,
                rank_and_world_size=(self.process_group.rank, self.process_group.world_size),
                notify=self.reporter.notify,
            )  # fmt: skip
        self.sample_images += new
        self.reporter.report(self.steps, **({"sample": new[-1].path} if new else {}))
        self.log.restart_timing()
        self.process_group.barrier()

    def _result(self, begun: float, stopped: bool) -> TrainingResult:
        files = [Path(path) for kind in ("epoch", "step") for _, path in self.saver.kept.get(kind, [])]
        report_best(self.validation, self.saver.best_path, self.final_file, self.state.step, self.reporter.notify)
        final = None if stopped else self.final_file
        return TrainingResult(
            final, self.state.step, self.progress.epoch, self.progress.smoothed, time.monotonic() - begun, stopped,
            (*files, *([final] if final else [])), tuple(self.sample_images), self.last_state_folder,
        )  # fmt: skip
