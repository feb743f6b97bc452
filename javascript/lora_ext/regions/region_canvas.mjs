// The picture with its regions as rectangles: dragged, resized and drawn with the pointer, or moved with the keyboard.
import { apiUrl } from "../core/api.mjs";
import { h, s, setChildren } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";

/** @typedef {import("./region_text.mjs").Region} Region */
/** @typedef {{ left: number, right: number, top: number, bottom: number }} Sides */
/**
 * @typedef {object} CanvasOptions
 * @property {() => Region[]} regions
 * @property {() => number} selected number of the chosen region, -1 for none
 * @property {(index: number) => void} onselect
 * @property {() => void} onchange sides were changed
 * @property {(sides: Sides) => void} ondraw a new rectangle was drawn
 * @property {(index: number) => void} onremove
 */

/** Okabe and Ito's colours, for all eyes. */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/** @param {number} index */
export const regionColour = (index) => COLOURS[index % COLOURS.length];

/** @type {Sides} */
const WHOLE = { left: 0, right: 1, top: 0, bottom: 1 };

const WIDTH = 1000,
    LEAST = 0.04,
    REACH = 0.015,
    STOPS = [0, 0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1],
    HANDLES = ["nw", "n", "ne", "w", "e", "sw", "s", "se"];

/** A share of a side, at a usual place where one is near. @param {number} share */
export function snapped(share) {
    const stop = STOPS.find((one) => Math.abs(one - share) < REACH);
    return Math.min(1, Math.max(0, stop ?? Math.round(share * 100) / 100));
}

/**
 * Moves a rectangle, or some of its edges, within the picture.
 * @param {Sides} sides
 * @param {string} handle "move", or the edges that are dragged: of "n", "s", "w", "e"
 * @param {number} dx in shares
 * @param {number} dy
 * @returns {Sides}
 */
export function draggedSides({ left, right, top, bottom }, handle, dx, dy) {
    if (handle === "move") {
        const x = Math.min(snapped(left + dx), 1 - (right - left));
        const y = Math.min(snapped(top + dy), 1 - (bottom - top));
        return { left: x, right: x + right - left, top: y, bottom: y + bottom - top };
    }
    return {
        left: handle.includes("w") ? Math.min(snapped(left + dx), right - LEAST) : left,
        right: handle.includes("e") ? Math.max(snapped(right + dx), left + LEAST) : right,
        top: handle.includes("n") ? Math.min(snapped(top + dy), bottom - LEAST) : top,
        bottom: handle.includes("s") ? Math.max(snapped(bottom + dy), top + LEAST) : bottom,
    };
}

/**
 * The rectangle between two corners; null where it is too small.
 * @param {[number, number]} one
 * @param {[number, number]} other
 * @returns {Sides | null}
 */
function between([x, y], [right, bottom]) {
    const [left, top] = [Math.min(x, right), Math.min(y, bottom)];
    const sides = { left, right: Math.max(x, right), top, bottom: Math.max(y, bottom) };
    return sides.right - left < LEAST || sides.bottom - top < LEAST ? null : sides;
}

