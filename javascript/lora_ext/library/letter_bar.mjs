// A to Z: buttons that lead to the first file with a letter, where files are listed by name.
import { h, setChildren } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";

/** @param {(position: number) => void} go */
export function letterBar(go) {
    const element = h("div", { class: "lx-letters", role: "group", "aria-label": t("First letter"), hidden: true });
    return {
        element,
        /** Shows the letters that there are. */
        show(/** @type {Record<string, number>} */ letters) {
            const rows = Object.entries(letters);
            element.hidden = rows.length < 2;
            setChildren(
                element,
                rows.map(([letter, position]) =>
                    h(
                        "button",
                        { type: "button", title: t("Files with {0}", letter), onclick: () => go(position) },
                        letter,
                    ),
                ),
            );
        },
    };
}
