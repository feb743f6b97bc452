// The training options as a form: in groups, searchable, with the basic ones first.
import { debounce } from "../core/debounce.mjs";
import { h } from "../core/elements.mjs";
import { FieldError } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { grid, note, searchInput, segments } from "../controls/basic.mjs";
import { groupTitles, optionTitle } from "./form_words.mjs";
import { optionControl } from "./option_controls.mjs";

/** @typedef {import("../api_types").FormField} FormField */
/** @typedef {import("../api_types").TrainForm} TrainForm */
/** @typedef {import("./option_controls.mjs").OptionControl} OptionControl */
/** @typedef {Record<string, any>} Settings values by option; those at their defaults are left out */

/**
 * Whether two values say the same; null is an empty text.
 * @param {any} a
 * @param {any} b
 */
export const sameValue = (a, b) => a === b || String(a ?? "") === String(b ?? "");

/**
 * Whether an option has all words in its title, its name or its help, in English or the page's language.
 * @param {FormField} option
 * @param {string[]} words in lower case
 */
export function matchesSearch({ name, help }, words) {
    const text = `${optionTitle(name)} ${name} ${name.replaceAll("_", " ")} ${help} ${t(help)}`.toLowerCase();
    return words.every((word) => text.includes(word));
}

/**
 * Shows the basic options and those that the mode needs, all, or those that a search finds.
 * @param {HTMLElement[]} groups
 * @param {[FormField, OptionControl][]} rows
 * @param {(option: FormField) => boolean} fits whether the mode that is chosen uses an option
 */
function optionFilter(groups, rows, fits) {
    let all = false;
    const search = searchInput({
        placeholder: t("Search settings"),
        "aria-label": t("Search settings"),
        title: t("Any words of a setting's name or of its help"),
    });
    const none = note(t("No setting matches."));
    const update = () => {
        const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
        const shownGroups = new Set();
        for (const [option, { element }] of rows) {
            const usual = fits(option) && (option.basic || (option.group === "mode" && option.modes.length > 0));
            const shown = words.length ? matchesSearch(option, words) : all || usual;
            element.hidden = !shown;
            if (shown) shownGroups.add(option.group);
        }
        for (const group of groups) group.hidden = !shownGroups.has(group.dataset.group);
        none.hidden = shownGroups.size > 0;
    };
    const extent = segments(
        [
            ["basic", t("basic")],
            ["all", t("all")],
        ],
        "basic",
        (to) => {
            all = to === "all";
            update();
        },
        t("How many settings"),
    );
    search.addEventListener("input", debounce(100, update));
    update();
    return { extent, search, none, update };
}

/** The options in the order of the form: the file's name is asked first. @param {FormField[]} fields */
export const formOrder = (fields) => [
    ...fields.filter(({ name }) => name === "output_name").map((option) => ({ ...option, group: "model" })),
    ...fields.filter(({ name }) => name !== "output_name"),
];

/**
 * What the form is set to, without what is at its default.
 * @param {[FormField, OptionControl][]} rows
 * @param {(option: FormField) => boolean} fits whether the mode that is chosen uses an option
 */
function settingsOf(rows, fits) {
    /**
     * @param {[FormField, OptionControl][]} chosen
     * @param {(control: OptionControl) => any} read
     * @returns {Settings}
     */
    const values = (chosen, read) =>
        Object.fromEntries(
            chosen
                .map(([option, control]) => /** @type {const} */ ([option, read(control)]))
                .filter(([option, value]) => !sameValue(value, option.default))
                .map(([option, value]) => [option.name, value]),
        );
    const used = () => rows.filter(([option, { element }]) => fits(option) || !element.hidden);
    return {
        /** Throws FieldError where one cannot be read. What is hidden since the mode does not use it is left out. */
        settings: () => values(used(), (control) => control.get()),
        /** As they stand, right or wrong. */
        rawSettings: () => values(rows, (control) => control.raw()),
    };
}

/**
 * @param {TrainForm} form
 * @param {() => void} onchange called when the user changes a value
 */
export function optionForm(form, onchange) {
    const fields = formOrder(form.fields);
    /** @type {Record<string, OptionControl>} */
    const controls = Object.fromEntries(
        fields.map((option) => [option.name, optionControl(option, form, () => (filter.update(), onchange()))]),
    );
    const fits = (/** @type {FormField} */ { modes }) => !modes.length || modes.includes(controls.mode?.raw());
    /** @type {[FormField, OptionControl][]} */
    const rows = fields.map((option) => [option, controls[option.name]]);
    const groups = Object.entries(groupTitles()).flatMap(([name, title]) => {
        const elements = rows.filter(([option]) => option.group === name).map(([, { element }]) => element);
        return elements.length
            ? [h("section", { class: "lx-group", "data-group": name }, h("h3", {}, title), grid(elements))]
            : [];
    });
    const filter = optionFilter(groups, rows, fits);
    return {
        element: h("div", { class: "lx-groups" }, groups),
        ...filter,
        ...settingsOf(rows, fits),
        /** Shows settings; options that they do not name get their defaults. @param {Settings} settings */
        load(settings) {
            for (const [{ name, default: usual }, { set }] of rows) set(name in settings ? settings[name] : usual);
            filter.update();
        },
        names: Object.keys(controls),
        /** Shows a setting, also one that is not among the basic ones. @param {string} name */
        reveal(name) {
            const box = controls[name].element.querySelector("input, select");
            if (box) new FieldError("", /** @type {HTMLElement} */ (box)).reveal();
        },
        /** @param {string} name */
        get: (name) => controls[name].get(),
        /** @param {Settings} settings */
        change(settings) {
            for (const [name, value] of Object.entries(settings)) controls[name].set(value);
            filter.update();
        },
    };
}
