// Presets of training settings: the user's own, saved by name, loaded and deleted, and files of other programs.
import { api, post } from "../core/api.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow, field, note, select, stack, summary, textInput } from "../controls/basic.mjs";
import { deletedToast } from "../controls/undo.mjs";
import { saidNote } from "../controls/error_note.mjs";

/** @typedef {import("../api_types").TrainingPreset} Preset */

/**
 * The choice of a preset.
 * @param {Preset[]} presets
 * @param {string} chosen
 * @param {(preset: Preset) => void} use
 * @param {(preset: Preset) => void} remove
 */
function presetChoice(presets, chosen, use, remove) {
    if (!presets.length) return note(t("No preset yet."));
    const names = presets.map(({ name }) => name);
    const pick = select(names, chosen || names[0]);
    const found = () => /** @type {Preset} */ (presets.find(({ name }) => name === pick.value));
    return [
        field(t("My presets"), pick, t("Settings that you saved")),
        buttonRow(
            button(t("Load"), () => use(found()), {
                tip: t("Shows these settings in the form; pictures and name stay"),
            }),
            button(t("Delete"), () => remove(found()), { tip: t("Deletes this preset") }),
        ),
    ];
}

/**
 * Opens a settings file of another program; what is not used of it is listed.
 * @param {(settings: Record<string, any>) => void} load shows settings in the form
 */
function otherPrograms(load) {
    const said = h("div", { class: "lx-result", role: "status" });
    const open = showingErrors(async () => {
        const file = input.files?.[0];
        if (!file) return;
        const text = await file.text();
        input.value = "";
        setChildren(said);
        const { settings, told } = /** @type {import("../api_types").FileSettings} */ (
            await post("/train/settings-file", { file: file.name, text })
        );
        load(settings);
        const count = Object.keys(settings).length;
        setChildren(
            said,
            note(t("{0} settings of {1} are in the form.", count, file.name), "good"),
            told.map((line) => saidNote(line)),
        );
    });
    const input = h("input", { type: "file", accept: ".json,application/json", hidden: true, onchange: open });
    const tip = t("A settings file of kohya's GUI, OneTrainer or traintrain (JSON); pictures and name stay");
    return stack(
        buttonRow(
            button(t("Open another program's file"), () => input.click(), { tip }),
            input,
        ),
        said,
    );
}

/**
 * @param {() => Record<string, any>} read the settings of the form
 * @param {(settings: Record<string, any>) => void} load shows settings in the form
 */
export function settingsPresets(read, load) {
    const place = stack();
    const name = textInput("", null, { maxlength: 64, placeholder: t("a name for these settings") });
    const use = (/** @type {Preset} */ preset) => {
        load(preset.settings);
        name.value = preset.name;
        toast(t("Settings loaded"));
    };
    const put = async (/** @type {Preset & { may_replace?: boolean }} */ body) =>
        show((await api("/train/presets", { method: "PUT", body })).presets, body.name.trim());
    const remove = showingErrors(async (/** @type {Preset} */ one) => {
        show((await api("/train/presets", { method: "DELETE", query: { name: one.name } })).presets);
        deletedToast(one.name, () => put({ ...one, may_replace: false }));
    });
    const show = (/** @type {Preset[]} */ presets, chosen = "") =>
        void setChildren(place, presetChoice(presets, chosen, use, remove));
    const save = showingErrors(async () => {
        await put({ name: name.value, settings: read() });
        toast(t("saved"));
    });
    const saving = buttonRow(
        field(t("Save as"), name, t("Keeps all settings but pictures, name and trigger word")),
        button(t("Save"), save, { tip: t("Saves the settings of the form under this name") }),
    );
    saving.classList.add("lx-save-as");
    const box = h("details", {}, summary(t("My presets")), place, saving, otherPrograms(load));
    box.addEventListener(
        "toggle",
        showingErrors(async () => {
            if (box.open && !place.childNodes.length) show((await api("/train/presets")).presets);
        }),
    );
    return box;
}
