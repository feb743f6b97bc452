// The tag that the Weights panel's fields make, and what of it will not act.
import { h, setChildren } from "../core/elements.mjs";
import { post } from "../core/api.mjs";
import { FieldError, messageOf } from "../core/messages.mjs";
import { formatWeight } from "../core/format.mjs";
import { t } from "../core/strings.mjs";
import { lineChart } from "../controls/chart.mjs";
import { saidNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").TagAnswer} WrittenTag */

const PAUSE = 120;

/** The U-Net's weight over the steps; nothing where it is constant. @param {WrittenTag} tag */
function curveChart({ curve, curve_over }) {
    if (!curve.length) return [];
    const name = t("U-Net strength over the steps");
    if (curve_over !== "noise levels") return [lineChart([{ name, points: curve }], { height: 120, fy: formatWeight })];
    const points = curve.map(([sigma, weight]) => /** @type {[number, number]} */ ([-Math.log(sigma), weight]));
    const fx = (/** @type {number} */ place) => String(Number(Math.exp(-place).toPrecision(3)));
    return [lineChart([{ name, points }], { height: 120, fx, fy: formatWeight, xlabel: t("noise level (sigma)") })];
}

/** @param {() => object | null} request the fields; null without a file; throws FieldError where one cannot be read */
export function tagLine(request) {
    let timer = 0;
    const tag = h("code", { class: "lx-tag", role: "status" }),
        notes = h("div", { class: "lx-idle" });
    const show = async () => {
        const mine = timer;
        let made = /** @type {WrittenTag} */ ({ tag: "", prompt: "", notes: [], curve: [], curve_over: "shares" }),
            failed = "";
        try {
            const fields = request();
            if (fields) made = await post("/tag", fields);
        } catch (error) {
            failed =
                error instanceof FieldError
                    ? t("No tag: a field above has an error.")
                    : t("No tag: {0}", messageOf(error));
        }
        if (mine !== timer) return; // something was changed meanwhile
        tag.classList.remove("busy");
        tag.classList.toggle("bad", Boolean(failed));
        tag.textContent = failed || made.tag;
        setChildren(notes, [...made.notes.map((line) => saidNote(line, "bad")), ...curveChart(made)]);
    };
    return {
        element: h("div", { class: "lx-grow" }, tag, notes),
        /** Shows the tag of the fields as they are when the user pauses. */
        update() {
            tag.classList.add("busy"); // until then it is the tag of before
            clearTimeout(timer);
            timer = window.setTimeout(show, PAUSE);
        },
        /**
         * The tag of the fields as they are now, and a prompt with it.
         * @param {string} [prompt]
         * @returns {Promise<WrittenTag>}
         */
        async write(prompt = "") {
            const fields = request();
            if (!fields) throw new Error(t("Choose a file"));
            return post("/tag", { ...fields, prompt });
        },
    };
}
