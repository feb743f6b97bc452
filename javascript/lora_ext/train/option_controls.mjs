// One control for each training option.
import { h } from "../core/elements.mjs";
import { page } from "../core/page.mjs";
import { t } from "../core/strings.mjs";
import { checkbox, field, select, textInput } from "../controls/basic.mjs";
import { numberField } from "../controls/number_field.mjs";
import { optionTitle } from "./form_words.mjs";

/** @typedef {import("../api_types").FormField} FormField */
/** @typedef {import("../api_types").TrainForm} TrainForm */
/**
 * @typedef {object} OptionControl
 * @property {HTMLElement} element
 * @property {() => any} get its value; throws FieldError where it cannot be read
 * @property {(value: any) => void} set
 * @property {() => any} raw its value as it stands, right or wrong
 */

/** A text of a line of texts: in quotation marks where it has spaces or such marks. @param {string} text */
const quoted = (text) => (text && !/[\s"']/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);

/**
 * An option's value as text.
 * @param {FormField} option
 * @param {any} value
 */
export function optionText({ type }, value) {
    if (value === null || value === undefined) return "";
    if (!Array.isArray(value)) return String(value);
    return type === "strs" ? value.map(String).map(quoted).join(" ") : value.join(",");
}

/** @param {FormField} option */
const labelOf = ({ name }) => optionTitle(name) || t(name.replaceAll("_", " "));

/** The help with the option's name and limits. @param {FormField} option */
function tipOf({ name, help, low, high }) {
    const limits = low !== null || high !== null ? `, ${low ?? "…"} – ${high ?? "…"}` : "";
    return `${t(help)} (${name}${limits})`;
}

/** The line below a control. @param {FormField} option */
const helpLine = (option) => (t(option.help) === labelOf(option) ? null : h("small", {}, t(option.help)));

/** @param {FormField} option @param {() => void} onchange @returns {OptionControl} */
function booleanControl(option, onchange) {
    const check = checkbox(labelOf(option), Boolean(option.default), onchange, tipOf(option));
    const get = () => check.box.checked;
    const element = h("div", { class: "lx-field lx-option" }, check, helpLine(option));
    return { element, get, raw: get, set: (value) => void (check.box.checked = Boolean(value)) };
}

/** A number. Empty is its default. @param {FormField} option @param {() => void} onchange @returns {OptionControl} */
function numberControl(option, onchange) {
    const { type, optional } = option;
    // a limit that JavaScript's numbers do not hold is the server's to check
    const high = type === "int" && !Number.isSafeInteger(option.high) ? null : option.high;
    const made = numberField(labelOf(option), option.default, {
        tip: tipOf(option),
        oninput: onchange,
        low: option.low,
        high,
        whole: type === "int",
        optional,
        ...(optional ? {} : { usual: option.default }),
        placeholder: t("not set"),
    });
    const get = () => {
        const value = made.get();
        const exact = type !== "int" || value === null || Number.isSafeInteger(value);
        return exact ? value : made.box.value.trim(); // as text no digit is lost
    };
    const element = h("div", { class: "lx-option" }, made, helpLine(option));
    return { element, get, set: made.set, raw: () => (made.check() ? made.box.value : get()) };
}

/**
 * The input of an option that is no number.
 * @param {FormField} option
 * @param {TrainForm} form
 * @param {() => void} onchange
 */
function inputOf(option, form, onchange) {
    const text = optionText(option, option.default);
    if (option.choices.length) {
        /** @type {import("../controls/basic.mjs").Option[]} */
        const none = option.optional ? [["", "–"]] : [];
        return select([...none, ...option.choices], text, onchange);
    }
    if (option.name === "pretrained_model_name_or_path") {
        const first = form.loaded ? t("the model that is loaded") : t("the small built-in model");
        const made = select([["", first], ...page.choices.checkpoints.filter(Boolean)], "", onchange);
        made.disabled = form.loaded;
        return made;
    }
    if (option.kind === "folder" && option.name.endsWith("data_dir")) {
        return select([["", "–"], ...form.datasets], "", onchange, { "data-sets": "yes" });
    }
    return textInput(text, onchange, { placeholder: option.optional ? t("not set") : text });
}

/** @param {HTMLSelectElement} box @param {string} value */
const hasOption = (box, value) => [...box.options].some((one) => one.value === value);

/**
 * @param {FormField} option
 * @param {TrainForm} form
 * @param {() => void} onchange
 * @returns {OptionControl}
 */
export function optionControl(option, form, onchange) {
    if (["int", "float"].includes(option.type) && !option.choices.length) return numberControl(option, onchange);
    if (option.type === "bool") return booleanControl(option, onchange);
    const input = inputOf(option, form, onchange);
    const empty = option.optional || input instanceof HTMLSelectElement ? null : option.default;
    const get = () => (input.value === "" ? empty : input.value);
    const element = h("div", { class: "lx-option" }, field(labelOf(option), input, tipOf(option)), helpLine(option));
    const set = (/** @type {any} */ value) => {
        const text = optionText(option, value);
        // a folder that the run makes is in no list yet
        if (option.kind === "folder" && input instanceof HTMLSelectElement && !hasOption(input, text)) {
            input.append(h("option", { value: text }, text));
        }
        input.value = text;
    };
    return { element, get, raw: get, set };
}
