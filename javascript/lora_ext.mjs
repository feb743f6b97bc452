// Loads the tab's modules in the web UI, which loads every file of `javascript/` but none of its subfolders.
//
// The web UI adds a query to this file's address that changes with the file. An `import` between modules has none, and
// browsers keep what comes by `file=` for days: after an update old modules would run beside new ones. So the modules
// come from the extension's own API, where browsers ask each time whether they have changed.

const APP = import.meta.url.split("/file=")[0];
const MAIN = `${APP}/lora-ext/v1/modules/main.mjs`;

/** @returns {Promise<HTMLElement>} the tab's element, as soon as gradio has made it */
function tabElement() {
    return new Promise((found) => {
        const look = () => {
            const element = document.getElementById("lora-ext");
            if (!element) return;
            observer.disconnect();
            found(element);
        };
        const observer = new MutationObserver(look);
        observer.observe(document.documentElement, { childList: true, subtree: true });
        look();
    });
}

/**
 * Why the API does not give the main module; "" where it does.
 *
 * The request carries the page's token. Where users log in, its answer sets the cookie by which the modules are read:
 * an `import` carries no header.
 * @param {string} token
 */
async function refusal(token) {
    try {
        const response = await fetch(MAIN, { headers: { "X-Lora-Ext": token } });
        if (response.ok) return "";
        const answer = await response.json().catch(() => ({}));
        return answer.error || `${response.status} ${response.statusText}`;
    } catch (error) {
        return String(error);
    }
}

/** Imports the modules. The page may be open before the API is: the web UI adds it after the page. */
async function start() {
    const element = await tabElement();
    for (let attempt = 1; ; attempt++) {
        const reason = await refusal(element.dataset.token || "");
        if (!reason) break;
        if (attempt > 2) element.textContent = `The LoRA tab's scripts could not be loaded (${reason}). Trying again …`;
        await new Promise((wake) => setTimeout(wake, 1000));
    }
    await import(MAIN);
}

start();
