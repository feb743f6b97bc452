// The page's texts. The English text is the key of its translations.
import { englishFor } from "./singular_forms.mjs";

/** @type {Record<string, string>} */
let translations = {};

/** @param {Record<string, string>} table English → the page's language */
export function setTranslations(table) {
    translations = table;
}

/**
 * A text in the page's language, with {0}, {1}, … still in it. The web UI's own localization comes second.
 * @param {string} text
 * @param {(string | number)[]} values what will be filled in: one of a thing has words of its own
 */
export function translation(text, values) {
    const page = /** @type {{ localization?: Record<string, string> }} */ (globalThis);
    return translations[text] || (page.localization || {})[text] || englishFor(text, values);
}

/**
 * A text with {0}, {1}, … filled in, in one go: a value may itself have {1} in it.
 * @param {string} text
 * @param {(string | number)[]} values
 */
export const filled = (text, values) =>
    text.replace(/\{(\d)\}/g, (place, i) => (i in values ? String(values[i]) : place));

/**
 * A text in the page's language, with {0}, {1}, … filled in.
 * @param {string} text
 * @param {...(string | number)} values
 */
export const t = (text, ...values) => filled(translation(text, values), values);

/**
 * The translation table for a language: "zh_TW", "zh_CN", "ja_JP", or "en" for every other one.
 * @param {string} code a browser's, as zh-Hant-HK, or the name of one of the web UI's localization files
 */
export function tableFor(code) {
    if (/^zh.*(tw|hant|hk)/i.test(code)) return "zh_TW";
    if (/^zh/i.test(code)) return "zh_CN";
    return /^ja/i.test(code) ? "ja_JP" : "en";
}

/**
 * The page's language: what the program was started with, else the web UI's setting, else the browser's.
 * @param {string | undefined} given
 */
export function pageLanguage(given) {
    const { opts } = /** @type {{ opts?: { localization?: string } }} */ (/** @type {unknown} */ (window));
    return tableFor(given || (opts && opts.localization) || (opts ? "en" : navigator.language));
}
