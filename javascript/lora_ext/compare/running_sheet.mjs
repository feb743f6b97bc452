// The sheet of a job that draws it: its table fills while the job runs.
import { showingErrors } from "../core/messages.mjs";
import { loadSheet } from "./sheet_history.mjs";
import { sheetView } from "./sheet_view.mjs";

/** @typedef {import("../api_types").JobAnswer} JobAnswer */
/** @typedef {import("../api_types").SheetDetails} Sheet */
/** @typedef {import("../api_types").SheetLive} SheetLive */

/** The sheet of the running job: its table fills, and stays when the job ends, with what was opened in it. */
export function runningSheet() {
    let isFilling = false,
        key = "";
    /** @type {ReturnType<typeof sheetView> | null} */
    let view = null;
    const clear = () => {
        if (view) view.remove();
        view = null;
        key = "";
    };
    /** @param {HTMLElement} place @param {JobAnswer} job */
    const show = (place, { live, state }) => {
        const { folder, done } = /** @type {Partial<SheetLive>} */ (live);
        isFilling = state === "running";
        if (view && view.folder !== folder) clear();
        const mine = `${folder} ${done}`;
        if (!isFilling || !folder || key === mine) return;
        key = mine;
        showingErrors(async () => {
            const sheet = await loadSheet(folder);
            if (key !== mine || !sheet.cells) return;
            if (view) view.fill(sheet);
            else place.append((view = sheetView(sheet)));
        })();
    };
    /** Shows the sheet's end; false where another sheet was shown. @param {Sheet} sheet */
    const finish = (sheet) => {
        if (!view || view.folder !== sheet.folder) return false;
        view.fill(sheet);
        return true;
    };
    return { show, finish, clear, isFilling: () => isFilling };
}
