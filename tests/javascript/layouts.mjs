// The layouts of block weights as the API's `/layouts` answers them, from the data that tests/test_blocks.py reads too.
import { readFileSync } from "node:fs";

/** Block weights as text, and what they are read as. */
export const SHARED = JSON.parse(readFileSync(new URL("../data/block_weights.json", import.meta.url), "utf8"));

export const LAYOUTS = Object.fromEntries(
    Object.entries(SHARED.layouts).map(([size, labels]) => [size, { labels: labels.split(" ") }]),
);
