// Events between parts of the page that do not know each other.
//   mounted: the tab's frame is there     jobs: a job was started or has ended     library: LoRA files came or went
//   presets: block-weight presets changed     busy (job): the job that has the model, or null

/** @type {Map<string, ((...values: any[]) => void)[]>} */
const listeners = new Map();

/**
 * @param {string} name
 * @param {(...values: any[]) => void} listener
 */
export function on(name, listener) {
    listeners.set(name, [...(listeners.get(name) || []), listener]);
}

/**
 * @param {string} name
 * @param {...any} values
 */
export function emit(name, ...values) {
    for (const listener of listeners.get(name) || []) listener(...values);
}
