// The result of a block analysis: a map of the blocks, which to keep, and what to do with them.
import { api, apiUrl } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { emit } from "../core/events.mjs";
import { formatPercent } from "../core/format.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { page } from "../core/page.mjs";
import { showPanel } from "../core/panels.mjs";
import { t } from "../core/strings.mjs";
import { button, grid, note, outsideLink, buttonRow, stack, textInput } from "../controls/basic.mjs";
import { rangeField } from "../controls/range_field.mjs";
import { blockRanges, strongestBlocks } from "../weights/block_labels.mjs";

/** @typedef {import("../api_types").BlockAnalysisAnswer} BlockAnalysis */

/**
 * The ways to measure: name, title, tooltip.
 * @returns {[string, string, string][]}
 */
export const analysisWays = () => [
    ["norms", t("strength"), t("How large each block's change of the weights is; takes seconds, draws nothing")],
    ["lowered", t("off alone"), t("Each block is switched off alone: what the picture loses")],
    ["raised", t("on alone"), t("Each block is switched on alone: what it does by itself")],
];

/** @param {number} share */
const percent = (share) => formatPercent(Math.round(share * 1000) / 1000);

/** @param {BlockAnalysis} found @param {string} label "" for the picture to measure from */
function picture(found, label) {
    const src = apiUrl("/pictures", { name: found.pictures[label] });
    return h("img", { loading: "lazy", alt: label || t("the picture to measure from"), src });
}

/**
 * The box of one block, coloured by its share. One with a picture is a button.
 * @param {BlockAnalysis} found
 * @param {string} label
 * @param {(label: string) => void} compare
 */
function blockBox(found, label, compare) {
    const share = found.shares[label],
        drawn = found.pictures[label];
    const most = Math.max(...Object.values(found.shares)) || 1;
    const text = share === undefined ? "–" : percent(share);
    const title =
        share === undefined
            ? t("{0}: not in this layout", label)
            : drawn
              ? t("{0}: {1}; click to see its picture", label, text)
              : `${label}: ${text}`;
    const pressable = drawn ? { type: "button", "aria-pressed": "false", onclick: () => compare(label) } : {};
    const box = h(
        drawn ? "button" : "div",
        { class: "lx-heat", "data-label": label, style: { "--heat": (share || 0) / most }, title, ...pressable },
        drawn ? picture(found, label) : null,
        h("b", {}, label === "BASE" ? t("text encoder") : label),
        h("span", {}, text),
    );
    box.classList.toggle("absent", share === undefined);
    return box;
}

/**
 * The blocks in the U-Net's shape: each level's input and output block in one line.
 * @param {BlockAnalysis} found
 * @param {(label: string) => HTMLElement} box
 * @param {boolean} withBase
 */
function unetShape(found, box, withBase) {
    const { sdxl, layouts } = page.layouts;
    const blocks = sdxl.length && [12, 20].includes(found.layout) ? sdxl : layouts[25].labels;
    const middle = blocks.indexOf("MID");
    const lines = blocks
        .slice(0, middle)
        .map((label, i) =>
            h(
                "div",
                { class: "lx-heat-row", style: { "--depth": i / middle } },
                box(label),
                h("i", { "aria-hidden": "true" }),
                box(blocks[blocks.length - 1 - i]),
            ),
        );
    return h(
        "div",
        { class: "lx-map" },
        withBase ? h("div", { class: "lx-heat-base" }, box("BASE")) : null,
        lines,
        h("div", { class: "lx-heat-base" }, box("MID")),
    );
}

/** The pictures with and without a block, side by side. @param {BlockAnalysis} found @param {string} label */
function picturePair(found, label) {
    const lowered = found.way === "lowered";
    const before = lowered ? t("all blocks on") : t("all blocks off");
    const after = lowered ? t("{0} off", label) : t("{0} alone", label);
    return h(
        "div",
        { class: "lx-pair" },
        [
            ["", before],
            [label, after],
        ].map(([name, text]) => h("figure", {}, picture(found, name), h("figcaption", {}, text))),
    );
}

/**
 * Buttons that use the chosen blocks: as a preset, in the Weights panel.
 * @param {BlockAnalysis} found
 * @param {() => string} weights as text
 */
