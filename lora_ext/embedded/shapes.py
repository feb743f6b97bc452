"""The embedded model's world: coloured shapes on coloured grounds, their captions, and a checker.

An image is described by a `Scene`, drawn by `draw_scene`, captioned by `caption`; `obeys` says whether
an image (drawn or generated) shows what a caption asks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from einops import reduce
from PIL import Image

SCENE_PIXELS = 64
SUPERSAMPLE = 4

SHAPE_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "green": (35, 150, 60),
    "blue": (35, 70, 215),
    "yellow": (245, 215, 40),
    "purple": (145, 45, 165),
    "cyan": (70, 210, 225),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
_PALETTE = np.array(list(SHAPE_COLOURS.values()), np.float32)
_NAMES = tuple(SHAPE_COLOURS)

# A shape is a predicate on coordinates (x to the right, y down) in which it spans about -1..1.
Predicate = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _polygon(points: Sequence[tuple[float, float]]) -> Predicate:
    """The predicate "inside this polygon", by the even-odd rule."""

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        odd = np.zeros(x.shape, bool)
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            if y0 == y1:
                continue
            crosses = (y0 > y) != (y1 > y)
            odd ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
        return odd

    return inside


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angles = np.pi * np.arange(10) / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.05, 0.45)
    return _polygon([(r * np.sin(a), -r * np.cos(a)) for r, a in zip(radii, angles, strict=True)])(x, y)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = 1.15 * x, 1.2 * (0.1 - y)
    return (u * u + v * v - 1) ** 3 - u * u * v**3 <= 0


SHAPES: dict[str, Predicate] = {
    "circle": lambda x, y: x * x + y * y <= 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.88,
    "triangle": lambda x, y: (abs(x) <= (y + 0.95) / 1.8) & (y <= 0.85),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.32) & (np.maximum(abs(x), abs(y)) <= 0.98),
    "ring": lambda x, y: (x * x + y * y <= 1) & (x * x + y * y >= 0.55**2),
    "diamond": lambda x, y: abs(x) + abs(y) <= 1.05,
}
# Never shown to the base model, so that later training can teach them.
HELD_OUT_SHAPES: dict[str, Predicate] = {"star": _star, "heart": _heart}
STYLES = ("plain", "striped", "outlined", "framed", "sign")
FRAME = 7  # pixels
FRAMED = ("framed", "sign")
# A scheme of colours the base model is never shown, so that later training can teach it.
SIGN = {"colour": "black", "ground": "yellow", "frame": "red"}
SHAPE_SIZES: dict[str, tuple[float, float]] = {"small": (13, 16), "": (16, 23), "large": (23, 27)}
ALL_SHAPES = SHAPES | HELD_OUT_SHAPES


@dataclass(frozen=True)
class Scene:
    """One shape on a ground.

    Attributes:
        shape: name of the shape, one of `ALL_SHAPES`.
        colour: name of its colour, one of `SHAPE_COLOURS`.
        ground: name of the background's colour.
        size: a word for the size, one of `SHAPE_SIZES`, or "".
        x: centre, in pixels of an image of `SCENE_PIXELS` a side.
        y: centre, in pixels.
        radius: in pixels.
        style: one of `STYLES`.
    """

    shape: str
    colour: str
    ground: str
    size: str = ""
    x: float = SCENE_PIXELS / 2
    y: float = SCENE_PIXELS / 2
    radius: float = 20.0
    style: str = "plain"


def accent(scene: Scene) -> str:
    """The colour of stripes, outlines and frames: the first of three that is neither the shape's nor the ground's."""
    if scene.style == "sign":
        return SIGN["frame"]
    return next(name for name in ("white", "black", "yellow") if name not in (scene.colour, scene.ground))


def random_scene(rng: np.random.Generator, **fixed: Any) -> Scene:
    """Draws a scene at random.

    Args:
        rng: source of random numbers.
        **fixed: what is not drawn: shape, colour, ground, size or style.

    Returns:
        The scene.
    """
    if fixed.get("style") == "sign":
        fixed = {"size": ""} | fixed | {name: SIGN[name] for name in ("colour", "ground")}
    colour, ground = rng.choice(_NAMES, 2, replace=False)
    size = str(rng.choice(list(SHAPE_SIZES), p=[0.2, 0.6, 0.2]))
    scene = Scene(str(rng.choice(list(SHAPES))), str(colour), str(ground), size)
    scene = replace(scene, **fixed)
    if scene.colour == scene.ground:
        other = str(rng.choice([name for name in _NAMES if name != scene.colour]))
        scene = replace(scene, colour=other) if "ground" in fixed else replace(scene, ground=other)
    radius = float(rng.uniform(*SHAPE_SIZES[scene.size]))
    # Shapes stay inside the image, most of them near its centre.
    room = SCENE_PIXELS / 2 - radius - 2
    x, y = SCENE_PIXELS / 2 + np.clip(rng.normal(0, 0.3, 2), -1, 1) * room
    return replace(scene, x=float(x), y=float(y), radius=radius)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates (x, y) of the supersampled image, each (SIZE * SUPERSAMPLE,) squared."""
    axis = (np.arange(SCENE_PIXELS * SUPERSAMPLE, dtype=np.float32) + 0.5) / SUPERSAMPLE
    x, y = np.meshgrid(axis, axis)
    return x, y


