"""`MetadataOptions`: the options of `Recipe` that describe the file in its metadata."""

from __future__ import annotations

from dataclasses import dataclass

from .recipe_option import recipe_option


@dataclass(frozen=True)
class MetadataOptions:
    """What a file says of itself (`modelspec.*`); each option's help says what it does."""

    no_metadata: bool = recipe_option(False, "write no ss_* metadata", "metadata")
    training_comment: str | None = recipe_option(None, "a remark for the metadata", "metadata", basic=True)
    metadata_title: str | None = recipe_option(None, "title in the metadata", "metadata")
    metadata_author: str | None = recipe_option(None, "author in the metadata", "metadata")
    metadata_description: str | None = recipe_option(None, "description in the metadata", "metadata")
    metadata_license: str | None = recipe_option(None, "licence in the metadata", "metadata")
    metadata_tags: str | None = recipe_option(None, "tags in the metadata, separated by commas", "metadata")
    metadata_trigger_phrase: str | None = recipe_option(None, "trigger words in the metadata", "metadata")
    metadata_usage_hint: str | None = recipe_option(None, "usage hint in the metadata", "metadata")
    metadata_thumbnail: str | None = recipe_option(
        None, "picture that the metadata shows, stored with at most 512 pixels", "metadata", kind="file"
    )
    metadata_merged_from: str | None = recipe_option(None, "models that this one was merged from", "metadata")
    metadata_preprocessor: str | None = recipe_option(
        None, "how pictures are prepared before the model sees them", "metadata"
    )
    metadata_is_negative_embedding: str | None = recipe_option(
        None, "true where the file is meant for the negative prompt", "metadata"
    )
