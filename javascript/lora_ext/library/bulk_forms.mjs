// The small forms below the selection's buttons: tags, folder, rank, format, picture.
import { api, post } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { emit } from "../core/events.mjs";
import { messageOf, showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, note, buttonRow, select, stack, textInput } from "../controls/basic.mjs";
import { numberField } from "../controls/number_field.mjs";
import { failedFiles } from "./failed_files.mjs";
import { generatedPictures, pictureUpload } from "./file_picture.mjs";

/** @typedef {import("../api_types").FailedFile} FailedFile */

let lists = 0;

/** The file's own name without its folders. @param {string} name */
const ownName = (name) => name.slice(name.lastIndexOf("/") + 1);

/**
 * Where files go that are moved to a folder.
 * @param {string[]} names
 * @param {string} folder "" for the top
 */
export function movesTo(names, folder) {
    const head = folder
        .split("/")
        .map((part) => part.trim())
        .filter(Boolean)
        .join("/");
    return names
        .map((name) => ({ name, to: head ? `${head}/${ownName(name)}` : ownName(name) }))
        .filter(({ name, to }) => name !== to);
}

/**
 * A text field with a button.
 * @param {string} label
 * @param {string[]} known what is offered while typing
 * @param {readonly (readonly [string, string, (text: string) => unknown])[]} acts text, tooltip, what is done
 */
function textForm(label, known, acts) {
    const list = h(
        "datalist",
        { id: `lx-known-${++lists}` },
        known.map((value) => h("option", { value })),
    );
    const box = textInput("", null, { "aria-label": label, title: label, placeholder: label, list: list.id });
    const buttons = acts.map(([text, tip, act]) =>
        button(
            text,
            showingErrors(() => act(box.value.trim())),
            { tip },
        ),
    );
    box.addEventListener("keydown", (event) => event.key === "Enter" && buttons[0].click());
    return h("div", { class: "lx-row" }, box, list, buttons);
}

/**
 * @param {string[]} known tags
 * @param {(change: { add_tags?: string[], remove_tags?: string[] }) => Promise<void>} mark
 */
export const tagForm = (known, mark) =>
    textForm(t("Tag"), known, [
        [t("Add tag"), t("All selected files get it"), (text) => mark({ add_tags: [text] })],
        [t("Remove tag"), t("No selected file has it afterwards"), (text) => mark({ remove_tags: [text] })],
    ]);

/** @param {string[]} known folders @param {(folder: string) => Promise<void>} move */
export const moveForm = (known, move) =>
    textForm(t("Folder, empty for the top"), known, [
        [t("Move"), t("What lies beside the files goes with them; nothing is overwritten"), move],
    ]);

/**
 * Asks before something that cannot be taken back.
 * @param {string} question
 * @param {string} label
 * @param {() => unknown} act
 */
export const confirmForm = (question, label, act) =>
    buttonRow(note(question), button(label, showingErrors(act), { kind: "main", tip: question }));

/**
 * Starts a job for each file.
 * @param {string[]} names
 * @param {"/resize" | "/convert"} path
 * @param {(name: string) => object | Promise<object>} request
 * @param {HTMLElement} out shows what was refused
 */
async function startJobs(names, path, request, out) {
    /** @type {FailedFile[]} */
    const failed = [];
    for (const name of names) {
        try {
            await post(path, await request(name));
        } catch (error) {
            failed.push({ name, error: messageOf(error) });
        }
    }
    emit("jobs");
    setChildren(out, failedFiles(failed));
    toast(t("{0} jobs were started; Jobs shows all of them", names.length - failed.length));
}

/** @param {string[]} names @param {HTMLElement} out */
export function resizeForm(names, out) {
    const tip = t("Larger keeps more and makes a larger file");
    const rank = numberField(t("New rank"), 8, { tip, low: 1, high: 4096, whole: true });
    const start = showingErrors(() => {
        const new_rank = rank.get();
        const request = async (/** @type {string} */ name) => {
            const { kinds, ranks } = await api("/inspect", { query: { name } });
            // a LoRA keeps its own rank where that is lower, as its job's report says; other kinds become LoRA
            const most = Object.keys(kinds).join() === "LoRA" ? Math.max(...Object.keys(ranks).map(Number)) : Infinity;
            return { name, new_rank, save_to: `${name}-r${Math.min(new_rank, most)}` };
        };
        return startJobs(names, "/resize", request, out);
    });
    const text = t("Each result is a new file beside the others, named for its rank");
    return stack(h("div", { class: "lx-row end" }, rank, button(t("Resize"), start, { tip: text })), note(text));
}

/** @param {string[]} names @param {HTMLElement} out */
export function convertForm(names, out) {
    const formats = select(["kohya", "diffusers"], "diffusers", null, {
        "aria-label": t("Key format"),
        title: t("Key format"),
    });
    const start = showingErrors(() => {
        const to = formats.value;
        const request = (/** @type {string} */ name) => ({ name, to, save_to: `${name}-${to}` });
        return startJobs(names, "/convert", request, out);
    });
    const text = t("Each result is a new file beside the others, named for its format");
    return stack(h("div", { class: "lx-row" }, formats, button(t("Convert"), start, { tip: text })), note(text));
}

/**
 * @param {string[]} names
 * @param {HTMLElement} out shows what was refused
 * @param {() => void} done
 */
export function pictureForm(names, out, done) {
    const take = showingErrors(async (/** @type {{ data?: string, picture?: string }} */ source) => {
        /** @type {FailedFile[]} */
        const failed = [];
        for (const name of names) {
            await api("/thumbnail", { method: "PUT", body: { name, ...source } }).catch((error) =>
                failed.push({ name, error: messageOf(error) }),
            );
        }
        setChildren(out, failedFiles(failed));
        toast(t("Saved beside {0} files", names.length - failed.length));
        done();
    });
    const choices = h("div", { class: "lx-samples" });
    showingErrors(() => generatedPictures(choices, take))();
    const upload = pictureUpload(take);
    const tip = t("A picture from your disk; PNG, JPEG or WebP");
    return stack(
        choices,
        buttonRow(
            button(t("Upload"), () => upload.click(), { tip }),
            upload,
        ),
    );
}
