// The prompts that a tag can be written into: the web UI's two, and the Generate panel's.
import { api, post } from "../core/api.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { page } from "../core/page.mjs";
import { t } from "../core/strings.mjs";
import { button } from "../controls/basic.mjs";

/**
 * @typedef {object} PromptField
 * @property {() => string} label of the button that writes into it
 * @property {() => boolean} exists
 * @property {() => string} get
 * @property {(text: string) => void} set
 * @property {(seed: number) => void} setSeed
 */

/**
 * Changes one of gradio's fields as typing does.
 * @param {HTMLInputElement | HTMLTextAreaElement} element
 * @param {string | number} value
 */
function type(element, value) {
    element.value = String(value);
    element.dispatchEvent(new Event("input", { bubbles: true }));
}

/**
 * @param {string} name
 * @param {() => string} label
 * @returns {PromptField}
 */
function webuiPrompt(name, label) {
    const field = () => /** @type {HTMLTextAreaElement | null} */ (document.querySelector(`#${name}_prompt textarea`));
    return {
        label,
        exists: () => page.choices.prompts,
        get: () => field()?.value || "",
        set(text) {
            const element = field();
            if (!element) throw new Error(t("The prompt field was not found."));
            type(element, text);
        },
        setSeed(seed) {
            const element = /** @type {HTMLInputElement | null} */ (document.querySelector(`#${name}_seed input`));
            if (element) type(element, seed);
        },
    };
}

/** @type {PromptField[]} */
const prompts = [
    webuiPrompt("txt2img", () => t("Insert into txt2img")),
    webuiPrompt("img2img", () => t("Insert into img2img")),
];

/** @param {PromptField} prompt */
export function registerPrompt(prompt) {
    prompts.unshift(prompt);
}

/**
 * A button for each prompt that the page has.
 * @param {(prompt: PromptField) => Promise<void>} act
 * @param {string} kind of the buttons
 * @param {string} tip
 */
export const promptButtons = (act, kind, tip) =>
    prompts
        .filter((prompt) => prompt.exists())
        .map((prompt) =>
            button(
                prompt.label(),
                showingErrors(() => act(prompt)),
                { kind, tip },
            ),
        );

/**
 * Writes a file's tag into a prompt, in the place of the one that is there.
 * @param {PromptField} prompt
 * @param {string} name
 */
export async function insertTag(prompt, name) {
    const { call } = await api("/inspect", { query: { name } });
    prompt.set((await post("/tag", { name: call, prompt: prompt.get() })).prompt);
    toast(t("Written into the prompt"));
}
