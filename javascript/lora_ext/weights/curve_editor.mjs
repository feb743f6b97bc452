// A curve of weights over time whose points are dragged, added by a click and removed by a double click or by Delete.
import { h, s, setChildren } from "../core/elements.mjs";
import { formatWeight } from "../core/format.mjs";
import { t } from "../core/strings.mjs";
import { chartAxes, chartScale, linePath } from "../controls/chart.mjs";
import { curveLine, formatCurve, parseCurve, placeAt, sorted, timeAxis, timeOf } from "./weight_curve.mjs";

/** @typedef {import("./weight_curve.mjs").WeightCurve} WeightCurve */
/** @typedef {import("./weight_curve.mjs").Keyframe} Keyframe */

const WIDTH = 320,
    HEIGHT = 132;
/** How near to a point the pointer takes hold of it, in pixels of the screen. */
const REACH = 13;
const SNAPS_PER_UNIT = 20;
/** What an arrow key changes: a share of the time axis, and a value; with Shift a fifth of it. */
const KEY_TIME = 0.05,
    KEY_VALUE = 0.05;

/** @param {WeightCurve} curve @returns {[number, number]} */
function valueAxis({ keyframes }) {
    const values = keyframes.map(({ value }) => value);
    return [Math.floor(Math.min(0, ...values)), Math.ceil(Math.max(2, ...values))];
}

class CurveEditor {
    /** @type {WeightCurve} */
    curve = { over: "shares", keyframes: [] };
    /** @type {Keyframe | null} the point that the pointer holds */
    held = null;

