// An error where it happened, with the help that the troubleshooting page has for it.
import { addHelp, messageOf } from "../core/messages.mjs";
import { pageWords } from "../core/server_sentences.mjs";
import { note } from "./basic.mjs";

/**
 * A note of what the program says, in the page's language.
 * @param {string} said the program's own words
 * @param {string} [kind] as of `note`
 */
export const saidNote = (said, kind = "") => note(pageWords(said), kind);

/**
 * A note of an error, in the page's language.
 * @param {unknown} error an error, or the program's own words
 */
export function errorNote(error) {
    const shown = note(messageOf(error), "bad");
    void addHelp(shown, error instanceof Error ? error.message : String(error));
    return shown;
}
