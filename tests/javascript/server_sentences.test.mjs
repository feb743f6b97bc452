import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { pageWords, partWords, setOptionLabels } from "../../javascript/lora_ext/core/server_sentences.mjs";
import { setTranslations, t } from "../../javascript/lora_ext/core/strings.mjs";

test("the server's sentences are said in the page's words and language", () => {
    const exists = "{0} exists; choose another name, or tick “replace a file of this name”";
    const said = "loras/a (1).safetensors exists; choose another name or give --overwrite";
    assert.equal(pageWords(said), exists.replace("{0}", "loras/a (1).safetensors"));
    setTranslations({ [exists]: "{0} 已存在", "the tag is empty": "标签为空", "{0} cannot be read: {1}": "{1}/{0}" });
    assert.equal(pageWords(said), "loras/a (1).safetensors 已存在");
    assert.equal(pageWords("the tag is empty"), "标签为空");
    assert.equal(pageWords("a: b cannot be read: it is\ndamaged"), "it is\ndamaged/a: b");
    setTranslations({});
});

test("an option is called by its label, where the sentence and not a value names it", () => {
    const said =
        "reg_data_dir out/reg_generate has no picture that can be read, so there is no regularisation; " +
        "reg_generate generates the pictures";
    assert.equal(pageWords(said), said);
    setOptionLabels((name) => (name === "reg_generate" ? "draw missing ones" : ""));
    assert.equal(pageWords(said), said.replace(/; reg_generate/, "; “draw missing ones”"));
    setOptionLabels(() => "");
});

test("a part of a sentence is translated too, and may be missing", () => {
    setTranslations({ "no LoRA is called {0}{1}": "没有 {0}{1}", "; did you mean {0}?": "；{0}？" });
    assert.equal(pageWords("no LoRA is called 'a b'; did you mean 'ab'?"), "没有 'a b'；'ab'？");
    assert.equal(pageWords("no LoRA is called 'a b'"), "没有 'a b'");
    setTranslations({});
});

test("a name that reads like a part of a sentence stays a name", () => {
    const exists = "{0} already exists; choose another name";
    setTranslations({ [exists]: "{0} 已存在", "step {0}": "第 {0} 步" });
    assert.equal(pageWords("step 4 already exists; choose another name"), "step 4 已存在");
    assert.equal(pageWords("{1} $& already exists; choose another name"), "{1} $& 已存在");
    setTranslations({});
});

test("a value that reads like a sentence stays as it is where its place is a name's", () => {
    const words = "the tag is empty";
    setTranslations({
        [words]: "标签为空",
        "{0} has no LoRA layer": "{0} 没有 LoRA 层",
        "the mask {0} cannot be read: {1}": "遮罩 {0} 无法读取：{1}",
        "there is no preset {0}{1}": "没有预设 {0}{1}",
    });
    assert.equal(pageWords(`${words} has no LoRA layer`), `${words} 没有 LoRA 层`);
    assert.equal(pageWords(`there is no preset ${words}`), `没有预设 ${words}`);
    assert.equal(pageWords(`the mask ${words} cannot be read: ${words}`), `遮罩 ${words} 无法读取：标签为空`);
    setTranslations({});
});

test("a name before a sentence is no part of it, and lists of words are said with the language's or", () => {
    const weights = "{0} block weights in {1}; accepted are {2} values";
    setTranslations({
        [weights]: "{1} 有 {0} 个，可用 {2}",
        "{0}: {1}": "{0}：{1}",
        " or ": " 或 ",
        "{0}={1} in {2} is not known; write {3}": "{2} 的 {0}={1} 未知，请写 {3}",
        "starts at {0}": "从 {0} 开始",
        "starts at {0} and stops before {1}": "从{0}开始，在{1}之前停止",
        "step {0}": "第 {0} 步",
    });
    const said = "<lora:a>: 3 block weights in '1,2,3'; accepted are 12, 17 values";
    assert.equal(pageWords(said), "<lora:a>：'1,2,3' 有 3 个，可用 12, 17");
    const part = "part=4 in <lora:a:1:part=4> is not known; write own or all or common";
    assert.equal(pageWords(part), "<lora:a:1:part=4> 的 part=4 未知，请写 own 或 all 或 common");
    assert.equal(partWords("starts at step 5 and stops before step 90"), "从第 5 步开始，在第 90 步之前停止");
    assert.equal(partWords("this or that one"), "this or that one");
    setTranslations({});
});

test("a report of several parts is translated part by part", () => {
    const fits = { "{0}{1}: {2} of {3} layers apply": "{0}：{2}/{3}{1}", "{0} keys not understood": "{0} 个键" };
    setTranslations({ ...fits, "{0} not in this model's {1}": "{1} 没有 {0}", "; ": "；" });
    assert.equal(pageWords("'a': 3 of 4 layers apply; 2 keys not understood; else"), "'a'：3/4；2 个键；else");
    const lacks = "'a' (made for SD1): 3 of 8 layers apply; 5 not in this model's U-Net; 2 keys not understood";
    assert.equal(pageWords(lacks), "'a' (made for SD1)：3/8；U-Net 没有 5；2 个键");
    assert.equal(pageWords("so; and so"), "so; and so");
    setTranslations({});
});

