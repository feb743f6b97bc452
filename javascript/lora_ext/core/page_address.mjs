// Where one is in the page, as the address's fragment: `#lora/PANEL` or `#lora/PANEL/ITEM`. So back and forward work,
// and an address can be kept or sent.

const PREFIX = "#lora/";

/** @typedef {{ panel: string, item: string }} Place item: the file or the tool that the panel shows; "" for none */

/** @param {Place} place */
export const formatPlace = ({ panel, item }) =>
    PREFIX + [panel, ...(item ? item.split("/") : [])].map(encodeURIComponent).join("/");

/** The place of a fragment; null where it is none of ours. @param {string} fragment @returns {Place | null} */
export function parsePlace(fragment) {
    if (!fragment.startsWith(PREFIX)) return null;
    try {
        const [panel, ...item] = fragment.slice(PREFIX.length).split("/").map(decodeURIComponent);
        return { panel, item: item.join("/") };
    } catch {
        return null; // a percent sign that begins no character
    }
}

/**
 * Writes a place into the address. It is a new entry of the browser's history, but for the item that a panel chooses
 * by itself when it is shown.
 * @param {Place} place
 */
export function showPlace(place) {
    const before = parsePlace(location.hash);
    const fragment = formatPlace(place);
    if (before && formatPlace(before) === fragment) return;
    const isCompletion = before && before.panel === place.panel && !before.item;
    history[isCompletion ? "replaceState" : "pushState"](history.state, "", fragment);
}
