import assert from "node:assert/strict";
import { test } from "node:test";
import { pageWords } from "../../javascript/lora_ext/core/server_sentences.mjs";
import { setTranslations } from "../../javascript/lora_ext/core/strings.mjs";

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

test("a part of a sentence is translated too, and may be missing", () => {
    setTranslations({ "no LoRA is called {0}{1}": "没有 {0}{1}", "; did you mean {0}?": "；{0}？" });
    assert.equal(pageWords("no LoRA is called 'a b'; did you mean 'ab'?"), "没有 'a b'；'ab'？");
    assert.equal(pageWords("no LoRA is called 'a b'"), "没有 'a b'");
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