function actions(found, weights) {
    const label = t("Name of a new preset");
    const name = textInput("", null, {
        placeholder: label,
        "aria-label": label,
        title: t("The preset's name, here and in tags"),
    });
    const save = showingErrors(async () => {
        const preset = name.value.trim() || `${found.title.replace(/[:,<>=\s]+/g, "_").slice(0, 50)}_KEEP`;
        await api("/presets", { method: "PUT", body: { name: preset, values: weights() } });
        emit("presets");
        toast(t("Saved as {0}", preset));
    });
    return buttonRow(
        name,
        button(t("Save as preset"), save, {
            kind: "main",
            tip: t("Saves a preset with these blocks at 1 and the others at 0"),
        }),
        button(t("Set block weights"), () => showPanel("weights", found.name, weights()), {
            tip: t("Shows these weights in the Weights panel"),
        }),
        outsideLink(
            apiUrl("/pictures", { name: found.map }),
            { class: "lx-button", title: t("The map as a picture") },
            t("Map"),
        ),
    );
}

/**
 * @param {string[]} labels of the layout
 * @param {Set<string>} chosen
 * @param {number} share of the effect
 */
function adviceText(labels, chosen, share) {
    if (!chosen.size) return t("No block of this layout has an effect.");
    const ranges = blockRanges(labels, chosen),
        count = chosen.size,
        effect = percent(share);
    return t("Keep {0}: {1} of {2} blocks make up {3} of the effect.", ranges, count, labels.length, effect);
}

/**
 * The kept blocks' share of the whole effect.
 * @param {string[]} labels of the layout
 * @param {Set<string>} kept
 * @param {Record<string, number>} shares
 */
export const keptShare = (labels, kept, shares) =>
    labels.reduce((total, label) => total + (kept.has(label) ? shares[label] : 0), 0);

/** The block with the largest share of those that have a picture. @param {BlockAnalysis} found */
export const strongestPicture = ({ pictures, shares }) =>
    Object.keys(pictures)
        .filter(Boolean) // "" is the picture to measure from
        .sort((a, b) => shares[b] - shares[a])[0];

/** What the map shows, as a heading. @param {BlockAnalysis} found */
function heading(found) {
    const way = analysisWays().find(([name]) => name === found.way);
    return h("h3", {}, `${found.title} · ${way ? way[1] : found.way}`);
}

/** A sentence where much of the file lies in layers that the layout switches off. @param {BlockAnalysis} found */
function outsideNote({ outside }) {
    if (outside <= 0.005) return null;
    return note(t("{0} of the whole file lies in layers that this layout switches off.", percent(outside)));
}

/** @param {BlockAnalysis} found */
export function blockMap(found) {
    const { labels } = page.layouts.layouts[found.layout];
    /** @type {Record<string, HTMLElement>} */
    const boxes = {};
    const pair = stack();
    const advice = h("p", { class: "lx-note good", role: "status" });
    let chosen = /** @type {Set<string>} */ (new Set());
    const compare = (/** @type {string} */ label) => {
        for (const [name, box] of Object.entries(boxes)) box.setAttribute("aria-pressed", String(name === label));
        setChildren(pair, picturePair(found, label));
    };
    const map = unetShape(found, (label) => (boxes[label] = blockBox(found, label, compare)), labels.includes("BASE"));
    const keep = rangeField(t("Keep"), {
        min: 0.5,
        max: 1,
        step: 0.01,
        value: 0.8,
        usual: 0.8,
        tip: t("Share of the effect that the preset keeps"),
        oninput: () => showChosen(),
    });
    const showChosen = () => {
        chosen = strongestBlocks(found.shares, keep.get());
        for (const [label, box] of Object.entries(boxes)) box.classList.toggle("kept", chosen.has(label));
        advice.textContent = adviceText(labels, chosen, keptShare(labels, chosen, found.shares));
    };
    const weights = () => labels.map((label) => (chosen.has(label) ? 1 : 0)).join(",");
    showChosen();
    const first = strongestPicture(found);
    if (first) compare(first);
    return stack(heading(found), advice, outsideNote(found), grid(keep), actions(found, weights), pair, map);
}
