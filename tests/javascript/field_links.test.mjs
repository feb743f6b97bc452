import assert from "node:assert/strict";
import { test } from "node:test";
import { namedSettings } from "../../javascript/lora_ext/train/field_links.mjs";

test("settings that a sentence names", () => {
    const names = ["masked_loss", "alpha_mask", "resolution", "mode", "lr_warmup_steps"];
    const sentence =
        "masked_loss is set, but no picture has a mask; set alpha_mask, or leave masked_loss out of this mode";
    assert.deepEqual(namedSettings(sentence, names), ["masked_loss", "alpha_mask"]);
    assert.deepEqual(namedSettings("3 pictures become blurred; set a lower resolution", names), ["resolution"]);
});
