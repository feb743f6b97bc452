// One axis of a comparison sheet: what changes, and its values.
import { h } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";
import { field, select, textInput } from "../controls/basic.mjs";

/** @typedef {import("../api_types").AxisExample} AxisKind */

/**
 * An axis as text → its kind and its values: "weight:0.2,0.5" → ["weight", "0.2,0.5"].
 * @param {string | undefined} text
 * @returns {[string, string]}
 */
export function splitAxis(text) {
    const [, kind, rest] = /^([^: ]*)(.*)$/s.exec(text || "") || ["", "", ""];
    return [kind, rest.replace(/^:/, "")];
}

/**
 * Kind and values → the axis as text. Blocks with weights of their own ("block FACE:0.5") are set off by a blank.
 * @param {string} kind
 * @param {string} values
 */
export function joinAxis(kind, values) {
    if (!kind) return "";
    const withBlank = values.startsWith(" ") || (kind === "block" && /^[A-Za-z0-9]+:/.test(values));
    return withBlank ? `${kind} ${values.trim()}` : `${kind}:${values}`;
}

/**
 * The values of a kind's example: "weight:0-1(+0.2) or weight:0.5,1" → "0-1(+0.2)".
 * @param {AxisKind} kind
 */
export const exampleValues = ({ name, example }) => example.split(" or ")[0].slice(name.length).replace(/^:/, "");

/**
 * All examples of a kind as the field of its values takes them: "0-1(+0.2) or 0.5,1".
 * @param {AxisKind} kind
 */
const examples = ({ name, example }) => example.replaceAll(`${name}:`, "");

/**
 * @param {AxisKind[]} kinds
 * @param {string} text the axis at first
 * @param {string} label
 * @param {string} tip
 */
export function axisField(kinds, text, label, tip) {
    const [kind, rest] = splitAxis(text);
    /** @type {[string, string][]} */
    const options = [
        ["", t("nothing")],
        ...kinds.map(({ name, title }) => /** @type {[string, string]} */ ([name, t(title)])),
    ];
    const chosen = () => kinds.find(({ name }) => name === pick.value);
    const pick = select(options, kind, () => {
        const found = chosen();
        values.value = found ? exampleValues(found) : "";
        showHint();
    });
    const values = textInput(rest, null, {
        placeholder: t("values"),
        "aria-label": `${label}: ${t("values")}`,
        title: t("The values: a list such as 0.2,0.5,1, or a range such as 0-1(+0.25)"),
    });
    const hint = h("small", {});
    const showHint = () => {
        const found = chosen();
        hint.textContent = found ? t("for example {0}", examples(found)) : "";
        values.disabled = !found;
    };
    showHint();
    return Object.assign(h("div", { class: "lx-axis" }, field(label, pick, tip), values, hint), {
        get: () => joinAxis(pick.value, values.value),
        /** @param {string | undefined} to */
        set(to) {
            [pick.value, values.value] = splitAxis(to);
            showHint();
        },
    });
}
