// What to do about a message: the troubleshooting page's section, in a dialog.
import { api } from "./api.mjs";
import { h } from "./elements.mjs";
import { t } from "./strings.mjs";

/** @typedef {import("../api_types").MessageHelp} MessageHelp */

/** @type {Promise<MessageHelp[]> | undefined} */
let topics;

/**
 * Whether the parts of a phrase, between its "…", stand in a message one after the other.
 * @param {string} message
 * @param {string} phrase
 */
export function says(message, phrase) {
    let place = 0;
    for (const part of phrase.split("…").map((piece) => piece.trim())) {
        const found = message.indexOf(part, place);
        if (found < 0) return false;
        place = found + part.length;
    }
    return true;
}

/**
 * The help of a message; undefined where there is none.
 * @param {string} message in the program's own words
 * @returns {Promise<MessageHelp | undefined>}
 */
export async function findHelp(message) {
    topics ||= api("/help").catch(() => {
        topics = undefined; // asked for again with the next message
        return [];
    });
    return (await topics).find((topic) => topic.phrases.some((phrase) => says(message, phrase)));
}

/**
 * A paragraph in the page's language, or a point with its mark.
 * @param {string} text
 */
function paragraph(text) {
    const [, mark, said] = /** @type {RegExpExecArray} */ (/^(\d+\. |- |)(.*)$/s.exec(text));
    return h("p", {}, mark + t(said));
}

/**
 * Shows the help of a message.
 * @param {MessageHelp} topic
 * @param {HTMLElement} root the tab
 */
export function showHelp(topic, root) {
    const title = t("What to do");
    const close = h("button", { class: "lx-button", type: "button", title: t("Closes this (Escape)") }, t("Close"));
    const dialog = h("dialog", { class: "lx-dialog", "aria-label": title }, [
        h("h3", {}, title),
        h("div", { class: "lx-help-text", tabindex: "0" }, [
            h("p", {}, topic.point ? t("{0} (point {1})", t(topic.heading), topic.point) : t(topic.heading)),
            topic.paragraphs.map(paragraph),
        ]),
        close,
    ]);
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    root.append(dialog);
    dialog.showModal();
}
