// What the program says outside of the tab, below the web UI's pictures and in its popups, in the page's language.
import { pageWords } from "./server_sentences.mjs";

/** The web UI's comments below a picture, and gradio's popups. */
const PLACES = "p.comments:not([data-lx-said]), .toast-text:not([data-lx-said])";

/** Says the program's sentences in the page's language, each once; what others say stays, in lines that fit. */
export function translateNotes() {
    for (const place of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(PLACES))) {
        place.setAttribute("data-lx-said", "");
        place.style.overflowWrap = "anywhere"; // a path has no spaces, and gradio's popup cuts what is too long
        for (const line of place.childNodes) {
            const said = line.nodeType === Node.TEXT_NODE ? (line.nodeValue || "").trim() : "";
            const words = said && pageWords(said);
            if (words !== said) line.nodeValue = words;
        }
    }
}
