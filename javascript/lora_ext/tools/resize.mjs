// Resize: another rank, with a curve of what each rank keeps.
import { api, post } from "../core/api.mjs";
import { debounce } from "../core/debounce.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { formatBytes, formatPercent } from "../core/format.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { facts, note } from "../controls/basic.mjs";
import { lineChart } from "../controls/chart.mjs";
import { LoraPicker } from "../library/lora_picker.mjs";
import { rankRuleField } from "./rank_rule.mjs";
import { optionalRank, toolForm } from "./tool_form.mjs";
import { errorNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").LibraryRow} LibraryRow */
/** @typedef {{ ranks: number[], kept: number[] }} RankCurve what each rank keeps, as a share */
/** @typedef {{ kept: number, bytes: number, least: number, most: number, mean: number }} Preview */

/** @param {Preview} preview @param {LibraryRow} row */
const previewFacts = ({ kept, bytes, least, most, mean }, row) =>
    facts([
        [t("kept"), formatPercent(kept)],
        [t("size"), formatBytes(bytes)],
        [t("size now"), formatBytes(row.bytes)],
        [t("ranks"), least === most ? most : t("{0} to {1}, {2} on average", least, most, mean.toFixed(1))],
    ]);

/** @param {RankCurve} curve */
function curveChart({ ranks, kept }) {
    const top = ranks[ranks.length - 1];
    /** @type {[number, number][]} */
    const points = [[0, 0], ...ranks.map((rank, i) => /** @type {[number, number]} */ ([rank, kept[i]]))];
    return lineChart([{ name: t("share kept"), points }], {
        low: 0,
        high: 1,
        height: 240,
        x: [0, top],
        fy: (share) => formatPercent(share),
        xlabel: t("rank"),
    });
}

class ResizeTool {
    /** @type {ReturnType<typeof lineChart> | null} of the chosen file, when it was measured */
    chart = null;

    /** @param {HTMLElement} place */
    constructor(place) {
        this.place = place;
        this.box = h("div", { class: "lx-curve" }, note(t("Choose a file to see what each rank keeps of it.")));
        this.about = h("div", { class: "lx-curve-facts" });
        this.conv = optionalRank(t("Rank of Conv2d layers"), t("Empty: as the rank"), {
            oninput: () => this.preview(),
        });
        this.rule = rankRuleField(() => this.changed(), 128);
        this.picker = new LoraPicker({ onpick: showingErrors((row) => this.measure(row)) });
        this.form = toolForm({
            verb: "resize",
            label: t("Resize"),
            tip: t("Write the file at the chosen rank"),
            request: () => this.request() || toast(t("Choose a file"), "bad"),
        });
        this.view = this.form.view;
        const what = t("Changes the rank with the least possible loss: smaller files, nearly the same picture.");
        const own = [note(what), this.picker.element, this.box, this.about, this.rule.element, this.conv];
        this.form.show(place, t("Resize"), own);
    }

    /** What is asked for; null without a file. Throws FieldError where something cannot be read. */
    request() {
        const { value } = this.picker;
        if (!value) return null;
        const ranks = { new_rank: this.rule.rank.get(), new_conv_rank: this.conv.get() };
        return { name: value.name, ...ranks, ...this.rule.get() };
    }

    changed() {
        this.preview();
        if (this.rule.rank.check()) return;
        if (this.chart) this.chart.mark(this.rule.rank.get());
        this.suggestName();
    }

    suggestName() {
        const { value } = this.picker;
        if (value) this.form.suggestName(`${value.title}-r${this.rule.rank.get()}`);
    }

    /** Shows what the chosen ranks keep, when the user pauses. */
    preview = debounce(
        80,
        showingErrors(async () => {
            const { value } = this.picker;
            if (!this.chart || !value) return;
            if (this.place.querySelector("[aria-invalid=true]")) {
                setChildren(this.about); // the error is beside its field
                return;
            }
            const request = this.request();
            const found = /** @type {Preview} */ (await post("/resize/preview", request));
            if (!request || !this.chart) return;
            this.chart.mark(request.dynamic_method ? found.mean : request.new_rank);
            setChildren(this.about, previewFacts(found, value));
        }),
    );

    /** Shows what each rank keeps of a file. @param {LibraryRow} row */
    async measure(row) {
        setChildren(this.box, note(t("Measuring …")));
        setChildren(this.about);
        this.chart = null;
        /** @type {RankCurve} */
        let curve;
        try {
            curve = await api("/resize/curve", { query: { name: row.name } });
        } catch (error) {
            setChildren(this.box, errorNote(error));
            return;
        }
        if (this.picker.value !== row) return; // another file was chosen meanwhile
        const top = curve.ranks[curve.ranks.length - 1];
        this.chart = curveChart(curve);
        setChildren(this.box, this.chart);
        this.rule.rank.setLimits(1, top);
        this.rule.rank.set(Math.max(1, Math.round(top / 2)));
        this.chart.mark(this.rule.rank.get());
        this.suggestName();
        this.preview();
    }

    /** @param {{ name: string }} given the file to resize */
    take({ name }) {
        this.picker.choose(name);
    }
}

/** @param {HTMLElement} place */
export const buildResize = (place) => new ResizeTool(place);
