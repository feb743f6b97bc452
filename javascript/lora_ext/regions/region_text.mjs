// Regions of a picture as the text of a prompt: tags with at=, or Regional Prompter's words where regions have words.
import { t } from "../core/strings.mjs";

/** @typedef {{ call: string, weight: number }} RegionLora a file as tags call it */
/**
 * @typedef {object} Region sides in shares of the picture
 * @property {number} left
 * @property {number} right
 * @property {number} top
 * @property {number} bottom
 * @property {string} mask the name of a mask in place of the sides; "" for none
 * @property {string} words the region's own part of the prompt
 * @property {number} feather
 * @property {RegionLora[]} loras
 */

const NEAR = 0.0051;

/** @param {number} a @param {number} b */
const near = (a, b) => Math.abs(a - b) < NEAR;

/** @param {number} value */
const shortNumber = (value) => String(Number(value.toFixed(3)));

/** @type {[string, [number, number, number, number]][]} */
const WORDS = [
    ["left", [0, 0.5, 0, 1]],
    ["right", [0.5, 1, 0, 1]],
    ["top", [0, 1, 0, 0.5]],
    ["bottom", [0, 1, 0.5, 1]],
];

/** The text of `at=`. @param {Region} region */
export function placeText({ left, right, top, bottom, mask }) {
    if (mask) return mask;
    const sides = [left, right, top, bottom];
    const word = WORDS.find(([, wanted]) => wanted.every((side, i) => near(side, sides[i])));
    if (word) return word[0];
    return `${shortNumber(left)}-${shortNumber(right)};${shortNumber(top)}-${shortNumber(bottom)}`;
}

/** @param {RegionLora} lora @param {Region | null} region null for a tag without a place */
function tagText({ call, weight }, region) {
    const place = region ? `:at=${placeText(region)}` : "";
    const soft = region && region.feather ? `:feather=${shortNumber(region.feather)}` : "";
    return `<lora:${call}:${shortNumber(weight)}${place}${soft}>`;
}

/**
 * The regions as rows of cells that fill the picture; null where they do not.
 * @param {Region[]} regions
 * @returns {Region[][] | null}
 */
export function regionGrid(regions) {
    if (!regions.length || regions.some(({ mask }) => mask)) return null;
    const sorted = [...regions].sort((a, b) => a.top - b.top || a.left - b.left);
    /** @type {Region[][]} */
    const rows = [];
    for (const region of sorted) {
        const row = rows[rows.length - 1];
        if (row && near(row[0].top, region.top) && near(row[0].bottom, region.bottom)) row.push(region);
        else rows.push([region]);
    }
    let bottom = 0;
    for (const row of rows) {
        row.sort((a, b) => a.left - b.left);
        if (!near(row[0].top, bottom)) return null;
        bottom = row[0].bottom;
        let right = 0;
        for (const region of row) {
            if (!near(region.left, right)) return null;
            right = region.right;
        }
        if (!near(right, 1)) return null;
    }
    return near(bottom, 1) ? rows : null;
}

/** Whether all rows, and all cells of each row, are equally large. @param {Region[][]} rows */
const isEven = (rows) =>
    rows.every(
        (row) =>
            near(row[0].bottom - row[0].top, 1 / rows.length) &&
            row.every(({ left, right }) => near(right - left, 1 / row.length)),
    );

/** The sizes of a grid's cells as Regional Prompter's ratios. @param {Region[][]} rows */
export function gridRatios(rows) {
    const widths = rows.map((row) => row.map(({ left, right }) => shortNumber(right - left)).join(","));
    if (rows.length === 1) return widths[0];
    return rows.map((row, i) => `${shortNumber(row[0].bottom - row[0].top)},${widths[i]}`).join(";");
}

/** @param {(string | false)[]} parts @param {string} mark */
const joined = (parts, mark) => parts.filter(Boolean).join(mark);

/**
 * The prompt.
 * @param {string} common what the whole picture shows
 * @param {Region[]} regions
 * @returns {{ text: string, ratios: string, note: string }} ratios: what the cells' sizes need; "" for equal parts
 */
export function regionPrompt(common, regions) {
    const words = common.trim();
    const tags = (/** @type {boolean} */ placed) => (/** @type {Region} */ region) =>
        region.loras.map((lora) => tagText(lora, placed ? region : null)).join(" ");
    if (!regions.some((region) => region.words.trim()))
        return { text: joined([words, ...regions.map(tags(true))], " "), ratios: "", note: "" };
    const rows = regionGrid(regions);
    if (!rows) {
        const all = joined([words, ...regions.map((region) => region.words.trim())], ", ");
        const note = t("Own words need regions that fill the picture in rows and columns; here they count everywhere.");
        return { text: joined([all, ...regions.map(tags(true))], " "), ratios: "", note };
    }
    const cells = rows.map((row) =>
        row.map((region) => joined([region.words.trim(), tags(false)(region)], " ")).join(" ADDCOL "),
    );
    const text = joined([words && `${words} ADDCOMM`, cells.join(" ADDROW ")], " ");
    const soft = regions.some(({ feather }) => feather);
    const note = soft ? t("Regions with own words have hard edges.") : "";
    return { text, ratios: isEven(rows) ? "" : gridRatios(rows), note };
}
