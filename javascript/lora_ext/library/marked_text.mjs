// Text in which the words of a search are marked.
import { h } from "../core/elements.mjs";

/**
 * Where a text has words, in order and without overlaps.
 * @param {string} text
 * @param {string} search words, separated by spaces
 * @returns {[number, number][]} begin and end of each
 */
export function markedRanges(text, search) {
    const plain = text.toLowerCase();
    if (plain.length !== text.length) return []; // positions would not be those of the text
    /** @type {[number, number][]} */
    const found = [];
    for (const word of search.toLowerCase().split(/\s+/).filter(Boolean)) {
        for (let at = plain.indexOf(word); at >= 0; at = plain.indexOf(word, at + word.length)) {
            found.push([at, at + word.length]);
        }
    }
    found.sort(([a], [b]) => a - b);
    /** @type {[number, number][]} */
    const apart = [];
    for (const [begin, end] of found) {
        const last = apart[apart.length - 1];
        if (last && begin <= last[1]) last[1] = Math.max(last[1], end);
        else apart.push([begin, end]);
    }
    return apart;
}

/**
 * @param {string} text
 * @param {string} search
 * @returns {import("../element_types").Child[]}
 */
export function markedText(text, search) {
    const parts = [];
    let done = 0;
    for (const [begin, end] of markedRanges(text, search)) {
        parts.push(text.slice(done, begin), h("mark", {}, text.slice(begin, end)));
        done = end;
    }
    return [...parts, text.slice(done)];
}
