// The tab: fills the element #lora-ext as soon as it is there.
import { api } from "./core/api.mjs";
import { h, setChildren } from "./core/elements.mjs";
import { emit } from "./core/events.mjs";
import { page } from "./core/page.mjs";
import { makePanels, openPanel, showAddressedPanel } from "./core/panels.mjs";
import { loadStored } from "./core/storage.mjs";
import { pageLanguage, setTranslations, t } from "./core/strings.mjs";
import { translateNotes } from "./core/webui_notes.mjs";
import { showTabOf } from "./core/webui_tabs.mjs";
import { button } from "./controls/basic.mjs";
import { errorNote } from "./controls/error_note.mjs";
import "./jobs/job_list.mjs";
import "./jobs/queue_note.mjs";
import "./panels/blocks.mjs";
import "./panels/compare.mjs";
import "./panels/files.mjs";
import "./panels/generate.mjs";
import "./panels/regions.mjs";
import "./panels/sets.mjs";
import "./panels/start.mjs";
import "./panels/tools.mjs";
import "./panels/train.mjs";
import "./panels/weights.mjs";
import { drawActedWeights } from "./weights/acted_weights.mjs";

/**
 * Loads what every panel needs, then shows the bar of tabs and the panel of before.
 * @param {HTMLElement} element
 */
async function mount(element) {
    page.root = element;
    element.dataset.mounted = "yes";
    const language = pageLanguage(element.dataset.language);
    try {
        setTranslations(language === "en" ? {} : await api("/strings", { query: { language } }));
        element.lang = language.replace("_", "-");
        [page.choices, page.layouts] = await Promise.all([api("/choices"), api("/layouts")]);
    } catch (error) {
        setChildren(
            element,
            errorNote(error),
            button(t("Try again"), () => mount(element)),
        );
        return;
    }
    const { bar, panels, first } = makePanels();
    setChildren(
        element,
        h("div", { class: "lx-body" }, h("div", { class: "lx-top" }, bar, h("div", { class: "lx-job-menu" })), panels),
        h("div", { class: "lx-toasts" }),
    );
    emit("mounted");
    if (showAddressedPanel())
        showTabOf(element); // where the web UI starts, it shows another one
    else openPanel(loadStored("panel", first));
}

window.addEventListener("popstate", () => page.root && showAddressedPanel());

/** The web UI makes the element late, and makes it anew when its page is made anew. */
function mountWhereMissing() {
    const element = document.getElementById("lora-ext");
    if (element && !element.dataset.mounted) mount(element);
}

/** What follows the web UI's page. */
function follow() {
    mountWhereMissing();
    drawActedWeights(); // which reads the English line
    translateNotes();
}

new MutationObserver(follow).observe(document.documentElement, { childList: true, subtree: true });
follow();
