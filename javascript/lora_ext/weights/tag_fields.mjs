// The fields of a tag besides its block weights: strengths, and the steps in which the file acts.
import { h } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";
import { field, textInput } from "../controls/basic.mjs";
import { rangeField } from "../controls/range_field.mjs";
import { strengthField } from "../controls/strength_field.mjs";
import { curveEditor } from "./curve_editor.mjs";

/**
 * A step as a tag has it: 5 is a step, 0.5 and 1.0 are shares of all steps. Undefined for what is neither.
 * @param {string} text
 */
export const parseStep = (text) =>
    /^\d+$/.test(text) || (/^\d*\.\d+$/.test(text) && Number(text) <= 1) ? text : undefined;

/**
 * A share of all steps as a tag has it.
 * @param {number} share
 */
export const shareText = (share) => (Number.isInteger(share) ? share.toFixed(1) : String(share));

/**
 * The tag's `step=`; null where the file acts from the first to the last step.
 * @param {string} from
 * @param {string} until
 */
export function stepRange(from, until) {
    const begin = Number(from) > 0 ? from : "",
        end = until === "1.0" ? "" : until;
    return begin || end ? `${begin}-${end}` : null;
}

/**
 * A field for the first or the last step in which the file acts.
 * @param {string} label
 * @param {string} usual
 * @param {string} tip
 * @param {() => void} onchange
 */
const stepField = (label, usual, tip, onchange) =>
    rangeField(label, {
        min: 0,
        max: 1,
        step: 0.05,
        value: usual,
        usual,
        tip,
        oninput: onchange,
        onwrong: onchange,
        parse: parseStep,
        show: shareText,
        words: t("a step's number such as 5, or a share from 0.0 to 1.0"),
    });

/** Of `TEXT ENCODER:U-NET`, where the second begins. @param {string} text */
const unetPart = (text) => text.lastIndexOf(":") + 1;

/**
 * A text field of a curve with its picture, whose points can be dragged; "" where the tag does not say.
 * @param {string} label
 * @param {string} example
 * @param {string} tip
 * @param {string} points what a point of the picture is called
 * @param {() => void} onchange
 */
function curveField(label, example, tip, points, onchange) {
    const draw = () => editor.show(box.value.slice(unetPart(box.value)));
    const box = textInput("", () => (draw(), onchange()), { placeholder: example });
    const editor = curveEditor(points, (text) => {
        const te = box.value.slice(0, unetPart(box.value));
        box.value = te + (text || (te && "1")); // a weight of the text encoder alone would be that of both
        onchange();
    });
    return Object.assign(h("div", { class: "lx-field" }, field(label, box, tip), editor), {
        get: () => box.value.trim(),
        /** @param {string} text */
        set(text) {
            box.value = text;
            draw();
        },
    });
}

/** @param {() => void} onchange */
const curveFields = (onchange) => ({
    curve: curveField(
        t("Curve over the steps"),
        "0@0, 1@0.5, 0@1",
        t(
            "Factors of the U-Net strength, each VALUE@PLACE; places from 0 (first step) to 1 (last step), or step " +
                "numbers, or noise levels such as s14.6. After a place: ease-in, ease-out, cosine, step",
        ),
        t("Point of the curve"),
        onchange,
    ),
    hires: curveField(
        t("In the hires pass"),
        t("as in the first pass"),
        t("The weight or curve in the hires pass; TEXT ENCODER:U-NET for two"),
        t("Point of the hires pass's curve"),
        onchange,
    ),
});

/** @param {() => void} onchange */
function rangeFields(onchange) {
    const start = stepField(
        t("From step"),
        "0.0",
        t(
            "The first step with the file: a share of all steps such as 0.25, or a step number such " +
                "as 5, counted from 0",
        ),
        onchange,
    );
    const stop = stepField(
        t("Until step"),
        "1.0",
        t(
            "The first step without the file again: a share of all steps such as 0.75, or a step " +
                "number such as 15, counted from 0",
        ),
        onchange,
    );
    return { start, stop };
}

/** @typedef {Pick<import("../api_types").TagFields, "te" | "unet" | "steps" | "curve" | "hires">} FieldValues */

/** @param {() => void} onchange called after each change, to a right or a wrong value */
export function tagFields(onchange) {
    const strength = { usual: 1, oninput: onchange, onwrong: onchange };
    const te = strengthField(t("Text encoder"), t("Text-encoder strength"), strength);
    const unet = strengthField(t("U-Net"), t("U-Net strength"), strength);
    const { start, stop } = rangeFields(onchange);
    const { curve, hires } = curveFields(onchange);
    return {
        elements: [unet, te, start, stop, curve, hires],
        get: () => ({
            te: te.get(),
            unet: unet.get(),
            step: stepRange(start.get(), stop.get()),
            curve: curve.get(),
            hires: hires.get(),
        }),
        /**
         * What `set` takes to show the same again; null while a field has a wrong value.
         * @returns {FieldValues | null}
         */
        state() {
            try {
                const steps = { start: start.get(), stop: stop.get() };
                return { te: te.get(), unet: unet.get(), steps, curve: curve.get(), hires: hires.get() };
            } catch {
                return null;
            }
        },
        /** @param {FieldValues} tag */
        set(tag) {
            curve.set(tag.curve);
            hires.set(tag.hires);
            te.set(tag.te);
            unet.set(tag.unet);
            start.set(tag.steps.start || "0.0");
            stop.set(tag.steps.stop || "1.0");
        },
    };
}
