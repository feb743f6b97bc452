import assert from "node:assert/strict";
import { test } from "node:test";
import { keptShare, strongestPicture } from "../../javascript/lora_ext/blocks/block_map.mjs";
import { exampleValues, joinAxis, splitAxis } from "../../javascript/lora_ext/compare/axis_field.mjs";
import { chartScale, linePath } from "../../javascript/lora_ext/controls/chart.mjs";
import { gridWindow } from "../../javascript/lora_ext/controls/virtual_grid.mjs";
import { apiUrl } from "../../javascript/lora_ext/core/api.mjs";
import { metadataChanges } from "../../javascript/lora_ext/library/file_editor.mjs";
import { namedEntries, tagFrequency } from "../../javascript/lora_ext/library/file_metadata.mjs";
import { pagesOf } from "../../javascript/lora_ext/library/library_grid.mjs";
import { listQuery } from "../../javascript/lora_ext/library/search_list.mjs";
import { stem } from "../../javascript/lora_ext/tools/extract.mjs";
import { groupLayers } from "../../javascript/lora_ext/tools/tool_report.mjs";
import { curvePoints, lossLimit } from "../../javascript/lora_ext/library/training_curves.mjs";
import { optionText } from "../../javascript/lora_ext/train/option_controls.mjs";
import { matchesSearch, sameValue } from "../../javascript/lora_ext/train/option_form.mjs";
import { weightSummary } from "../../javascript/lora_ext/weights/group_sliders.mjs";

test("an axis as text is split and joined to the same", () => {
    for (const text of ["weight:0.2-1.0(+0.2)", "seed:1,2", "epoch:all", "block FACE:0.5,1", "block:IN04,MID", ""]) {
        assert.equal(joinAxis(...splitAxis(text)), text);
    }
    assert.deepEqual(splitAxis("weight:0.5,1"), ["weight", "0.5,1"]);
    assert.deepEqual(splitAxis(undefined), ["", ""]);
    assert.equal(joinAxis("prompt", "a: b"), "prompt:a: b");
    assert.equal(exampleValues({ name: "weight", example: "weight:0-1(+0.2) or weight:0.5,1" }), "0-1(+0.2)");
});

test("a chart's values lie in its frame", () => {
    const scale = chartScale(
        [
            [0, 1],
            [10, 3],
        ],
        640,
        220,
        {},
    );
    assert.deepEqual(
        [scale.x, scale.y],
        [
            [0, 10],
            [1, 3],
        ],
    );
    assert.deepEqual([scale.toX(0), scale.toX(10), scale.toY(1), scale.toY(3)], [52, 626, 190, 12]);
    assert.equal(
        linePath(
            [
                [0, 1],
                [10, 99],
            ],
            scale,
        ),
        "M52.0 190.0L626.0 12.0",
    );
    const flat = chartScale([[5, 0]], 640, 220, {});
    assert.deepEqual([flat.y, flat.toX(5), flat.toY(0)], [[0, 0.1], 52, 190]);
});

test("addresses of the API leave out what is not given", () => {
    const query = { name: "a b/ü", rank: 0, search: "", base: null, kind: undefined, dry: false };
    assert.match(apiUrl("/library", query), /\/library\?name=a\+b%2F%C3%BC&rank=0&dry=false$/);
    assert.match(apiUrl("/jobs"), /[^/]\/jobs$/);
});

test("only what was really changed is written into a file's metadata", () => {
    const metadata = { title: "old", author: "me" };
    const written = { title: "new", author: "me", empty: "", tags: "a" };
    assert.deepEqual(metadataChanges(metadata, written, new Set(["author", "gone"])), {
        put: { title: "new", tags: "a" },
        remove: ["author"],
    });
    assert.deepEqual(metadataChanges(metadata, { author: "" }, new Set()), { put: { author: "" }, remove: [] });
});

test("what trainers write into metadata may be anything", () => {
    const text = JSON.stringify({ "1_a": { cat: 2, " dog ": 5 }, "2_b": { dog: 1, cat: "3" } });
    assert.deepEqual(tagFrequency({ ss_tag_frequency: text }), [
        ["dog", 6],
        ["cat", 5],
    ]);
    const folders = { ss_dataset_dirs: '{"1_a": {}}', ss_reg_dataset_dirs: '{"1_a": {}, "2_b": {}}' };
    assert.deepEqual(tagFrequency({ ss_tag_frequency: text, ...folders }), [
        ["dog", 5],
        ["cat", 2],
    ]);
    for (const odd of [undefined, "", "{", "[1]", '{"a": null}', "3"]) {
        assert.deepEqual(tagFrequency({ ss_tag_frequency: odd }), []);
    }
    assert.deepEqual(namedEntries({ ss_steps: "10", ss_vae_name: "x", ss_epoch: "None" }), [["steps", "10"]]);
});

