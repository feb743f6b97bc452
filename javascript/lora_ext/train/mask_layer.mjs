// The mask over a picture: what is left out of training is painted with a brush, by the pointer or the keyboard.
import { h } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";

/** @typedef {import("./crop_box.mjs").Pair} Pair */

/** Pixels of a mask's longer side: training needs one for each eight of a picture's. */
const SIDE = 768;
const LEFT_OUT = "#d55e00";

/** @param {HTMLCanvasElement} canvas */
const penOf = (canvas) =>
    /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));

export class MaskLayer {
    learns = false;
    /** Width of the brush as a share of the longer side. */
    brush = 0.12;

    /**
     * @param {Pair} size of the picture
     * @param {() => void} onchange called after each stroke
     */
    constructor(size, onchange) {
        const scale = Math.min(1, SIDE / Math.max(...size));
        this.onchange = onchange;
        this.canvas = h("canvas", {
            class: "lx-mask-layer",
            width: Math.max(1, Math.round(size[0] * scale)),
            height: Math.max(1, Math.round(size[1] * scale)),
            tabindex: 0,
            role: "img",
            "aria-label": t("Mask: arrows move the brush, Space paints, arrows with Shift paint a line."),
            onpointerdown: (/** @type {PointerEvent} */ event) => this.paint(event),
            onpointermove: (/** @type {PointerEvent} */ event) => this.moveTo(this.placeOf(event)),
            onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event),
        });
        this.ring = h("div", { class: "lx-brush" });
        this.at = /** @type {Pair} */ ([this.canvas.width / 2, this.canvas.height / 2]);
        this.moveTo(this.at);
    }

    /** Pixels of the brush. */
    get width() {
        return Math.max(2, this.brush * Math.max(this.canvas.width, this.canvas.height));
    }

    /** @param {PointerEvent} event @returns {Pair} in pixels of the mask */
    placeOf(event) {
        const on = this.canvas.getBoundingClientRect();
        const { width, height } = this.canvas;
        return [((event.clientX - on.left) / on.width) * width, ((event.clientY - on.top) / on.height) * height];
    }

    /** Moves the brush. @param {Pair} to */
    moveTo(to) {
        const { width, height } = this.canvas;
        const inside = [Math.max(0, Math.min(width, to[0])), Math.max(0, Math.min(height, to[1]))];
        this.at = /** @type {Pair} */ (inside);
        const style = this.ring.style;
        style.left = `${(100 * this.at[0]) / width}%`;
        style.top = `${(100 * this.at[1]) / height}%`;
        style.width = `${(100 * this.width) / width}%`;
    }

    /** Paints from where the brush is. @param {Pair} to */
    line(to) {
        const pen = penOf(this.canvas);
        pen.globalCompositeOperation = this.learns ? "destination-out" : "source-over";
        pen.strokeStyle = LEFT_OUT;
        pen.lineCap = pen.lineJoin = "round";
        pen.lineWidth = this.width;
        pen.beginPath();
        pen.moveTo(...this.at);
        this.moveTo(to);
        pen.lineTo(...this.at);
        pen.stroke();
    }

    /** Paints until the pointer is released. @param {PointerEvent} event */
    paint(event) {
        event.preventDefault();
        const { canvas } = this;
        canvas.focus();
        canvas.setPointerCapture(event.pointerId);
        this.moveTo(this.placeOf(event));
        this.line(this.at);
        const draw = (/** @type {PointerEvent} */ now) => {
            now.stopImmediatePropagation(); // the brush is moved here
            this.line(this.placeOf(now));
        };
        const ends = ["pointerup", "pointercancel"];
        const end = () => {
            canvas.removeEventListener("pointermove", draw, true);
            for (const name of ends) canvas.removeEventListener(name, end);
            this.onchange();
        };
        canvas.addEventListener("pointermove", draw, true);
        for (const name of ends) canvas.addEventListener(name, end);
    }

    /** @param {KeyboardEvent} event */
    key(event) {
        const step = this.width / 3;
        const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[
            event.key
        ];
        const to = /** @type {Pair} */ (move ? [this.at[0] + move[0], this.at[1] + move[1]] : this.at);
        const paints = event.key === " " || (move && event.shiftKey);
        if (!move && !paints) return;
        event.preventDefault();
        if (!paints) return this.moveTo(to);
        this.line(to);
        this.onchange();
    }

    /** Everything is learned, or left out. @param {boolean} learned */
    fill(learned) {
        const pen = penOf(this.canvas);
        pen.globalCompositeOperation = learned ? "destination-out" : "source-over";
        pen.fillStyle = LEFT_OUT;
        pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
        this.onchange();
    }

    /** What was left out is learned, and the other way round. */
    invert() {
        const pen = penOf(this.canvas);
        pen.globalCompositeOperation = "xor";
        pen.fillStyle = LEFT_OUT;
        pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
        this.onchange();
    }

    /** The mask, white where it is learned, as base64 of a PNG; "" where nothing is left out. */
    content() {
        const { width, height } = this.canvas;
        const pixels = penOf(this.canvas).getImageData(0, 0, width, height);
        let leavesOut = false;
        for (let i = 0; i < pixels.data.length; i += 4) {
            const white = 255 - pixels.data[i + 3];
            leavesOut ||= white < 255;
            pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = white;
            pixels.data[i + 3] = 255;
        }
        if (!leavesOut) return "";
        const flat = h("canvas", { width, height });
        penOf(flat).putImageData(pixels, 0, 0);
        return flat.toDataURL("image/png").split(",")[1];
    }

    /** Shows a mask that `content` gave. @param {string} content */
    async show(content) {
        const pen = penOf(this.canvas);
        const { width, height } = this.canvas;
        pen.clearRect(0, 0, width, height);
        if (!content) return;
        const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
        const image = await createImageBitmap(new Blob([bytes])); // the page's policy has no data: pictures
        pen.globalCompositeOperation = "source-over";
        pen.drawImage(image, 0, 0, width, height);
        const pixels = pen.getImageData(0, 0, width, height);
        const colour = [1, 3, 5].map((at) => parseInt(LEFT_OUT.slice(at, at + 2), 16));
        for (let i = 0; i < pixels.data.length; i += 4) {
            pixels.data[i + 3] = 255 - pixels.data[i];
            colour.forEach((value, j) => (pixels.data[i + j] = value));
        }
        pen.putImageData(pixels, 0, 0);
    }
}