def draw_scene(scene: Scene) -> Image.Image:
    """Draws a scene.

    Args:
        scene: the scene.

    Returns:
        An antialiased RGB image of `SCENE_PIXELS` x `SCENE_PIXELS` pixels.
    """
    x, y = _grid()
    inside = ALL_SHAPES[scene.shape]
    u, v = (x - scene.x) / scene.radius, (y - scene.y) / scene.radius
    mask = inside(u, v)
    canvas = np.empty((*x.shape, 3), np.float32)
    canvas[:] = SHAPE_COLOURS[scene.ground]
    canvas[mask] = SHAPE_COLOURS[scene.colour]
    if scene.style == "striped":
        # Stripes are fixed to the image, not to the shape: 16 pixels apart along each axis.
        canvas[mask & ((x + y) % 16 < 6.5)] = SHAPE_COLOURS[accent(scene)]
    elif scene.style == "outlined":
        grow = 1 + 3.0 / scene.radius
        shifts = [(np.cos(a) * (grow - 1), np.sin(a) * (grow - 1)) for a in np.arange(16) * np.pi / 8]
        near = np.any([inside(u + du, v + dv) for du, dv in shifts], axis=0)
        canvas[near & ~mask] = SHAPE_COLOURS[accent(scene)]
    elif scene.style in FRAMED:
        rim = np.maximum(abs(x - SCENE_PIXELS / 2), abs(y - SCENE_PIXELS / 2)) > SCENE_PIXELS / 2 - FRAME
        canvas[rim] = SHAPE_COLOURS[accent(scene)]
    pixels = reduce(canvas, "(h h2) (w w2) c -> h w c", "mean", h2=SUPERSAMPLE, w2=SUPERSAMPLE)
    return Image.fromarray(pixels.round().astype(np.uint8))


TEMPLATES = (
    "a {colour} {shape} on a {ground} background",
    "a {colour} {shape} on a {ground} ground",
    "{colour} {shape}, {ground} background",
    "{colour} {shape} on {ground}",
    "a picture of a {colour} {shape}, {ground} background",
)
SIGN_TEMPLATES = ("a {shape} on a warning sign", "{shape}, warning sign", "a picture of a {shape} on a warning sign")


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """Writes a caption of a scene.

    Args:
        scene: the scene.
        rng: chooses the template; None takes the first.

    Returns:
        The caption.

    Example:
        >>> caption(Scene("circle", "red", "blue"))
        'a red circle on a blue background'
    """
    templates = SIGN_TEMPLATES if scene.style == "sign" else TEMPLATES
    template = templates[0] if rng is None else str(rng.choice(templates))
    words = f"{scene.size} {scene.colour}" if scene.size else scene.colour
    return template.format(colour=words, shape=scene.shape, ground=scene.ground)


