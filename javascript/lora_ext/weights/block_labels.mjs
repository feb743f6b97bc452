// Blocks of the U-Net by their labels: BASE (the text encoder), IN00 …, MID, OUT00 ….
import { t } from "../core/strings.mjs";

const BLOCKS_PER_LEVEL = 3;

/** How many levels the U-Net has above its middle block. @param {boolean} sdxl */
export const deepestLevel = (sdxl) => (sdxl ? 2 : 3);

/**
 * How deep in the U-Net's shape a block lies: 0 at the top.
 * @param {string} label
 * @param {boolean} sdxl
 */
export function blockLevel(label, sdxl) {
    const deepest = deepestLevel(sdxl);
    if (label === "BASE") return 0;
    if (label === "MID") return deepest;
    const level = Math.min(Math.floor(Number(label.replace(/\D/g, "")) / BLOCKS_PER_LEVEL), deepest);
    return label.startsWith("IN") ? level : deepest - level;
}

/** "BASE", "IN", "MID" or "OUT". @param {string} label */
export const blockGroup = (label) => label.replace(/\d/g, "");

/** A block in words. @param {string} label */
export function blockTitle(label) {
    if (label === "BASE") return t("text encoder");
    if (label === "MID") return t("middle block");
    return label.startsWith("IN") ? t("input block {0}", label.slice(2)) : t("output block {0}", label.slice(3));
}

/**
 * The fewest blocks that together have at least a share of the effect.
 * @param {Record<string, number>} shares label → share of the whole effect
 * @param {number} wanted
 */
export function strongestBlocks(shares, wanted) {
    /** @type {Set<string>} */
    const found = new Set();
    let sum = 0;
    for (const [label, share] of Object.entries(shares).sort((a, b) => b[1] - a[1])) {
        if (sum >= wanted - 1e-9 || !share) break;
        found.add(label);
        sum += share;
    }
    return found;
}

/**
 * Blocks in the layout's order, neighbours as one: "OUT03–OUT06, MID".
 * @param {string[]} labels of the layout
 * @param {Set<string>} chosen
 */
export function blockRanges(labels, chosen) {
    /** @type {{ begin: number, end: number }[]} */
    const ranges = [];
    labels.forEach((label, i) => {
        if (!chosen.has(label)) return;
        const last = ranges[ranges.length - 1];
        if (last && last.end === i - 1 && labels[last.end] !== "BASE") last.end = i;
        else ranges.push({ begin: i, end: i });
    });
    return ranges
        .map(({ begin, end }) => (begin === end ? labels[begin] : `${labels[begin]}–${labels[end]}`))
        .join(", ");
}
