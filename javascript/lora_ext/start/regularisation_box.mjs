// Regularisation in Start here: a box that turns it on, why, what it does as a picture, and its settings.
import { apiUrl } from "../core/api.mjs";
import { h } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";
import { checkbox, note, summary } from "../controls/basic.mjs";

/** @typedef {import("../api_types").OfferedRegularisation} Offer */

/** What it does, as a picture of the small model. */
function effectPicture() {
    const rows = [t("without a LoRA"), t("trained without regularisation"), t("trained with it")];
    const about = t(
        "The two pictures on the right ask for a warning sign, which was taught; the four on the left for something " +
            "else, which is to stay as it was.",
    );
    const image = h("img", { src: apiUrl("/teach/regularisation-picture"), alt: rows.join(", "), loading: "lazy" });
    const names = h(
        "div",
        { class: "lx-effect-rows", "aria-hidden": true },
        rows.map((row) => h("span", {}, row)),
    );
    return h("figure", { class: "lx-effect" }, h("div", {}, image, names), h("figcaption", {}, h("small", {}, about)));
}

export class RegularisationBox {
    /** @type {boolean | null} what the user chose; null before */
    chosen = null;
    /** @type {Offer | null} */
    offer = null;

    get on() {
        return this.chosen ?? Boolean(this.offer && this.offer.on);
    }

    /** Whether a run takes this setting. @param {string} name */
    uses(name) {
        return this.on || !this.offer || !this.offer.settings.some((row) => row.name === name);
    }

    /**
     * @param {Offer} offer
     * @param {string} reason
     * @param {HTMLElement[]} rows its settings
     * @param {() => void} onchange called when it is turned on or off
     */
    show(offer, reason, rows, onchange) {
        this.offer = offer;
        const settings = h("div", { class: "lx-grid lx-reasons" }, rows),
            why = note(reason);
        const tell = () => {
            settings.hidden = !this.on;
            why.hidden = offer.on && !this.on; // it says what is drawn and how long it takes, which is no longer so
        };
        tell();
        const box = checkbox(
            t("Keep what the model draws already (regularisation)"),
            this.on,
            (on) => {
                this.chosen = on;
                tell();
                onchange();
            },
            t("Pictures of other things take turns with yours, so that only your word gets a new meaning"),
        );
        const more = h("details", {}, summary(t("What regularisation does")), effectPicture(), settings);
        return h("div", { class: "lx-regularisation" }, box, why, more);
    }
}
