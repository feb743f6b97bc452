"""What the parameters of the routes' addresses are, for the API's schema: a sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARAMETER_DESCRIPTIONS = {
    "base": 'Base model of the files: SD1, SD2, SDXL or unknown; "" for any.',
    "bucket_no_upscale": "Whether pictures are only reduced, never enlarged.",
    "bucket_reso_steps": "Sides of buckets are multiples of it.",
    "buckets": "Whether pictures keep their aspect ratios, as with the training option enable_bucket.",
    "checkpoint": 'The model, a name of `/choices`; "" for the small one. The web UI has its own.',
    "dataset_repeats": "Repeats of a folder whose name has no number.",
    "dataset": "The data set's name.",
    "favourite": "Whether only favourites are found.",
    "folder": 'A folder that the files are in, or below; "" for any.',
    "job": "The job's id.",
    "kind": 'Kind of the files, such as LoRA; "" for any.',
    "language": "Code of the language, such as zh_CN.",
    "limit": "How many are answered at most.",
    "max_bucket_reso": "Longest side of a bucket, in pixels.",
    "min_bucket_reso": "Shortest side of a bucket, in pixels.",
    "name": "The file's name in the library.",
    "offset": "How many of the files found are left out at the beginning.",
    "picture": "The picture's path below the data set.",
    "rank": "Commonest rank of the files' layers; 0 for any.",
    "rating": "The least rating, in stars; 0 for any.",
    "resolution": "The training resolution in pixels: 512, or width and height such as 512,768.",
    "save": "Whether a training saves its file and state first, so that it can be resumed.",
    "search": 'Words that the name, the trigger words, the notes, the tags or the description have; "" for all files.',
    "sort": "The order: newest, oldest, name, largest, used, rating, or match for the best match of `search` first.",
    "tag": 'A tag that the user gave the files; "" for any.',
    "GET /compare/{folder} folder": "The sheet's folder, as the list of sheets names it.",
    "GET /compare/{folder}/scores.csv folder": "The sheet's folder, as the list of sheets names it.",
    "GET /dataset name": "The data set's name.",
    "DELETE /masks name": "The mask's name, as `at=` has it.",
    "GET /masks/picture name": "The mask's name, as `at=` has it.",
    "GET /pictures name": "The picture's path below the output folder.",
    "DELETE /presets name": "The preset's name.",
    "DELETE /sets name": "The set's name.",
    "GET /sets/export name": "The set's name.",
    "POST /train/{name}/compare name": "The run's name.",
    "GET /train/curve name": "The run's name.",
    "DELETE /train/presets name": "The preset's name.",
}
"""Name of a parameter → its description; behind a method and a path that of this route alone."""


def describe_parameters(paths: Mapping[str, Mapping[str, Any]], prefix: str) -> list[str]:
    """Writes the descriptions into an OpenAPI document.

    Args:
        paths: the document's `paths`, which get the descriptions.
        prefix: what stands before every path.

    Returns:
        Which entry of `PARAMETER_DESCRIPTIONS` each parameter has, or the one that is missing.
    """
    keys = []
    for path, operations in paths.items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                name = str(parameter["name"])
                own = f"{method.upper()} {path.removeprefix(prefix)} {name}"
                key = own if own in PARAMETER_DESCRIPTIONS or name not in PARAMETER_DESCRIPTIONS else name
                if key in PARAMETER_DESCRIPTIONS:
                    parameter["description"] = PARAMETER_DESCRIPTIONS[key]
                keys.append(key)
    return keys
