// The pictures of a training folder and their captions.
import { api } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, card, facts, field, note, select } from "../controls/basic.mjs";
import { captionedPicture, describePictures, findAndReplace } from "./caption_editor.mjs";
import { countParts } from "./caption_words.mjs";
import { trainingAspect } from "./crop_box.mjs";
import { tagOfAll } from "./tag_of_all.mjs";
import { wordCloud } from "./word_cloud.mjs";
import { saidNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").DatasetAnswer} Dataset */
/** @typedef {import("../core/api.mjs").Query} Query */
/** @typedef {{ name: string, sizes: Query }} View a folder, and the options by which it is sorted into sizes */
/** @typedef {(request: import("./caption_editor.mjs").DescribeRequest) => Promise<unknown>} Describe starts a job */

const PAGE_SIZE = 60;
/** Options of the form that the sizes and repeats of the pictures follow from, besides the resolution. */
const SIZES = ["min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale", "dataset_repeats"];

/**
 * The options that say at which sizes and how often pictures are trained.
 * @param {{ get: (name: string) => any }} options the training form
 */
export const sizesQuery = (options) => ({
    ...Object.fromEntries(SIZES.map((option) => [option, options.get(option)])),
    resolution: String(options.get("resolution")),
    buckets: options.get("enable_bucket"),
});

/**
 * Buttons for the sizes of the pictures.
 * @param {Dataset} dataset
 * @param {(size: string) => void} choose "" for all
 */
function sizeChips(dataset, choose) {
    /** @type {[string, string][]} */
    const sizes = [
        ["", t("all sizes")],
        ...Object.entries(dataset.buckets).map(
            ([size, count]) => /** @type {[string, string]} */ ([size, `${size} (${count})`]),
        ),
    ];
    const mark = (/** @type {string} */ size) =>
        chips.forEach((chip, i) => chip.setAttribute("aria-pressed", String(sizes[i][0] === size)));
    const chips = sizes.map(([size, text]) => {
        const onclick = () => {
            mark(size);
            choose(size);
        };
        return h("button", { type: "button", class: "lx-chip", title: t("Show pictures of this size"), onclick }, text);
    });
    mark("");
    return h("div", { class: "lx-chips" }, chips);
}

/**
 * The pictures, a page at a time; those of one size, or all.
 * @param {string} name of the folder
 * @param {Dataset} dataset
 * @param {number} aspect width by height of the training
 * @param {() => unknown} onchange called when a crop or a mask was changed
 * @param {boolean} [trained] whether the dataset's buckets and repeats are those of the training, and shown
 */
export function pictureGrid(name, dataset, aspect, onchange, trained = true) {
    let bucket = "",
        shown = 0;
    /** @type {((picture: import("../api_types").DatasetPicture) => boolean) | null} */
    let isShown = null;
    const captions = dataset.pictures.map(({ caption }) => caption);
    const tags = countParts(captions, "tags");
    const element = h("div", { class: "lx-grid lx-dataset" });
    const more = button(t("Show more"), () => addPage(), { kind: "quiet" });
    const addPage = () => {
        const pictures = dataset.pictures.filter(
            (picture) => (!bucket || picture.bucket === bucket) && (!isShown || isShown(picture)),
        );
        const next = pictures.slice(shown, shown + PAGE_SIZE);
        element.append(...next.map((picture) => captionedPicture(name, picture, tags, aspect, onchange, trained)));
        shown += next.length;
        more.hidden = shown >= pictures.length;
    };
    const begin = () => {
        setChildren(element);
        shown = 0;
        addPage();
    };
    const sizes = sizeChips(dataset, (size) => {
        bucket = size;
        begin();
    });
    const filter = (/** @type {typeof isShown} */ to) => {
        if (to === isShown && !to) return;
        isShown = to;
        begin();
    };
    addPage();
    return { element, more, filter, sizes };
}

/**
 * @param {HTMLElement} place
 * @param {HTMLElement} folder the field with the folder's name
 * @param {string} name
 * @param {Dataset} dataset
 * @param {() => void} refresh
 * @param {HTMLElement | null} describing what lets pictures be described
 * @param {number} aspect width by height of the training
 */
function showDataset(place, folder, name, dataset, refresh, describing, aspect) {
    const pictures = pictureGrid(name, dataset, aspect, refresh);
    setChildren(
        place,
        card(
            t("Pictures"),
            folder,
            facts([
                [t("pictures"), dataset.pictures.length],
                [t("without a caption"), dataset.missing],
                [t("sizes"), Object.keys(dataset.buckets).length],
            ]),
            dataset.skipped.map((line) => saidNote(line, "bad")),
            pictures.sizes,
            wordCloud(name, dataset.pictures, pictures.filter, refresh),
            tagOfAll(name, refresh),
            findAndReplace(name, refresh),
            describing,
        ),
        pictures.element,
        pictures.more,
    );
}

/** @param {HTMLElement} place @param {Describe} describe */
export function datasetBrowser(place, describe) {
    let calls = 0; // counts them, so that an older answer replaces no newer one
    let refresh = () => Promise.resolve();
    /** @type {{ name: string, element: HTMLElement | null }} kept while its folder is shown, so that it stays open */
    let describing = { name: "", element: null };
    /** @param {() => View} wanted read here, so that an error in it is shown */
    const show = showingErrors(async (/** @type {() => View} */ wanted) => {
        const mine = ++calls;
        const view = wanted();
        const wait = note(t("Scanning pictures …"));
        setChildren(place, card(t("Pictures"), wait)); // what is edited now would be lost when the others come
        const { datasets, captioners } = await api("/train/form");
        if (mine !== calls) return; // another folder was chosen meanwhile
        const { sizes } = view;
        const name = view.name || datasets[0] || "";
        const open = (/** @type {string} */ to) => show(() => ({ name: to, sizes }));
        const pick = select(datasets.length ? datasets : [["", t("no folder is there")]], name, open);
        const folder = field(t("Folder"), pick, t("The folder whose pictures are shown"));
        if (!name) {
            setChildren(
                place,
                card(t("Pictures"), folder, note(t("Put a folder of pictures into the dataset folder."))),
            );
            return;
        }
        setChildren(place, card(t("Pictures"), folder, wait));
        const dataset = await api("/dataset", { query: { ...sizes, name } });
        if (mine !== calls) return;
        refresh = () => open(name);
        /** @param {import("./caption_editor.mjs").DescribeRequest} request */
        const start = async (request) => {
            const shown = calls;
            await describe(request);
            if (shown === calls) refresh(); // else another folder is shown meanwhile
        };
        if (describing.name !== name) {
            describing = { name, element: describePictures(name, captioners, showingErrors(start)) };
        }
        showDataset(place, folder, name, dataset, refresh, describing.element, trainingAspect(sizes.resolution));
    });
    return show;
}
