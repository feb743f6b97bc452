"""The report before the first step: what is trained, how often, how long, in how much memory; checks for errors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...counted_words import counted, fill_counts
from ...errors import TrainError
from ...protocols import VAE_SCALE_FACTOR, TrainableModel
from ..config.recipe import Recipe
from ..data.buckets import PixelSize
from ..data.captions import longest_token_count
from ..data.dataset import Dataset, SampleUnit
from ..data.dataset_scan import DatasetImage
from ..data.picture_edit import picture_edit_path
from ..data.prompt_dataset import PromptDataset
from ..network.layer_targets import count_by_sort, trained_layers
from .cost_estimate import BYTES_IN_GIB, CostEstimate, estimate_cost, format_rough_duration

MANY_STEPS = 200_000
"""Steps above which the report asks whether they are meant."""


@dataclass(frozen=True)
class ConceptReport:
    """One folder.

    Attributes:
        folder: Its name.
        concept: The caption of its images without one.
        pictures: Number of images.
        repeats: How often each is used in an epoch.
        turns: Samples in the first epoch.
        regularisation: Whether they are regularisation images.
        without_caption: Number of images without a caption of their own.
    """

    folder: str
    concept: str
    pictures: int
    repeats: int
    turns: int
    regularisation: bool
    without_caption: int


@dataclass(frozen=True)
class BucketReport:
    """One size.

    Attributes:
        size: (width, height) in pixels.
        pictures: Number of images.
        turns: Samples in the first epoch.
        batches: Batches in the first epoch.
    """

    size: PixelSize
    pictures: int
    turns: int
    batches: int


@dataclass(frozen=True)
class PreflightReport:
    """All numbers of the report.

    Attributes:
        concepts: The folders.
        buckets: The sizes.
        batch_size: Images in a batch of one process.
        world: Number of processes.
        batches: Batches in the first epoch.
        accumulation: Batches whose gradients make one step.
        steps_per_epoch: Optimizer steps in the first epoch.
        epochs: Epochs of the run.
        steps: Optimizer steps of the run.
        without_caption: Training images without a caption of their own.
        longest: Tokens of the longest caption; 0 if nothing counts them.
        limit: Tokens that captions are cut to.
        too_long: (image, tokens) of captions above the limit, the longest first.
        duplicates: Groups of files with the same content.
        skipped: A sentence for each image that cannot be read.
        notes: Sentences about what is possible but seldom meant.
        expected: Memory and time; None without a model.
        layers: Sort of layers → how many are trained; empty without a model.
        unit: What is counted as pictures: "pictures", "pairs" of them, or "prompts" in modes without pictures.
    """

    concepts: tuple[ConceptReport, ...]
    buckets: tuple[BucketReport, ...]
    batch_size: int
    world: int
    batches: int
    accumulation: int
    steps_per_epoch: int
    epochs: int
    steps: int
    without_caption: tuple[str, ...]
    longest: int
    limit: int
    too_long: tuple[tuple[str, int], ...]
    duplicates: tuple[tuple[str, ...], ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    expected: CostEstimate | None
    layers: Mapping[str, int]
    unit: SampleUnit = "pictures"

    @property
    def seconds(self) -> float:
        """Seconds of the whole run; 0 if unknown."""
        return self.expected.seconds * self.steps if self.expected else 0.0

    @property
    def seconds_range(self) -> tuple[float, float]:
        """Between which the seconds of the whole run are expected; 0 if unknown."""
        low, high = self.expected.seconds_range if self.expected else (0.0, 0.0)
        return low * self.steps, high * self.steps

    def text(self) -> str:
        """The report as text.

        Returns:
            One fact a line; warnings begin with "!".
        """
        return "\n".join(_lines(self))


def run_preflight(
    data: Dataset,
    model: TrainableModel | None = None,
    *,
    parameter_count: int = 0,
    world_size: int = 1,
    count_tokens: Callable[[str], int] | None = None,
) -> PreflightReport:
    """Checks a data set, and the model if it is given.

    Args:
        data: The data set.
        model: The model; without it memory, time and tokens are not reported.
        parameter_count: Number of trained numbers.
        world_size: Number of processes.
        count_tokens: Caption → number of tokens; the model's without it.

    Returns:
        The report.

    Raises:
        TrainError: The settings contradict the data; the message says what to change.
    """
    recipe = data.recipe
    count_tokens = model.token_count if count_tokens is None and model is not None else count_tokens
    epochs, steps = data.run_length(world_size)
    _check_contradictions(data, steps)
    buckets = _buckets(data, world_size)
    lengths = _lengths(data, count_tokens) if count_tokens else {}
    limit = recipe.max_token_length
    largest = max((bucket.size for bucket in buckets), key=lambda size: size[0] * size[1])
    samples = sum(bucket.turns for bucket in buckets)
    pixels = sum(b.turns * b.size[0] * b.size[1] / VAE_SCALE_FACTOR**2 for b in buckets) / samples
    concepts = _concepts(data)
    regular = sum(concept.turns for concept in concepts if concept.regularisation) / samples
    layer_ids, unmatched = trained_layers(model.parts(), recipe) if model is not None else ([], [])
    found = PreflightReport(
        concepts=concepts,
        buckets=buckets,
        batch_size=recipe.train_batch_size,
        world=world_size,
        batches=data.batch_count(0, world_size),
        accumulation=recipe.gradient_accumulation_steps,
        steps_per_epoch=data.step_count(0, world_size),
        epochs=epochs,
        steps=steps,
        without_caption=tuple(
            str(p.path) for p in data.images if not p.has_caption and not _is_regularisation(data, p.subset)
        ),
        longest=max(lengths.values(), default=0),
        limit=limit,
        too_long=tuple((path, n) for path, n in sorted(lengths.items(), key=lambda row: -row[1]) if n > limit),
        duplicates=_duplicates(data),
        skipped=data.scan.skipped,
        notes=(*_notes(data, steps), *(f"{pattern!r} matches no layer of this model" for pattern in unmatched)),
        expected=(
            estimate_cost(recipe, model, parameter_count, largest, pixels, regular) if model is not None else None
        ),
        layers=count_by_sort(layer_ids),
        unit=data.unit,
    )
    return found


def _is_regularisation(data: Dataset, subset: int) -> bool:
    return data.subsets[subset].regularisation


def _check_contradictions(data: Dataset, steps: int) -> None:
    """Raises TrainError for settings that contradict the data."""
    recipe = data.recipe
    if recipe.masked_loss and not any(p.mask or data.subsets[p.subset].augmentation.alpha_mask for p in data.images):
        raise TrainError(
            "masked_loss is set, but no picture has a mask; put masks of the same names into conditioning_data_dir, "
            "set alpha_mask, or leave masked_loss out"
        )
    warm = recipe.lr_warmup_steps
    if warm >= 1 and warm >= steps:
        raise TrainError(
            f"lr_warmup_steps {warm:g} takes all of the {counted(steps, 'step')}; make it smaller, such as 0.1"
        )
    varies = [s.name for s in data.subsets if not s.caption_rules.fixed]
    if recipe.cache_text_encoder_outputs and varies and recipe.dataset_config:
        raise TrainError(
            f"captions of {varies[0]} change from step to step, so their text-encoder outputs cannot be cached; "
            "leave out cache_text_encoder_outputs, or shuffling, dropout and wildcards"
        )


def _concepts(data: Dataset) -> tuple[ConceptReport, ...]:
    samples = Counter(data.images[item.image].subset for item in data.sample_order.epoch_items(0))
    rows = []
    for index, subset in enumerate(data.subsets):
        mine = [p for p in data.images if p.subset == index]
        bare = sum(not p.has_caption for p in mine)
        rows.append(
            ConceptReport(
                subset.name, subset.concept, len(mine), subset.repeats, samples[index], subset.regularisation, bare
            )
        )
    return tuple(rows)


def _buckets(data: Dataset, world_size: int) -> tuple[BucketReport, ...]:
    pictures = Counter(p.bucket_fit.bucket for p in data.images)
    samples = Counter(data.images[item.image].bucket_fit.bucket for item in data.sample_order.epoch_items(0))
    batches = Counter(chunk.bucket for chunk in data.sample_order.epoch_batches(0, world_size))
    return tuple(BucketReport(size, pictures[size], samples[size], batches[size]) for size in sorted(pictures))


def _lengths(data: Dataset, count_tokens: Callable[[str], int]) -> dict[str, int]:
    """Image → tokens of its caption's longest variation."""
    known: dict[tuple[str, int], int] = {}
    for image in data.images:
        key = image.caption, image.subset
        if key not in known:
            known[key] = longest_token_count(image.caption, data.subsets[image.subset].caption_rules, count_tokens)
    return {str(p.path): known[p.caption, p.subset] for p in data.images}