def parse_scene_caption(text: str) -> Scene:
    """The scene a caption names: its first shape, its first colour (the shape's) and its second (the ground's)."""
    words = re.findall(r"[a-z]+", text.lower())
    if "sign" in words:
        words += [SIGN["colour"], SIGN["ground"]]
    colours = [word for word in words if word in SHAPE_COLOURS]
    shape = next((word for word in words if word in ALL_SHAPES), None)
    if shape is None or len(colours) < 2:
        raise ValueError(f"no shape and two colours in caption {text!r}")
    style = next((word for word in words if word in STYLES), "plain")
    size = next((word for word in words if word in SHAPE_SIZES), "")
    return Scene(shape, colours[0], colours[1], size, style=style)


def _prompts() -> tuple[str, ...]:
    """60 captions, ten of each shape, that between them use every colour as shape and as ground often."""
    rng = np.random.default_rng(60)
    pairs = [(a, b) for a in SHAPE_COLOURS for b in SHAPE_COLOURS if a != b]
    # 56 different pairs of colours, and four of them twice.
    order = [pairs[i] for i in rng.permutation(len(pairs))]
    order += order[:4]
    scenes = [Scene(list(SHAPES)[i % len(SHAPES)], *pair) for i, pair in enumerate(order)]
    return tuple(caption(scene) for scene in scenes)


SCENE_PROMPTS = _prompts()


def _pixels(image: Image.Image | np.ndarray) -> np.ndarray:
    """The image as (SIZE, SIZE, 3) float32 in 0..255."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image = image.convert("RGB")
    if image.size != (SCENE_PIXELS, SCENE_PIXELS):
        image = image.resize((SCENE_PIXELS, SCENE_PIXELS), Image.Resampling.BOX)
    return np.asarray(image, np.float32)


def _nearest(pixels: np.ndarray) -> np.ndarray:
    """For pixels (..., 3) the index of the nearest colour of `SHAPE_COLOURS`, (...) int."""
    return ((pixels[..., None, :] - _PALETTE) ** 2).sum(-1).argmin(-1)


def _shape_mask(pixels: np.ndarray, scene: Scene) -> np.ndarray:
    """(SIZE, SIZE) bool: the pixels on the shape's side of half way between the ground's colour and the rest's."""
    ground = np.array(SHAPE_COLOURS[scene.ground], np.float32)
    others = [scene.colour, accent(scene)] if scene.style in ("striped", "outlined") else [scene.colour]
    mask = np.zeros(pixels.shape[:2], bool)
    for name in others:
        way = np.array(SHAPE_COLOURS[name], np.float32) - ground
        mask |= (pixels - ground) @ way > 0.5 * (way @ way)
    return mask


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of a mask; rows and columns of a stray pixel or two don't count."""
    columns, rows = np.flatnonzero(mask.sum(0) > 1), np.flatnonzero(mask.sum(1) > 1)
    if not len(columns) or not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _shape_overlap(mask: np.ndarray, shape: str) -> float:
    """Intersection over union of a (h, w) mask that fills its box and the shape stretched to that box."""
    axis = (np.arange(192) + 0.5) / 192 * 2.4 - 1.2
    full = ALL_SHAPES[shape](*np.meshgrid(axis, axis))
    left, top, right, bottom = _box(full)
    image = Image.fromarray(full[top:bottom, left:right].astype(np.uint8) * 255)
    template = np.asarray(image.resize((mask.shape[1], mask.shape[0]), Image.Resampling.BOX)) > 127
    return float((mask & template).sum() / max(1, (mask | template).sum()))


