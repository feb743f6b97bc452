import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "node:test";

const FOLDER = fileURLToPath(new URL("../../javascript/lora_ext", import.meta.url));
const files = readdirSync(FOLDER, { recursive: true }).filter((name) => name.endsWith(".mjs"));
const importsOf = (name) =>
    [...readFileSync(join(FOLDER, name), "utf8").matchAll(/^(?:import|} from) .*?"(\.[^"]+)";$/gm)].map(([, path]) =>
        normalize(join(dirname(name), path)),
    );

test("main.mjs reaches every module, each by one address", () => {
    const reached = new Set();
    const visit = (name) => {
        if (reached.has(name)) return;
        reached.add(name);
        importsOf(name).forEach(visit);
    };
    visit("main.mjs");
    assert.deepEqual([...reached].sort(), files.map(normalize).sort());
});

test("no module imports itself by way of others", () => {
    const visit = (name, path) => {
        assert.ok(!path.includes(name), [...path, name].join(" → "));
        importsOf(name).forEach((next) => visit(next, [...path, name]));
    };
    files.forEach((name) => visit(normalize(name), []));
});

test("lower folders import nothing of higher ones", () => {
    const order = [
        "core",
        "controls",
        "jobs",
        "prompts",
        "library",
        "train",
        "weights",
        "blocks",
        "compare",
        "start",
        "tools",
        "regions",
        "panels",
        ".",
    ];
    for (const name of files) {
        for (const path of importsOf(name)) {
            const [from, to] = [name, path].map((one) => order.indexOf(dirname(one)));
            assert.ok(to <= from, `${name} imports ${path}`);
        }
    }
});
