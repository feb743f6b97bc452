// The picture beside a LoRA file, and ways to choose another one.
import { api, apiUrl } from "../core/api.mjs";
import { base64 } from "../core/file_data.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { showingErrors, toast } from "../core/messages.mjs";
import { t } from "../core/strings.mjs";
import { button, note, buttonRow, stack } from "../controls/basic.mjs";
import { thumbnail } from "./lora_row.mjs";

/** @typedef {import("../api_types").LoraFileDetails} LoraFile */

/** A hidden field that uploads a picture. @param {(source: { data: string }) => Promise<void>} take */
export function pictureUpload(take) {
    const upload = h("input", {
        type: "file",
        accept: "image/png,image/jpeg,image/webp",
        hidden: true,
        onchange: showingErrors(async () => {
            const picture = upload.files && upload.files[0];
            if (!picture) return;
            const data = await base64(picture);
            upload.value = "";
            await take({ data });
        }),
    });
    return upload;
}

/**
 * A generated picture as a button.
 * @param {{ name: string, time: number }} picture
 * @param {(source: { picture: string }) => void} take
 */
const generatedPicture = ({ name, time }, take) =>
    h(
        "button",
        { type: "button", title: name, onclick: () => take({ picture: name }) },
        h("img", { loading: "lazy", alt: name, src: apiUrl("/pictures", { name, v: time }) }),
    );

/**
 * Shows the newest generated pictures as buttons.
 * @param {HTMLElement} place
 * @param {(source: { picture: string }) => void} take
 */
export async function generatedPictures(place, take) {
    const { pictures } = await api("/pictures/newest", { query: { limit: 60 } });
    const buttons = pictures.map((picture) => generatedPicture(picture, take));
    setChildren(place, buttons.length ? buttons : note(t("No picture was made yet.")));
}

/**
 * @param {LoraFile} file
 * @param {() => void} onchange called when there is another picture
 */
export function filePicture(file, onchange) {
    const shown = h("div", { class: "lx-portrait" }, thumbnail(file));
    const choices = h("div", { class: "lx-samples", hidden: true });
    const take = showingErrors(async (/** @type {{ data?: string, picture?: string }} */ source) => {
        const { time } = await api("/thumbnail", { method: "PUT", body: { name: file.name, ...source } });
        setChildren(shown, thumbnail({ ...file, thumb: time, moving: false }));
        choices.hidden = true;
        toast(t("Saved beside the file"));
        onchange();
    });
    const upload = pictureUpload(take);
    const choose = showingErrors(async () => {
        if (choices.hidden) await generatedPictures(choices, take);
        choices.hidden = !choices.hidden;
    });
    const chooser = button(t("Choose a picture"), choose, {
        tip: t("One that was generated here: samples, sheets, single pictures"),
    });
    const element = stack(
        buttonRow(
            shown,
            chooser,
            button(t("Upload"), () => upload.click(), { tip: t("A picture from your disk; PNG, JPEG or WebP") }),
            upload,
        ),
        choices,
    );
    element.addEventListener("keydown", (event) => {
        if (event.key !== "Escape" || choices.hidden) return;
        event.preventDefault();
        choices.hidden = true;
        chooser.focus();
    });
    return element;
}
