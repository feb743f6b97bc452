import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import {
    formatBytes,
    formatDuration,
    formatPercent,
    formatRoughDuration,
    formatWeight,
} from "../../javascript/lora_ext/core/format.mjs";
import { setTranslations, t, tableFor } from "../../javascript/lora_ext/core/strings.mjs";
import { hasEnded, percentDone, progressText } from "../../javascript/lora_ext/jobs/job_state.mjs";

afterEach(() => setTranslations({}));

test("one thing has its own form in English", () => {
    assert.equal(t("{0} files", 1), "1 file");
    assert.equal(t("{0} files", 2), "2 files");
    const samples = "{0} pictures × {1} repeats × {2} epochs = {3} samples; {4} suit {5}";
    assert.equal(t(samples, 20, "1", 1, 20, 1, "x"), "20 pictures × 1 repeat × 1 epoch = 20 samples; 1 suit x");
    assert.equal(t("{0} pictures have no mask; their whole area is trained", "1").slice(0, 20), "1 picture has no mas");
    setTranslations({ "{0} files": "ファイル {0} 個" });
    assert.equal(t("{0} files", 1), "ファイル 1 個");
});

test("texts are filled in, in their own language's order", () => {
    assert.equal(t("{0} of {1}", 1, 2), "1 of 2");
    setTranslations({ "{0} of {1}": "{1}: {0}, {0}" });
    assert.equal(t("{0} of {1}", 1, 2), "2: 1, 1");
    assert.equal(t("not translated"), "not translated");
});

test("the web UI's own localization comes second", () => {
    globalThis.localization = { Save: "Speichern", Copy: "Kopieren" };
    setTranslations({ Save: "保存" });
    assert.deepEqual([t("Save"), t("Copy")], ["保存", "Kopieren"]);
    delete globalThis.localization;
});

test("which table is for a language", () => {
    const codes = ["zh-Hant-HK", "zh_TW", "zh-hk", "zh-CN", "zh", "ja", "ja_JP", "de", "en-US"];
    const tables = ["zh_TW", "zh_TW", "zh_TW", "zh_CN", "zh_CN", "ja_JP", "ja_JP", "en", "en"];
    assert.deepEqual(codes.map(tableFor), tables);
});

test("sizes, shares, times, weights", () => {
    assert.deepEqual([1, 1500, 2.5e6, 1e9].map(formatBytes), ["1 KB", "2 KB", "2.5 MB", "1.00 GB"]);
    assert.deepEqual([0, 0.5, 0.1234, 0.99999, 1].map(formatPercent), ["0 %", "50 %", "12.34 %", "99.99 %", "100 %"]);
    assert.deepEqual([-1, 59.4, 61, 3660].map(formatDuration), ["0 s", "59 s", "1 min 1 s", "1 h 1 min"]);
    assert.deepEqual([7199, 3595].map(formatDuration), ["2 h 0 min", "59 min 55 s"]);
    assert.deepEqual([59.4, 700, 3580].map(formatRoughDuration), ["59 s", "12 min", "59 min 40 s"]);
    assert.deepEqual([1, 0.1 + 0.2, -0.0004].map(formatWeight), ["1", "0.3", "0"]);
});

test("a job's progress in one line", () => {
    const job = { state: "running", done: 3, total: 4, text: "drawing", live: {}, left: 61, started: 10, ended: 0 };
    assert.equal(progressText(job), "3 / 4 · drawing · 1 min 1 s left");
    assert.equal(percentDone(job), 75);
    assert.equal(progressText({ ...job, state: "done", left: null, ended: 15 }), "5 s");
    assert.equal(progressText({ ...job, live: { progress: {} }, left: null }), "3 / 4");
    assert.deepEqual(
        ["waiting", "running", "done", "failed", "cancelled"].map((state) => hasEnded({ state })),
        [false, false, true, true, true],
    );
});
