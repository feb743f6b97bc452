// Buttons that lead from a sentence of the check, or from an error, to the settings that it names.
import { t } from "../core/strings.mjs";
import { button, buttonRow } from "../controls/basic.mjs";
import { optionTitle } from "./form_words.mjs";

const MOST_LINKS = 4;

/** Names of settings that are also words of sentences. */
const PLAIN_WORDS = ["mode", "unit", "seed", "device", "resume", "factor", "algo", "constraint", "rescaled"];

/**
 * The settings that a sentence names, in its order.
 * @param {string} sentence of the program, in English
 * @param {string[]} names of all settings
 */
export function namedSettings(sentence, names) {
    const words = sentence.match(/[A-Za-z0-9_]+/g) || [];
    const known = names.filter((name) => !PLAIN_WORDS.includes(name));
    return [...new Set(words.filter((word) => known.includes(word)))].slice(0, MOST_LINKS);
}

/**
 * @param {string} sentence
 * @param {string[]} names of all settings
 * @param {(name: string) => void} goTo shows a setting
 */
export function fieldLinks(sentence, names, goTo) {
    const found = namedSettings(sentence, names);
    if (!found.length) return null;
    return buttonRow(
        found.map((name) =>
            button(t("Go to {0}", optionTitle(name) || name.replaceAll("_", " ")), () => goTo(name), {
                kind: "quiet",
                tip: t("Shows this setting ({0}) in the form", name),
            }),
        ),
    );
}
