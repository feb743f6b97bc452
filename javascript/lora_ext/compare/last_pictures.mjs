// The pictures that were drawn last, side by side; two of them are compared by a slider.
import { apiUrl } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { card } from "../controls/basic.mjs";
import { wipe } from "../controls/wipe.mjs";

/** @typedef {import("../api_types").GeneratedImage} Picture */

const MOST = 12;
const KEY = "last pictures";

/** The prompt of a picture. @param {Picture} picture */
const promptOf = ({ infotext }) => infotext.split("\n")[0].trim();

/** Keeps the last pictures in this browser. The two that were chosen last are compared, the older one on the left. */
export class LastPictures {
    constructor() {
        /** @type {Picture[]} newest first */
        this.pictures = loadStored(KEY, /** @type {Picture[]} */ ([]));
        /** @type {string[]} names of the two that are compared: before, after */
        this.chosen = [];
        this.comparison = h("div", {});
        this.list = h("div", { class: "lx-last" });
        this.element = card(t("Last pictures"), this.comparison, this.list);
        this.chooseNewest();
    }

    /** Puts new pictures first; others stay where they are. @param {readonly Picture[]} pictures */
    add(pictures) {
        const fresh = pictures.filter(({ name }) => !this.pictures.some((known) => known.name === name));
        if (!fresh.length) return;
        this.pictures = [...fresh, ...this.pictures].slice(0, MOST);
        store(KEY, this.pictures);
        this.chooseNewest();
    }

    chooseNewest() {
        this.chosen = this.pictures
            .slice(0, 2)
            .map(({ name }) => name)
            .reverse();
        this.show();
    }

    /** @param {string} name */
    choose(name) {
        if (this.chosen.includes(name)) this.chosen.reverse();
        else this.chosen = [...this.chosen.slice(-1), name];
        this.show();
    }

    /** A picture whose file is gone. @param {string} name */
    forget(name) {
        this.pictures = this.pictures.filter((picture) => picture.name !== name);
        store(KEY, this.pictures);
        this.chooseNewest();
    }

    /** @param {Picture} picture */
    button(picture) {
        const place = this.chosen.length > 1 ? this.chosen.indexOf(picture.name) : -1;
        const src = apiUrl("/pictures", { name: picture.name });
        const onerror = () => this.forget(picture.name);
        return h(
            "button",
            {
                type: "button",
                "aria-pressed": place >= 0,
                title: `${promptOf(picture)}\n${t("Click to compare it with the one that was chosen before")}`,
                onclick: () => this.choose(picture.name),
            },
            h("img", { src, alt: promptOf(picture) || t("the picture"), loading: "lazy", onerror }),
            h("small", {}, ["", t("before"), t("after")][place + 1]),
        );
    }

    show() {
        this.element.hidden = this.pictures.length < 2;
        const sides = this.chosen.map((name, i) => {
            const found = this.pictures.find((one) => one.name === name);
            const about = [t("before"), t("after")][i];
            return { src: apiUrl("/pictures", { name }), text: `${about}: ${found ? promptOf(found) : name}` };
        });
        setChildren(this.comparison, sides.length > 1 ? wipe(sides[0], sides[1]) : null);
        setChildren(
            this.list,
            this.pictures.map((picture) => this.button(picture)),
        );
    }
}
