// What is shown of an upload: a bar while it goes on, and what became of it.
import { h } from "../core/elements.mjs";
import { pageWords } from "../core/server_sentences.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, note } from "../controls/basic.mjs";

/** @typedef {import("../api_types").AddedPictures} AddedPictures */

const MOST_LINES = 8;

/** A bar and words for an upload, with a button that stops it. */
export function uploadBar() {
    const fill = h("i", {});
    const bar = h(
        "div",
        { class: "lx-bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": t("Upload") },
        fill,
    );
    const words = h("span", { class: "lx-job-words" });
    const stop = button(t("Stop"), () => {}, { tip: t("Stops the upload; what was added stays") });
    const element = h("div", { class: "lx-job", hidden: true, role: "status" }, buttonRow(words, stop), bar);
    /** @param {import("./picture_upload.mjs").UploadProgress} now */
    const show = ({ bytes, total, name }) => {
        const percent = Math.round((100 * bytes) / Math.max(1, total));
        fill.style.width = `${percent}%`;
        bar.setAttribute("aria-valuenow", String(percent));
        words.textContent = name ? t("Sending {0}", name) : t("Checking the pictures …");
    };
    return { element, show, stop };
}

/** Lines of which only the first are shown. @param {string[]} lines @param {string} kind */
const shortList = (lines, kind) => [
    lines.slice(0, MOST_LINES).map((line) => note(line, kind)),
    lines.length > MOST_LINES ? note(t("and {0} more", lines.length - MOST_LINES)) : null,
];

/** What became of an upload. @param {AddedPictures} made */
export const uploadReport = ({ added, captions, duplicates, refused }) => [
    added.length ? note(t("{0} pictures added", added.length), "good") : null,
    captions ? note(t("{0} captions came with them", captions)) : null,
    shortList(
        duplicates.map(({ file, same_as: same }) => t("{0} is there already, as {1}", file, same)),
        "",
    ),
    shortList(
        refused.map(({ file, reason }) => t("{0} is left out: {1}", file, pageWords(reason))),
        "bad",
    ),
];