def _duplicates(data: Dataset) -> tuple[tuple[str, ...], ...]:
    """Groups of different files with the same content; the same file in two data sets is not one."""
    same: dict[str, list[str]] = defaultdict(list)
    for image in data.images:
        if str(image.path) not in same[image.digest]:
            same[image.digest].append(str(image.path))
    return tuple(tuple(paths) for paths in same.values() if len(paths) > 1)


def _notes(data: Dataset, steps: int) -> Iterator[str]:
    """Yields sentences about what is possible but seldom meant."""
    recipe = data.recipe
    train = [p for p in data.images if not _is_regularisation(data, p.subset)]
    regular = len(data.images) - len(train)
    if recipe.mode == "difference" and recipe.original_image and recipe.target_image and not recipe.diff_load_1st_pass:
        yield "mode difference trains twice, first a copy of original_image; steps and time are those of one pass"
    if steps > MANY_STEPS:
        yield f"{steps:,} steps are unusually many; fewer dataset_repeats or max_train_epochs may be meant"
    yield from _caption_notes(data, train)
    yield from _size_notes(recipe, train)
    if recipe.reg_data_dir and not regular:
        if recipe.reg_generate:
            yield "reg_generate draws the regularisation pictures first; with them there are twice as many steps"
        else:
            yield (
                f"reg_data_dir {recipe.reg_data_dir} has no picture that can be read, so there is no regularisation; "
                "reg_generate generates the pictures"
            )
    if recipe.keep_tokens and recipe.shuffle_caption:
        kept_whole = sum(p.caption.count(recipe.caption_separator) < recipe.keep_tokens for p in train)
        if kept_whole == len(train):
            yield f"keep_tokens {recipe.keep_tokens} keeps all tags of every caption, so nothing is shuffled"
    yield from _mask_notes(recipe, train)


