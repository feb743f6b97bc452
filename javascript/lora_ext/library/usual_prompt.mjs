// The prompt of pictures that show what a LoRA does: with its trigger words, until the user writes another one.
import { page } from "../core/page.mjs";
import { textArea } from "../controls/basic.mjs";

/**
 * A prompt with a LoRA's trigger words at its end, unless it has them.
 * @param {string} prompt
 * @param {string} words
 */
export function promptWithWords(prompt, words) {
    const isThere = prompt.toLowerCase().includes(words.toLowerCase());
    return isThere ? prompt : [prompt, words].filter(Boolean).join(", ");
}

export class UsualPrompt {
    /** @param {string | undefined} own the prompt that the user wrote before */
    constructor(own) {
        this.usual = page.choices.draws ? "a red circle on a blue background" : "";
        /** Whether the user wrote what is in the field; then it stays. */
        this.isOwn = own !== undefined;
        this.element = textArea(3, own ?? this.usual, { oninput: () => void (this.isOwn = true) });
    }

    get text() {
        return this.element.value;
    }

    /** What is remembered: the user's own prompt alone. @returns {string | undefined} */
    get own() {
        return this.isOwn ? this.text : undefined;
    }

    /** Shows a prompt that was drawn before. @param {string} text */
    take(text) {
        this.isOwn = true;
        this.element.value = text;
    }

    /** Follows the chosen file. @param {import("../api_types").LibraryRow} row */
    follow({ prompt_words: words }) {
        if (!this.isOwn) this.element.value = promptWithWords(this.usual, words);
    }
}
