// How a LoRA file looks in lists.
import { apiUrl } from "../core/api.mjs";
import { h } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";

/** @typedef {import("../api_types").LibraryRow} LibraryRow */

/** A video without sound, which plays while the pointer is over it. @param {string} src */
function movingThumbnail(src) {
    const video = h("video", { class: "lx-thumb", src, preload: "metadata", loop: true, "aria-hidden": "true" });
    video.muted = true;
    video.addEventListener("pointerenter", () => void video.play().catch(() => {})); // a codec that a browser lacks
    video.addEventListener("pointerleave", () => video.pause());
    return video;
}

/** @param {LibraryRow | null} row */
export function thumbnail(row) {
    if (!row || !row.thumb) {
        const initial = (row ? row.title : "?").slice(0, 1).toUpperCase();
        return h("span", { class: "lx-thumb none", "aria-hidden": "true" }, initial);
    }
    const src = apiUrl("/thumbnail", { name: row.name, v: row.thumb });
    if (row.moving) return movingThumbnail(src);
    return h("img", { class: "lx-thumb", loading: "lazy", alt: "", src });
}

/**
 * What a row's element depends on.
 * @param {LibraryRow} row
 */
export const rowKey = (row) =>
    [row.name, row.call, row.time, row.thumb, row.moving, row.base, row.kind, row.rank, row.error, markText(row)].join(
        "|",
    );

/**
 * A file's marks in few characters: a heart for a favourite, stars for a rating.
 * @param {{ marks: LibraryRow["marks"] }} row
 */
export const markText = ({ marks }) => `${marks.favourite ? "♥" : ""}${"★".repeat(marks.rating)}`;

/** The folder that a file is in, by which files of one name are told apart; "" at the top. @param {LibraryRow} row */
export const folderText = ({ name }) => (name.includes("/") ? `${name.slice(0, name.lastIndexOf("/"))}/` : "");

/**
 * Base, kind and rank in one line.
 * @param {LibraryRow} row
 */
export function describeRow({ base, kind, rank, mixed }) {
    const known = base && base !== "unknown" ? base : null;
    return [known, kind, rank ? t("rank {0}", mixed ? `${rank}…` : rank) : null].filter(Boolean).join(" · ");
}

/**
 * A base model's family in the page's language.
 * @param {string} name
 */
export const familyName = (name) => (name === "unknown" ? t("unknown") : name);