def _caption_notes(data: Dataset, train: Sequence[DatasetImage]) -> Iterator[str]:
    # before a prefix none is missing: the trigger word alone is then the caption
    without_text = 0 if data.recipe.caption_prefix or data.recipe.caption_suffix else sum(not p.caption for p in train)
    if without_text and without_text == len(train):
        yield "no picture has a caption and no folder a concept, so there is no trigger word; set caption_prefix"
    elif without_text and not isinstance(data, PromptDataset):  # there an empty prompt is meant
        yield counted(
            without_text,
            "picture has neither a caption nor a folder such as '10_concept'; it gets an empty one",
            "pictures have neither a caption nor a folder such as '10_concept'; they get an empty one",
        )


def _size_notes(recipe: Recipe, train: Sequence[DatasetImage]) -> Iterator[str]:
    small = sum(p.bucket_fit.resized[0] > 1.5 * p.size[0] for p in train)
    if small:
        yield counted(
            small,
            "picture is much smaller than its bucket and becomes blurred; set a lower resolution",
            "pictures are much smaller than their bucket and become blurred; set a lower resolution",
        )
    cut = sum(p.bucket_fit.cut_share > 0.3 for p in train)
    if cut:
        hint = "" if recipe.enable_bucket else "; enable_bucket keeps their aspect ratio"
        yield f"more than 30% of {counted(cut, 'picture')} is cut off{hint}"


def _mask_notes(recipe: Recipe, train: Sequence[DatasetImage]) -> Iterator[str]:
    missing = sum(p.mask is None for p in train)
    if recipe.masked_loss and missing and not recipe.alpha_mask:
        yield counted(
            missing,
            "picture has no mask; its whole area is trained",
            "pictures have no mask; their whole area is trained",
        )
    cropped, painted = sum(p.crop is not None for p in train), sum(p.mask == picture_edit_path(p.path) for p in train)
    if cropped:
        yield fill_counts("{0} pictures are cropped by hand", cropped)
    if painted:
        yield fill_counts("{0} pictures have a painted mask; what it leaves out is not learned", painted)


# --- text ------------------------------------------------------------------------------------------------------------


