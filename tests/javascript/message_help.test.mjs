// Which message a phrase of the troubleshooting page stands for.
import assert from "node:assert/strict";
import { test } from "node:test";
import { says } from "../../javascript/lora_ext/core/message_help.mjs";

test("the parts of a phrase stand in the message, one after the other", () => {
    assert.ok(says("no LoRA is called 'mycta'; did you mean 'mycat'?", "no LoRA is called …; did you mean …"));
    assert.ok(says("mycat: it never acts, because it starts at step 25", "… it never acts, because …"));
    assert.ok(!says("did you mean 'mycat'; no LoRA is called", "no LoRA is called …; did you mean …"));
    assert.ok(!says("mycat is applied", "… it never acts, because …"));
});
