// Closing what is open with Escape: one thing for each press, the newest first.

/** @typedef {{ isOpen: () => boolean, close: () => void }} Closable */

/** @type {Closable[]} */
const closables = [];

/** @param {KeyboardEvent} event */
function closeNewest(event) {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    if (event.target instanceof Element && event.target.closest("dialog")) return; // which the browser closes
    const open = [...closables].reverse().find(({ isOpen }) => isOpen());
    if (!open) return;
    event.preventDefault();
    open.close();
}

/**
 * Calls `close` when Escape is pressed anywhere in the page.
 * @param {() => boolean} isOpen
 * @param {() => void} close
 * @returns what ends it
 */
export function closeOnEscape(isOpen, close) {
    if (!closables.length) document.addEventListener("keydown", closeNewest); // the same listener is added only once
    const one = { isOpen, close };
    closables.push(one);
    return () => {
        if (closables.includes(one)) closables.splice(closables.indexOf(one), 1);
    };
}
