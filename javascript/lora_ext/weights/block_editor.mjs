// The block editor: one slider a block along the U-Net's shape.
import { h, setChildren } from "../core/elements.mjs";
import { page } from "../core/page.mjs";
import { blockColumn, showWeight, skipConnections } from "./block_columns.mjs";
import { blockGroup } from "./block_labels.mjs";
import { rangeFor, weightsOfAll } from "./block_weights.mjs";

/** @typedef {import("./block_columns.mjs").Column} Column */
/** @typedef {import("./block_weights.mjs").Weight} Weight */
/** @typedef {import("./block_weights.mjs").BlockWeights} BlockWeights */
/** @typedef {[number, number]} Range */

/** The layout with every block that any layout has. */
const ALL_BLOCKS = 26;

export class BlockEditor {
    /** @type {string[]} the blocks that have sliders */
    labels = [];
    /** @type {Record<string, Weight>} also of blocks that have no slider in this layout */
    values = {};
    /** @type {Record<string, number>} label → ‖ΔW‖ of the file; empty without a file */
    norms = {};
    /** @type {Range} of the sliders */
    range = [0, 1];
    isSdxl = false;
    /** @type {Record<string, Column>} */
    columns = {};

    /**
     * @param {() => void} onchange called when the user changes a weight
     * @param {(range: Range) => void} onrange called when the sliders' range had to become wider
     */
    constructor(onchange, onrange) {
        this.onchange = onchange;
        this.onrange = onrange;
        this.element = h("div", { class: "lx-unet" });
    }

    /** @param {string} label */
    show(label) {
        const column = this.columns[label];
        if (column) showWeight(column, label, this.values[label], this.range, this.norms);
    }

    /** @param {string} label @param {number} value */
    set(label, value) {
        const [low, high] = this.range;
        this.values[label] = Math.round(Math.min(Math.max(value, low), high) * 100) / 100;
        this.show(label);
    }

    /** @param {string} label @param {number} value */
    change(label, value) {
        this.set(label, value);
        this.onchange();
    }

    /** The block below the pointer. @param {PointerEvent} event */
    under(event) {
        const elements = document.elementsFromPoint(event.clientX, event.clientY);
        const element = elements.find((one) => one.matches(".lx-column"));
        const label = (element instanceof HTMLElement && element.dataset.label) || "";
        const column = this.columns[label];
        if (!column) return null;
        return { slider: column.slider, set: (/** @type {number} */ value) => this.change(label, value) };
    }

    /** @param {string} label */
    makeColumn(label) {
        const value = () => {
            const weight = this.values[label];
            return typeof weight === "number" ? weight : null;
        };
        this.columns[label] = blockColumn(label, this.isSdxl, {
            range: () => this.range,
            value,
            set: (to) => this.change(label, to),
            under: (event) => this.under(event),
        });
        return this.columns[label].element;
    }

    build() {
        this.columns = {};
        const unet = this.labels.filter((label) => label !== "BASE");
        const base = this.labels.includes("BASE") ? h("div", { class: "lx-base" }, this.makeColumn("BASE")) : null;
        const columns = unet.map((label) => this.makeColumn(label));
        const shape = h(
            "div",
            { class: "lx-u", style: { "--count": unet.length } },
            skipConnections(unet, this.isSdxl),
            columns,
        );
        setChildren(this.element, base, shape);
        this.labels.forEach((label) => this.show(label));
    }

    /** @param {string[]} labels @param {boolean} isSdxl */
    setLayout(labels, isSdxl) {
        this.labels = labels;
        this.isSdxl = isSdxl;
        for (const label of labels) this.values[label] ??= 1;
        this.build();
    }

    /** @param {Record<string, number>} norms */
    setNorms(norms) {
        this.norms = norms;
        this.labels.forEach((label) => this.show(label));
    }

    /** @param {Range} range */
    setRange(range) {
        this.range = range;
        this.build();
    }

    /** The weights of this layout. */
    weights() {
        return this.labels.map((label) => this.values[label]);
    }

    /** A block's weight, also where it has no slider. @param {string} label */
    weightOf(label) {
        return this.values[label] ?? 1;
    }

    /** @param {string} group ALL, IN, MID or OUT */
    groupLabels(group) {
        return this.labels.filter((label) => group === "ALL" || blockGroup(label) === group);
    }

    /** @param {string} group */
    groupWeights(group) {
        return this.groupLabels(group).map((label) => this.values[label]);
    }

    /** @param {string} group @param {number} value */
    setGroup(group, value) {
        for (const label of this.groupLabels(group)) this.set(label, value);
        this.onchange();
    }

    /** Shows weights; the range becomes wider where it must. @param {BlockWeights} weights */
    setWeights(weights) {
        this.values = weightsOfAll(weights, page.layouts.layouts[ALL_BLOCKS].labels);
        const range = rangeFor(this.range, weights.values);
        if (range.join() !== this.range.join()) {
            this.onrange(range);
            this.setRange(range);
        }
        this.labels.forEach((label) => this.show(label));
    }
}
