// The file tools: merge, resize, extract, split, convert, conflicts, write block weights. Each is a form, a job, and a
// report.
import { h, setChildren } from "../core/elements.mjs";
import { itemShown, registerPanel, showPanel } from "../core/panels.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { segments } from "../controls/basic.mjs";
import { registerJobOpener } from "../jobs/job_openers.mjs";
import { buildConflicts } from "../tools/conflicts.mjs";
import { buildConvert, buildSplit } from "../tools/convert.mjs";
import { buildExtract } from "../tools/extract.mjs";
import { buildMerge } from "../tools/merge.mjs";
import { buildResize } from "../tools/resize.mjs";
import { buildReweight } from "../tools/reweight.mjs";

/** @typedef {import("../jobs/job_view.mjs").JobView} JobView */
/** @typedef {{ view: JobView, take?: (given: any) => void }} Tool */
/** @typedef {{ title: () => string, build: (place: HTMLElement) => Tool }} ToolKind */

/** @type {Record<string, ToolKind>} the name is also the kind of its jobs */
const TOOLS = {
    merge: { title: () => t("Merge"), build: buildMerge },
    resize: { title: () => t("Resize"), build: buildResize },
    extract: { title: () => t("Extract"), build: buildExtract },
    split: { title: () => t("Split"), build: buildSplit },
    convert: { title: () => t("Convert"), build: buildConvert },
    conflicts: { title: () => t("Conflicts"), build: buildConflicts },
    reweight: { title: () => t("Write block weights"), build: buildReweight },
};

/** @type {(name: string) => Tool} shows a tool */
let open;

/** @param {HTMLElement} panel */
function build(panel) {
    /** @type {Record<string, Tool>} */
    const built = {};
    const places = Object.fromEntries(
        Object.keys(TOOLS).map((name) => [name, h("div", { class: "lx-tool", hidden: true })]),
    );
    const show = (/** @type {string} */ name) => {
        for (const [one, place] of Object.entries(places)) place.hidden = one !== name;
        store("tool", name);
        itemShown("tools");
        return (built[name] ||= TOOLS[name].build(places[name]));
    };
    const last = loadStored("tool", "merge");
    const first = last in TOOLS ? last : "merge";
    const bar = segments(
        Object.entries(TOOLS).map(([name, { title }]) => /** @type {[string, string]} */ ([name, title()])),
        first,
        show,
        t("Tool"),
    );
    setChildren(panel, h("div", {}, bar), Object.values(places));
    show(first);
    open = (name) => {
        bar.set(name);
        return show(name);
    };
}

registerJobOpener(Object.keys(TOOLS), ({ kind, id }) => {
    showPanel("tools", kind);
    open(kind).view.attach(id);
});
registerPanel({
    name: "tools",
    title: () => t("Tools"),
    tip: () => t("Merge, resize, extract, split, convert, compare files; write block weights"),
    order: 50,
    build,
    item: () => loadStored("tool", ""),
    open: (/** @type {string | undefined} */ name, /** @type {any} */ given) => {
        if (!name || !Object.hasOwn(TOOLS, name)) return; // the page's address may name anything
        const tool = open(name);
        if (given && tool.take) tool.take(given);
    },
});
