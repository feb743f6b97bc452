import assert from "node:assert/strict";
import { test } from "node:test";
import { draggedSides, snapped } from "../../javascript/lora_ext/regions/region_canvas.mjs";
import { gridRatios, placeText, regionGrid, regionPrompt } from "../../javascript/lora_ext/regions/region_text.mjs";

const region = (left, right, top, bottom, more = {}) => ({
    left,
    right,
    top,
    bottom,
    mask: "",
    words: "",
    feather: 0,
    loras: [],
    ...more,
});
const lora = (call, weight = 1) => ({ call, weight });

test("places have words where there are some", () => {
    assert.equal(placeText(region(0, 0.5, 0, 1)), "left");
    assert.equal(placeText(region(0, 1, 0.5, 1)), "bottom");
    assert.equal(placeText(region(0.1, 0.62345, 0, 1)), "0.1-0.623;0-1");
    assert.equal(placeText(region(0, 0.5, 0, 1, { mask: "face" })), "face");
});

test("regions without words are tags", () => {
    const regions = [
        region(0, 0.5, 0, 1, { loras: [lora("a", 0.8)], feather: 0.1 }),
        region(0.5, 1, 0, 1, { loras: [lora("b"), lora("c")] }),
    ];
    const { text, note } = regionPrompt("two cats", regions);
    assert.equal(text, "two cats <lora:a:0.8:at=left:feather=0.1> <lora:b:1:at=right> <lora:c:1:at=right>");
    assert.equal(note, "");
});

test("regions with words are Regional Prompter's columns and rows, whatever their order", () => {
    const regions = [
        region(0.5, 1, 0, 0.5, { words: "a witch", loras: [lora("b")] }),
        region(0, 0.5, 0, 0.5, { words: "a knight" }),
        region(0, 1, 0.5, 1, { words: "grass" }),
    ];
    const { text, ratios } = regionPrompt("2 people", regions);
    assert.equal(text, "2 people ADDCOMM a knight ADDCOL a witch <lora:b:1> ADDROW grass");
    assert.equal(ratios, "");
});

test("ratios of unequal cells", () => {
    const rows = regionGrid([region(0, 0.25, 0, 0.4), region(0.25, 1, 0, 0.4), region(0, 1, 0.4, 1)]);
    assert.equal(gridRatios(rows), "0.4,0.25,0.75;0.6,1");
    assert.equal(regionPrompt("", [region(0, 0.25, 0, 1, { words: "x" }), region(0.25, 1, 0, 1)]).ratios, "0.25,0.75");
});

test("regions that do not fill the picture make no grid, and their words count everywhere", () => {
    assert.equal(regionGrid([region(0, 0.4, 0, 1), region(0.5, 1, 0, 1)]), null);
    assert.equal(regionGrid([region(0, 0.6, 0, 1), region(0.5, 1, 0, 1)]), null);
    assert.equal(regionGrid([region(0, 1, 0, 0.5)]), null);
    const one = region(0.2, 0.6, 0.1, 0.9, { words: "a knight", loras: [lora("a")] });
    const { text, note } = regionPrompt("a field", [one]);
    assert.equal(text, "a field, a knight <lora:a:1:at=0.2-0.6;0.1-0.9>");
    assert.match(note, /rows and columns/);
});

test("edges snap to usual places and stay in the picture", () => {
    assert.equal(snapped(0.494), 0.5);
    assert.equal(snapped(0.4222), 0.42);
    assert.equal(snapped(-0.3), 0);
    assert.equal(snapped(1.2), 1);
    const sides = { left: 0.2, right: 0.6, top: 0, bottom: 0.5 };
    const moved = draggedSides(sides, "move", 0.9, -0.4);
    assert.ok(Math.abs(moved.left - 0.6) < 1e-9 && Math.abs(moved.right - 1) < 1e-9 && moved.top === 0);
    assert.deepEqual(draggedSides(sides, "se", 0.15, 0.25), { left: 0.2, right: 0.75, top: 0, bottom: 0.75 });
    assert.ok(Math.abs(draggedSides(sides, "w", 0.9, 0).left - 0.56) < 1e-9); // never behind the other edge
});
