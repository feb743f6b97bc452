// Block weights as text, by the same rule as the server's `parse_block_weights`. Both are tested with
// tests/data/block_weights.json.

/** @typedef {import("../api_types").PresetRow} Preset */
/** @typedef {number | string} Weight a number; R or U, which are drawn; X, X+n or X-n, taken from the tag's `x=` */
/** @typedef {{ labels: string[], values: Weight[], preset: string }} BlockWeights preset: its name; "" for numbers */

const NUMBER = String.raw`[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?`;
const IS_NUMBER = new RegExp(`^${NUMBER}$`, "i");
const IS_SPECIAL = new RegExp(String.raw`^(?:R|U|X(?:\s*${NUMBER})?)$`, "i");

/**
 * One weight; undefined where it is none.
 * @param {string} text
 * @returns {Weight | undefined}
 */
function parseWeight(text) {
    if (IS_SPECIAL.test(text)) return text.toUpperCase().replace(/\s/g, "");
    const value = IS_NUMBER.test(text) ? Number(text) : NaN;
    return Number.isFinite(value) ? value : undefined;
}

/**
 * The preset of a name: in exactly this spelling, else in any case.
 * @param {string} name
 * @param {Preset[]} presets
 */
function findPreset(name, presets) {
    const wanted = name.toUpperCase();
    const sameLetters = presets.filter((preset) => preset.name.toUpperCase() === wanted);
    return presets.find((preset) => preset.name === name) || sameLetters[sameLetters.length - 1];
}

/**
 * @param {string} text a preset's name, or weights with commas
 * @param {Preset[]} presets
 * @param {Record<string, { labels: string[] }>} layouts number of weights → the blocks that they are for
 * @returns {BlockWeights | null} null where it is neither
 */
export function parseBlockWeights(text, presets, layouts) {
    const body = text.trim().normalize("NFC");
    const preset = findPreset(body, presets);
    // without the brackets of a JSON list, as kohya's scripts take
    const numbers = (preset ? preset.values : body).replace(/^\[(.*)\]$/s, "$1");
    const values = numbers.split(",").map((part) => parseWeight(part.trim()));
    const layout = layouts[values.length];
    if (!layout || values.includes(undefined)) return null;
    return { labels: layout.labels, values: /** @type {Weight[]} */ (values), preset: preset ? preset.name : "" };
}

/**
 * The weight of every block. Blocks without one count as 0, the text encoder as 1.
 * @param {BlockWeights} weights
 * @param {string[]} blocks all of them
 * @returns {Record<string, Weight>}
 */
export function weightsOfAll({ labels, values }, blocks) {
    const all = Object.fromEntries(blocks.map((label) => [label, /** @type {Weight} */ (label === "BASE" ? 1 : 0)]));
    labels.forEach((label, i) => (all[label] = values[i]));
    return all;
}

/**
 * The range of sliders that show all values: 0 to 1, or wider in whole numbers, at least -1 and 2.
 * @param {[number, number]} range
 * @param {Weight[]} values
 * @returns {[number, number]}
 */
export function rangeFor([low, high], values) {
    const numbers = values.filter((value) => typeof value === "number");
    const least = Math.min(0, ...numbers),
        most = Math.max(1, ...numbers);
    if (least >= low && most <= high) return [low, high];
    return [least < 0 ? Math.min(-1, Math.floor(least)) : 0, most > 1 ? Math.max(2, Math.ceil(most)) : 1];
}
