// Crops and masks a picture of a data set in a dialog over the page. The picture itself stays as it is.
import { api, apiUrl } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, note, segments, stack } from "../controls/basic.mjs";
import { rangeField } from "../controls/range_field.mjs";
import { undoable } from "../controls/undo.mjs";
import { pictureChanged } from "./caption_undo.mjs";
import { fittedBox } from "./crop_box.mjs";
import { CropLayer } from "./crop_layer.mjs";
import { MaskLayer } from "./mask_layer.mjs";
import { errorNote } from "../controls/error_note.mjs";

/** @typedef {import("./crop_box.mjs").Box} Box */
/** @typedef {import("./crop_box.mjs").Pair} Pair */
/** @typedef {import("../api_types").PictureEditAnswer} Edit */
/** @typedef {{ dataset: string, picture: string }} PictureName */

/** The crop's tools: its aspect and where it lies. @param {CropLayer} layer @param {number} aspect of the training */
function cropTools(layer, aspect) {
    const shape = (/** @type {number} */ to) => {
        layer.aspect = to;
        if (to) layer.set(fittedBox(layer.box, layer.size, to));
    };
    const ratio = aspect >= 1 ? `${+aspect.toFixed(2)}:1` : `1:${+(1 / aspect).toFixed(2)}`;
    return stack(
        note(t("Draw a rectangle around what is trained, or drag its corners.")),
        buttonRow(
            segments(
                [
                    ["free", t("any shape"), t("With aspect-ratio buckets every shape is trained whole")],
                    ["fixed", t("as trained, {0}", ratio), t("The shape of the training's resolution")],
                ],
                "free",
                (to) => shape(to === "fixed" ? aspect : 0),
                t("Shape of the crop"),
            ),
            button(t("Whole picture"), () => layer.set([0, 0, ...layer.size]), { tip: t("Takes the crop away") }),
        ),
    );
}

/** The mask's tools: what the brush does and how wide it is. @param {MaskLayer} layer */
function maskTools(layer) {
    const width = rangeField(t("Brush"), {
        min: 1,
        max: 50,
        step: 1,
        value: 100 * layer.brush,
        tip: t("Width of the brush in percent of the picture's longer side"),
        oninput: (percent) => {
            layer.brush = percent / 100;
            layer.moveTo(layer.at);
        },
    });
    return stack(
        note(t("Paint over what is not to be learned, such as other people or a watermark.")),
        buttonRow(
            segments(
                [
                    ["out", t("leave out"), t("What is painted is not learned")],
                    ["in", t("learn"), t("What is painted is learned again")],
                ],
                "out",
                (to) => (layer.learns = to === "in"),
                t("What the brush does"),
            ),
            button(t("Learn all"), () => layer.fill(true), { tip: t("Takes the mask away") }),
            button(t("Invert"), () => layer.invert(), { tip: t("What is left out is learned, and the rest is not") }),
        ),
        width,
    );
}

/**
 * Tabs for crop and mask, of which one is worked on.
 * @param {HTMLElement} frame
 * @param {Record<string, HTMLElement>} tools
 */
function toolTabs(frame, tools) {
    const show = (/** @type {string} */ tool) => {
        frame.dataset.tool = tool;
        for (const [name, element] of Object.entries(tools)) element.hidden = name !== tool;
    };
    show("crop");
    return segments(
        [
            ["crop", t("Crop"), t("Which part of the picture is trained")],
            ["mask", t("Mask"), t("What in it is not learned")],
        ],
        "crop",
        show,
        t("Crop or mask"),
    );
}

/**
 * The dialog's content.
 * @param {PictureName} where
 * @param {Edit} edit
 * @param {number} aspect of the training
 * @param {HTMLDialogElement} dialog
 */
function editorParts(where, edit, aspect, dialog) {
    const size = /** @type {Pair} */ (edit.size);
    const state = () => JSON.stringify({ crop: crop.box, mask: mask.content() });
    const changed = () => history.note(state());
    const mask = new MaskLayer(size, changed);
    const crop = new CropLayer(size, /** @type {Box} */ (edit.crop || [0, 0, ...size]), () => changed());
    const history = undoable(
        dialog,
        showingErrors(async (/** @type {string} */ text) => {
            const before = JSON.parse(text);
            crop.box = before.crop;
            crop.show();
            await mask.show(before.mask);
        }),
    );
    const image = h("img", { src: apiUrl("/dataset/whole", { ...where }), alt: where.picture, draggable: "false" });
    const frame = h("div", { class: "lx-edit-frame" }, image, mask.canvas, mask.ring, crop.element);
    frame.style.setProperty("--aspect", String(size[0] / size[1]));
    const tools = { crop: cropTools(crop, aspect), mask: maskTools(mask) };
    const begin = async () => {
        await mask.show(edit.mask);
        changed();
    };
    return { head: buttonRow(toolTabs(frame, tools), history.buttons), frame, tools, begin, state };
}

/**
 * Opens the dialog.
 * @param {PictureName} where
 * @param {number} aspect width by height of the training
 * @param {() => unknown} onchange called when the crop or the mask was saved, or undone
 */
export const editPicture = showingErrors(
    async (/** @type {PictureName} */ where, /** @type {number} */ aspect, /** @type {() => unknown} */ onchange) => {
        const edit = /** @type {Edit} */ (await api("/dataset/edit", { query: { ...where } }));
        const dialog = h("dialog", { class: "lx-dialog", "aria-label": t("Crop or mask {0}", where.picture) });
        const parts = editorParts(where, edit, aspect, dialog);
        const wrong = stack(); // the page's own messages are behind the dialog
        const save = async () => {
            const { crop, mask } = JSON.parse(parts.state());
            try {
                const { undo } = await api("/dataset/edit", { method: "PUT", body: { ...where, crop, mask } });
                dialog.close();
                if (undo) pictureChanged(where.dataset, undo);
                if (undo) await onchange();
                toast(t("Saved; the picture itself is as it was"));
                focusPicture(where.picture);
            } catch (error) {
                setChildren(wrong, errorNote(error));
            }
        };
        dialog.append(
            h("h3", {}, where.picture),
            parts.head,
            parts.frame,
            ...Object.values(parts.tools),
            wrong,
            buttonRow(
                button(t("Save"), save, { kind: "main", tip: t("Kept beside the picture, which is not changed") }),
                button(t("Cancel"), () => dialog.close(), { tip: t("Leaves crop and mask as they were (Escape)") }),
            ),
        );
        dialog.addEventListener("close", () => dialog.remove());
        /** @type {HTMLElement} */ (document.getElementById("lora-ext")).append(dialog);
        dialog.showModal();
        await parts.begin();
    },
);

/** Gives the focus back to a picture that was shown anew. @param {string} picture */
function focusPicture(picture) {
    const shown = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("#lora-ext [data-picture]")]);
    shown.find((one) => one.dataset.picture === picture && one.offsetParent)?.focus();
}

/**
 * A picture that opens the dialog.
 * @param {PictureName} where
 * @param {HTMLImageElement} image
 * @param {number} aspect width by height of the training
 * @param {() => unknown} onchange
 */
export function editablePicture(where, image, aspect, onchange) {
    const label = t("Crop or mask {0}", where.picture);
    const open = () => void editPicture(where, aspect, onchange);
    return h(
        "button",
        {
            type: "button",
            class: "lx-editable",
            title: label,
            "aria-label": label,
            "data-picture": where.picture,
            onclick: open,
        },
        image,
    );
}
