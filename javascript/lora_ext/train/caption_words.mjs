// Tags and words of captions: which there are, how often, and which may come next in a caption.

/** @typedef {"tags" | "words"} Kind tags stand between commas; words are found in sentences too */

/** Words that say nothing of a picture. */
const COMMON = new Set("a an and at by for from her his in is it its of on or the their there to with".split(" "));

/** The tags or words of a caption, each once, in lower case. @param {string} caption @param {Kind} kind */
export function captionParts(caption, kind) {
    const lower = caption.toLowerCase();
    const parts =
        kind === "tags" ? lower.split(/[,\n]/).map((part) => part.trim()) : lower.match(/[\p{L}\p{N}]+/gu) || [];
    return new Set(parts.filter((part) => part && (kind === "tags" || !COMMON.has(part))));
}

/**
 * How many captions have each tag or word, the most frequent first.
 * @param {string[]} captions
 * @param {Kind} kind
 * @returns {[string, number][]}
 */
export function countParts(captions, kind) {
    /** @type {Map<string, number>} */
    const counts = new Map();
    for (const caption of captions) {
        for (const part of captionParts(caption, kind)) counts.set(part, (counts.get(part) || 0) + 1);
    }
    return [...counts].sort(([a, m], [b, n]) => n - m || a.localeCompare(b));
}

/**
 * Tags of the other captions that continue what is typed after the last comma; of an empty one the most frequent.
 * @param {[string, number][]} counts
 * @param {string} caption
 * @param {number} most
 */
export function suggestedTags(counts, caption, most) {
    const typed = (caption.split(/[,\n]/).pop() || "").trim().toLowerCase();
    const has = captionParts(caption, "tags");
    return counts
        .map(([tag]) => tag)
        .filter((tag) => tag !== typed && !has.has(tag) && tag.startsWith(typed))
        .slice(0, most);
}

/**
 * The caption with a suggested tag in place of what is typed after the last comma.
 * @param {string} caption
 * @param {string} tag
 */
export function withSuggestedTag(caption, tag) {
    const kept = caption.replace(/[^,\n]*$/, "").trimEnd();
    return kept ? `${kept} ${tag}` : tag;
}
