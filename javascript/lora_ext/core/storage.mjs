// What the page remembers in this browser, below its own prefix.

const PREFIX = "lora_ext.";

/**
 * @template T
 * @param {string} key
 * @param {T} otherwise where nothing is stored
 * @returns {T}
 */
export function loadStored(key, otherwise) {
    try {
        return JSON.parse(localStorage.getItem(PREFIX + key) || "null") ?? otherwise;
    } catch {
        return otherwise;
    }
}

/**
 * @param {string} key
 * @param {unknown} value
 */
export function store(key, value) {
    try {
        localStorage.setItem(PREFIX + key, JSON.stringify(value));
    } catch {
        /* a browser that stores nothing */
    }
}