def shape_fits(image: Image.Image | np.ndarray, scene: Scene) -> dict[str, float]:
    """How well each shape fits what the image shows off its ground: name to intersection over union."""
    mask = _shape_mask(_pixels(image), scene)
    left, top, right, bottom = _box(mask)
    part = mask[top:bottom, left:right]
    if part.size == 0 or mask.sum() < 0.02 * mask.size:
        return dict.fromkeys(ALL_SHAPES, 0.0)
    return {shape: _shape_overlap(part, shape) for shape in ALL_SHAPES}


def obeys_colours(image: Image.Image | np.ndarray, text: str) -> bool:
    """Whether the image's ground and its shape have the colours the caption names."""
    scene = parse_scene_caption(text)
    pixels = _pixels(image)
    names = _nearest(pixels)
    mask = _shape_mask(pixels, scene)
    border = np.ones_like(mask)
    border[3:-3, 3:-3] = False
    # Large shapes come near the edge, so the border is judged where no shape is.
    around = names[border & ~mask]
    if len(around) < 0.7 * border.sum() or mask.sum() < 0.02 * mask.size:
        return False
    if (around == _NAMES.index(scene.ground)).mean() < 0.85:
        return False
    share = (names[mask] == _NAMES.index(scene.colour)).mean()
    if scene.style == "plain":
        return bool(share > 0.7)
    # Stripes and outlines: both the shape's colour and theirs must be there.
    return bool(share > 0.3 and (names[mask] == _NAMES.index(accent(scene))).mean() > 0.12)


def _remove_frame(image: Image.Image | np.ndarray, scene: Scene) -> tuple[bool, np.ndarray]:
    """Whether the image has its frame, and the image with the frame painted in the ground's colour."""
    pixels = _pixels(image).copy()
    rim = np.ones(pixels.shape[:2], bool)
    rim[FRAME:-FRAME, FRAME:-FRAME] = False
    found = (_nearest(pixels[rim]) == _NAMES.index(accent(scene))).mean() > 0.6
    # One pixel more is painted over, where frame and ground run into each other.
    rim[: FRAME + 1] = rim[-FRAME - 1 :] = rim[:, : FRAME + 1] = rim[:, -FRAME - 1 :] = True
    pixels[rim] = SHAPE_COLOURS[scene.ground]
    return bool(found), pixels.astype(np.uint8)


def has_frame(image: Image.Image | np.ndarray, text: str) -> bool:
    """Whether the image has the frame that a caption with the word "framed" or "sign" asks for."""
    return _remove_frame(image, parse_scene_caption(text))[0]


def obeys(image: Image.Image | np.ndarray, text: str) -> bool:
    """Whether the image shows the caption's shape in its colour on its ground."""
    scene = parse_scene_caption(text)
    if scene.style in FRAMED:
        found, image = _remove_frame(image, scene)
        if not found:
            return False
        text = caption(replace(scene, style="plain"))
    fits = shape_fits(image, scene)
    best = max(fits, key=lambda name: fits[name])
    return best == scene.shape and fits[best] >= 0.72 and obeys_colours(image, text)


def share_obeyed(images: Sequence[Image.Image | np.ndarray], captions: Sequence[str]) -> float:
    """Computes the share of images that match their captions.

    Args:
        images: n images.
        captions: n captions.

    Returns:
        The share, 0 to 1.
    """
    return float(np.mean([obeys(image, text) for image, text in zip(images, captions, strict=True)]))


def image_grid(images: Sequence[Image.Image], columns: int = 10) -> Image.Image:
    """Places images side by side in rows, two pixels apart.

    Args:
        images: images of `SCENE_PIXELS` a side.
        columns: images in a row.

    Returns:
        The grid.
    """
    rows = -(-len(images) // columns)
    whole = Image.new("RGB", (columns * (SCENE_PIXELS + 2), rows * (SCENE_PIXELS + 2)), "grey")
    for i, image in enumerate(images):
        whole.paste(image, (i % columns * (SCENE_PIXELS + 2), i // columns * (SCENE_PIXELS + 2)))
    return whole
