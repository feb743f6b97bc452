// Undo and redo: Ctrl+Z, Ctrl+Shift+Z and Ctrl+Y within an editor, and two buttons.
import { showingErrors, toastLine } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button } from "./basic.mjs";

/** Changes that follow each other this fast, in milliseconds, are one: a slider that is dragged, a key that is held. */
const ONE_CHANGE = 500;
const MOST_STATES = 200;

/** The states of an editor, as text. */
export class UndoHistory {
    /** @type {string[]} */
    past = [];
    /** @type {string[]} the state to redo next is the last one */
    future = [];
    /** @type {string | null} */
    present = null;
    changed = -Infinity;

    /** Takes the editor's state after a change. @param {string} state @param {number} [now] milliseconds */
    note(state, now = performance.now()) {
        if (state === this.present) return;
        if (this.present !== null && (!this.past.length || now - this.changed > ONE_CHANGE)) {
            this.past = [...this.past, this.present].slice(-MOST_STATES);
        }
        this.changed = now;
        this.present = state;
        this.future = [];
    }

    /** The state before the last change, null where there is none. It is the present one then. */
    undo() {
        return this.move(this.past, this.future);
    }

    /** The state that was left by the last undo, null where there is none. */
    redo() {
        return this.move(this.future, this.past);
    }

    /** @param {string[]} from @param {string[]} to */
    move(from, to) {
        const state = from.pop();
        if (state === undefined || this.present === null) return null;
        to.push(this.present);
        this.present = state;
        this.changed = -Infinity; // the next change is one of its own
        return state;
    }
}

/** Whether typing there has an undo of the browser's own. @param {EventTarget | null} element */
export const isTyping = (element) =>
    element instanceof HTMLTextAreaElement || (element instanceof HTMLInputElement && element.type !== "range");

/** What a key asks for. @param {KeyboardEvent} event @returns {"undo" | "redo" | null} */
export function undoKey({ ctrlKey, metaKey, altKey, shiftKey, key }) {
    if (!(ctrlKey || metaKey) || altKey) return null;
    if (key.toLowerCase() === "z") return shiftKey ? "redo" : "undo";
    return key.toLowerCase() === "y" && !shiftKey ? "redo" : null;
}

/**
 * Undo and redo for an editor.
 * @param {HTMLElement} place where the keys act
 * @param {(state: string) => void} restore shows a state in the editor
 */
export function undoable(place, restore) {
    const history = new UndoHistory();
    const go = (/** @type {"undo" | "redo"} */ way) => {
        const state = history[way]();
        if (state !== null) restore(state);
        show();
    };
    const make = (/** @type {"undo" | "redo"} */ way, /** @type {string} */ sign, /** @type {string} */ tip) =>
        button(sign, () => go(way), { kind: "quiet", tip, "aria-label": tip });
    const undo = make("undo", "↶", t("Undo (Ctrl+Z)")),
        redo = make("redo", "↷", t("Redo (Ctrl+Shift+Z)"));
    const show = () => {
        undo.disabled = !history.past.length;
        redo.disabled = !history.future.length;
    };
    show();
    place.addEventListener("keydown", (event) => {
        const way = isTyping(event.target) ? null : undoKey(event);
        if (!way) return;
        event.preventDefault();
        go(way);
    });
    const note = (/** @type {string} */ state) => {
        history.note(state);
        show();
    };
    return { buttons: [undo, redo], note };
}

/**
 * Tells that something was deleted, with a button that puts it back.
 * @param {string} name
 * @param {() => Promise<void>} restore
 */
export function deletedToast(name, restore) {
    const line = toastLine(t("{0} is deleted", name), "lasting");
    const back = showingErrors(async () => {
        line.remove();
        await restore().catch((error) => {
            deletedToast(name, restore); // so that it can be tried again
            throw error;
        });
    });
    const undo = button(t("Undo"), back, { tip: t("Puts it back") });
    line.append(" ", undo);
    undo.focus(); // the button that deleted is gone, or the next press would delete another one
}
