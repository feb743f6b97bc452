// The Regions panel: which LoRA acts where in the picture, as rectangles or masks, and the prompt that comes of it.
import { api } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { copyText, showingErrors, toast } from "../core/messages.mjs";
import { registerPanel } from "../core/panels.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, card, columns, field, grid, note, textArea } from "../controls/basic.mjs";
import { lastCheckpoint, showNativeSize, sizeField } from "../controls/sampling_fields.mjs";
import { promptButtons, writtenText } from "../prompts/prompt_fields.mjs";
import { MaskPainter } from "../regions/mask_painter.mjs";
import { RegionCanvas } from "../regions/region_canvas.mjs";
import { regionCard } from "../regions/region_card.mjs";
import { regionPrompt } from "../regions/region_text.mjs";

/** @typedef {import("../regions/region_text.mjs").Region} Region */
/** @typedef {import("../regions/region_canvas.mjs").Sides} Sides */
/** @typedef {import("../prompts/prompt_fields.mjs").PromptField} PromptField */

const USUAL_SIDE = 512;

/** @param {Sides} sides @returns {Region} */
const newRegion = (sides) => ({ ...sides, mask: "", words: "", feather: 0, loras: [] });

/** Regions of equal size that fill the picture. @param {number} rows @param {number} count of each row */
const gridRegions = (rows, count) =>
    Array.from({ length: rows * count }, (_, i) => {
        const row = Math.floor(i / count),
            column = i % count;
        return newRegion({
            left: column / count,
            right: (column + 1) / count,
            top: row / rows,
            bottom: (row + 1) / rows,
        });
    });

/** What is shown instead of the prompt. */
const nothingYet = () => t("No prompt yet: write words, or add a LoRA to a region.");

class RegionsPanel {
    /** @type {Region[]} */
    regions = gridRegions(1, 2);
    selected = 0;
    /** @type {string[]} */
    masks = [];
    /** The pixels of a side where none are given. */
    ownSide = USUAL_SIDE;

    constructor() {
        const stored = loadStored("regions", /** @type {Record<string, any>} */ ({}));
        if (Array.isArray(stored.regions)) this.regions = stored.regions;
        this.common = textArea(2, stored.common || "", { oninput: () => this.update() });
        this.sizes = { width: sizeField(stored, "width"), height: sizeField(stored, "height") };
        for (const size of Object.values(this.sizes)) size.addEventListener("input", () => this.resize());
        this.canvas = new RegionCanvas({
            regions: () => this.regions,
            selected: () => this.selected,
            onselect: (index) => this.select(index),
            onchange: () => this.update(),
            ondraw: (sides) => this.add(newRegion(sides)),
            onremove: (index) => this.remove(index),
        });
        this.painter = new MaskPainter({
            frame: this.canvas.element,
            onsave: showingErrors((name) => this.useMask(name)),
            onclose: () => (this.fields.hidden = false),
        });
        this.fields = h("div", {});
        this.chips = buttonRow();
        this.text = h("code", { class: "lx-tag", role: "status" });
        this.notes = h("div", {});
    }

    /** The picture's height by its width. */
    aspect() {
        const [width, height] = [this.sizes.width, this.sizes.height].map((size) => {
            try {
                return Number(size.get()) || this.ownSide;
            } catch {
                return this.ownSide; // what is wrong is told beside the field
            }
        });
        return Math.min(4, Math.max(0.25, height / width));
    }

    /** The size that the user has given to the picture; null for the model's own. Throws where it is wrong. */
    givenSize() {
        const [width, height] = [this.sizes.width, this.sizes.height].map((size) => Number(size.get()));
        return width || height ? { width: width || this.ownSide, height: height || this.ownSide } : null;
    }

    resize() {
        this.canvas.setAspect(this.aspect());
        this.update();
    }

    /** @param {number} index */
    select(index) {
        if (index === this.selected && this.fields.firstChild) return;
        this.selected = index;
        this.canvas.show();
        this.showChips();
        this.showFields();
    }

    /** @param {Region} region */
    add(region) {
        this.regions.push(region);
        this.selected = this.regions.length - 1;
        this.showFields();
        this.update();
    }

    /** @param {number} index */
    remove(index) {
        this.regions.splice(index, 1);
        this.selected = Math.min(index, this.regions.length - 1);
        this.showFields();
        this.update();
    }

    /** @param {number} rows @param {number} count of each row */
    arrange(rows, count) {
        const before = this.regions;
        this.regions = gridRegions(rows, count).map((region, i) => {
            const { words, loras, feather } = before[i] || region;
            return { ...region, words, loras, feather };
        });
        this.selected = Math.min(Math.max(this.selected, 0), this.regions.length - 1);
        this.showFields();
        this.update();
    }

    /** @param {string} name */
    async useMask(name) {
        await this.loadMasks();
        const region = this.regions[this.selected];
        if (region) region.mask = name;
        this.showFields();
        this.update();
        toast(t("Saved as {0}", name));
    }

    async loadMasks() {
        this.masks = (await api("/masks")).names;
    }

