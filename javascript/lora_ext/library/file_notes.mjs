// What the user keeps about a file: favourite, rating, tags; and the notes that the web UI's own cards show too.
import { api } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, card, facts, field, note, buttonRow, stack, textArea, textInput } from "../controls/basic.mjs";
import { numberField } from "../controls/number_field.mjs";
import { insertTag, promptButtons } from "../prompts/prompt_fields.mjs";
import { saidNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").LoraFileDetails} LoraFile */
/** @typedef {LoraFile["marks"]} Marks */

const MOST_STARS = 5;
const TEXTS = /** @type {const} */ (["activation_text", "negative_text", "description", "notes"]);

/** Buttons that write the file's tag and words into a prompt. @param {LoraFile} file */
export const insertButtons = (file) =>
    promptButtons((prompt) => insertTag(prompt, file.name), "", t("Writes its tag and trigger words into the prompt"));

/**
 * Favourite, rating and tags, saved at each click.
 * @param {LoraFile} file
 * @param {() => void} onchange
 */
function marksField(file, onchange) {
    const element = h("div", { class: "lx-result" });
    const save = showingErrors(async (/** @type {object} */ change, /** @type {Partial<Marks>} */ now) => {
        await api("/library/marks", { method: "PUT", body: { names: [file.name], ...change } });
        Object.assign(file.marks, now);
        draw();
        onchange();
    });
    const draw = () => setChildren(element, starsRow(file.marks, save), tagChips(file.marks, save));
    draw();
    return element;
}

/** @typedef {(change: object, now: Partial<Marks>) => Promise<void>} SaveMarks */

/** @param {Marks} marks @param {SaveMarks} save */
function starsRow({ favourite, rating }, save) {
    const heart = button(favourite ? "♥" : "♡", () => save({ favourite: !favourite }, { favourite: !favourite }), {
        kind: "quiet lx-heart",
        tip: t("Favourite"),
        "aria-label": t("Favourite"),
        "aria-pressed": favourite,
    });
    const stars = Array.from({ length: MOST_STARS }, (_, i) => {
        const to = i + 1 === rating ? 0 : i + 1;
        return button(i < rating ? "★" : "☆", () => save({ rating: to }, { rating: to }), {
            kind: "quiet lx-star",
            tip: t("Rating {0} of 5; once more for none", i + 1),
            "aria-label": t("Rating {0} of 5", i + 1),
            "aria-pressed": i < rating,
        });
    });
    return h("div", { class: "lx-row tight" }, heart, stars);
}

/** @param {Marks} marks @param {SaveMarks} save */
function tagChips({ tags }, save) {
    const box = textInput("", null, {
        placeholder: t("Add a tag"),
        "aria-label": t("Add a tag"),
        title: t("Enter adds it"),
        maxlength: 60,
    });
    const add = () => {
        const tag = box.value.trim();
        if (tag && !tags.includes(tag)) save({ add_tags: [tag] }, { tags: [...tags, tag] });
    };
    box.addEventListener("keydown", (event) => event.key === "Enter" && add());
    const chips = tags.map((tag) =>
        h(
            "button",
            {
                type: "button",
                class: "lx-chip",
                title: t("Remove the tag {0}", tag),
                onclick: () => save({ remove_tags: [tag] }, { tags: tags.filter((one) => one !== tag) }),
            },
            `${tag} ×`,
        ),
    );
    return h("div", { class: "lx-chips" }, chips, h("span", { class: "lx-tag-box" }, box));
}

/**
 * What was changed of the notes.
 * @param {LoraFile["about"]} about
 * @param {Record<string, string | number>} typed preferred_weight: "" for none
 */
export function notesChanges(about, typed) {
    /** @type {Record<string, string | number>} */
    const changes = {};
    for (const name of TEXTS) if (typed[name] !== about[name]) changes[name] = typed[name];
    const weight = typed.preferred_weight === "" ? 0 : Number(typed.preferred_weight);
    if (weight !== (about.preferred_weight || 0)) changes.preferred_weight = weight;
    return changes;
}

/** The fields of the web UI's user metadata. @param {LoraFile["about"]} about */
function notesFields(about) {
    const boxes = {
        activation_text: textArea(2, about.activation_text, { placeholder: about.trained_words.join(", ") }),
        negative_text: textArea(1, about.negative_text),
        description: textArea(3, about.description),
        notes: textArea(3, about.notes),
    };
    const weight = numberField(t("Preferred weight"), about.preferred_weight, {
        low: -100,
        high: 100,
        usual: "",
        placeholder: "1",
        tip: t("The weight of its tag when it is inserted; empty for 1"),
    });
    const element = h(
        "div",
        { class: "lx-edit" },
        field(t("Trigger words"), boxes.activation_text, t("Written into the prompt with the tag")),
        weight,
        field(t("Negative text"), boxes.negative_text, t("Written into the negative prompt with the tag")),
        field(t("Description"), boxes.description, t("What the file does")),
        field(t("Notes"), boxes.notes, t("For yourself")),
    );
    const get = () => ({
        ...Object.fromEntries(Object.entries(boxes).map(([name, box]) => [name, box.value])),
        preferred_weight: weight.get(),
    });
    return { element, get };
}

/**
 * @param {LoraFile} file
 * @param {{ marked: () => void, saved: (file: LoraFile) => void }} changes
 */
export function notesCard(file, { marked, saved }) {
    const { about } = file;
    const fields = notesFields(about);
    const save = showingErrors(async () => {
        const changes = notesChanges(about, fields.get());
        if (!Object.keys(changes).length) return toast(t("Nothing was changed"));
        const newer = await api("/library/notes", { method: "PUT", body: { name: file.name, ...changes } });
        toast(t("Saved"));
        return saved(newer);
    });
    const tip = t("Into NAME.json beside the file, where the web UI's own cards keep it");
    return card(
        t("Notes"),
        marksField(file, marked),
        facts([
            [t("title"), about.title],
            [t("base model"), about.base_model],
            [t("trigger words"), about.trained_words.join(", ")],
        ]),
        about.problems.map((line) => saidNote(line, "bad")),
        fields.element,
        stack(
            buttonRow(button(t("Save notes"), save, { kind: "main", tip })),
            about.sources.length ? note(t("Read from {0}", about.sources.join(", "))) : null,
        ),
    );
}
