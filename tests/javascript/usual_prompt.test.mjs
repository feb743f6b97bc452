import assert from "node:assert/strict";
import { test } from "node:test";
import { promptWithWords } from "../../javascript/lora_ext/library/usual_prompt.mjs";

test("a prompt gets the words that a file wants, once", () => {
    assert.equal(promptWithWords("a red circle", "stripes"), "a red circle, stripes");
    assert.equal(promptWithWords("a red circle", "Circle"), "a red circle");
    assert.equal(promptWithWords("", "stripes"), "stripes");
    assert.equal(promptWithWords("a red circle", ""), "a red circle");
    assert.equal(promptWithWords("", ""), "");
});
