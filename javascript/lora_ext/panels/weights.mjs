// The Weights panel: one slider a block along the U-Net's shape, text synced both ways, presets, the tag.
import { api } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { on } from "../core/events.mjs";
import { formatWeight } from "../core/format.mjs";
import { copyText, showingErrors, toast } from "../core/messages.mjs";
import { page } from "../core/page.mjs";
import { itemShown, registerPanel, showPanel } from "../core/panels.mjs";
import { store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { button, card, columns, buttonRow } from "../controls/basic.mjs";
import { lastCheckpoint } from "../controls/sampling_fields.mjs";
import { undoable } from "../controls/undo.mjs";
import { LoraPicker } from "../library/lora_picker.mjs";
import { promptButtons, writtenText } from "../prompts/prompt_fields.mjs";
import { BlockEditor } from "../weights/block_editor.mjs";
import { groupSliders } from "../weights/group_sliders.mjs";
import { previewCard } from "../weights/preview.mjs";
import { PresetList } from "../weights/preset_list.mjs";
import { tagFields } from "../weights/tag_fields.mjs";
import { aboutFile, layoutChoice, rangeChoice } from "../weights/panel_parts.mjs";
import { tagLine } from "../weights/tag_line.mjs";
import { WeightsText } from "../weights/weights_text.mjs";

/** @typedef {import("../api_types").LibraryRow} LibraryRow */
/** @typedef {import("../api_types").LoraFileDetails} LoraFile */
/** @typedef {import("../weights/block_weights.mjs").BlockWeights} BlockWeights */
/** @typedef {import("../weights/weights_text.mjs").Tag} Tag */
/** @typedef {import("../weights/tag_fields.mjs").FieldValues} FieldValues */

class WeightsPanel {
    /** @type {LoraFile | null} */
    file = null;
    preset = "";
    /** The layout's number of weights. */
    size = 17;
    /** Counts choices of files, so that an older answer replaces no newer one. */
    choices = 0;
    /** Weights for the file that is being chosen, as text. */
    arriving = "";

    /** @param {HTMLElement} place the panel's element */
    constructor(place) {
        this.place = place;
        this.about = h("div", { class: "lx-about" });
        this.editor = new BlockEditor(
            () => this.renamed(""),
            ([low, high]) => this.ranges.set(low < 0 || high > 1 ? "-1,2" : "0,1"),
        );
        this.groups = groupSliders(this.editor);
        this.layouts = layoutChoice([17, 26], 17, (size) => this.setLayout(size));
        this.ranges = rangeChoice((low, high) => {
            this.editor.setRange([low, high]);
            this.groups.show();
        });
        this.fields = tagFields(() => this.update());
        this.tag = tagLine(() => this.request());
        this.preview = previewCard(
            () => this.file?.call,
            (prompt) => this.tag.write(prompt),
        );
        this.picker = new LoraPicker({ onpick: showingErrors((file) => this.showFile(file)) });
        this.presets = new PresetList({
            text: () => {
                this.text.check();
                return this.vector();
            },
            use: (name) => void this.text.enter(name),
            named: (name) => this.renamed(name),
        });
        this.undo = undoable(this.place, (state) => this.restore(JSON.parse(state)));
        this.text = new WeightsText({
            presets: () => this.presets.presets,
            ontag: (tag) => this.showTag(tag),
            onread: (weights) => this.showWeights(weights),
        });
    }

    /** The weights as text. */
    vector() {
        return this.editor
            .weights()
            .map((value) => (typeof value === "number" ? formatWeight(value) : value))
            .join(",");
    }

    /** Whether every block of the file is at 1, also those without a slider in this layout. */
    isPlain() {
        const blocks = this.file ? this.file.blocks : [];
        return (
            this.editor.weights().every((value) => value === 1) &&
            blocks.every(({ block }) => this.editor.weightOf(block) === 1)
        );
    }

    /** What the tag is to say; null without a file. Throws FieldError where something cannot be read. */
    request() {
        this.text.check();
        const fields = this.fields.get();
        const lbw = this.preset || (this.isPlain() ? null : this.vector());
        return this.file ? { name: this.file.call, lbw, ...fields } : null;
    }

    /** After a change: text, presets, group sliders and tag follow. What was typed stays while it cannot be read. */
    update({ keepText = Boolean(this.text.error) } = {}) {
        if (!keepText) this.text.show(this.preset || this.vector());
        this.presets.mark(this.text.error ? "" : this.preset);
        this.groups.show();
        this.tag.update();
        this.preview.changed();
        const fields = this.fields.state();
        if (!this.text.error && fields) this.undo.note(JSON.stringify({ text: this.text.box.value, fields }));
    }

    /** Shows a state of before. @param {{ text: string, fields: FieldValues }} state */
    restore({ text, fields }) {
        this.fields.set(fields);
        return this.text.enter(text);
    }

    /** The weights have another name now; "" for none. @param {string} preset */
    renamed(preset) {
        this.preset = preset;
        this.update({ keepText: false });
    }

    /** @param {number} size */
    setLayout(size) {
        this.size = size;
        this.editor.setLayout(page.layouts.layouts[size].labels, this.isSdxl());
        this.renamed("");
    }

    isSdxl() {
        return Boolean(this.file && this.file.family === "SDXL");
    }

    /** Shows what was read from the text. @param {BlockWeights | null} weights null where it cannot be read */
    showWeights(weights) {
        if (weights) {
            const size = this.layoutFor(weights);
            if (size !== this.size) {
                this.size = size;
                this.layouts.set(size);
                this.editor.setLayout(page.layouts.layouts[size].labels, this.isSdxl());
            }
            this.editor.setWeights(weights);
            this.preset = weights.preset;
        }
        this.update({ keepText: true });
    }

    /**
     * The weights' own layout where the file has it, else one that shows every weight.
     * @param {BlockWeights} weights
     */
    layoutFor({ labels, values }) {
        const own = this.file ? this.file.layouts : [17, 26];
        if (own.includes(labels.length)) return labels.length;
        const shown = page.layouts.layouts[this.size].labels;
        const hidden = labels.some((label, i) => !shown.includes(label) && values[i] !== 0);
        return hidden ? Math.max(labels.length, labels.length === 25 ? 26 : 0) : this.size;
    }

    /** Shows the other fields of a tag that was read. @param {Tag} tag */
    async showTag(tag) {
        if (!this.file || tag.name !== this.file.call) await this.picker.choose(tag.name);
        this.fields.set(tag);
    }

    /** @param {LibraryRow} chosen */
    async showFile(chosen) {
        const mine = ++this.choices;
        this.about.classList.add("busy");
        const file = /** @type {LoraFile} */ (
            await api("/inspect", { query: { name: chosen.name } }).finally(() => this.about.classList.remove("busy"))
        );
        if (mine !== this.choices) return; // another file was chosen meanwhile
        this.file = file;
        store("lora", chosen.name);
        itemShown("weights");
        setChildren(this.about, aboutFile(file));
        this.editor.setNorms(
            Object.fromEntries(
                file.blocks.flatMap(({ block, norm }) => (block && norm !== null ? [[block, norm]] : [])),
            ),
        );
        const preset = this.preset;
        this.fitLayout(file);
        if (this.arriving) {
            const text = this.arriving;
            this.arriving = "";
            await this.text.enter(text);
        } else if (preset) {
            // it stays
            const weights = this.text.parse(preset);
            if (!weights) return;
            this.editor.setWeights(weights);
            this.renamed(preset);
        }
    }

    /** Offers the layouts of a file, and shows the one that it needs. @param {LoraFile} file */
    fitLayout({ layouts, layout }) {
        const [small] = layouts;
        const size = [12, 17].includes(this.size) && layout === small ? small : layout;
        const choice = layoutChoice(layouts, size, (to) => this.setLayout(to));
        this.layouts.replaceWith(choice);
        this.layouts = choice;
        this.setLayout(size);
    }

    /** Opens the tool that writes the weights into a copy of the file. */
    writeIntoFile() {
        const request = this.request();
        if (!request) return toast(t("Choose a file"), "bad");
        const { lbw, te, unet, step, curve, hires } = request;
        if (step)
            toast(t("A file cannot hold a range of steps: From step and Until step are not written into it"), "bad");
        if (curve || hires)
            toast(t("A file cannot hold a curve or weights for the hires pass: they are not written into it"), "bad");
        return showPanel("tools", "reweight", { name: this.file && this.file.name, lbw, te, unet });
    }

    /** The tag with what can be done with it. */
    tagCard() {
        const inserts = promptButtons(
            async (prompt) => {
                const made = await this.tag.write(prompt.get());
                prompt.set(made.prompt);
                return writtenText(prompt, made.tag);
            },
            "main",
            t("Writes the tag into the prompt, or updates the tag that is already there"),
        );
        const copy = showingErrors(async () => copyText((await this.tag.write()).tag));
        const write = showingErrors(() => this.writeIntoFile());
        const buttons = buttonRow(
            inserts,
            button(t("Copy tag"), copy, { tip: t("Copy the tag as text") }),
            button(t("Write into a file"), write, { tip: t("A copy that needs no block weights in the prompt") }),
        );
        return h("section", { class: "lx-card lx-tagline" }, this.tag.element, buttons);
    }

    /** The sliders. */
    blocksCard() {
        return h(
            "section",
            { class: "lx-card" },
            buttonRow(
                h("h3", {}, t("Blocks")),
                h("span", { class: "lx-grow" }),
                this.undo.buttons,
                this.layouts,
                this.ranges,
            ),
            this.groups.element,
            this.editor.element,
            h(
                "p",
                { class: "lx-hint" },
                t(
                    "Bars show how much each block of the file changes. Drag a slider; with Shift, " +
                        "paint over several; double-click switches between 0 and 1.",
                ),
            ),
        );
    }

    show() {
        const measure = button(t("What does each block do?"), () => this.file && showPanel("blocks", this.file.name), {
            tip: t("Measures the blocks, with pictures or without"),
        });
        const side = [
            card(t("LoRA"), this.picker.element, this.about, buttonRow(measure)),
            card(t("Strength"), this.fields.elements),
        ];
        const texts = h(
            "section",
            { class: "lx-card lx-two" },
            h("div", {}, this.text.elements),
            h("div", {}, h("h3", {}, t("Presets")), this.presets.elements),
        );
        setChildren(this.place, columns("", side, [this.blocksCard(), this.preview.element, texts, this.tagCard()]));
        this.setLayout(this.size);
        showingErrors(async () => {
            await this.presets.load();
            await this.picker.chooseFirst(lastCheckpoint());
        })();
        on("presets", this.presets.load);
    }

    /** Chooses a file, and block weights for it as text. @param {string} name @param {string} [weights] */
    async take(name, weights = "") {
        this.arriving = weights;
        await this.picker.choose(name);
    }
}

/** @type {WeightsPanel} */
let panel;

registerPanel({
    name: "weights",
    title: () => t("Weights"),
    tip: () => t("Strength of a LoRA, block by block"),
    order: 20,
    build: (element) => {
        panel = new WeightsPanel(element);
        panel.show();
    },
    item: () => panel.file?.name || "",
    open: (/** @type {string | undefined} */ name, /** @type {string | undefined} */ weights) =>
        name && panel.take(name, weights),
});
