import assert from "node:assert/strict";
import { test } from "node:test";
import { cornerBox, fittedBox, keyedBox, movedBox, trainingAspect } from "../../javascript/lora_ext/train/crop_box.mjs";

const SIZE = [100, 60];
const key = (name, more = {}) => ({ key: name, altKey: false, shiftKey: false, ...more });

test("a box stays in the picture", () => {
    assert.deepEqual(movedBox([10, 10, 40, 30], 80, -20, SIZE), [60, 0, 40, 30]);
    assert.deepEqual(cornerBox([90, 50], [200, 200], SIZE, 0), [90, 50, 10, 10]);
    assert.deepEqual(cornerBox([50, 40], [20.4, 9.6], SIZE, 0), [20, 10, 30, 30]);
    assert.deepEqual(fittedBox([-20, 0, 500, 500], SIZE, 0), [0, 0, 100, 60]);
});

test("a fixed aspect is kept, at the picture's edge too", () => {
    for (const [fixed, now] of [
        [
            [10, 10],
            [95, 20],
        ],
        [
            [90, 50],
            [10, 45],
        ],
        [
            [50, 30],
            [51, 59],
        ],
    ]) {
        const [, , width, height] = cornerBox(fixed, now, SIZE, 1);
        assert.equal(width, height);
    }
    assert.deepEqual(fittedBox([0, 0, 100, 60], SIZE, 1), [20, 0, 60, 60]);
    assert.deepEqual(fittedBox([0, 0, 100, 60], SIZE, 2), [0, 5, 100, 50]);
});

test("keys move and resize", () => {
    assert.deepEqual(keyedBox(key("ArrowRight"), [10, 10, 40, 30], SIZE, 0), [15, 10, 40, 30]);
    assert.deepEqual(keyedBox(key("ArrowUp", { altKey: true }), [10, 10, 40, 30], SIZE, 0), [10, 9, 40, 30]);
    assert.deepEqual(keyedBox(key("ArrowLeft", { shiftKey: true }), [10, 10, 40, 30], SIZE, 0), [10, 10, 35, 30]);
    assert.deepEqual(keyedBox(key("ArrowRight", { shiftKey: true }), [10, 10, 30, 30], SIZE, 1), [10, 10, 35, 35]);
    assert.deepEqual(keyedBox(key("ArrowDown", { shiftKey: true }), [10, 10, 30, 30], SIZE, 1), [10, 10, 33, 33]);
    assert.deepEqual(keyedBox(key("ArrowUp", { shiftKey: true }), [10, 10, 30, 30], SIZE, 1), [10, 10, 27, 27]);
    assert.deepEqual(keyedBox(key("ArrowLeft", { shiftKey: true }), [10, 10, 30, 30], SIZE, 1), [10, 10, 25, 25]);
    assert.equal(keyedBox(key("a"), [10, 10, 40, 30], SIZE, 0), null);
});

test("the training's aspect", () => {
    assert.equal(trainingAspect("512"), 1);
    assert.equal(trainingAspect("512,768"), 2 / 3);
    assert.equal(trainingAspect(undefined), 1);
    assert.equal(trainingAspect("wide"), 1);
});
