// What the user is told: messages at the page's edge, and errors of fields.
import { isAbort } from "./api.mjs";
import { h } from "./elements.mjs";
import { findHelp, showHelp } from "./message_help.mjs";
import { page } from "./page.mjs";
import { pageWords } from "./server_sentences.mjs";
import { t } from "./strings.mjs";

/** A field that holds no value that can be sent. */
export class FieldError extends Error {
    /**
     * @param {string} text
     * @param {HTMLElement} box its input
     */
    constructor(text, box) {
        super(text);
        this.box = box;
    }

    /** Shows the field, wherever it is folded away, and puts the cursor into it. */
    reveal() {
        for (
            let part = /** @type {HTMLElement | null} */ (this.box);
            part && part !== page.root;
            part = part.parentElement
        ) {
            if (part instanceof HTMLDetailsElement) part.open = true;
            if (part.hidden && !part.matches(".lx-panel")) part.hidden = false;
        }
        this.box.scrollIntoView({ block: "nearest" });
        this.box.focus({ preventScroll: true });
    }
}

/**
 * Shows a line at the page's edge for some seconds.
 * @param {string} text
 * @param {string} [kind] "bad" for an error; "lasting" for a line with a button
 */
export function toastLine(text, kind = "") {
    const line = h("div", { class: `lx-toast ${kind}`, role: "status" }, text);
    const toasts = page.root.querySelector(".lx-toasts");
    if (toasts) toasts.append(line);
    setTimeout(() => line.remove(), kind === "lasting" ? 20000 : kind ? 9000 : 4000);
    return line;
}

/**
 * The same; an error that the troubleshooting page explains gets a button.
 * @param {string} text
 * @param {string} [kind] "bad" for an error
 * @param {string} [said] the message in the program's own words
 */
export function toast(text, kind = "", said = text) {
    const line = toastLine(text, kind);
    if (kind === "bad") void addHelp(line, said);
}

/**
 * Adds the button that shows what to do, where the troubleshooting page explains a message.
 * @param {HTMLElement} line the message that is shown
 * @param {string} said the message in the program's own words
 */
export async function addHelp(line, said) {
    const topic = await findHelp(said);
    if (!topic) return;
    const help = h("button", { class: "lx-button", type: "button", title: t("Shows what to do about this message") });
    help.append(t("What to do"));
    help.addEventListener("click", () => showHelp(topic, page.root));
    line.append(" ", help);
}

/** @param {unknown} error */
export const messageOf = (error) => pageWords(error instanceof Error ? error.message : String(error));

/**
 * A handler that shows the error of `act` instead of throwing it; it then resolves with undefined.
 * @template {any[]} Values
 * @template Result
 * @param {(...values: Values) => Result | Promise<Result>} act
 * @returns {(...values: Values) => Promise<Result | undefined>}
 */
export const showingErrors =
    (act) =>
    async (...values) => {
        try {
            return await act(...values);
        } catch (error) {
            // a field's message is beside it
            if (error instanceof FieldError) error.reveal();
            else if (!isAbort(error)) toast(messageOf(error), "bad", error instanceof Error ? error.message : "");
            return undefined;
        }
    };

/**
 * Copies a text to the clipboard, also where the browser gives pages no clipboard (plain HTTP).
 * @param {string} text
 */
export async function copyText(text) {
    try {
        await navigator.clipboard.writeText(text);
    } catch {
        const area = h("textarea", { style: { position: "fixed", opacity: 0 } }, text);
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
    }
    toast(t("Copied"));
}
