// A picture without the LoRA and one with it, of the same seed, drawn on request while the sliders move.
import { api, apiUrl, post } from "../core/api.mjs";
import { debounce } from "../core/debounce.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { FieldError, messageOf, showingErrors } from "../core/messages.mjs";
import { pageWords } from "../core/server_sentences.mjs";
import { loadStored, store } from "../core/storage.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, card, checkbox, field, grid, note, summary, textArea } from "../controls/basic.mjs";
import { numberField } from "../controls/number_field.mjs";
import { usualCfg, usualSteps } from "../controls/sampling_fields.mjs";
import { wipe } from "../controls/wipe.mjs";
import { followJob, jobPath } from "../jobs/job_view.mjs";
import { hasEnded, progressText } from "../jobs/job_state.mjs";
import { promptTexts } from "../prompts/prompt_fields.mjs";

/** @typedef {import("../api_types").PreviewResult} PreviewResult */
/** @typedef {import("../api_types").JobAnswer} JobAnswer */

const PAUSE = 500;
/** Seconds after which a preview is called slow. */
const SLOW = 4;

/** The fields that say what is drawn. */
function previewFields() {
    const stored = loadStored("preview", /** @type {Record<string, any>} */ ({}));
    const [, promptOfPage] = promptTexts()[0] || ["", () => ""];
    const prompt = textArea(2, stored.prompt ?? promptOfPage(), { placeholder: t("Without the tag of this file") });
    const numbers = {
        seed: numberField(t("Seed"), stored.seed ?? 7, {
            low: 0,
            high: 4294967295,
            whole: true,
            usual: 7,
            tip: t("Same seed, same picture"),
        }),
        steps: numberField(t("Steps"), stored.steps ?? usualSteps(), {
            low: 1,
            high: 150,
            whole: true,
            usual: usualSteps(),
            tip: t("More steps: finer detail, slower"),
        }),
    };
    const checkpoint = loadStored("generate", /** @type {Record<string, any>} */ ({})).checkpoint || "";
    const get = () => {
        const values = { prompt: prompt.value, seed: numbers.seed.get(), steps: numbers.steps.get() };
        store("preview", values);
        return { ...values, cfg: usualCfg(), checkpoint };
    };
    return { elements: [field(t("Prompt"), prompt, t("What the preview shows")), grid(Object.values(numbers))], get };
}

/** Draws previews, one at a time: a newer one cancels the one of before. */
class Previews {
    current = "";
    /** Counts requests, so that an older answer replaces no newer one. */
    asked = 0;

    /** @param {() => Promise<object | null>} request what is asked for; null without a file */
    constructor(request) {
        this.request = request;
        this.state = h("p", { class: "lx-hint", role: "status" });
        this.place = h("div", { class: "lx-result" });
    }

    async cancel() {
        const id = this.current;
        this.current = "";
        if (id) await api(`${jobPath(id)}/cancel`, { method: "POST" }).catch(() => {});
    }

    draw = showingErrors(async () => {
        const mine = ++this.asked;
        await this.cancel();
        try {
            const body = await this.request();
            if (!body || mine !== this.asked) return;
            const { id } = await post("/preview", body);
            if (mine !== this.asked) return void (await api(`${jobPath(id)}/cancel`, { method: "POST" }));
            this.current = id;
            const job = await followJob(
                id,
                (now) => mine === this.asked && this.showState(now),
                () => mine === this.asked,
            );
            if (mine === this.asked) this.show(job);
        } catch (error) {
            if (mine !== this.asked) return;
            const text = error instanceof FieldError ? t("No tag: a field above has an error.") : messageOf(error);
            setChildren(this.place, note(text, "bad"));
        }
    });

    /** @param {JobAnswer} job */
    showState(job) {
        const seconds = Date.now() / 1000 - (job.started || job.created);
        const slow = !hasEnded(job) && seconds > SLOW;
        this.place.classList.toggle("busy", !hasEnded(job));
        const text = hasEnded(job) ? "" : `${t("Drawing")} ${progressText(job)}`;
        setChildren(this.state, text, slow ? ` · ${t("slow here: fewer steps are quicker")}` : "");
    }

    /** @param {JobAnswer} job */
    show(job) {
        this.showState(job);
        if (job.state === "failed") return setChildren(this.place, note(pageWords(job.error || ""), "bad"));
        const { without, applied } = /** @type {PreviewResult} */ (job.result) || {};
        if (!without) return undefined;
        const side = (/** @type {string} */ name, /** @type {string} */ text) => ({
            src: apiUrl("/pictures", { name }),
            text,
        });
        const last = /** @type {HTMLInputElement | null} */ (this.place.querySelector(".lx-wiper input"));
        return setChildren(this.place, wipe(side(without, t("without")), side(applied, t("with")), last?.value));
    }
}

/**
 * The card with the preview.
 * @param {() => string | undefined} name what tags call the file; without one nothing is drawn
 * @param {(prompt: string) => Promise<{ prompt: string }>} tagged a prompt with the file's tag
 */
export function previewCard(name, tagged) {
    const fields = previewFields();
    const previews = new Previews(async () => {
        const values = fields.get();
        const lora = name();
        return lora ? { ...values, lora, prompt: (await tagged(values.prompt)).prompt } : null;
    });
    const onChange = debounce(PAUSE, () => follow.box.checked && previews.draw());
    const follow = checkbox(
        t("Draw again when a weight changes"),
        false,
        () => onChange(),
        t("Half a second after the last change; a preview that is being drawn is stopped first"),
    );
    const draw = button(t("Draw preview"), previews.draw, { tip: t("The same seed without this file and with it") });
    const settings = h("details", {}, summary(t("Settings")), fields.elements);
    const controls = h("div", { class: "lx-result" }, buttonRow(draw), follow, previews.state, settings);
    const element = card(t("Preview"), h("div", { class: "lx-preview" }, controls, previews.place));
    return { element, changed: onChange };
}
