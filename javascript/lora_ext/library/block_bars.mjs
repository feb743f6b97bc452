// How much each block of a file changes, as bars.
import { h } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";

/** @typedef {import("../api_types").BlockNorm} BlockNorm */

/** @param {BlockNorm[]} blocks */
export function blockBars(blocks) {
    const most = Math.max(...blocks.map(({ norm }) => norm || 0), 0) || 1;
    return h(
        "div",
        { class: "lx-bars" },
        blocks.map(({ block, norm }) => {
            const text = norm === null ? "–" : norm.toPrecision(3);
            const title = norm === null ? t("needs the base model's weights") : t("changes by {0} at weight 1", text);
            return h(
                "div",
                { class: "lx-bar-row", title },
                h("span", {}, block || t("other")),
                h("i", { style: { "--share": (norm || 0) / most } }),
                h("small", {}, text),
            );
        }),
    );
}
