// The folders of the library as a tree; a click shows what is in one.
import { h, setChildren } from "../core/elements.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { summary } from "../controls/basic.mjs";

const OPENED = "folders";

/**
 * The folders that are in sight: those at the top, and those in folders that are unfolded.
 * @param {string[]} folders paths with slashes
 * @param {Set<string>} opened
 * @returns {{ path: string, name: string, depth: number, hasMore: boolean }[]}
 */
export function visibleFolders(folders, opened) {
    const inOrder = [...folders].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    const parents = new Set(inOrder.map((path) => path.slice(0, Math.max(0, path.lastIndexOf("/")))));
    return inOrder
        .map((path) => ({ path, parts: path.split("/") }))
        .filter(({ parts }) => parts.slice(0, -1).every((_, i) => opened.has(parts.slice(0, i + 1).join("/"))))
        .map(({ path, parts }) => ({
            path,
            name: parts[parts.length - 1],
            depth: parts.length - 1,
            hasMore: parents.has(path),
        }));
}

/** @param {() => void} onchange */
export function folderTree(onchange) {
    let chosen = "";
    /** @type {Record<string, number>} */
    let counts = {};
    /** @type {Set<string>} */
    const opened = new Set(loadStored(OPENED, /** @type {string[]} */ ([])));
    const list = h("div", { class: "lx-folders" });
    const title = summary(t("Folders"));
    const element = h("details", { hidden: true }, title, list);
    const choose = (/** @type {string} */ path) => {
        chosen = path;
        show(counts);
        onchange();
    };
    const fold = (/** @type {string} */ path) => {
        if (!opened.delete(path)) opened.add(path);
        store(OPENED, [...opened]);
        show(counts);
        /** @type {HTMLElement | null} */ (list.querySelector(`[data-fold="${CSS.escape(path)}"]`))?.focus();
    };
    const show = (/** @type {Record<string, number>} */ folders) => {
        counts = folders;
        const paths = Object.keys(folders);
        if (chosen && !paths.includes(chosen)) paths.push(chosen);
        element.hidden = !paths.length;
        setChildren(title, chosen ? t("Folder: {0}", chosen) : t("Folders"));
        const lines = visibleFolders(paths, opened).map((folder) =>
            folderLine(
                folder,
                { count: folders[folder.path] || 0, chosen, isOpen: opened.has(folder.path) },
                choose,
                fold,
            ),
        );
        const all = h("button", { type: "button", class: "lx-folder", onclick: () => choose("") }, t("All folders"));
        all.setAttribute("aria-current", String(!chosen));
        setChildren(list, h("div", { class: "lx-folder-line" }, h("span", {}), all), lines);
    };
    return { element, get: () => chosen, show, clear: () => void ((chosen = ""), show(counts)) };
}

/**
 * @param {ReturnType<typeof visibleFolders>[number]} folder
 * @param {{ count: number, chosen: string, isOpen: boolean }} state
 * @param {(path: string) => void} choose
 * @param {(path: string) => void} fold
 */
function folderLine({ path, name, depth, hasMore }, { count, chosen, isOpen }, choose, fold) {
    const tip = isOpen ? t("Fold {0}", name) : t("Unfold {0}", name);
    const toggle = hasMore
        ? h(
              "button",
              {
                  type: "button",
                  class: "lx-fold",
                  "aria-expanded": isOpen,
                  "aria-label": tip,
                  title: tip,
                  "data-fold": path,
                  onclick: () => fold(path),
              },
              isOpen ? "▾" : "▸",
          )
        : h("span", {});
    const face = h(
        "button",
        {
            type: "button",
            class: "lx-folder",
            title: path,
            "aria-current": path === chosen,
            onclick: () => choose(path),
        },
        h("span", {}, name),
        h("small", {}, count),
    );
    return h("div", { class: "lx-folder-line", style: { "--depth": depth } }, toggle, face);
}