    /** A button for each region: a mask that lies under others can be chosen too. */
    showChips() {
        const chip = (/** @type {Region} */ { mask }, /** @type {number} */ index) =>
            button(mask ? `${index + 1} · ${mask}` : String(index + 1), () => this.select(index), {
                tip: t("Region {0}", index + 1),
                kind: index === this.selected ? "main" : "",
                "aria-pressed": String(index === this.selected),
            });
        setChildren(this.chips, this.regions.map(chip));
    }

    showFields() {
        const region = this.regions[this.selected];
        const options = {
            masks: this.masks,
            onchange: () => this.update(),
            onremove: () => this.remove(this.selected),
            onpaint: () => {
                this.fields.hidden = true;
                this.painter.open(region.mask, this.aspect());
            },
        };
        setChildren(
            this.fields,
            region ? regionCard(region, this.selected, options) : note(t("Draw a region in the picture.")),
        );
    }

    /** After a change: picture and text follow, and what was entered is remembered. */
    update() {
        this.canvas.show();
        this.showChips();
        const { text, ratios, note: told } = this.prompt();
        this.text.textContent = text;
        setChildren(
            this.notes,
            text ? null : note(nothingYet()),
            told ? note(told, "bad") : null,
            ratios ? note(t("Sizes of the regions: give these ratios where the picture is drawn: {0}", ratios)) : null,
        );
        const [width, height] = [this.sizes.width, this.sizes.height].map((size) => Number(size.box.value));
        store("regions", { common: this.common.value, regions: this.regions, width, height });
    }

    prompt() {
        const chosen = this.regions.map((region) => ({ ...region, loras: region.loras.filter(({ call }) => call) }));
        return regionPrompt(this.common.value, chosen);
    }

    /**
     * Writes the prompt into one of the page's, with the size that the regions are drawn for: in a picture of another
     * shape they would be others.
     * @param {PromptField} prompt
     * @returns what was done, and how it is undone
     */
    insert(prompt) {
        const { text } = this.prompt();
        if (!text) throw new Error(nothingYet());
        const size = this.givenSize(),
            before = { text: prompt.get(), size: prompt.getSize() };
        const isSized = size && before.size && (size.width !== before.size.width || size.height !== before.size.height);
        const isReplaced = before.text && before.text !== text;
        prompt.set(text);
        if (isSized) prompt.setSize(size);
        const putBack = () => {
            prompt.set(before.text);
            if (isSized && before.size) prompt.setSize(before.size);
            undo.closest("p")?.setAttribute("hidden", "");
        };
        const undo = button(t("Undo"), putBack, { tip: t("Puts back what was there before") });
        const sized = (/** @type {string} */ shown) =>
            t("Width and height are {0} now, as the regions are drawn for.", shown);
        return [
            isReplaced ? t("This text has replaced the prompt of {0}.", prompt.place()) : writtenText(prompt, text),
            isSized ? ` ${sized(`${size.width} × ${size.height}`)}` : null,
            isReplaced || isSized ? [" ", undo] : null,
        ];
    }

    /** The prompt with what can be done with it. */
    promptCard() {
        const inserts = promptButtons(
            (prompt) => this.insert(prompt),
            "main",
            t("Writes this text in the place of the prompt, and takes along the size that you gave to the picture"),
        );
        const copy = button(t("Copy"), () => copyText(this.prompt().text), { tip: t("Copy the prompt as text") });
        return card(t("Prompt"), this.text, this.notes, buttonRow(inserts, copy));
    }

    /** @param {HTMLElement} panel */
    build(panel) {
        const arrange = (/** @type {string} */ text, /** @type {number} */ rows, /** @type {number} */ count) =>
            button(text, () => this.arrange(rows, count), { tip: t("Regions of equal size that fill the picture") });
        const layouts = buttonRow(
            arrange(t("{0} columns", 2), 1, 2),
            arrange(t("{0} columns", 3), 1, 3),
            arrange(t("{0} rows", 2), 2, 1),
            arrange("2 × 2", 2, 2),
        );
        const hint = t(
            "Drag to draw, move and resize regions. Keys: arrows move, Shift with arrows resizes, Delete removes.",
        );
        setChildren(
            panel,
            columns(
                "even",
                [
                    card(
                        t("Regions"),
                        field(t("Prompt of the whole picture"), this.common, t("Counts in every region")),
                        layouts,
                        this.canvas.element,
                        this.chips,
                        h("p", { class: "lx-hint" }, hint),
                        grid(this.sizes.width, this.sizes.height),
                    ),
                ],
                [card(null, this.painter.element, this.fields), this.promptCard()],
            ),
        );
        this.canvas.setAspect(this.aspect());
        this.showFields();
        this.update();
        showingErrors(() => this.load())();
    }

    /** Asks for what the fields offer: the model's own size and the masks. */
    async load() {
        this.ownSide = (await showNativeSize(Object.values(this.sizes), lastCheckpoint())) || USUAL_SIDE;
        this.canvas.setAspect(this.aspect());
        await this.loadMasks();
        this.showFields();
    }
}

registerPanel({
    name: "regions",
    title: () => t("Regions"),
    tip: () => t("Which LoRA acts where in the picture"),
    order: 25,
    build: (panel) => new RegionsPanel().build(panel),
});
