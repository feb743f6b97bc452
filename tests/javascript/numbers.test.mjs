import assert from "node:assert/strict";
import { test } from "node:test";
import { accepted, numberError, numberValue } from "../../javascript/lora_ext/controls/number_rules.mjs";
import { parseStep, shareText, stepRange } from "../../javascript/lora_ext/weights/tag_fields.mjs";

test("what a field accepts, in words", () => {
    assert.equal(accepted({ low: 1, high: 150, whole: true }), "a whole number from 1 to 150");
    assert.equal(accepted({ low: 0, high: 2048, multiple: 8 }), "a multiple of 8 from 0 to 2048");
    assert.equal(accepted({ low: 0 }), "a number, 0 or more");
    assert.equal(accepted({ high: 3, whole: true }), "a whole number, 3 or less");
    assert.equal(accepted({}), "a number");
    assert.equal(accepted({ words: "a step" }), "a step");
});

test("wrong numbers", () => {
    const steps = { low: 1, high: 150, whole: true };
    for (const text of ["0", "151", "2.5", "banana", "1e3x", "Infinity", "NaN"])
        assert.notEqual(numberError(text, steps), "");
    for (const text of ["1", "150", "1e1", "2.0"]) assert.equal(numberError(text, steps), "");
    assert.match(numberError("100", { low: 0, high: 2048, multiple: 8 }), /^100 is not a multiple of 8/);
    assert.match(numberError("x".repeat(99), steps), /^x{24}… is not a whole number/);
});

test("an empty field is its usual value, null where it may be empty, else an error", () => {
    assert.equal(numberError("", { usual: 20 }), "");
    assert.equal(numberValue("", { usual: 20 }), 20);
    assert.equal(numberError("", { optional: true }), "");
    assert.equal(numberValue("", { optional: true }), null);
    assert.equal(numberError("", {}), "This is empty; write a number.");
    assert.equal(numberValue("0", { usual: 20 }), 0);
});

test("steps and shares of all steps stay apart", () => {
    const rules = { parse: parseStep, words: "a step" };
    for (const text of ["5", "0", "0.5", ".5", "1.0", "0.0"]) {
        assert.equal(numberError(text, rules), "");
        assert.equal(numberValue(text, rules), text);
    }
    for (const text of ["1.5", "-1", "5.", "1e1", "a"])
        assert.equal(numberError(text, rules), `${text} is not a step.`);
    assert.deepEqual([0, 0.25, 1].map(shareText), ["0.0", "0.25", "1.0"]);
});

test("step= of a tag", () => {
    assert.equal(stepRange("0.0", "1.0"), null);
    assert.equal(stepRange("0", "1.0"), null);
    assert.equal(stepRange("0.25", "1.0"), "0.25-");
    assert.equal(stepRange("0.0", "1"), "-1");
    assert.equal(stepRange("5", "0.5"), "5-0.5");
});
