// Block weights as text: a preset's name, numbers, or a whole tag.
import { post } from "../core/api.mjs";
import { debounce } from "../core/debounce.mjs";
import { h } from "../core/elements.mjs";
import { copyText, FieldError, messageOf, showingErrors } from "../core/messages.mjs";
import { page } from "../core/page.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow } from "../controls/basic.mjs";
import { parseBlockWeights } from "./block_weights.mjs";

/** @typedef {import("../api_types").PresetRow} Preset */
/** @typedef {import("./block_weights.mjs").BlockWeights} BlockWeights */
/** @typedef {import("../api_types").TagFields} Tag */
/**
 * @typedef {object} TextEvents
 * @property {() => Preset[]} presets
 * @property {(tag: Tag) => Promise<void>} ontag called when a whole tag was read
 * @property {(weights: BlockWeights | null) => void} onread called with the weights; null where the text cannot be read
 */

/** Why a text is no block weights. @param {string} text */
function weightsError(text) {
    if (/[@~]/.test(text))
        return t("The sliders show constant weights; write block weights over the steps into the prompt.");
    const count = text.split(",").length;
    if (count === 1) return t("No preset is called {0}.", text);
    return t("{0} numbers; a file takes 12, 17, 20, 25 or 26.", count);
}

export class WeightsText {
    /** Why the text cannot be read, while it cannot. */
    error = "";
    /** Whether something was typed that is not read yet: nothing else is shown in its place. */
    isTyped = false;

    /** @param {TextEvents} events */
    constructor(events) {
        this.events = events;
        const readSoon = debounce(300, () => this.read());
        this.box = h("textarea", {
            class: "lx-input lx-text",
            rows: 2,
            spellcheck: "false",
            "aria-label": t("Block weights as text"),
            title: t("Block weights as text: a preset, numbers, or a whole <lora:…> tag"),
            oninput: () => {
                this.isTyped = true;
                readSoon();
            },
        });
        this.message = h("p", { class: "lx-note bad", role: "alert", hidden: true });
        const copy = button(t("Copy"), () => copyText(this.box.value), { tip: t("Copy the block weights") });
        this.elements = [h("h3", {}, t("As text")), this.box, this.message, buttonRow(copy)];
    }

    /** @param {string} text @returns {BlockWeights | null} */
    parse(text) {
        return parseBlockWeights(text, this.events.presets(), page.layouts.layouts);
    }

    /** @param {string} text @returns {Promise<BlockWeights | null>} */
    async readTag(text) {
        const tag = /** @type {Tag} */ (await post("/tag/read", { text }));
        await this.events.ontag(tag);
        const weights = this.parse(tag.lbw || "ALL");
        return weights && !tag.lbw ? { ...weights, preset: "" } : weights; // a tag without weights names no preset
    }

    /** Reads the text as it is. */
    read = showingErrors(async () => {
        this.isTyped = false;
        const text = this.box.value.trim();
        const isTag = /<(lora|lyco|loractl):/i.test(text);
        let weights = null,
            reason = weightsError(text);
        try {
            weights = isTag ? await this.readTag(text) : this.parse(text);
        } catch (error) {
            reason = messageOf(error);
        }
        this.showError(weights ? "" : reason);
        this.events.onread(weights);
    });

    /** @param {string} error "" for none */
    showError(error) {
        this.error = error;
        this.message.textContent = error;
        this.message.hidden = !error;
        this.box.setAttribute("aria-invalid", String(Boolean(error)));
    }

    /** Throws FieldError while the text cannot be read. */
    check() {
        if (this.error) throw new FieldError(this.error, this.box);
    }

    /** Shows a text that can be read. @param {string} text */
    show(text) {
        if (this.isTyped) return;
        this.box.value = text;
        this.showError("");
    }

    /** Shows a text and reads it. @param {string} text */
    enter(text) {
        this.box.value = text;
        return this.read();
    }
}
