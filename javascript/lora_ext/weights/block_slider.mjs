// One block's slider: dragged, painted over with Shift, moved by keys.
import { h } from "../core/elements.mjs";

/** @typedef {{ slider: HTMLElement, set: (value: number) => void }} Target */
/**
 * @typedef {object} SliderEvents
 * @property {() => [number, number]} range
 * @property {() => number | null} value null for a random one
 * @property {(value: number) => void} set
 * @property {(event: PointerEvent) => Target | null} under the block below the pointer, to paint over it
 */

const SNAPS_PER_UNIT = 20;
const STEPS = new Map(
    Object.entries({
        ArrowUp: 0.05,
        ArrowRight: 0.05,
        ArrowDown: -0.05,
        ArrowLeft: -0.05,
        PageUp: 0.25,
        PageDown: -0.25,
    }),
);

/**
 * The value where the pointer is. Without Alt it snaps to twentieths.
 * @param {PointerEvent} event
 * @param {HTMLElement} slider stands upright, or lies where the page is narrow
 * @param {[number, number]} range
 */
function pointedValue(event, slider, [low, high]) {
    const box = slider.getBoundingClientRect();
    const share =
        box.width > box.height ? (event.clientX - box.left) / box.width : (box.bottom - event.clientY) / box.height;
    const value = low + share * (high - low);
    return event.altKey ? value : Math.round(value * SNAPS_PER_UNIT) / SNAPS_PER_UNIT;
}

/** @param {HTMLElement} slider @param {SliderEvents} events */
function handlePointer(slider, { range, value, set, under }) {
    slider.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        event.preventDefault();
        slider.focus();
        slider.setPointerCapture(event.pointerId);
        slider.classList.add("held");
        set(pointedValue(event, slider, range()));
    });
    slider.addEventListener("pointermove", (event) => {
        if (!slider.hasPointerCapture(event.pointerId)) return;
        const target = event.shiftKey ? under(event) : { slider, set };
        if (target) target.set(pointedValue(event, target.slider, range()));
    });
    const release = () => slider.classList.remove("held");
    slider.addEventListener("pointerup", release);
    slider.addEventListener("pointercancel", release);
    slider.addEventListener("dblclick", () => set(value() === 1 ? 0 : 1));
}

/** @param {HTMLElement} slider @param {SliderEvents} events */
function handleKeys(slider, { range, value, set }) {
    slider.addEventListener("keydown", (event) => {
        const step = STEPS.get(event.key);
        const [low, high] = range();
        const mark = new Map([
            ["Home", low],
            ["End", high],
            ["0", 0],
            ["1", 1],
        ]).get(event.key);
        if (step !== undefined && !event.ctrlKey && !event.metaKey) set((value() ?? 0) + step);
        else if (mark !== undefined) set(mark);
        else return;
        event.preventDefault();
    });
}

/**
 * @param {string} label
 * @param {SliderEvents} events
 */
export function blockSlider(label, events) {
    const [low, high] = events.range();
    const slider = h(
        "div",
        {
            class: "lx-slide",
            role: "slider",
            tabindex: 0,
            "aria-label": label,
            "aria-valuemin": low,
            "aria-valuemax": high,
            "aria-orientation": "vertical",
        },
        h("i", {}),
        h("b", {}),
    );
    handlePointer(slider, events);
    handleKeys(slider, events);
    return slider;
}
