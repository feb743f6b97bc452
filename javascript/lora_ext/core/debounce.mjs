// Waiting until the user pauses.

/**
 * A function that calls `act` when it was not called again for `wait` milliseconds.
 * @template {any[]} Values
 * @param {number} wait
 * @param {(...values: Values) => void} act
 * @returns {(...values: Values) => void}
 */
export function debounce(wait, act) {
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    return (...values) => {
        clearTimeout(timer);
        timer = setTimeout(() => act(...values), wait);
    };
}
