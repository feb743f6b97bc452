// The prompts that a tag can be written into: the web UI's two, and the Generate panel's.
import { post } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { page } from "../core/page.mjs";
import { t } from "../core/strings.mjs";
import { focusInTab } from "../core/webui_tabs.mjs";
import { button } from "../controls/basic.mjs";

/** @typedef {import("../controls/basic.mjs").Child} Child */

/** @typedef {{ width: number, height: number }} Size pixels; 0 for the model's own size */

/**
 * @typedef {object} PromptField
 * @property {() => string} label of the button that writes into it
 * @property {() => string} takeLabel of the button that takes its text
 * @property {() => string} place what the page calls the place where it is
 * @property {() => void} show goes there
 * @property {() => boolean} exists
 * @property {() => string} get
 * @property {(text: string) => void} set
 * @property {() => string} getNegative
 * @property {(text: string) => void} setNegative
 * @property {(seed: number) => void} setSeed
 * @property {() => Size | null} getSize of its pictures; null where it has no fields for it
 * @property {(size: Size) => void} setSize
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
 * @param {() => string} takeLabel
 * @returns {PromptField}
 */
function webuiPrompt(name, label, takeLabel) {
    /** @param {string} part @returns {HTMLTextAreaElement | null} */
    const field = (part) => document.querySelector(`#${name}_${part} textarea`);
    /** The number fields of width and height; each has a slider beside it. @returns {(HTMLInputElement | null)[]} */
    const sides = () =>
        ["width", "height"].map((side) => document.querySelector(`#${name}_${side} input[type=number]`));
    const write = (/** @type {string} */ part, /** @type {string} */ text) => {
        const element = field(part);
        if (!element) throw new Error(t("The prompt field was not found."));
        type(element, text);
    };
    return {
        label,
        takeLabel,
        place: () => name,
        show() {
            const element = field("prompt");
            if (element) focusInTab(element);
        },
        exists: () => page.choices.prompts,
        get: () => field("prompt")?.value || "",
        set: (text) => write("prompt", text),
        getNegative: () => field("neg_prompt")?.value || "",
        setNegative: (text) => write("neg_prompt", text),
        setSeed(seed) {
            const element = /** @type {HTMLInputElement | null} */ (document.querySelector(`#${name}_seed input`));
            if (element) type(element, seed);
        },
        getSize() {
            const [width, height] = sides();
            return width && height ? { width: Number(width.value), height: Number(height.value) } : null;
        },
        setSize(size) {
            const [width, height] = sides();
            if (width) type(width, size.width);
            if (height) type(height, size.height);
        },
    };
}

/** @type {PromptField[]} */
const prompts = [
    webuiPrompt(
        "txt2img",
        () => t("Insert into txt2img"),
        () => t("From txt2img"),
    ),
    webuiPrompt(
        "img2img",
        () => t("Insert into img2img"),
        () => t("From img2img"),
    ),
];

/** @param {PromptField} prompt */
export function registerPrompt(prompt) {
    prompts.unshift(prompt);
}

/**
 * A button for each prompt that the page has, and the line below them that tells what was written where.
 * @param {(prompt: PromptField) => Child | Promise<Child>} act writes into the prompt; answers with that line's text
 * @param {string} kind of the buttons
 * @param {string} tip
 */
export function promptButtons(act, kind, tip) {
    const line = h("p", { class: "lx-note good lx-written", role: "status", hidden: true });
    const write = showingErrors(async (/** @type {PromptField} */ prompt) => {
        const text = await act(prompt);
        const show = button(t("Go to {0}", prompt.place()), prompt.show, { tip: t("Shows the prompt") });
        setChildren(line, text, " ", show);
        line.hidden = false;
    });
    const buttons = prompts
        .filter((prompt) => prompt.exists())
        .map((prompt) => button(prompt.label(), () => write(prompt), { kind, tip }));
    return [...buttons, line];
}

/**
 * Tells what was written into a prompt.
 * @param {PromptField} prompt
 * @param {string} text
 */
export const writtenText = (prompt, text) => t("Written into the prompt of {0}: {1}", prompt.place(), text);

/** What of a text was not in the one of before. @param {string} before @param {string} now */
export const addedText = (before, now) =>
    now.startsWith(before) ? now.slice(before.length).replace(/^[\s,]+/, "") : now;

/** What the page's prompts hold. @returns {[string, () => string][]} label of a button that takes it, text */
export const promptTexts = () =>
    prompts.filter((prompt) => prompt.exists()).map((prompt) => [prompt.takeLabel(), prompt.get]);

/**
 * Writes what a route answers for the prompts of now into them.
 * @param {PromptField} prompt
 * @param {"/library/insert" | "/sets/insert"} path
 * @param {string} name of the file or the set
 */
async function insertAnswer(prompt, path, name) {
    const before = { prompt: prompt.get(), negative: prompt.getNegative() };
    const made = await post(path, { name, ...before });
    prompt.set(made.prompt);
    if (made.negative !== before.negative) prompt.setNegative(made.negative);
    if (made.missing.length) toast(t("Not in your library: {0}", made.missing.join(", ")), "bad");
    const [words, negative] = [addedText(before.prompt, made.prompt), addedText(before.negative, made.negative)];
    if (!words && !negative) return t("The prompt of {0} has it already.", prompt.place());
    return [
        words ? writtenText(prompt, words) : null,
        negative ? t("Written into the negative prompt: {0}", negative) : null,
    ]
        .filter(Boolean)
        .join(" · ");
}

/**
 * Writes a file's tag at its preferred weight and its trigger words into a prompt; what is there already stays.
 * @param {PromptField} prompt
 * @param {string} name
 */
export const insertTag = (prompt, name) => insertAnswer(prompt, "/library/insert", name);

/**
 * Writes the tags and words of a set into a prompt.
 * @param {PromptField} prompt
 * @param {string} name
 */
export const insertSet = (prompt, name) => insertAnswer(prompt, "/sets/insert", name);
