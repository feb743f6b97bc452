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
