// Sends pictures, captions and zips to the program in pieces, and adds them to a data set.
import { api, post } from "../core/api.mjs";
import { base64 } from "../core/file_data.mjs";

/** @typedef {import("../api_types").AddedPictures} AddedPictures */
/** @typedef {import("./dropped_files.mjs").NamedFile} NamedFile */
/** @typedef {{ bytes: number, total: number, name: string }} UploadProgress name: the file that is sent, or "" */

const PIECE_BYTES = 3 * 2 ** 20;
const FILES_OF_AN_UPLOAD = 200;
const BYTES_OF_AN_UPLOAD = 2 ** 30;

/**
 * The files in groups that are added one after the other; a picture and its caption are in the same one.
 * @param {NamedFile[]} files
 */
export function uploadGroups(files) {
    const stem = (/** @type {string} */ name) => name.replace(/\.[^./]*$/, "");
    /** @type {NamedFile[][]} */
    const groups = [];
    let bytes = 0;
    for (const one of [...files].sort((a, b) => stem(a.name).localeCompare(stem(b.name)))) {
        const last = groups[groups.length - 1];
        const same = last && stem(last[last.length - 1].name) === stem(one.name);
        const full = last && (last.length >= FILES_OF_AN_UPLOAD || bytes + one.file.size > BYTES_OF_AN_UPLOAD);
        if (!last || (full && !same)) {
            groups.push([one]);
            bytes = one.file.size;
        } else {
            last.push(one);
            bytes += one.file.size;
        }
    }
    return groups;
}

/** A new upload's name. */
const uploadId = () =>
    [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/**
 * @param {string} upload
 * @param {NamedFile} one
 * @param {AbortSignal} signal
 * @param {(bytes: number) => void} onsent called with the bytes of each piece
 */
async function sendFile(upload, { file, name }, signal, onsent) {
    let offset = 0;
    do {
        const piece = file.slice(offset, offset + PIECE_BYTES);
        const body = { upload, file: name, offset, data: await base64(piece) };
        await api("/teach/upload", { method: "POST", body, signal });
        offset += piece.size;
        onsent(piece.size);
    } while (offset < file.size);
}

/** @param {AddedPictures} all @param {AddedPictures} more */
function addTo(all, more) {
    all.dataset = more.dataset || all.dataset;
    all.captions += more.captions;
    all.added.push(...more.added);
    all.duplicates.push(...more.duplicates);
    all.refused.push(...more.refused);
}

/** @returns {AddedPictures} */
const nothing = (dataset = "") => ({ dataset, added: [], captions: 0, duplicates: [], refused: [] });

/**
 * Sends files and adds them to a data set.
 * @param {NamedFile[]} files
 * @param {{ dataset: string, name: string }} place the data set; "" for a new one of that name
 * @param {(now: UploadProgress) => void} onprogress
 * @param {AbortSignal} signal
 * @returns {Promise<AddedPictures>}
 */
export async function uploadPictures(files, place, onprogress, signal) {
    const all = nothing(place.dataset);
    const total = files.reduce((sum, { file }) => sum + file.size, 0);
    let bytes = 0;
    for (const group of uploadGroups(files)) {
        const upload = uploadId();
        /** @type {string[]} */
        const sent = [];
        for (const one of group) {
            const before = bytes;
            const report = (more = 0) => onprogress({ bytes: (bytes += more), total, name: one.name });
            report();
            try {
                await sendFile(upload, one, signal, report);
                sent.push(one.name);
            } catch (error) {
                const { kind, message } = /** @type {Error & { kind?: string }} */ (error);
                if (kind !== "FileError") throw error; // one that is not accepted is named, and the others go on
                addTo(all, { ...nothing(), refused: [{ file: one.name, reason: message }] });
                bytes = before + one.file.size;
            }
        }
        onprogress({ bytes, total, name: "" });
        if (!sent.length) continue;
        addTo(all, await post("/teach/pictures", { upload, files: sent, dataset: all.dataset, name: place.name }));
    }
    return all;
}