    /** @param {string} label @param {(text: string) => void} onchange see curveEditor */
    constructor(label, onchange) {
        this.label = label;
        this.onchange = onchange;
        this.picture = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "lx-chart", role: "group" });
        this.picture.setAttribute("aria-label", label);
        this.element = h("div", { class: "lx-curve-editor" }, this.picture);
        this.element.title = t(
            "Click to add a point, drag it, double-click or Delete to remove it; arrow keys move it, Enter adds one",
        );
        this.listen();
        this.draw();
    }

    listen() {
        const { picture } = this;
        picture.addEventListener("pointerdown", (event) => {
            if (event.button) return;
            event.preventDefault();
            picture.setPointerCapture(event.pointerId);
            const point = this.pointNear(event);
            this.held = point || this.add(this.pointed(event));
            if (point) this.focus(point); // drawing it anew would take the second click's target away
        });
        picture.addEventListener("pointermove", (event) => {
            if (this.held && picture.hasPointerCapture(event.pointerId)) this.move(this.held, this.pointed(event));
        });
        const release = () => void (this.held = null);
        picture.addEventListener("pointerup", release);
        picture.addEventListener("pointercancel", release);
        picture.addEventListener("dblclick", (event) => this.remove(this.pointNear(event)));
        picture.addEventListener("keydown", (event) => this.press(event));
    }

    /** Shows a text's curve; what cannot be read leaves the picture pale. @param {string} text */
    show(text) {
        const curve = text.trim() ? parseCurve(text) : { over: /** @type {const} */ ("shares"), keyframes: [] };
        this.element.classList.toggle("stale", !curve);
        if (curve) this.curve = curve;
        this.draw();
    }

    scale() {
        const [low, high] = valueAxis(this.curve);
        return chartScale([[0, 0]], WIDTH, HEIGHT, { x: timeAxis(this.curve), low, high });
    }

    /** Time and value under the pointer. @param {MouseEvent} event @returns {[number, number]} */
    pointed(event) {
        const box = this.picture.getBoundingClientRect(),
            { x, y, toX, toY } = this.scale();
        const left = ((event.clientX - box.left) / box.width) * WIDTH,
            top = ((event.clientY - box.top) / box.height) * HEIGHT;
        const time = x[0] + ((left - toX(x[0])) / (toX(x[1]) - toX(x[0]))) * (x[1] - x[0]);
        const value = y[0] + ((top - toY(y[0])) / (toY(y[1]) - toY(y[0]))) * (y[1] - y[0]);
        const snapped = event.altKey ? value : Math.round(value * SNAPS_PER_UNIT) / SNAPS_PER_UNIT;
        return [Math.min(Math.max(time, x[0]), x[1]), Math.min(Math.max(snapped, y[0]), y[1])];
    }

    /** @param {MouseEvent} event */
    pointNear(event) {
        const { over, keyframes } = this.curve,
            box = this.picture.getBoundingClientRect(),
            { toX, toY } = this.scale();
        const far = ({ place, value } = /** @type {Keyframe} */ ({})) =>
            Math.hypot(
                box.left + (toX(timeOf(over, place)) / WIDTH) * box.width - event.clientX,
                box.top + (toY(value) / HEIGHT) * box.height - event.clientY,
            );
        const [nearest] = [...keyframes].sort((a, b) => far(a) - far(b));
        return nearest && far(nearest) <= REACH ? nearest : null;
    }

    /** A new point; the first one bends the line of the constant factor 1. @param {[number, number]} at */
    add([time, value]) {
        const { over, keyframes } = this.curve;
        const point = { place: placeAt(over, time), value, easing: "linear" };
        const ends = keyframes.length ? [] : [0, 1].map((place) => ({ place, value: 1, easing: "linear" }));
        this.curve = sorted({ over, keyframes: [...keyframes, ...ends, point] });
        this.changed(point);
        return point;
    }

    /** @param {Keyframe} point @param {[number, number]} to time and value */
    move(point, [time, value]) {
        const { over } = this.curve;
        const least = over === "steps" && this.isLastOfAll(point) ? 2 : 0; // at most 1 would make shares of all places
        Object.assign(point, { place: Math.max(least, placeAt(over, time)), value });
        this.curve = sorted(this.curve);
        this.changed(point);
    }

    /** Whether all other points are at step 0 or 1. @param {Keyframe} point */
    isLastOfAll(point) {
        return this.curve.keyframes.every((other) => other === point || other.place <= 1);
    }

    /** @param {Keyframe | null} point */
    remove(point) {
        if (!point) return;
        const { over, keyframes } = this.curve;
        const place = keyframes.indexOf(point);
        this.curve = { over, keyframes: keyframes.filter((other) => other !== point) };
        this.held = null;
        this.changed(this.curve.keyframes[Math.min(place, keyframes.length - 2)]);
    }

    /** @param {KeyboardEvent} event */
    press(event) {
        const { over, keyframes } = this.curve;
        const place = [...this.picture.querySelectorAll("circle")].indexOf(/** @type {any} */ (event.target));
        const [begin, end] = timeAxis(this.curve);
        const point = keyframes[place],
            times = keyframes.map((one) => timeOf(over, one.place));
        if (event.key === "Enter" && !event.ctrlKey) {
            const after = place < 0 ? end : (times[place + 1] ?? end),
                before = place < 0 ? begin : times[place];
            this.add([(before + after) / 2, point ? point.value : 1]);
        } else if (point && ["Delete", "Backspace"].includes(event.key)) {
            this.remove(point);
        } else if (point && event.key.startsWith("Arrow")) {
            const share = event.shiftKey ? 0.2 : 1,
                sign = event.key === "ArrowRight" || event.key === "ArrowUp" ? 1 : -1;
            const sideways = event.key === "ArrowLeft" || event.key === "ArrowRight";
            const move = over === "steps" ? 1 : KEY_TIME * share * (end - begin);
            const time = Math.min(Math.max(times[place] + (sideways ? sign * move : 0), begin), end);
            this.move(point, [time, point.value + (sideways ? 0 : sign * KEY_VALUE * share)]);
        } else {
            return;
        }
        event.preventDefault();
    }

    /** Draws a changed curve and passes it on. @param {Keyframe} [point] which keeps the focus */
    changed(point) {
        for (const one of this.curve.keyframes) one.value = Number(formatWeight(one.value));
        this.element.classList.remove("stale");
        this.draw(point);
        this.onchange(this.curve.keyframes.length ? formatCurve(this.curve) : "");
    }

    /** @param {Keyframe | null} [focused] */
    draw(focused = null) {
        const { over, keyframes } = this.curve,
            scale = this.scale();
        const fx = (/** @type {number} */ time) =>
            over === "noise levels" ? String(placeAt(over, time)) : formatWeight(time);
        const xlabels = { shares: t("share of the steps"), steps: t("step"), "noise levels": t("noise level (sigma)") };
        const line = keyframes.length ? curveLine(this.curve) : scale.x.map((time) => /** @type {const} */ ([time, 1]));
        const circles = keyframes.map((keyframe, i) => this.circle(keyframe, i, scale));
        setChildren(
            this.picture,
            ...chartAxes(scale, WIDTH, HEIGHT, { xlabel: xlabels[over], fx, fy: formatWeight }),
            s("path", { class: keyframes.length ? "line" : "line pale", d: linePath(line, scale) }),
            ...circles,
        );
        // without points the picture itself takes the keys
        if (keyframes.length) this.picture.removeAttribute("tabindex");
        else this.picture.setAttribute("tabindex", "0");
        if (focused) this.focus(focused);
    }

    /** @param {Keyframe} point */
    focus(point) {
        const circle = this.picture.querySelectorAll("circle")[this.curve.keyframes.indexOf(point)];
        if (circle) circle.focus();
    }

    /** @param {Keyframe} keyframe @param {number} i @param {import("../controls/chart.mjs").Scale} scale */
    circle({ place, value }, i, { y, toX, toY }) {
        return s("circle", {
            cx: toX(timeOf(this.curve.over, place)),
            cy: toY(value),
            r: 5,
            tabindex: 0,
            role: "slider",
            "aria-label": `${this.label} ${i + 1}`,
            "aria-valuemin": y[0],
            "aria-valuemax": y[1],
            "aria-valuenow": value,
            "aria-valuetext": t("{0} at {1}", formatWeight(value), String(place)),
        });
    }
}

/**
 * @param {string} label
 * @param {(text: string) => void} onchange called after each change, with the curve as text; "" without points
 */
export function curveEditor(label, onchange) {
    const editor = new CurveEditor(label, onchange);
    return Object.assign(editor.element, { show: (/** @type {string} */ text) => editor.show(text) });
}
