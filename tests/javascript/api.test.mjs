import assert from "node:assert/strict";
import { test } from "node:test";
import { api, isAbort } from "../../javascript/lora_ext/core/api.mjs";
import { page } from "../../javascript/lora_ext/core/page.mjs";

/** The answer whose body cannot be read. @param {unknown} error @param {boolean} ok */
async function answered(error, ok) {
    globalThis.fetch = /** @type {any} */ (
        async () => ({ ok, status: 502, statusText: "Bad Gateway", json: () => Promise.reject(error) })
    );
    return api("/library");
}

test("an answer that is given up or cut off while it is read is no answer", async () => {
    page.root = /** @type {any} */ ({ dataset: {} });
    await assert.rejects(answered(new DOMException("given up", "AbortError"), true), isAbort);
    await assert.rejects(answered(new TypeError("network error"), true), /does not answer/);
    await assert.rejects(answered(new SyntaxError("<html>"), false), /502 Bad Gateway/);
});