test("other sentences stay as they are", () => {
    for (const text of ["", "something else", "well, the tag is empty", "the tag is empty."]) {
        assert.equal(pageWords(text), text);
    }
});

test("each sentence is known by its own words, and its values come out as they are", async () => {
    const core = new URL("../../javascript/lora_ext/core/", import.meta.url);
    const files = readdirSync(core).filter((name) => name.endsWith("_sentence_list.mjs"));
    const lists = await Promise.all(files.map((name) => import(new URL(name, core).href)));
    const sentences = lists.flatMap((list) => Object.values(list).flat());
    assert.ok(sentences.length > 1000 && new Set(sentences).size === sentences.length);
    const places = (/** @type {string} */ sentence) => sentence.match(/\{\d\}/g) || [];
    setTranslations(Object.fromEntries(sentences.map((one, i) => [one, `§${i}: ${places(one).join(" ")}`])));
    sentences.forEach((sentence, i) => {
        const values = places(sentence).map((_, n) => (sentence.includes(`}{${n}}`) ? `; w${n}` : `v${n}`));
        const given = sentence.replace(/\{(\d)\}/g, (_, n) => values[n]);
        assert.equal(partWords(given), `§${i}: ${values.join(" ")}`, sentence);
    });
    setTranslations({});
});

test("what the program says of one thing is known too", () => {
    setTranslations({
        "{0} pictures have no mask; their whole area is trained": "{0} 张没有蒙版",
        "{0} pictures × {1} repeats × {2} epochs = {3} steps": "{0}×{1}×{2}={3}",
        "none of the {0} pictures can be read; the first: {1}": "{0}：{1}",
        "{0}: {1} of {2} layers are not measured, since their change depends on the base model's weights ({3})":
            "{0}：{1}/{2}（{3}）",
        "{0}: weight at each of {1} U-Net calls {2} {3}": "{0}：{1} 次 {2} {3}",
        "{0} claims {1}x{2} pixels in {3} bytes; make it smaller first": "{0}：{1}x{2}，{3} 字节",
    });
    const unmeasured = "of 2 layers is not measured, since its change depends on the base model's weights (IA3)";
    assert.equal(pageWords(`a: 1 ${unmeasured}`), "a：1/2（IA3）");
    assert.equal(pageWords(`a: 1 ${unmeasured.replace("2 layers", "1 layer")}`), "a：1/1（IA3）");
    assert.equal(pageWords("cat: weight at the only U-Net call ▁ 0.5"), "cat：1 次 ▁ 0.5");
    assert.equal(pageWords("a.png claims 9x9 pixels in 1 byte; make it smaller first"), "a.png：9x9，1 字节");
    assert.equal(pageWords("1 picture has no mask; its whole area is trained"), "1 张没有蒙版");
    assert.equal(pageWords("2 pictures have no mask; their whole area is trained"), "2 张没有蒙版");
    assert.equal(pageWords("1 picture × 20 repeats × 1 epoch = 20 steps"), "1×20×1=20");
    assert.equal(pageWords("the only picture cannot be read: x"), "1：x");
    setTranslations({});
    assert.equal(pageWords("1 picture has no mask; its whole area is trained").slice(0, 20), "1 picture has no mas");
    assert.equal(pageWords("1 picture × 20 repeats × 1 epoch = 20 steps").slice(-8), "20 steps");
});

test("parts of sentences are no sentences, and sentences are found where they are joined", () => {
    const known = { "and {0} more": "另 {0} 个", "its weight is 0": "权重为 0", "use sdpa": "请用 sdpa" };
    setTranslations({
        ...known,
        "not used here: {0}": "不用：{0}",
        "{0}: {1}": "{0}：{1}",
        "{0} ({1})": "{0}（{1}）",
        ", ": "、",
    });
    assert.equal(pageWords("and 3 more"), "and 3 more");
    assert.equal(pageWords("not used here: and 3 more"), "不用：另 3 个");
    assert.equal(pageWords("a.toml: its weight is 0"), "a.toml：权重为 0");
    assert.equal(pageWords("b:\n  ! a: its weight is 0"), "b:\n  ! a：权重为 0");
    assert.equal(pageWords("not used here: a (use sdpa), b (why (not))"), "不用：a（请用 sdpa）、b (why (not))");
    setTranslations({});
});

test("a text that could take long to match stays as it is", () => {
    const text = "a: (b; ".repeat(20_000);
    assert.equal(pageWords(text), text);
});

test("a value may have a place of its own in it", () => {
    assert.equal(t("{0} and {1}", "{1}$&", "b"), "{1}$& and b");
});
