// The web UI's own bar of tabs.

/**
 * Shows the web UI's tab that an element is in. The standalone page has no such tabs.
 * @param {Element} element
 */
export function showTabOf(element) {
    const tabs = element.closest("#tabs");
    if (!tabs) return;
    const items = [...tabs.children].filter((child) => !child.classList.contains("tab-nav"));
    const buttons = tabs.querySelectorAll(":scope > .tab-nav > button");
    const own = buttons[items.findIndex((item) => item.contains(element))];
    if (own instanceof HTMLElement) own.click();
}

/** Frames of the page after which a tab that does not show is given up. */
const PATIENCE = 60;

/**
 * Shows the web UI's tab that a field is in, and puts the cursor there. Gradio shows the tab frames later, and what
 * is hidden takes no focus.
 * @param {HTMLElement} field
 */
export function focusInTab(field) {
    showTabOf(field);
    let frames = PATIENCE;
    const focus = () => {
        field.focus();
        if (document.activeElement !== field && frames--) requestAnimationFrame(focus);
    };
    focus();
}
