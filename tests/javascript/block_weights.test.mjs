import assert from "node:assert/strict";
import { test } from "node:test";
import { parseBlockWeights, rangeFor, weightsOfAll } from "../../javascript/lora_ext/weights/block_weights.mjs";
import { LAYOUTS, SHARED } from "./layouts.mjs";

const presets = Object.entries(SHARED.presets).map(([name, values]) => ({ name, values, own: true, builtin: false }));

for (const { text, size, values } of SHARED.cases) {
    test(`block weights ${JSON.stringify(text)}`, () => {
        const found = parseBlockWeights(text, presets, LAYOUTS);
        if (size === null) return assert.equal(found, null);
        assert.deepEqual(found.labels, LAYOUTS[size].labels);
        return assert.deepEqual(
            found.values,
            values.map((value) => (typeof value === "string" ? value.toUpperCase() : value)),
        );
    });
}

test("a preset is named as it is written, not as it was typed", () => {
    assert.equal(parseBlockWeights("fAcE", presets, LAYOUTS).preset, "FACE");
    assert.equal(parseBlockWeights(SHARED.presets.FACE, presets, LAYOUTS).preset, "");
});

test("blocks without a weight count as 0, the text encoder as 1", () => {
    const blocks = LAYOUTS[26].labels;
    const given = { labels: ["IN00", "MID"], values: [0.5, "R"], preset: "" };
    const all = weightsOfAll(given, blocks);
    assert.deepEqual([all.BASE, all.IN00, all.MID, all.OUT11], [1, 0.5, "R", 0]);
    assert.deepEqual(Object.keys(all), blocks);
    assert.equal(weightsOfAll({ labels: ["BASE"], values: [0], preset: "" }, blocks).BASE, 0);
});

test("sliders get a wider range only where a weight needs it", () => {
    assert.deepEqual(rangeFor([0, 1], [0, 1, "R", 0.5]), [0, 1]);
    assert.deepEqual(rangeFor([0, 1], [-0.2, 1]), [-1, 1]);
    assert.deepEqual(rangeFor([0, 1], [1.1]), [0, 2]);
    assert.deepEqual(rangeFor([0, 1], [-2.5, 3.2]), [-3, 4]);
    assert.deepEqual(rangeFor([-1, 2], [0.5]), [-1, 2]);
});
