// What is taught: kind, name, trigger word, model.
import { h } from "../core/elements.mjs";
import { page } from "../core/page.mjs";
import { t } from "../core/strings.mjs";
import { field, note, segments, select } from "../controls/basic.mjs";
import { checkedField, errorLine, stepCard } from "./steps.mjs";

/** @typedef {{ kind: string, name: string, trigger: string, checkpoint: string }} Subject */

/** @returns {readonly (readonly [string, string, string])[]} kind, title, what it is */
const kinds = () => [
    ["person", t("Person"), t("One face and figure, as in photos of a friend")],
    ["character", t("Character"), t("A drawn or invented figure")],
    ["style", t("Style"), t("How pictures look: a painter, a film, a way of drawing")],
    ["object", t("Object"), t("One thing: a mug, a car, a toy")],
    ["concept", t("Concept"), t("Anything else: a pose, a garment, a place")],
];

/** The kinds as tiles, and a line about the chosen one. @param {string} chosen @param {() => void} onchange */
function kindChoice(chosen, onchange) {
    const rows = kinds();
    let kind = chosen;
    const tiles = segments(
        rows,
        kind,
        (to) => {
            kind = to;
            wrong.show("");
            tell();
            onchange();
        },
        t("What do you want to teach?"),
    );
    tiles.classList.add("lx-kinds");
    const first = /** @type {HTMLElement} */ (tiles.firstElementChild);
    if (!kind) first.tabIndex = 0;
    const wrong = errorLine(first),
        about = note("");
    const tell = () =>
        (about.textContent =
            rows.find(([one]) => one === kind)?.[2] || t("What your pictures show; it decides about the settings."));
    tell();
    const check = () => {
        if (!kind) wrong.fail(t("Choose one of these."));
    };
    return { elements: [tiles, about, wrong], get: () => kind, check };
}

/** @param {string} text */
function nameError(text) {
    if (!text) return t("Give it a name.");
    return /[\\/:*?"<>|]/.test(text) ? t("A name has no {0}", '\\ / : * ? " < > |') : "";
}

/**
 * The model that is trained, where there are several.
 * @param {boolean} loaded whether it is the one that the web UI has loaded
 * @param {string} value
 * @param {() => void} onchange
 */
function modelSelect(loaded, value, onchange) {
    const names = page.choices.checkpoints.filter(Boolean);
    if (loaded || !names.length) return null;
    const small = page.choices.checkpoints.includes("") ? [["", t("the small built-in model")]] : [];
    const options = /** @type {[string, string][]} */ ([...small, ...names.map((name) => [name, name])]);
    return select(options, names.includes(value) ? value : names[0], onchange);
}

/**
 * A line that is there while the small built-in model is the one that is trained.
 * @param {() => string} checkpoint the one that is chosen
 */
function smallModelNote(checkpoint) {
    const text = t(
        "The small built-in model is trained. It draws single shapes of 64 pixels and cannot learn photos: it is " +
            "there to try this page. For your own checkpoints start the program with --ckpt_dir FOLDER.",
    );
    const element = note(text);
    const tell = () => (element.hidden = !page.choices.checkpoints.includes("") || !!checkpoint());
    tell();
    return { element, tell };
}

/** The fields of name and trigger word. @param {Subject} last @param {() => void} onchange */
function nameFields(last, onchange) {
    const name = checkedField(t("Name"), last.name, {
        tip: t("What the file is called, as mycat for your cat"),
        placeholder: "mycat",
        wrong: nameError,
        onchange: () => {
            trigger.box.placeholder = name.text() || "mycat";
            onchange();
        },
    });
    const trigger = checkedField(t("Trigger word"), last.trigger, {
        tip: t("The word of a prompt that calls it; without one, the name"),
        placeholder: last.name || "mycat",
        onchange,
    });
    return { name, trigger };
}

/**
 * @param {boolean} loaded whether the model that the web UI has loaded is trained
 * @param {Subject} last
 * @param {() => void} onchange
 */
export function subjectCard(loaded, last, onchange) {
    const kind = kindChoice(last.kind, onchange);
    const { name, trigger } = nameFields(last, onchange);
    const model = modelSelect(loaded, last.checkpoint, () => {
        small.tell();
        onchange();
    });
    const checkpoint = () => (model ? model.value : "");
    const small = smallModelNote(checkpoint);
    const modelTip = t("The checkpoint that the LoRA will be used with");
    const element = stepCard(
        1,
        t("What do you want to teach?"),
        kind.elements,
        h(
            "div",
            { class: "lx-grid" },
            name.element,
            trigger.element,
            model ? field(t("Model"), model, modelTip) : null,
        ),
        loaded ? note(t("The model that is loaded in the web UI is trained.")) : small.element,
    );
    /** @returns {Subject} as it was entered */
    const entered = () => ({ kind: kind.get(), name: name.text(), trigger: trigger.text(), checkpoint: checkpoint() });
    return {
        element,
        entered,
        /** @returns {Subject} */
        get: () => ({ ...entered(), trigger: trigger.text() || name.text() }),
        /** Throws FieldError where something is missing. */
        check() {
            kind.check();
            name.check();
        },
    };
}
