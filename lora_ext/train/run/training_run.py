"""`Run`: a recipe, a borrowed model and a shell → trained files. It goes on from a saved state as if never stopped."""

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
from ...progress import through
from ...protocols import Shell, Trainee
from ..config.recipe import Recipe
from ..data.dataset import Dataset
from . import resume, sample_images, setup, training_state
from .error_advice import no_number, out_of_memory, spare_memory
from .output_files import Saver, described, modelspec
from .preflight import Preflight
from .process_group import Processes
from .textual_inversion import Word
from .training_log import Log, Progress, Row, Taken
from .training_result import Outcome
from .training_state import State
from .training_step import Stepper

Watch = Callable[[Progress], None]


@dataclass
class Run:
    """One training run.

    watch: is told how far it is, after each step whose numbers have arrived. team: the processes that train together.
    report: what was found before the first step.
    """

    trainee: Trainee
    recipe: Recipe
    shell: Shell
    watch: Watch | None = None
    team: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        if self.recipe.output_dir is None:
            raise TrainError("there is no --output_dir: the folder for the results")
        self.folder = Path(self.recipe.output_dir)
        self.state = State(started=time.time())
        self.drawn: list[sample_images.Drawn] = []
        self.progress = Progress()
        self.last_state: Path | None = None
        self.final: Path | None = None
        self.report: Preflight | None = None
        self.word: Word | None = None
        self.cut = False

    def run(self) -> Outcome:
        """Trains. Raises TrainError: nonsense in the recipe, no memory, a full disk, a loss that is no number."""
        begun = time.monotonic()
        try:
            with ExitStack() as stack:
                self._open(stack)
                stopped = self._train()
                return self._outcome(begun, stopped)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise TrainError(spare_memory(self.recipe, self.trainee.device, error)) from error
        except OSError as error:
            what = f"{error.filename or 'a file'}: {error.strerror or error}"
            raise TrainError(f"{what}; what was saved before is untouched") from error

    # --- before the first step

    def _open(self, stack: ExitStack) -> None:
        """Borrows the model, looks at the data, makes the network, and goes on from a state if one is given."""
        recipe = self.recipe
        setup.check_model(recipe, self.trainee, self._say)
        self.wishes = setup.wishes(recipe, self.trainee)
        setup.make_folder(self.folder)
        resumed = resume.saved_state(recipe, self._say)
        self.state.seed = setup.seed(recipe, resumed, self.team)
        recipe = self.recipe = replace(recipe, seed=self.state.seed)
        stack.enter_context(self.trainee.prepared(setup.borrowing(recipe)))
        setup.regularise(recipe, self.trainee, self.shell, self.state.seed, self.team, through(self._show))
        self.data = Dataset.of(recipe, self.state.seed, say=self._say, track=through(self._show))
        recipe = self.recipe = self.data.recipe
        parts = {p: net for p, net in self.trainee.parts().items() if self._learns(p)}
        self.network = stack.enter_context(setup.network(parts, recipe, self._say))
        if resumed is not None:
            resume.fit(resumed, recipe, self.network, self.data, self.team.world, self._say)
        at = resumed or self.state
        self.epochs, self.steps = self.data.length(self.team.world, epoch=at.epoch, batch=at.batch, step=at.step)
        self.report = setup.look(self.data, self.trainee, self.network, self.team.world, self._say)
        setup.cache(recipe, self.trainee, self.data, self.team, through(self._show))
        extra = self._word(stack, resumed)
        self.stepper = Stepper(self.trainee, self.network, recipe, self.team, self.steps, extra)
        setup.cache_text(recipe, self.trainee, self.data, self.stepper.objective.captions, through(self._show))
        if resumed is not None:
            self._resume(resumed)
        base = {**self.trainee.metadata(), **described(recipe, self.data, self.team.world, self.state.started)}
        base |= modelspec(recipe, self.trainee.family, self.trainee.prediction, recipe.output_name)
        self.saver = Saver(recipe, base, self.state.kept, self._say)
        table = self.folder / f"{recipe.output_name}.csv" if self.team.main else None
        self.log = Log(table, smoothed=self.state.smoothed, say=self._say)
        self.log.open(self.state.step)
        stack.callback(self.log.close)
        self.tracker = setup.tracker(recipe, self.folder, self.state.started) if self.team.main else None
        if self.tracker is not None:
            stack.callback(self.tracker.close)

    def _learns(self, part: str) -> bool:
        return self.recipe.trains_unet if part == "unet" else self.recipe.trains_text

    def _word(self, stack: ExitStack, resumed: State | None) -> list[dict[str, Any]]:
        """Pivotal tuning: the new word, learned or from the state; returns what goes on learning beside the network."""
        if not self.recipe.token_string:
            return []
        self.word = word = Word(self.trainee, self.recipe)
        stack.enter_context(self.trainee.new_word(word.name, word.vectors))
        word.announce(self.data, self._say)
        self.wishes = [word.in_prompt(wish) for wish in self.wishes]
        if resumed is not None:
            word.load(resumed.tensors.get("word", []))
        else:
            self.cut = word.learn(self.trainee, self.network, self.data, self.team, self._show, self._asked, self._say)
        return [word.group()] if self.recipe.inversion_continue else []

    def _asked(self) -> bool:
        """Whether this process was asked to stop."""
        return self.shell.cancelled() or self.trainee.stopping()

    def _resume(self, resumed: State) -> None:
        """The network, the optimizer and the place of the state, with the settings of the recipe."""
        resume.load(resumed, self.stepper, self._say)
        kept = resume.own_files(resumed, self.folder, self.recipe.output_name)
        self.state = replace(resumed, tensors={}, seed=self.state.seed, kept=kept)
        self.progress = replace(
            self.progress, step=resumed.step, steps=self.steps, epoch=resumed.epoch, epochs=self.epochs
        )

    # --- the steps

    def _train(self) -> bool:
        """All epochs that are left. Returns whether the user stopped it."""
        recipe = self.recipe
        if self.cut:
            path = self._save(step=0)
            self._say(f"stopped while the new word was learned: saved as far as it is in {path.name}")
            return True
        if recipe.sample_at_first and self.state.step == 0:
            self._sample(None)
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
        count = self.data.batches(epoch, self.team.world)
        batches = self.data.epoch(epoch, self.team.rank, self.team.world, start=self.state.batch)
        images = 0
        for place, batch in enumerate(batches, start=self.state.batch):
            first = place // group * group
            self.stepper.backward(batch, min(group, count - first), epoch, place)
            images += len(batch) * self.team.world
            if (place + 1) % group and place + 1 < count:
                continue
            self._after_step(epoch, place + 1, images)
            images = 0
            if self.team.any(self._asked()):
                return True
            if self.state.step >= self.steps:
                return False
        self.state.epoch, self.state.batch = epoch + 1, 0
        return False

    def _after_step(self, epoch: int, batch: int, images: int) -> None:
        now, rates = self.state, self.stepper.rates
        numbers = self.stepper.move()
        now.step, now.epoch, now.batch = now.step + 1, epoch, batch
        self.log.add(
            Taken.of(
                now.step, epoch + 1, numbers, (rates.get("unet", math.nan), rates.get("text_encoder", math.nan)), images
            )
        )
        self._tell(self.log.read())
        recipe = self.recipe
        if now.step < self.steps and _due(now.step, recipe.save_every_n_steps):
            self._save(step=now.step)
        if _due(now.step, recipe.sample_every_n_steps):
            self._sample(None)

    def _after_epoch(self, number: int) -> None:
        """Files and samples of epoch `number`, which counts from 1; the last one's file is the run's own."""
        recipe = self.recipe
        if number < self.epochs and _due(number, recipe.save_every_n_epochs):
            self._save(epoch=number)
        if _due(number, recipe.sample_every_n_epochs):
            self._sample(number)

    def _tell(self, rows: list[Row]) -> None:
        """Numbers that have arrived: to the tracker, the shell, the watcher. Raises TrainError on a NaN."""
        for row in rows:
            # a scaler leaves out steps whose gradients overflow; any other such step has spoiled the network
            if not math.isfinite(row.loss + (row.grad_norm if self.stepper.scaler is None else 0)):
                raise TrainError(no_number(self.recipe, row, self.stepper.rates, self.last_state))
            if self.tracker is not None:
                self.tracker.log(row)
        if rows:
            row = rows[-1]
            left = (self.steps - row.step) * self.log.seconds_a_step
            self.progress = replace(
                self.progress, step=row.step, steps=self.steps, epoch=row.epoch, epochs=self.epochs, loss=row.loss,
                smoothed=row.smoothed, rates=self.stepper.rates, images_per_s=row.images_per_s, seconds_left=left,
            )  # fmt: skip
            self._report()

    def _report(self) -> None:
        if self.team.main:
            if not self.shell.cancelled():  # a shell may raise then; the file and the state are to be saved first
                self.shell.progress(self.progress.step, self.steps, str(self.progress))
            if self.watch is not None:
                self.watch(self.progress)

    # --- saving

    def _save(self, *, epoch: int | None = None, step: int | None = None) -> Path:
        """The network as a file, and a state beside it where the recipe says so."""
        recipe, path = self.recipe, self.saver.path(epoch=epoch, step=step)
        self._tell(self.log.read(everything=True))
        if self.team.main:
            now = {"ss_steps": str(self.state.step), "ss_epoch": str(self.progress.epoch)}
            path = self.saver.save(self._file(), path, {**now, "ss_output_name": path.stem})
            kind, number = ("epoch", epoch) if epoch is not None else ("step", step)
            if number is not None:
                self.saver.let_go(kind, number, path)
        if recipe.save_state and (epoch is not None or step is not None):
            self._save_state(epoch=epoch, step=step)
        self.progress = replace(self.progress, file=path)
        self.final = path
        self._report()
        self.log.pause()
        self.team.wait()
        return path

    def _save_state(self, *, epoch: int | None = None, step: int | None = None) -> None:
        if not self.team.main:
            return
        recipe, now = self.recipe, self.state
        folder = self.folder / f"{self.saver.stem(epoch=epoch, step=step)}{training_state.SUFFIX}"
        now.smoothed, now.kept = (self.log.mean, self.log.left), self.saver.kept
        now.batches, now.order = resume.batches_of(self.data, now.epoch, self.team.world)
        now.recipe, now.tensors = training_state.plain(recipe), self.stepper.tensors()
        now.tensors["alphas"] = resume.alphas(self.network)
        now.tensors["word"] = [v.detach().cpu().clone() for v in self.word.vectors] if self.word else []
        self.last_state = training_state.save(now, folder)
        if self.last_state != folder:
            self._say(f"{folder.name} is open in another program: saved as {self.last_state.name} beside it")
        now.tensors = {}
        kind, number = ("epoch_state", epoch) if epoch is not None else ("step_state", step)
        if number is not None:
            self.saver.let_go(kind, number, self.last_state)

    def _stop(self) -> None:
        """The user stopped: the file and the state of now, whatever the recipe says about states."""
        step = self.state.step
        path = self._save(step=step)
        self._save_state(step=step)
        self._say(f"stopped at step {step}: saved {path.name}; go on with --resume {self.last_state}")

    def _finish(self) -> None:
        self._save()
        if self.recipe.save_state or self.recipe.save_state_on_train_end:
            self._save_state()
        if _due(self.epochs, self.recipe.sample_every_n_epochs) and self.state.step:
            self._sample(self.epochs)

    def _file(self) -> LoraFile:
        self.stepper.whole(True)
        try:
            file = self.network.file()
            return replace(file, embeddings={self.word.name: self.word.tensors()}) if self.word else file
        finally:
            self.stepper.whole(False)

    # --- samples

    def _sample(self, epoch: int | None) -> None:
        """The prompts' pictures, shared out to the processes; the network acts whole while they are drawn."""
        if not self.wishes:
            return
        self.stepper.whole(True)
        try:
            with torch.no_grad():
                new = sample_images.draw(
                    self.trainee, self.wishes, self.folder / "sample", self.recipe.output_name, self.state.step,
                    epoch, self.state.seed, share=(self.team.rank, self.team.world), say=self._say,
                )  # fmt: skip
        finally:
            self.stepper.whole(False)
        self.drawn += new
        if new:
            self.progress = replace(self.progress, sample=new[-1].path)
        self._report()
        self.log.pause()
        self.team.wait()

    # --- what is told

    def _show(self, done: int, total: int, text: str) -> None:
        if self.team.main:
            self.shell.progress(done, total, text)

    def _say(self, text: str) -> None:
        if self.team.main:
            self.shell.say(text)

    def _outcome(self, begun: float, stopped: bool) -> Outcome:
        files = [Path(path) for kind in ("epoch", "step") for _, path in self.saver.kept.get(kind, [])]
        final = None if stopped else self.final
        return Outcome(
            final, self.state.step, self.progress.epoch, self.progress.smoothed, time.monotonic() - begun, stopped,
            (*files, *([final] if final else [])), tuple(self.drawn), self.last_state,
        )  # fmt: skip


def _due(number: int, every: int | None) -> bool:
    return bool(every) and number % int(every or 1) == 0
