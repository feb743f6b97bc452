// Two pictures on top of each other: a slider wipes from one to the other.
import { h } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";

const MIDDLE = 50;

/**
 * @typedef {object} Side a picture and what it is
 * @property {string} src its address
 * @property {string} text
 */

/**
 * @param {Side} before
 * @param {Side} after
 * @param {string | number} at how much of the first is shown, in percent
 */
export function wipe(before, after, at = MIDDLE) {
    const picture = (/** @type {string} */ kind, /** @type {Side} */ { src, text }) =>
        h("img", { class: kind, src, alt: text, draggable: false });
    const frame = h(
        "div",
        { class: "lx-wipe" },
        picture("after", after),
        picture("before", before),
        h("i", { "aria-hidden": "true" }),
    );
    const slider = h("input", {
        class: "lx-range",
        type: "range",
        min: 0,
        max: 100,
        value: at,
        "aria-label": t("From before to after"),
        title: t("Drag to see more of one picture and less of the other"),
    });
    const show = () => {
        frame.style.setProperty("--at", `${slider.value}%`);
        slider.style.setProperty("--share", `${slider.value}%`);
        slider.setAttribute("aria-valuetext", t("{0} % before", slider.value));
    };
    const follow = (/** @type {PointerEvent} */ event) => {
        if (!event.buttons) return;
        const { left, width } = frame.getBoundingClientRect();
        slider.value = String(Math.round(((event.clientX - left) / width) * 100));
        show();
    };
    frame.addEventListener("pointerdown", (event) => {
        frame.setPointerCapture(event.pointerId);
        follow(event);
    });
    frame.addEventListener("pointermove", follow);
    slider.addEventListener("input", show);
    show();
    const names = h("div", { class: "lx-wipe-names" }, h("small", {}, before.text), h("small", {}, after.text));
    return h("div", { class: "lx-wiper" }, frame, names, slider);
}
