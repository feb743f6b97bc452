// The fields of the chosen region: its place, its words, and its LoRAs.
import { h, setChildren } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, field, select, stack, textArea } from "../controls/basic.mjs";
import { rangeField } from "../controls/range_field.mjs";
import { strengthField } from "../controls/strength_field.mjs";
import { LoraPicker } from "../library/lora_picker.mjs";
import { regionColour } from "./region_canvas.mjs";

/** @typedef {import("./region_text.mjs").Region} Region */
/** @typedef {import("./region_text.mjs").RegionLora} RegionLora */

/**
 * A LoRA of the region.
 * @param {RegionLora} lora
 * @param {() => void} onchange
 * @param {() => void} onremove
 */
function loraRow(lora, onchange, onremove) {
    const picker = new LoraPicker({
        onpick: (row) => {
            lora.call = row.call;
            onchange();
        },
    });
    if (lora.call) picker.choose(lora.call);
    const weight = strengthField(t("Weight"), t("The weight of the file's tag"), {
        min: -1,
        value: lora.weight,
        oninput: () => {
            lora.weight = weight.get();
            onchange();
        },
    });
    const tip = t("Remove this file from the region");
    const remove = button("×", onremove, { kind: "quiet", tip, "aria-label": tip });
    return h("div", { class: "lx-merge-row lx-two-fields" }, picker.element, weight, remove);
}

/** The region's files. @param {Region} region @param {() => void} onchange */
function loraRows(region, onchange) {
    const list = h("div", { class: "lx-merge" });
    const remove = (/** @type {RegionLora} */ lora) => {
        region.loras.splice(region.loras.indexOf(lora), 1);
        show();
        onchange();
    };
    const show = () =>
        setChildren(
            list,
            region.loras.map((lora) => loraRow(lora, onchange, () => remove(lora))),
        );
    const add = () => {
        region.loras.push({ call: "", weight: 1 });
        show();
    };
    show();
    const addButton = button(t("Add a LoRA"), add, { tip: t("A file that acts in this region alone") });
    return [list, buttonRow(addButton)];
}

/** @param {Region} region @param {() => void} onchange */
function softEdge(region, onchange) {
    const feather = rangeField(t("Soft edge"), {
        min: 0,
        max: 0.5,
        step: 0.01,
        value: region.feather,
        usual: 0,
        tip: t("Width of the soft edge as a share of the picture's side"),
        oninput: () => {
            region.feather = feather.get();
            onchange();
        },
    });
    return feather;
}

/**
 * @param {Region} region
 * @param {number} index
 * @param {object} options
 * @param {string[]} options.masks the names of all masks
 * @param {() => void} options.onchange
 * @param {() => void} options.onremove
 * @param {() => void} options.onpaint
 */
export function regionCard(region, index, { masks, onchange, onremove, onpaint }) {
    const words = textArea(2, region.words, {
        oninput: () => {
            region.words = words.value;
            onchange();
        },
    });
    const place = select([["", t("a rectangle")], ...masks], region.mask, (mask) => {
        region.mask = mask;
        onchange();
    });
    const swatch = h("i", { style: { "--region": regionColour(index) }, "aria-hidden": "true" });
    const paintTip = t("A region of any shape, painted or uploaded");
    return stack(
        h("h3", { class: "lx-region-title" }, swatch, t("Region {0}", index + 1)),
        field(t("Prompt of the region"), words, t("What is only here; empty where the whole prompt counts")),
        loraRows(region, onchange),
        field(t("Place"), place, t("A rectangle in the picture, or a mask")),
        softEdge(region, onchange),
        buttonRow(
            button(region.mask ? t("Change the mask") : t("Paint a mask"), onpaint, { tip: paintTip }),
            button(t("Remove the region"), onremove, { tip: t("Also with the key Delete") }),
        ),
    );
}