/** How far a key moves: arrows in steps of 5 %, with Alt of 1 %. @param {KeyboardEvent} event */
function keyMove({ key, altKey }) {
    const step = altKey ? 0.01 : 0.05;
    return { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[key];
}

export class RegionCanvas {
    height = WIDTH;

    /** @param {CanvasOptions} options */
    constructor(options) {
        this.options = options;
        const label = t("The picture with its regions");
        this.svg = s("svg", { class: "lx-region-canvas", role: "group", "aria-label": label });
        this.svg.addEventListener("pointerdown", (event) => this.draw(event));
        this.element = h("div", { class: "lx-region-frame" }, this.svg);
    }

    /** @param {PointerEvent} event @returns {[number, number]} in shares */
    place(event) {
        const box = this.svg.getBoundingClientRect();
        return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    }

    /**
     * Follows the pointer until it is released.
     * @param {PointerEvent} event
     * @param {(now: [number, number]) => void} act
     */
    follow(event, act) {
        event.preventDefault();
        const ends = ["pointerup", "pointercancel"];
        const move = (/** @type {PointerEvent} */ now) => act(this.place(now));
        const end = () => {
            this.svg.removeEventListener("pointermove", move);
            for (const name of ends) this.svg.removeEventListener(name, end);
        };
        this.svg.setPointerCapture(event.pointerId);
        this.svg.addEventListener("pointermove", move);
        for (const name of ends) this.svg.addEventListener(name, end);
    }

    /** Draws a new region from where the pointer is. @param {PointerEvent} event */
    draw(event) {
        const first = /** @type {[number, number]} */ (this.place(event).map(snapped));
        let drawn = false;
        this.follow(event, (now) => {
            const sides = between(first, /** @type {[number, number]} */ (now.map(snapped)));
            if (!sides) return;
            if (drawn) this.change(this.options.selected(), sides);
            else this.options.ondraw(sides);
            drawn = true;
        });
    }

    /** @param {PointerEvent} event @param {number} index @param {string} handle */
    drag(event, index, handle) {
        event.stopPropagation();
        this.options.onselect(index);
        const start = { ...this.options.regions()[index] };
        if (start.mask) return;
        const [x, y] = this.place(event);
        this.follow(event, ([nowX, nowY]) => this.change(index, draggedSides(start, handle, nowX - x, nowY - y)));
    }

    /** @param {KeyboardEvent} event @param {number} index */
    key(event, index) {
        const move = keyMove(event);
        if (event.key === "Delete") this.options.onremove(index);
        else if (move) {
            const [dx, dy] = move;
            const handle = event.shiftKey ? (dx ? "e" : "s") : "move";
            this.change(index, draggedSides(this.options.regions()[index], handle, dx, dy));
        } else return;
        event.preventDefault();
    }

    /** @param {number} index @param {Sides} sides */
    change(index, sides) {
        Object.assign(this.options.regions()[index], sides);
        this.options.onchange();
    }

    /** @param {Region} region @param {number} index */
    shape(region, index) {
        const chosen = index === this.options.selected();
        const colour = regionColour(index);
        const box = this.box(region.mask ? WHOLE : region);
        const onpointerdown = (/** @type {PointerEvent} */ event) => this.drag(event, index, "move");
        const name = region.mask ? `${index + 1} · ${region.mask}` : String(index + 1);
        return s(
            "g",
            {
                class: `lx-region${chosen ? " chosen" : ""}${region.mask ? " masked" : ""}`,
                tabindex: 0,
                role: "button",
                "aria-label": t("Region {0}", index + 1),
                "aria-pressed": String(chosen),
                "data-index": index,
                onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event, index),
                onfocus: () => chosen || this.options.onselect(index),
            },
            region.mask ? this.maskShape(region.mask, index) : null,
            s("rect", { class: "body", ...box, fill: colour, stroke: colour, onpointerdown }),
            s("text", { x: box.x + 16, y: region.mask ? this.height - 20 - 48 * index : box.y + 48 }, name),
            chosen && !region.mask ? this.grips(box, index) : null,
        );
    }

    /** Where a rectangle lies. @param {Sides} sides */
    box({ left, right, top, bottom }) {
        const y = top * this.height;
        return { x: left * WIDTH, y, width: (right - left) * WIDTH, height: bottom * this.height - y };
    }

    /** The region's colour where its mask is white. @param {string} name @param {number} index */
    maskShape(name, index) {
        const id = `lx-region-mask-${index}`,
            href = apiUrl("/masks/picture", { name });
        const image = s("image", { href, ...this.box(WHOLE), preserveAspectRatio: "none" });
        const ink = s("rect", { class: "ink", ...this.box(WHOLE), fill: regionColour(index), mask: `url(#${id})` });
        return [s("mask", { id }, image), ink];
    }

    /** @param {{ x: number, y: number, width: number, height: number }} box @param {number} index */
    grips({ x, y, width, height }, index) {
        return HANDLES.map((handle) =>
            s("circle", {
                class: `grip ${handle}`,
                cx: x + (handle.includes("w") ? 0 : handle.includes("e") ? width : width / 2),
                cy: y + (handle.includes("n") ? 0 : handle.includes("s") ? height : height / 2),
                r: 14,
                stroke: regionColour(index),
                onpointerdown: (/** @type {PointerEvent} */ event) => this.drag(event, index, handle),
            }),
        );
    }

    /** Draws the regions as they are. */
    show() {
        const hadFocus = this.svg.contains(document.activeElement);
        const shapes = this.options.regions().map((region, index) => this.shape(region, index));
        const [above] = shapes.splice(this.options.selected(), this.options.selected() < 0 ? 0 : 1);
        setChildren(this.svg, shapes, above); // the chosen one's grips lie over the others
        const chosen = this.svg.querySelector(`[data-index="${this.options.selected()}"]`);
        if (hadFocus && chosen instanceof SVGElement) chosen.focus();
    }

    /** @param {number} aspect the picture's height by its width */
    setAspect(aspect) {
        this.height = Math.round(WIDTH * aspect);
        this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${this.height}`);
    }
}
