// What can be done with files that were just made.
import { h } from "../core/elements.mjs";
import { hasPanel, showPanel } from "../core/panels.mjs";
import { t } from "../core/strings.mjs";
import { button, buttonRow } from "../controls/basic.mjs";
import { insertTag, promptButtons } from "../prompts/prompt_fields.mjs";

/** @param {string[]} names */
export const newFiles = (names) =>
    h(
        "div",
        { class: "lx-offers" },
        names.map((name) =>
            buttonRow(
                h("b", {}, name),
                promptButtons(
                    (prompt) => insertTag(prompt, name),
                    "quiet",
                    t("Writes its tag and trigger words into the prompt"),
                ),
                button(t("Set block weights"), () => showPanel("weights", name), {
                    kind: "quiet",
                    tip: t("Open it in the Weights panel"),
                }),
                hasPanel("compare")
                    ? button(t("Compare"), () => showPanel("compare", name), {
                          kind: "quiet",
                          tip: t("Draw a sheet with it"),
                      })
                    : null,
                button(t("Show in Files"), () => showPanel("files", name), {
                    kind: "quiet",
                    tip: t("Find it in the library"),
                }),
            ),
        ),
    );
