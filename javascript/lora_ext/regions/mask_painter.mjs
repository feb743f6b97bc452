// A mask that is painted over the picture with a brush, or uploaded, and saved under a name.
import { api, apiUrl } from "../core/api.mjs";
import { h } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, field, note, segments, stack, textInput } from "../controls/basic.mjs";
import { rangeField } from "../controls/range_field.mjs";
import { pictureUpload } from "../library/file_picture.mjs";

const SIDE = 512;

/** @typedef {{ frame: HTMLElement, onsave: (name: string) => void, onclose: () => void }} PainterOptions */

/** @param {HTMLCanvasElement} canvas */
const penOf = (canvas) => /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));

export class MaskPainter {
    erases = false;
    /** The name of the mask that is changed; "" for a new one. */
    editing = "";

    /** @param {PainterOptions} options frame: of the picture, which the canvas lies over while it is painted */
    constructor({ frame, onsave, onclose }) {
        this.onsave = onsave;
        this.onclose = onclose;
        this.canvas = h("canvas", { class: "lx-mask-canvas", hidden: true, "aria-label": t("Mask to paint on") });
        this.canvas.addEventListener("pointerdown", (event) => this.paint(event));
        this.brush = rangeField(t("Brush"), { min: 4, max: 160, step: 2, value: 60, tip: t("Width of the brush") });
        this.name = textInput("", null, { placeholder: t("name of the mask") });
        this.element = this.fields();
        this.element.hidden = true;
        frame.append(this.canvas);
    }

    fields() {
        const ways = segments(
            [
                ["paint", t("paint"), t("The region acts where it is white")],
                ["erase", t("erase"), t("Takes white away")],
            ],
            "paint",
            (way) => (this.erases = way === "erase"),
            t("Brush"),
        );
        const save = showingErrors(() => this.save(this.content()));
        const upload = pictureUpload(({ data }) => this.save(data));
        return stack(
            note(t("Paint over the picture: the region acts where it is white.")),
            buttonRow(
                ways,
                button(t("Clear"), () => this.clear(), { tip: t("Makes the mask empty") }),
            ),
            this.brush,
            field(t("Name of the mask"), this.name, t("What at= calls it")),
            buttonRow(
                button(t("Save the mask"), save, { kind: "main", tip: t("Saves it with your data") }),
                button(t("Upload"), () => upload.click(), { tip: t("A picture from your disk; PNG, JPEG or WebP") }),
                button(t("Cancel"), () => this.close(), { tip: t("Leaves the mask as it was") }),
                upload,
            ),
        );
    }

    clear() {
        penOf(this.canvas).clearRect(0, 0, this.canvas.width, this.canvas.height);
    }

    /** @param {PointerEvent} event @returns {[number, number]} in pixels of the mask */
    place(event) {
        const box = this.canvas.getBoundingClientRect();
        const { width, height } = this.canvas;
        return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
    }

    /** Paints until the pointer is released. @param {PointerEvent} event */
    paint(event) {
        event.preventDefault();
        const { canvas } = this,
            pen = penOf(canvas);
        canvas.setPointerCapture(event.pointerId);
        pen.globalCompositeOperation = this.erases ? "destination-out" : "source-over";
        pen.strokeStyle = "#ffffff";
        pen.lineCap = pen.lineJoin = "round";
        pen.lineWidth = this.brush.get();
        let [x, y] = this.place(event);
        const line = (/** @type {PointerEvent} */ now) => {
            pen.beginPath();
            pen.moveTo(x, y);
            [x, y] = this.place(now);
            pen.lineTo(x, y);
            pen.stroke();
        };
        const end = () => {
            canvas.removeEventListener("pointermove", line);
            canvas.removeEventListener("pointerup", end);
        };
        line(event);
        canvas.addEventListener("pointermove", line);
        canvas.addEventListener("pointerup", end);
    }

    /** The mask as the server has it, white on black, as base64 of a PNG. */
    content() {
        const { width, height } = this.canvas;
        const flat = h("canvas", { width, height });
        const pen = penOf(flat);
        pen.fillStyle = "#000000";
        pen.fillRect(0, 0, width, height);
        pen.drawImage(this.canvas, 0, 0);
        return flat.toDataURL("image/png").split(",")[1];
    }

    /** @param {string} data base64 of a picture */
    async save(data) {
        const name = this.name.value.trim();
        if (!name) return toast(t("Name the mask"), "bad");
        await api("/masks", { method: "PUT", body: { name, data, overwrite: name === this.editing } });
        this.close();
        return this.onsave(name);
    }

    close() {
        this.canvas.hidden = this.element.hidden = true;
        this.onclose();
    }

    /**
     * Begins to paint.
     * @param {string} mask the name of the mask that is changed; "" for a new one
     * @param {number} aspect the picture's height by its width
     */
    open(mask, aspect) {
        this.canvas.width = Math.round(aspect > 1 ? SIDE / aspect : SIDE);
        this.canvas.height = Math.round(aspect > 1 ? SIDE : SIDE * aspect);
        this.editing = this.name.value = mask;
        this.canvas.hidden = this.element.hidden = false;
        if (!mask) return;
        const image = new Image();
        image.onload = () => drawMask(penOf(this.canvas), image);
        image.src = apiUrl("/masks/picture", { name: mask });
    }
}

/**
 * Draws a mask's brightness as opacity of white.
 * @param {CanvasRenderingContext2D} pen
 * @param {HTMLImageElement} image
 */
function drawMask(pen, image) {
    const { width, height } = pen.canvas;
    pen.globalCompositeOperation = "source-over";
    pen.drawImage(image, 0, 0, width, height);
    const pixels = pen.getImageData(0, 0, width, height);
    for (let i = 0; i < pixels.data.length; i += 4) {
        pixels.data[i + 3] = pixels.data[i];
        pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = 255;
    }
    pen.putImageData(pixels, 0, 0);
}
