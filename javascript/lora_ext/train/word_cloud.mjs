// The words of all captions, larger the more often they are there. A click shows their pictures.
import { post } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, note, segments, summary } from "../controls/basic.mjs";
import { captionsChanged } from "./caption_undo.mjs";
import { captionParts, countParts } from "./caption_words.mjs";

/** @typedef {import("../api_types").DatasetPicture} DatasetPicture */
/** @typedef {import("./caption_words.mjs").Kind} Kind */

const MOST_WORDS = 120;

/** How large a word is, in rem: by the logarithm of its count. @param {number} count @param {number} most */
const sizeOf = (count, most) => (0.78 + (0.9 * Math.log(count)) / Math.log(Math.max(2, most))).toFixed(2);

class WordCloud {
    /** @type {Kind} */
    kind = "words";
    /** @type {Set<string>} */
    chosen = new Set();
    cloud = h("div", { class: "lx-cloud" });
    acts = h("div", { role: "status" });

    /**
     * @param {string} dataset
     * @param {DatasetPicture[]} pictures
     * @param {(isShown: ((picture: DatasetPicture) => boolean) | null) => void} filter shows some pictures, or all
     * @param {() => void} onchange called when captions were changed
     */
    constructor(dataset, pictures, filter, onchange) {
        this.dataset = dataset;
        this.pictures = pictures;
        this.filter = filter;
        this.onchange = onchange;
        if (this.captions().some((caption) => caption.includes(","))) this.kind = "tags";
    }

    /** As they are now: some may have been edited. */
    captions = () => this.pictures.map(({ caption }) => caption);

    hasAll = (/** @type {DatasetPicture} */ { caption }) => {
        const parts = captionParts(caption, this.kind);
        return [...this.chosen].every((part) => parts.has(part));
    };

    /** Takes what is chosen out of every caption. */
    remove = showingErrors(async () => {
        const whole = { whole_tags: this.kind === "tags", whole_words: this.kind === "words" };
        for (const find of this.chosen) {
            const body = { dataset: this.dataset, find, put: "", ...whole, dry: false };
            captionsChanged(this.dataset, await post("/dataset/replace", body), () => {});
        }
        this.onchange();
    });

    choose = (/** @type {string} */ part) => {
        if (!this.chosen.delete(part)) this.chosen.add(part);
        this.show();
    };

    clear = () => {
        this.chosen.clear();
        this.show();
    };

    showActs() {
        const count = this.pictures.filter(this.hasAll).length;
        const words = [...this.chosen].join(" + ");
        const buttons = buttonRow(
            button(t("Remove from all"), this.remove, { tip: t("Removes what is chosen from every caption") }),
            button(t("Show all pictures"), this.clear, { tip: t("Chooses nothing") }),
        );
        const said = this.chosen.size ? [note(t("{0}: in {1} captions, shown below", words, count)), buttons] : null;
        setChildren(this.acts, said);
    }

    show() {
        const counts = countParts(this.captions(), this.kind).slice(0, MOST_WORDS);
        const most = counts.length ? counts[0][1] : 1;
        const hadFocus = this.cloud.contains(document.activeElement) ? document.activeElement?.textContent : null;
        const words = counts.map(([part, count]) => cloudWord(part, count, most, this.chosen.has(part), this.choose));
        setChildren(this.cloud, words.length ? words : note(t("No caption yet.")));
        words.find((word) => word.textContent === hadFocus)?.focus();
        this.showActs();
        this.filter(this.chosen.size ? this.hasAll : null);
    }

    kinds() {
        return segments(
            [
                ["tags", t("tags"), t("What stands between commas")],
                ["words", t("words"), t("Single words, also of sentences")],
            ],
            this.kind,
            (to) => {
                this.kind = /** @type {Kind} */ (to);
                this.clear();
            },
            t("Tags or words"),
        );
    }
}

/**
 * @param {string} dataset
 * @param {DatasetPicture[]} pictures
 * @param {(isShown: ((picture: DatasetPicture) => boolean) | null) => void} filter shows some pictures, or all
 * @param {() => void} onchange called when captions were changed
 */
export function wordCloud(dataset, pictures, filter, onchange) {
    const words = new WordCloud(dataset, pictures, filter, onchange);
    words.show();
    const count = countParts(words.captions(), words.kind).length;
    return h("details", {}, summary(t("Words of the captions: {0}", count)), words.kinds(), words.cloud, words.acts);
}

/**
 * @param {string} part
 * @param {number} count
 * @param {number} most
 * @param {boolean} pressed
 * @param {(part: string) => void} choose
 */
const cloudWord = (part, count, most, pressed, choose) =>
    h(
        "button",
        {
            type: "button",
            "aria-pressed": pressed,
            title: t("In {0} captions; shows their pictures", count),
            style: { "font-size": `${sizeOf(count, most)}rem` },
            onclick: () => choose(part),
        },
        part,
        h("small", {}, ` ${count}`),
    );