def _lines(report: PreflightReport) -> Iterator[str]:
    for c in report.concepts:
        much = f"{c.pictures} regularisation" if c.regularisation else _repeated(report, c)
        line = f"{c.folder}: {much} = {counted(c.turns, 'sample')} an epoch"
        used = f" ({c.concept!r} is used)" if c.concept else ""
        yield f"{line}, {c.without_caption} without a caption{used}" if c.without_caption else line
    yield _sum(report)
    if report.layers:
        yield f"trained layers: {', '.join(f'{n} {sort}' for sort, n in report.layers.items())}"
    if len(report.buckets) > 1 or report.buckets[0].pictures > 0:
        rows = (
            f"{b.size[0]}x{b.size[1]} {b.pictures} ({counted(b.batches, 'batch', 'batches')})" for b in report.buckets
        )
        sizes = ", ".join(rows)
        yield {
            "pictures": f"pictures by size: {sizes}",
            "pairs": f"pairs by size: {sizes}",
            "prompts": f"prompts by size: {sizes}",
        }[report.unit]
    if report.longest:
        yield f"longest caption: {report.longest} of {report.limit} tokens"
    for path, tokens in report.too_long[:3]:
        wide = next((n for n in (150, 225) if n >= tokens), None)
        hint = f"max_token_length {wide} takes it whole" if wide else "shorten it"
        if len(report.too_long) > 1:
            hint = f"{hint} (and {len(report.too_long) - 1} more)"
        yield _marked(f"{path} has a caption of {tokens} tokens; what is after {report.limit} is cut off; {hint}")
        break
    for group in report.duplicates[:3]:
        yield _marked(f"the same picture more than once: {', '.join(group[:4])}")
    if len(report.duplicates) > 3:
        yield _marked(f"and {counted(len(report.duplicates) - 3, 'more such picture')}")
    yield from (_marked(f"skipped: {sentence}") for sentence in report.skipped[:5])
    if len(report.skipped) > 5:
        yield _marked(f"skipped: {counted(len(report.skipped) - 5, 'more picture')} that cannot be read")
    yield from map(_marked, report.notes)
    yield from _cost_lines(report)


def _marked(warning: str) -> str:
    return f"! {warning}"


def _repeated(report: PreflightReport, concept: ConceptReport) -> str:
    images, repeats = concept.pictures, concept.repeats
    return {
        "pictures": f"{counted(images, 'picture')} × {counted(repeats, 'repeat')}",
        "pairs": f"{counted(images, 'pair')} × {counted(repeats, 'repeat')}",
        "prompts": f"{counted(images, 'prompt')} × {counted(repeats, 'repeat')}",
    }[report.unit]


def _sum(report: PreflightReport) -> str:
    """The line with the number of steps, such as `98 pictures × 100 repeats × 10 epochs = 98,000 steps`."""
    samples = sum(c.turns for c in report.concepts)
    train = [c for c in report.concepts if not c.regularisation]
    plain = (
        samples == report.batches == report.steps_per_epoch and report.steps == report.epochs * report.steps_per_epoch
    )
    if plain and len(report.concepts) == 1:
        c = train[0]
        pattern = {
            "pictures": "{0} pictures × {1} repeats × {2} epochs = {3} steps",
            "pairs": "{0} pairs × {1} repeats × {2} epochs = {3} steps",
            "prompts": "{0} prompts × {1} repeats × {2} epochs = {3} steps",
        }[report.unit]
        return fill_counts(pattern, c.pictures, c.repeats, report.epochs, f"{report.steps:,}")
    text = f"{counted(samples, 'sample')} in {counted(report.batches, 'batch', 'batches')} of up to {report.batch_size}"
    if report.world > 1:
        text = f"{text} on {report.world} processes"
    if report.accumulation > 1:
        text = f"{text}, {report.accumulation} of them a step"
    each, steps = f"{report.steps_per_epoch:,}", f"{report.steps:,}"
    if report.steps == report.epochs * report.steps_per_epoch:
        return fill_counts("{0} = {1} steps an epoch × {2} epochs = {3} steps", text, each, report.epochs, steps)
    return fill_counts("{0} = {1} steps an epoch; {2} steps in all, {3} epochs", text, each, steps, report.epochs)


def _cost_lines(report: PreflightReport) -> Iterator[str]:
    if report.expected is None:
        return
    e = report.expected
    weights, training, activations = (x / BYTES_IN_GIB for x in (e.weights, e.training, e.activations))
    split = f"{weights:.1f} weights, {training:.1f} training state, {activations:.1f} a batch"
    yield f"memory: about {e.bytes / BYTES_IN_GIB:.1f} GiB ({split})"
    if e.have and e.bytes > e.have:
        yield _marked(f"that is more than the {e.have / BYTES_IN_GIB:.1f} GiB that are free; use {e.spare}")
    if e.seconds:
        low, high = map(format_rough_duration, report.seconds_range)
        yield f"time: about {low} to {high}, until steps were measured ({e.seconds:.2g} s a step)"
