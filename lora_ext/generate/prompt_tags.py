"""Which LoRA tags of a prompt can be applied, and what each applies; the others become notes, or errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ..adapter_spec import AdapterSpec, Presets, resolve_tag
from ..errors import LoraError
from ..file.lora_library import LoraLibrary
from ..lora_tags import LoraTag
from ..region_masks import MaskFolders


@contextmanager
def tag_errors_as_notes(notes: list[str], strict: bool) -> Iterator[None]:
    """Turns an error about one tag into a note, unless `strict` is set."""
    try:
        yield
    except LoraError as error:
        if strict:
            raise
        notes.append(f"tag skipped: {error}")


def tags_with_file(tags: Sequence[LoraTag], library: LoraLibrary, notes: list[str], strict: bool) -> list[LoraTag]:
    """The tags whose file the library has; the others become notes, or an error if `strict`."""
    found: list[LoraTag] = []
    for tag in tags:
        with tag_errors_as_notes(notes, strict):
            library.find(tag.name)
            found.append(tag)
    return found


def resolve_tags(
    tags: Sequence[LoraTag],
    library: LoraLibrary,
    presets: Presets,
    masks: MaskFolders,
    seed: int,
    notes: list[str],
    strict: bool,
) -> tuple[list[LoraTag], list[AdapterSpec], list[AdapterSpec]]:
    """(the tags that can be applied, what each applies, what it applies in the hires pass).

    The others become notes, or an error if `strict`.
    """
    found: list[tuple[LoraTag, AdapterSpec]] = []
    for tag in tags:
        with tag_errors_as_notes(notes, strict):
            spec = resolve_tag(tag, library, presets, seed=seed)
            found.append((tag, replace(spec, region=masks.loaded(spec.region))))
    hires = [
        spec
        if tag.hires is None
        else replace(resolve_tag(tag.for_hires_pass(), library, presets, seed=seed), region=spec.region)
        for tag, spec in found
    ]
    return [tag for tag, _ in found], [spec for _, spec in found], hires
