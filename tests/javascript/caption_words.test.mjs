import assert from "node:assert/strict";
import { test } from "node:test";
import {
    captionParts,
    countParts,
    suggestedTags,
    withSuggestedTag,
} from "../../javascript/lora_ext/train/caption_words.mjs";

const CAPTIONS = ["A cat, red ball", "a cat,outdoors", "the cat sits on a mat", ""];

test("tags and words are counted once a caption", () => {
    assert.deepEqual(countParts(CAPTIONS, "tags")[0], ["a cat", 2]);
    assert.deepEqual(countParts(CAPTIONS, "words").slice(0, 2), [
        ["cat", 3],
        ["ball", 1],
    ]);
    assert.deepEqual([...captionParts("猫、赤い", "words")], ["猫", "赤い"]);
});

test("suggestions continue what is typed and are not there yet", () => {
    const counts = countParts(CAPTIONS, "tags");
    assert.deepEqual(suggestedTags(counts, "a cat, o", 5), ["outdoors"]);
    assert.deepEqual(suggestedTags(counts, "a cat, ", 2), ["outdoors", "red ball"]);
    assert.equal(withSuggestedTag("a cat, ou", "outdoors"), "a cat, outdoors");
    assert.equal(withSuggestedTag("ou", "outdoors"), "outdoors");
});
