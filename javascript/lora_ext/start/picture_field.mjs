// The pictures of Start here: those that are sent, or of a folder that is there, and their captions.
import { api, apiUrl, isAbort } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { messageOf, showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { field, note, select, stack, summary } from "../controls/basic.mjs";
import { describePictures } from "../train/caption_editor.mjs";
import { pictureUndo } from "../train/caption_undo.mjs";
import { pictureGrid } from "../train/dataset_browser.mjs";
import { editablePicture } from "../train/picture_editor.mjs";
import { tagOfAll } from "../train/tag_of_all.mjs";
import { wordCloud } from "../train/word_cloud.mjs";
import { dropZone, takePasted } from "./drop_zone.mjs";
import { uploadPictures } from "./picture_upload.mjs";
import { uploadBar, uploadReport } from "./upload_report.mjs";

/** @typedef {import("../api_types").DatasetAnswer} Dataset */
/** @typedef {import("./dropped_files.mjs").NamedFile} NamedFile */
/**
 * @typedef {object} PictureOptions
 * @property {string[]} datasets folders of pictures that are there
 * @property {string[]} captioners what describes pictures here
 * @property {string} chosen the folder of before
 * @property {() => string} newName what a new folder is called
 * @property {import("../train/dataset_browser.mjs").Describe} describe starts a job that writes captions
 * @property {() => number} aspect width by height of the training
 * @property {() => void} onchange called when there are other pictures or captions
 */

const MOST_SHOWN = 24;

/**
 * The pictures, each with a button that takes it out.
 * @param {string} dataset
 * @param {Dataset} content
 * @param {(picture: string) => void} remove
 * @param {number} aspect width by height of the training
 * @param {() => unknown} onchange called when a crop or a mask was changed
 */
function thumbnails(dataset, { pictures }, remove, aspect, onchange) {
    const shown = pictures.slice(0, MOST_SHOWN).map(({ name, time }) => {
        const src = apiUrl("/dataset/thumbnail", { dataset, picture: name, v: time });
        const label = t("Take {0} out", name);
        const image = h("img", { src, alt: name, loading: "lazy" });
        return h(
            "div",
            { class: "lx-taken" },
            editablePicture({ dataset, picture: name }, image, aspect, onchange),
            h(
                "button",
                {
                    type: "button",
                    class: "lx-take-out",
                    title: label,
                    "aria-label": label,
                    onclick: () => remove(name),
                },
                "×",
            ),
        );
    });
    const more = pictures.length - shown.length;
    return h("div", { class: "lx-samples" }, shown, more > 0 ? h("span", { class: "lx-more" }, `+${more}`) : null);
}

/**
 * The captions, made when they are opened.
 * @param {string} name of the data set
 * @param {Dataset} dataset
 * @param {string[]} captioners
 * @param {import("../train/dataset_browser.mjs").Describe} describe
 * @param {() => void} onchange
 * @param {number} aspect width by height of the training
 */
function captionBox(name, dataset, captioners, describe, onchange, aspect) {
    const body = stack();
    const box = h("details", { class: "lx-captions" }, summary(t("Captions (optional)")), body);
    box.addEventListener("toggle", () => {
        if (!box.open || body.childNodes.length) return;
        // sizes and repeats follow from settings that are suggested later
        const grid = pictureGrid(name, dataset, aspect, onchange, false);
        setChildren(
            body,
            note(t("A caption says what is in the picture besides what is taught: place, clothes, light.")),
            captioners.length ? describePictures(name, captioners, showingErrors(describe)) : null,
            tagOfAll(name, onchange),
            wordCloud(name, dataset.pictures, grid.filter, onchange),
            grid.element,
            grid.more,
        );
    });
    return box;
}

/** The pictures of a folder; null where it has none. @param {string} name @returns {Promise<Dataset | null>} */
async function loadDataset(name) {
    try {
        return await api("/dataset", { query: { name } });
    } catch (error) {
        if (/** @type {{ kind?: string }} */ (error).kind === "TrainError") return null;
        throw error;
    }
}

export class PictureField {
    dataset = "";
    count = 0;
    busy = false;
    bar = uploadBar();
    report = stack();
    shown = stack();
    pick = h("div", {});

    /** @param {PictureOptions} options */
    constructor(options) {
        this.options = options;
        this.names = [...options.datasets];
        if (this.names.includes(options.chosen)) this.dataset = options.chosen;
        const take = (/** @type {NamedFile[]} */ files) => void this.take(files);
        this.zone = dropZone(take);
        takePasted(this.zone, take);
        this.elements = [this.zone, this.bar.element, this.report, this.pick, this.shown];
        this.showPick();
    }

    /** The choice among folders that are there. */
    showPick() {
        const options = [["", t("new pictures")], ...this.names.map((name) => [name, name])];
        const made = select(/** @type {[string, string][]} */ (options), this.dataset, (name) => {
            this.dataset = name;
            setChildren(this.report);
            this.refresh();
        });
        const tip = t("Pictures that are on this computer already, in the folder of data sets");
        setChildren(this.pick, this.names.length ? field(t("Pictures of"), made, tip) : null);
    }

    /** Shows the pictures as they are now. */
    refresh = showingErrors(async () => {
        const name = this.dataset;
        const dataset = name ? await loadDataset(name) : null;
        if (name !== this.dataset) return;
        this.count = dataset ? dataset.pictures.length : 0;
        const describe = async (/** @type {import("../train/caption_editor.mjs").DescribeRequest} */ request) => {
            await this.options.describe(request);
            await this.refresh();
        };
        const { captioners, aspect } = this.options;
        const parts = dataset
            ? [
                  thumbnails(name, dataset, this.remove, aspect(), this.refresh),
                  note(t("Click a picture to crop it, or to paint over what is not to be learned.")),
                  pictureUndo(name, this.refresh),
                  captionBox(name, dataset, captioners, describe, this.refresh, aspect()),
              ]
            : null;
        setChildren(this.shown, parts);
        this.options.onchange();
    });

    /** Takes a picture out of the folder. */
    remove = showingErrors(async (/** @type {string} */ picture) => {
        const { kept } = await api("/dataset/picture", { method: "DELETE", query: { dataset: this.dataset, picture } });
        toast(t("Taken out; it is kept as {0}", kept));
        await this.refresh();
    });

    /** Sends files and shows what became of them. @param {NamedFile[]} files */
    async take(files) {
        if (!files.length || this.busy) return;
        this.busy = true;
        const abort = new AbortController();
        this.bar.stop.onclick = () => abort.abort();
        this.bar.element.hidden = false;
        setChildren(this.report);
        try {
            const place = { dataset: this.dataset, name: this.options.newName() };
            const made = await uploadPictures(files, place, this.bar.show, abort.signal);
            setChildren(this.report, uploadReport(made));
            if (made.dataset && !this.names.includes(made.dataset)) this.names.push(made.dataset);
            this.dataset = made.dataset || this.dataset;
        } catch (error) {
            setChildren(this.report, note(isAbort(error) ? t("Stopped") : messageOf(error), "bad"));
        }
        this.bar.element.hidden = true;
        this.busy = false;
        this.showPick();
        await this.refresh();
    }
}
