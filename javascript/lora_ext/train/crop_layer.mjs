// The crop over a picture: a rectangle that is drawn, dragged by its corners or moved, by pointer or keyboard.
import { s, setChildren } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";
import { cornerBox, keyedBox, movedBox } from "./crop_box.mjs";

/** @typedef {import("./crop_box.mjs").Box} Box */
/** @typedef {import("./crop_box.mjs").Pair} Pair */

export class CropLayer {
    /** Width by height of the box, 0 for any. */
    aspect = 0;

    /**
     * @param {Pair} size of the picture
     * @param {Box} box
     * @param {() => void} onchange
     */
    constructor(size, box, onchange) {
        this.size = size;
        this.box = box;
        this.onchange = onchange;
        this.element = s("svg", { class: "lx-crop", viewBox: `0 0 ${size[0]} ${size[1]}` });
        this.element.addEventListener("pointerdown", (event) => {
            const first = this.place(event);
            this.follow(event, (now) => this.set(cornerBox(first, now, this.size, this.aspect)));
        });
        this.show();
    }

    /** @param {Box} box */
    set(box) {
        this.box = box;
        this.show();
        this.onchange();
    }

    /** @param {PointerEvent} event @returns {Pair} in pixels of the picture */
    place(event) {
        const on = this.element.getBoundingClientRect();
        return [
            ((event.clientX - on.left) / on.width) * this.size[0],
            ((event.clientY - on.top) / on.height) * this.size[1],
        ];
    }

    /** Follows the pointer until it is released. @param {PointerEvent} event @param {(now: Pair) => void} act */
    follow(event, act) {
        event.preventDefault();
        event.stopPropagation();
        const { element } = this;
        const ends = ["pointerup", "pointercancel"];
        const move = (/** @type {PointerEvent} */ now) => act(this.place(now));
        const end = () => {
            element.removeEventListener("pointermove", move);
            for (const name of ends) element.removeEventListener(name, end);
        };
        element.setPointerCapture(event.pointerId);
        element.addEventListener("pointermove", move);
        for (const name of ends) element.addEventListener(name, end);
    }

    /** @param {PointerEvent} event */
    move(event) {
        const [x, y] = this.place(event),
            from = this.box;
        this.follow(event, (now) => this.set(movedBox(from, now[0] - x, now[1] - y, this.size)));
        this.focus();
    }

    focus() {
        const body = this.element.querySelector(".body");
        if (body instanceof SVGElement) body.focus();
    }

    /** @param {KeyboardEvent} event */
    key(event) {
        const box = keyedBox(event, this.box, this.size, this.aspect);
        if (!box) return;
        event.preventDefault();
        this.set(box);
    }

    /** The four corners, from which the box is dragged. */
    corners() {
        const [left, top, width, height] = this.box;
        return [0, 1, 2, 3].map((corner) => {
            const right = corner % 2 === 1,
                low = corner > 1;
            const opposite = /** @type {Pair} */ ([left + (right ? 0 : width), top + (low ? 0 : height)]);
            return s("circle", {
                class: right === low ? "grip nwse" : "grip nesw",
                cx: left + (right ? width : 0),
                cy: top + (low ? height : 0),
                r: Math.max(...this.size) / 60,
                onpointerdown: (/** @type {PointerEvent} */ event) =>
                    this.follow(event, (now) => this.set(cornerBox(opposite, now, this.size, this.aspect))),
            });
        });
    }

    show() {
        const had = this.element.contains(document.activeElement);
        const [width, height] = this.size;
        const [x, y, w, h] = this.box;
        const outside = `M0 0H${width}V${height}H0ZM${x} ${y}h${w}v${h}h${-w}Z`;
        const body = s("rect", {
            class: "body",
            x,
            y,
            width: w,
            height: h,
            tabindex: 0,
            role: "img",
            "aria-label": t(
                "Crop: {0} × {1} pixels at {2}, {3}. Arrows move it, with Shift they resize it.",
                w,
                h,
                x,
                y,
            ),
            onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event),
            onpointerdown: (/** @type {PointerEvent} */ event) => w * h < width * height && this.move(event),
        });
        setChildren(
            this.element,
            s("path", { class: "outside", d: outside, "fill-rule": "evenodd" }),
            body,
            this.corners(),
        );
        if (had) this.focus();
    }
}
