// Where pictures are dropped, pasted or chosen.
import { h } from "../core/elements.mjs";
import { showingErrors } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow } from "../controls/basic.mjs";
import { droppedFiles, namedFiles } from "./dropped_files.mjs";

/** @typedef {import("./dropped_files.mjs").NamedFile} NamedFile */

/** @param {boolean} folder @param {(files: NamedFile[]) => void} take */
function fileInput(folder, take) {
    const input = h("input", {
        type: "file",
        multiple: true,
        hidden: true,
        "data-folder": folder ? "yes" : null,
        webkitdirectory: folder,
        accept: folder ? null : "image/*,.zip,.txt,.caption",
        onchange: () => {
            const files = namedFiles(input.files || []);
            input.value = "";
            take(files);
        },
    });
    return input;
}

/** The place where pictures are dropped. @param {(files: NamedFile[]) => void} take */
export function dropZone(take) {
    const pictures = fileInput(false, take),
        folder = fileInput(true, take);
    const zone = h(
        "div",
        { class: "lx-drop", tabindex: -1 },
        h("b", {}, t("Drop pictures, a folder or a zip here")),
        h("small", {}, t("or paste them. Ten to thirty that differ in place, light and pose are enough.")),
        buttonRow(
            button(t("Choose pictures"), () => pictures.click(), { tip: t("Pictures or zips of this computer") }),
            button(t("Choose a folder"), () => folder.click(), {
                tip: t("All pictures of a folder, and their captions"),
            }),
        ),
        pictures,
        folder,
    );
    const over = (/** @type {boolean} */ on) => zone.classList.toggle("over", on);
    for (const name of ["dragenter", "dragover"]) {
        zone.addEventListener(name, (event) => {
            event.preventDefault();
            over(true);
        });
    }
    zone.addEventListener("dragleave", (event) =>
        over(zone.contains(/** @type {Node | null} */ (event.relatedTarget))),
    );
    zone.addEventListener("drop", (event) => {
        event.preventDefault();
        event.stopPropagation(); // the web UI would take the picture into a field of its own
        over(false);
        if (event.dataTransfer) showingErrors(async (data) => take(await droppedFiles(data)))(event.dataTransfer);
    });
    return zone;
}

/**
 * Takes pictures that are pasted while the zone is shown.
 * @param {HTMLElement} zone
 * @param {(files: NamedFile[]) => void} take
 */
export function takePasted(zone, take) {
    document.addEventListener("paste", (event) => {
        const files = event.clipboardData ? namedFiles(event.clipboardData.files) : [];
        if (!files.length || !zone.isConnected || zone.offsetParent === null) return;
        event.preventDefault();
        event.stopPropagation();
        take(files);
    });
}
