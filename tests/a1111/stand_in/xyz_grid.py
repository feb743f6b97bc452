"""The X/Y/Z plot: one axis is enough here."""

from copy import copy

from modules import processing, sd_models
from modules.processing import process_images


class AxisOption:
    def __init__(
        self, label, type, apply, format_value=lambda p, opt, x: str(x), confirm=None, cost=0.0, choices=None,
        prepare=None,
    ):  # fmt: skip
        self.label, self.type, self.apply, self.format_value = label, type, apply, format_value
        self.confirm, self.cost, self.choices, self.prepare = confirm, cost, choices, prepare


axis_options = []


class Script:
    """`run` makes the pictures of one axis."""

    __module__ = "xyz_grid.py"

    def run(self, p, label, values):
        option = next(option for option in axis_options if option.label == label)
        xs = [option.type(value.strip()) for value in values.split(",") if value.strip()]
        if option.confirm:
            option.confirm(p, xs)
        for x in xs:
            option.format_value(p, option, x)
        images, infotexts = [], []
        for x in xs:
            cell = copy(p)
            option.apply(cell, x, xs)
            made = process_images(cell)
            if not images:  # the sheet's own infotexts
                for _ in range(2):
                    processing.create_infotext(cell, cell.all_prompts, cell.all_seeds, cell.all_subseeds)
            images += made.images
            infotexts += made.infotexts
        sd_models.reload_model_weights()
        return images, infotexts