test("layers with the same change are one row", () => {
    const layer = (name, kept) => ({ layer: name, old_rank: 8, new_rank: 4, kept, note: "" });
    const groups = groupLayers([layer("a", 1), layer("b", 1), layer("c", 0.5), layer("d", 1)]);
    assert.deepEqual(
        groups.map((group) => [group.layer.layer, group.more]),
        [
            ["a", 1],
            ["c", 0],
            ["d", 0],
        ],
    );
});

test("a curve leaves out steps without a number; one high loss does not flatten it", () => {
    assert.deepEqual(
        curvePoints(
            [
                [1, 0.5, null, 1, null],
                [2, null, 0.4, 1, null],
            ],
            1,
        ),
        [[1, 0.5]],
    );
    const losses = [...Array.from({ length: 99 }, () => 0.1), 50];
    assert.ok(lossLimit(losses) < 0.2);
    assert.equal(lossLimit([]), undefined);
});

test("training options as text, and whether they are at their defaults", () => {
    assert.equal(optionText({ type: "strs" }, ["a=1", "b=2"]), "a=1 b=2");
    assert.equal(optionText({ type: "strs" }, ["my cat", "it's", "C:\\x", ""]), `'my cat' 'it'"'"'s' C:\\x ''`);
    assert.equal(optionText({ type: "ints" }, [64, 64]), "64,64");
    assert.equal(optionText({ type: "bool" }, null), "");
    assert.ok(sameValue(null, "") && sameValue(1, "1") && !sameValue(0, "") && !sameValue(0, null));
});

test("options are found by words of their title, name or help", () => {
    const option = { name: "min_snr_gamma", help: "Weights steps by their noise" };
    for (const words of [["snr"], ["gamma", "noise"], ["min_snr"], ["min", "snr"]])
        assert.ok(matchesSearch(option, words));
    assert.ok(!matchesSearch(option, ["snr", "rank"]));
});

test("the kept blocks' share counts blocks of the layout only; the first picture is the strongest block's", () => {
    const shares = { BASE: 0.1, IN01: 0.2, MID: 0.3, OUT03: 0.4 };
    assert.equal(keptShare(["IN01", "MID", "OUT03"], new Set(["MID", "BASE"]), shares), 0.3);
    assert.equal(keptShare(["IN01"], new Set(), shares), 0);
    assert.equal(strongestPicture({ pictures: { "": "0.png", IN01: "1.png", MID: "2.png" }, shares }), "MID");
    assert.equal(strongestPicture({ pictures: {}, shares }), undefined);
});

test("a list asks for whole pages around the rows that it needs", () => {
    assert.deepEqual(pagesOf(0, 0), { offset: 0, limit: 60 });
    assert.deepEqual(pagesOf(59, 61), { offset: 0, limit: 120 });
    assert.deepEqual(pagesOf(4960, 5002), { offset: 4920, limit: 120 });
    assert.deepEqual(pagesOf(100, 9000), { offset: 60, limit: 500 });
});

test("a grid holds the cards in sight and some rows around them, and is as high as all cards", () => {
    const sizes = { height: 600, rowHeight: 80, columns: 3, total: 5002 };
    const rows = Math.ceil(5002 / 3);
    for (const scrollTop of [0, 1234, 60000, rows * 80 - 600, 1e9]) {
        const { first, end, above, below } = gridWindow({ ...sizes, scrollTop });
        assert.ok(first % 3 === 0 && end - first <= 51, `${first} ${end}`);
        assert.equal(above + Math.ceil((end - first) / 3) * 80 + below, rows * 80);
        assert.ok(above <= scrollTop && (scrollTop > 1e6 || above + 80 * 17 >= Math.min(scrollTop + 600, rows * 80)));
    }
    assert.deepEqual(
        [gridWindow({ ...sizes, scrollTop: 0 }).first, gridWindow({ ...sizes, scrollTop: 1e9 }).end],
        [0, 5002],
    );
    assert.deepEqual(gridWindow({ ...sizes, scrollTop: 50, total: 0 }), { first: 0, end: 0, above: 0, below: 0 });
});

test("a file's name without folders and ending", () => {
    assert.deepEqual(["a/b.c/model.v1.safetensors", "model", "a/model"].map(stem), ["model.v1", "model", "model"]);
});

test("a group's slider shows the mean of its numbers, and whether the weights differ", () => {
    assert.deepEqual(weightSummary([0.5, 0.5]), { mean: 0.5, first: 0.5, differ: false });
    assert.deepEqual(weightSummary([1, "R", 0]), { mean: 0.5, first: 1, differ: true });
    assert.deepEqual(weightSummary(["R", "R"]), { mean: 0, first: undefined, differ: true });
    assert.deepEqual(weightSummary([]), { mean: 0, first: undefined, differ: true });
});

test("the picker lists the best matches of a search first, and the newest files without one", () => {
    assert.deepEqual(listQuery("striped"), { search: "striped", sort: "match" });
    assert.equal(listQuery("  ").sort, "newest");
});
