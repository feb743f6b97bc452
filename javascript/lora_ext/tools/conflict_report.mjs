// A conflict report: a matrix of pairs and blocks, the numbers behind it, and the suggested split with its tags.
import { api, post } from "../core/api.mjs";
import { h } from "../core/elements.mjs";
import { emit } from "../core/events.mjs";
import { copyText, showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, note, stack, summary, table } from "../controls/basic.mjs";
import { promptButtons, writtenText } from "../prompts/prompt_fields.mjs";
import { saidNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").ConflictAnswer} ConflictReport */
/** @typedef {import("../api_types").FilePairConflict} Pair */
/** @typedef {import("../api_types").BlockConflict} Row */
/** @typedef {import("../api_types").FileSplit} Split */

/** A share as whole percents, with one decimal below 10. @param {number} share */
export const shortPercent = (share) =>
    `${share < 0.0995 ? Number((100 * share).toFixed(1)) : Math.round(100 * share)} %`;

/** @param {number} cosine */
const signed = (cosine) => `${cosine < 0 ? "−" : "+"}${Math.abs(cosine).toFixed(2)}`;

/** @param {string} block */
const blockName = (block) =>
    block === "all" ? t("all blocks") : block === "BASE" ? t("text encoder") : block || t("other");

/** The blocks that two files have in common, in the U-Net's order. @param {Pair[]} pairs */
export function sharedBlocks(pairs) {
    const shared = new Set(
        pairs.flatMap(({ blocks }) => blocks.filter(({ layers }) => layers).map(({ block }) => block)),
    );
    const place = (/** @type {string} */ block) => {
        const [, side, number] = /^(IN|MID|OUT)(\d*)$/.exec(block) || [];
        return side ? 100 * (["IN", "MID", "OUT"].indexOf(side) + 1) + Number(number || 0) : block ? 0 : 900;
    };
    return [...shared].sort((a, b) => place(a) - place(b));
}

/** What two files have in common, as a sentence. @param {Pair} pair */
function pairSentence({ first, second, total }) {
    if (!total.layers) return t("{0} and {1} change no layer in common: they cannot conflict.", first, second);
    const [one, other] = total.inside.map(shortPercent);
    const sum =
        total.cosine > 0.02
            ? t("on the whole they add up")
            : total.cosine < -0.02
              ? t("on the whole they cancel each other")
              : t("on the whole they neither add up nor cancel");
    return t("{0} and {1}: {2} of the first lies in directions of the second, {3} the other way round; {4} ({5}).",
        first, second, one, other, sum, signed(total.cosine)); // prettier-ignore
}

/** One cell of the matrix. @param {Row | undefined} row */
function cell(row) {
    if (!row || !row.layers) return h("td", { class: "absent", title: t("at most one file changes this block") }, "–");
    const title = t("{0}: interference {1}, cosine {2}", blockName(row.block), shortPercent(row.interference),
        signed(row.cosine)); // prettier-ignore
    return h(
        "td",
        { class: "heat", "data-block": row.block, style: { "--heat": row.interference }, title },
        h("b", {}, shortPercent(row.interference)),
        h("small", {}, signed(row.cosine)),
    );
}

/** A row for each block, a column for each pair. @param {Pair[]} pairs */
function matrix(pairs) {
    const heads = [t("Block"), ...pairs.map(({ first, second }) => `${first} + ${second}`)];
    const rows = pairs.map(({ total, blocks }) => new Map([total, ...blocks].map((row) => [row.block, row])));
    const lines = ["all", ...sharedBlocks(pairs)].map((block) =>
        h(
            "tr",
            {},
            h("th", { scope: "row" }, blockName(block)),
            rows.map((row) => cell(row.get(block))),
        ),
    );
    const label = t("Interference of each pair in each block");
    return h(
        "div",
        { class: "lx-scroll lx-tall", tabindex: 0, role: "region", "aria-label": label },
        h(
            "table",
            { class: "lx-table lx-matrix" },
            h(
                "thead",
                {},
                h(
                    "tr",
                    {},
                    heads.map((head) => h("th", { scope: "col" }, head)),
                ),
            ),
            h("tbody", {}, lines),
        ),
    );
}

/** All numbers of a pair. @param {Pair} pair */
function numbers({ first, second, total, blocks }) {
    const heads = [t("Block"), t("Interference"), t("Cosine"), t("Inside the other"), t("By chance"),
        t("Angle of outputs"), t("Angle of inputs"), "‖ΔW‖"]; // prettier-ignore
    const both = (/** @type {number[]} */ pair) => pair.map(shortPercent).join(" / ");
    const rows = [total, ...blocks].map((row) => {
        const norms = row.norms.map((norm) => String(Number(norm.toPrecision(3)))).join(" / ");
        if (!row.layers) return [blockName(row.block), "–", "–", "–", "–", "–", "–", norms];
        const angles = [row.output_angle, row.input_angle].map((angle) => `${Math.round(angle)}°`);
        return [blockName(row.block), shortPercent(row.interference), signed(row.cosine), both(row.inside),
            both(row.by_chance), ...angles, norms]; // prettier-ignore
    });
    return h("details", {}, summary(t("Numbers of {0} and {1}", first, second)), table(heads, rows));
}

/** What one file keeps, with its tag. @param {Split} split */
function splitLine({ name, tag, gives_up: left, kept, lbw }) {
    const text = left.length
        ? t("leaves {0} to others and keeps {1} of its change", left.join(", "), shortPercent(kept))
        : t("keeps every block");
    const save = showingErrors(async () => {
        const preset = `${name.replace(/[:,<>=\s/\\]+/g, "_").slice(0, 50)}_SPLIT`;
        await api("/presets", { method: "PUT", body: { name: preset, values: lbw } });
        emit("presets");
        toast(t("Saved as {0}", preset));
    });
    const preset = button(t("Save as preset"), save, { tip: t("Saves these block weights under a name") });
    return h(
        "div",
        { class: "lx-split-line" },
        h("code", { class: "lx-tag" }, tag),
        buttonRow(note(text), lbw ? preset : null),
    );
}

/** The split and what can be done with it. @param {Split[]} splits */
function splitCard(splits) {
    const inserts = promptButtons(
        async (prompt) => {
            for (const { name, weight, lbw } of splits) {
                const fields = { name, te: weight, unet: weight, lbw: lbw || null, prompt: prompt.get() };
                prompt.set((await post("/tag", fields)).prompt);
            }
            return writtenText(prompt, splits.map(({ tag }) => tag).join(" "));
        },
        "main",
        t("Writes all tags into the prompt, or updates those that are already there"),
    );
    const copy = showingErrors(() => copyText(splits.map(({ tag }) => tag).join(" ")));
    const stays = splits.every(({ gives_up: left }) => !left.length);
    return stack(
        h("h3", {}, t("Suggested split of the blocks")),
        stays ? note(t("No conflict reaches the limit: the tags can stay as they are."), "good") : null,
        splits.map(splitLine),
        buttonRow(inserts, button(t("Copy tags"), copy, { tip: t("Copy the tags as text") })),
    );
}

/** @param {ConflictReport | null} report */
export function conflictReport(report) {
    if (!report) return null;
    const { pairs, split, warnings, notes } = report;
    return stack(
        pairs.map((pair) => note(pairSentence(pair))),
        warnings.map((line) => saidNote(line, "bad")),
        notes.map((line) => saidNote(line)),
        matrix(pairs),
        pairs.map(numbers),
        splitCard(split),
    );
}
