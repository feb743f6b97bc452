import assert from "node:assert/strict";
import { test } from "node:test";
import {
    blockGroup,
    blockLevel,
    blockRanges,
    blockTitle,
    strongestBlocks,
} from "../../javascript/lora_ext/weights/block_labels.mjs";
import { LAYOUTS } from "./layouts.mjs";

test("levels go down to the middle block and up again", () => {
    const levels = LAYOUTS[26].labels.map((label) => blockLevel(label, false));
    assert.deepEqual(levels, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0]);
    const sdxl = LAYOUTS[20].labels.map((label) => blockLevel(label, true));
    assert.deepEqual(sdxl, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 0, 0, 0]);
});

test("groups and titles", () => {
    assert.deepEqual(["BASE", "IN07", "MID", "OUT11"].map(blockGroup), ["BASE", "IN", "MID", "OUT"]);
    assert.deepEqual(["BASE", "IN07", "MID", "OUT11"].map(blockTitle), [
        "text encoder",
        "input block 07",
        "middle block",
        "output block 11",
    ]);
});

test("the fewest blocks with a share of the effect", () => {
    const shares = { IN01: 0.1, MID: 0.5, OUT03: 0.4, OUT04: 0 };
    assert.deepEqual([...strongestBlocks(shares, 0.5)], ["MID"]);
    assert.deepEqual([...strongestBlocks(shares, 0.51)], ["MID", "OUT03"]);
    assert.deepEqual([...strongestBlocks(shares, 1)], ["MID", "OUT03", "IN01"]);
    assert.deepEqual([...strongestBlocks({ MID: 0 }, 0.8)], []);
});

test("neighbouring blocks as one range; the text encoder is no neighbour", () => {
    const { labels } = LAYOUTS[17];
    assert.equal(blockRanges(labels, new Set(["OUT03", "OUT04", "OUT05", "MID"])), "MID–OUT05");
    assert.equal(blockRanges(labels, new Set(["BASE", "IN01", "IN02", "OUT11"])), "BASE, IN01–IN02, OUT11");
    assert.equal(blockRanges(labels, new Set()), "");
});
