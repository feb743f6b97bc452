// Files with which something could not be done, and why.
import { pageWords } from "../core/server_sentences.mjs";
import { t } from "../core/strings.mjs";
import { note } from "../controls/basic.mjs";

const MOST_SHOWN = 10;

/** @param {readonly import("../api_types").FailedFile[]} failed */
export const failedFiles = (failed) => [
    failed
        .slice(0, MOST_SHOWN)
        .map(({ name, error }) =>
            note(error.includes(name) ? pageWords(error) : `${name}: ${pageWords(error)}`, "bad"),
        ),
    failed.length > MOST_SHOWN ? note(t("and {0} more", failed.length - MOST_SHOWN), "bad") : null,
];
