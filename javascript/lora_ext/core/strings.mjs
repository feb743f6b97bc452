// The page's texts. The English text is the key of its translations.
import { englishFor } from "./singular_forms.mjs";

/** @type {Record<string, string>} */
let translations = {};

/** @param {Record<string, string>} table English → the page's language */
export function setTranslations(table) {
    translations = table;
}

/**
 * A text in the page's language, with {0}, {1}, … filled in. The web UI's own localization comes second.
 * @param {string} text
 * @param {...(string | number)} values
 */
export function t(text, ...values) {
    const page = /** @type {{ localization?: Record<string, string> }} */ (globalThis);
    const translated = translations[text] || (page.localization || {})[text] || englishFor(text, values);
    // in one go: a value may itself have {1} in it
    return translated.replace(/\{(\d)\}/g, (place, i) => (i in values ? String(values[i]) : place));
}

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
