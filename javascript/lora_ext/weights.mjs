// The Weights panel: one slider a block along the U-Net's shape, text synced both ways, presets, the tag.
"use strict";
(() => {
    const X = window.loraExt;
    const { h, s, t } = X;
    const LEVEL = 3; // blocks a level of the U-Net
    const clean = (value) => String(Math.round(value * 1000) / 1000);

    /** How deep in the U a block lies: 0 at the top. */
    function depth(label, sdxl) {
        const levels = sdxl ? 2 : 3;
        if (label === "BASE") return 0;
        if (label === "MID") return levels;
        const at = Math.floor(Number(label.replace(/\D/g, "")) / LEVEL);
        return label.startsWith("IN") ? Math.min(at, levels) : levels - Math.min(at, levels);
    }

    const group = (label) => (label === "BASE" ? "BASE" : label === "MID" ? "MID" : label.startsWith("IN") ? "IN" : "OUT");

    function title(label) {
        if (label === "BASE") return t("text encoder");
        if (label === "MID") return t("middle block");
        return label.startsWith("IN") ? t("input block {0}", label.slice(2)) : t("output block {0}", label.slice(3));
    }

    /** The sliders. values: label → a number, or R, U, X as presets have them. onchange() after each change. */
    X.blockEditor = (onchange) => {
        const made = h("div", { class: "lx-unet" });
        let labels = [], values = {}, norms = {}, range = [0, 1], sdxl = false, columns = {};

        const number = (label) => (typeof values[label] === "number" ? values[label] : null);
        const share = (value) => Math.min(Math.max((value - range[0]) / (range[1] - range[0]), 0), 1);

        function show(label) {
            const column = columns[label];
            if (!column) return;
            const value = number(label), random = value === null;
            column.slider.style.setProperty("--value", share(random ? 0.5 : value));
            column.slider.style.setProperty("--zero", share(0));
            column.slider.classList.toggle("random", random);
            column.slider.classList.toggle("off", value === 0);
            column.slider.setAttribute("aria-valuenow", random ? 0 : value);
            column.slider.setAttribute("aria-valuetext", random ? String(values[label]) : clean(value));
            column.number.textContent = random ? values[label] : clean(value);
            const most = Math.max(...Object.values(norms), 0) || 1;
            const norm = norms[label] || 0;
            column.bar.style.setProperty("--norm", norm / most);
            column.bar.style.setProperty("--now", Math.min((norm / most) * Math.abs(random ? 1 : value), 1));
            const strength = label in norms ? t("changes by {0} at weight 1", norm.toPrecision(3)) : t("not in this file");
            column.bar.title = column.slider.title = `${label} · ${title(label)} · ${strength}`;
            column.element.classList.toggle("absent", Object.keys(norms).length > 0 && !(label in norms));
        }
        function set(label, value, tell = true) {
            values[label] = typeof value === "number" ? Math.round(Math.min(Math.max(value, range[0]), range[1]) * 100) / 100 : value;
            show(label);
            if (tell) onchange();
        }

        function drag(label, slider) {
            const at = (event, element) => {
                const box = element.getBoundingClientRect();
                const part = box.width > box.height ? (event.clientX - box.left) / box.width : (box.bottom - event.clientY) / box.height;
                return range[0] + part * (range[1] - range[0]);
            };
            const snap = (value, event) => (event.altKey ? value : Math.round(value * 20) / 20);
            slider.addEventListener("pointerdown", (event) => {
                if (event.button) return;
                event.preventDefault();
                slider.focus();
                slider.setPointerCapture(event.pointerId);
                slider.classList.add("held");
                set(label, snap(at(event, slider), event));
            });
            slider.addEventListener("pointermove", (event) => {
                if (!slider.hasPointerCapture(event.pointerId)) return;
                if (event.shiftKey) { // paint over the neighbours
                    const under = document.elementsFromPoint(event.clientX, event.clientY).find((one) => one.classList.contains("lx-column"));
                    const name = under && under.dataset.label;
                    if (name && columns[name]) set(name, snap(at(event, columns[name].slider), event));
                    return;
                }
                set(label, snap(at(event, slider), event));
            });
            const release = () => slider.classList.remove("held");
            slider.addEventListener("pointerup", release);
            slider.addEventListener("pointercancel", release);
            slider.addEventListener("dblclick", () => set(label, number(label) === 1 ? 0 : 1));
            slider.addEventListener("keydown", (event) => {
                const now = number(label) ?? 0;
                const moves = { ArrowUp: 0.05, ArrowRight: 0.05, ArrowDown: -0.05, ArrowLeft: -0.05, PageUp: 0.25, PageDown: -0.25 };
                const marks = { Home: range[0], End: range[1], 0: 0, 1: 1 };
                if (event.key in moves && !event.ctrlKey && !event.metaKey) set(label, now + moves[event.key]);
                else if (event.key in marks) set(label, marks[event.key]);
                else return;
                event.preventDefault();
            });
        }

        function build() {
            columns = {};
            const unet = labels.filter((label) => label !== "BASE");
            const deepest = sdxl ? 2 : 3;
            const make = (label) => {
                const bar = h("div", { class: "lx-norm" }, h("i", {}), h("b", {}));
                const slider = h("div", { class: "lx-slide", role: "slider", tabindex: 0, "aria-label": `${label}, ${title(label)}`,
                    "aria-valuemin": range[0], "aria-valuemax": range[1], "aria-orientation": "vertical" }, h("i", {}), h("b", {}));
                const value = h("output", { class: "lx-value" });
                const element = h("div", { class: `lx-column ${group(label)}`, "data-label": label, style: { "--depth": depth(label, sdxl), "--deepest": deepest } },
                    bar, h("div", { class: "lx-well" }, slider), value, h("span", { class: "lx-name" }, label.replace(/\d/g, ""), h("span", {}, label.replace(/\D/g, ""))));
                columns[label] = { element, slider, number: value, bar };
                drag(label, slider);
                return element;
            };
            X.put(made, labels.includes("BASE") ? h("div", { class: "lx-base" }, make("BASE")) : null,
                h("div", { class: "lx-u", style: { "--count": unet.length } }, bridges(unet, deepest), unet.map(make)));
            labels.forEach(show);
        }
        /** The skip connections, one a level, from the last input block of it to the first output block. */
        function bridges(unet, deepest) {
            const lines = [];
            for (let level = 0; level < deepest; level++) {
                const ins = unet.flatMap((label, i) => (label.startsWith("IN") && depth(label, sdxl) === level ? [i] : []));
                const outs = unet.flatMap((label, i) => (label.startsWith("OUT") && depth(label, sdxl) === level ? [i] : []));
                if (!ins.length || !outs.length) continue;
                const left = (100 * (ins[ins.length - 1] + 1)) / unet.length;
                lines.push(h("div", { class: "lx-bridge", "aria-hidden": "true", style: { left: `${left}%`, width: `${(100 * outs[0]) / unet.length - left}%`, "--depth": level } }));
            }
            return lines;
        }

        made.layout = (names, isXl) => {
            labels = names;
            sdxl = isXl;
            for (const label of labels) if (!(label in values)) values[label] = 1;
            build();
        };
        made.norms = (found) => {
            norms = found;
            labels.forEach(show);
        };
        made.range = (low, high) => {
            range = [low, high];
            build();
        };
        made.get = () => labels.map((label) => values[label]);
        made.limits = () => range;
        /** The values of a group's blocks; ALL is every block. */
        made.of = (name) => labels.filter((label) => name === "ALL" || group(label) === name).map((label) => values[label]);
        made.all = () => ({ ...values });
        /** Puts values of these labels; those of other labels become 0 (BASE: 1). Widens the range where it must. */
        made.put = (names, given) => {
            values = Object.fromEntries(X.layouts.layouts[26].labels.map((label) => [label, names.includes("BASE") || label !== "BASE" ? 0 : 1]));
            names.forEach((label, i) => (values[label] = given[i]));
            const plain = given.filter((value) => typeof value === "number");
            const low = Math.min(0, ...plain), high = Math.max(1, ...plain);
            if (low < range[0] || high > range[1]) {
                range = [low < 0 ? Math.min(-1, Math.floor(low)) : 0, high > 1 ? Math.max(2, Math.ceil(high)) : 1];
                made.dispatchEvent(new CustomEvent("range", { detail: range }));
                build();
            }
            labels.forEach(show);
        };
        made.group = (name, value) => {
            for (const label of labels) if (name === "ALL" || group(label) === name) set(label, value, false);
            onchange();
        };
        made.scale = (name, factor) => {
            for (const label of labels) {
                const now = number(label);
                if (now !== null && (name === "ALL" || group(label) === name)) set(label, now * factor, false);
            }
            onchange();
        };
        return made;
    };

    /** Text → {names, values}; null where it is neither numbers nor a preset's name. */
    X.readWeights = (text, presets) => {
        const known = presets.find((one) => one.name.toUpperCase() === text.trim().toUpperCase());
        const parts = (known ? known.values : text).split(",").map((part) => part.trim());
        const layout = X.layouts.layouts[parts.length];
        if (!layout) return null;
        const values = parts.map((part) => (/^([RUX]|X[+-][\d.]+)$/i.test(part) ? part.toUpperCase() : part === "" ? NaN : Number(part)));
        if (values.some((value) => Number.isNaN(value) || value === Infinity || value === -Infinity)) return null;
        return { names: layout.labels, values, preset: known ? known.name : "" };
    };

    function make(panel) {
        let file = null, presets = [], preset = "", size = 17, timer = 0, asked = 0, arriving = "";
        const editor = X.blockEditor(() => {
            preset = "";
            told();
        });
        const picker = X.picker({ onpick: X.safely(choose) });
        const about = h("div", { class: "lx-about" });
        const text = h("textarea", { class: "lx-input lx-text", rows: 2, spellcheck: "false", "aria-label": t("Block weights as text"),
            title: t("Block weights as text: a preset, numbers, or a whole <lora:…> tag") });
        const wrong = h("p", { class: "lx-note bad", role: "alert", hidden: true });
        const tag = h("code", { class: "lx-tag", role: "status" });
        const idle = h("div", { class: "lx-idle" });
        let unread = ""; // why the text cannot be read, while it cannot
        const changed = () => told(Boolean(unread)); // what was typed stays until it can be read
        const strength = { min: 0, max: 2, step: 0.05, value: 1, usual: 1, hard: false, low: -100, high: 100, oninput: changed, onwrong: changed };
        const te = X.range(t("Text encoder"), { ...strength,
            tip: t("How strongly the file acts on the reading of the prompt") });
        const unet = X.range(t("U-Net"), { ...strength,
            tip: t("How strongly the file acts on the picture") });
        // as a tag has them: 5 is a step, 0.5 and 1.0 are shares of all steps
        const step = { min: 0, max: 1, step: 0.05, oninput: changed, onwrong: changed, words: t("a step's number such as 5, or a share from 0.0 to 1.0"),
            parse: (text) => (/^\d+$/.test(text) || (/^\d*\.\d+$/.test(text) && Number(text) <= 1) ? text : undefined),
            show: (share) => (Number.isInteger(share) ? share.toFixed(1) : String(share)) };
        const start = X.range(t("From step"), { ...step, value: "0.0", usual: "0.0",
            tip: t("The file acts from here on: a share of all steps such as 0.25, or a step's number such as 5, counted from 0") });
        const stop = X.range(t("Until step"), { ...step, value: "1.0", usual: "1.0",
            tip: t("The file acts until before this: a share of all steps such as 0.75, or a step's number such as 15, counted from 0") });
        const layouts = X.segments([[17, t("attention blocks"), t("Only blocks with attention: what most files change")],
            [26, t("all blocks"), t("Every block of the U-Net")]], 17, (to) => layout(Number(to)), t("Which blocks"));
        const span = X.segments([["0,1", "0 … 1", t("Weights from 0 to 1")], ["-1,2", "−1 … 2", t("Weights from −1 to 2")]], "0,1",
            (to) => {
                editor.range(...to.split(",").map(Number));
                sync();
            }, t("Range of the sliders"));
        editor.addEventListener("range", ({ detail }) => span.set(detail[0] < 0 || detail[1] > 1 ? "-1,2" : "0,1"));

        const xl = () => Boolean(file && file.family === "SDXL");
        function layout(to) {
            size = to;
            editor.layout(X.layouts.layouts[to].labels, xl());
            preset = "";
            told();
        }
        /** Every block of the file is at 1, also those that have no slider in this layout. */
        const plain = () => editor.get().every((value) => value === 1) && (file ? file.blocks : []).every((one) => (editor.all()[one.block] ?? 1) === 1);
        const vector = () => editor.get().map((value) => (typeof value === "number" ? clean(value) : value)).join(",");
        /** What the tag is to say. Raises X.Wrong while something on the page cannot be read. */
        const wish = () => {
            if (unread) throw new X.Wrong(unread, text);
            const from = Number(start.get()) > 0 ? start.get() : "", until = stop.get() === "1.0" ? "" : stop.get();
            return { name: file ? file.call : "", te: te.get(), unet: unet.get(), lbw: preset || (plain() ? null : vector()),
                step: from || until ? `${from}-${until}` : null };
        };

        /** After a slider moved: text, preset list, group sliders and tag follow. */
        function told(keepText = false) {
            if (!keepText) {
                text.value = preset || vector();
                unread = "";
            }
            wrong.hidden = !unread;
            list.value = unread ? "" : preset;
            sync();
            tag.classList.add("busy"); // of before, until the new one is there
            clearTimeout(timer);
            timer = setTimeout(X.safely(async () => {
                const mine = timer;
                let made = { tag: "", notes: [] }, failed = "";
                try {
                    made = file ? await X.post("/tag", wish()) : made;
                } catch (error) {
                    failed = error instanceof X.Wrong ? t("No tag: something above cannot be read.") : t("No tag: {0}", error.message);
                }
                if (mine !== timer) return; // something moved meanwhile
                tag.classList.remove("busy");
                tag.classList.toggle("bad", Boolean(failed));
                tag.textContent = failed || made.tag;
                X.put(idle, made.notes.map((line) => X.note(line, "bad")));
            }), 120);
        }
        /** The tag of what the page says now. */
        const written = async (prompt = "") => {
            if (!file) throw new Error(t("Choose a file"));
            return X.post("/tag", { ...wish(), prompt });
        };

        async function choose(row) {
            const mine = ++asked;
            about.classList.add("busy");
            const found = await X.api("/inspect", { query: { name: row.name } }).finally(() => about.classList.remove("busy"));
            if (mine !== asked) return; // another file was chosen meanwhile
            file = found;
            X.keep("lora", row.name);
            describe();
            editor.norms(Object.fromEntries(file.blocks.filter((one) => one.block && one.norm !== null).map((one) => [one.block, one.norm])));
            const [small, large] = file.layouts;
            const wanted = [12, 17].includes(size) && file.layout === small ? small : file.layout;
            const fresh = X.segments([[small, t("attention blocks"), t("Only blocks with attention: what most files change")],
                [large, t("all blocks"), t("Every block of the U-Net")]], wanted, (to) => layout(Number(to)), t("Which blocks"));
            layoutHolder.current.replaceWith(fresh); // the one on the page, which is another after the first file
            Object.assign(layoutHolder, { current: fresh });
            const kept = preset && X.readWeights(preset, presets); // a preset that was chosen stays
            const name_ = preset;
            layout(wanted);
            if (arriving) {
                text.value = arriving;
                arriving = "";
                await read();
            } else if (kept) {
                editor.put(kept.names, kept.values);
                preset = name_;
                told();
            }
        }
        const layoutHolder = { current: layouts };

        function describe() {
            const words = file.words.map((word) => h("button", { type: "button", class: "lx-chip", title: t("Copy this word"), onclick: () => X.copy(word) }, word));
            X.put(about,
                X.facts([[t("kind"), file.variant], [t("base"), file.family === "unknown" ? t("unknown") : file.family],
                    [t("rank"), Object.keys(file.ranks).slice(0, 3).join(", ")], [t("layers"), file.layers], [t("size"), X.bytes(file.bytes)]]),
                file.not_finite ? X.note(t("This file is damaged: it contains numbers that are not finite."), "bad") : null,
                file.other || Object.keys(file.damaged).length ? file.warnings.map((line) => X.note(line, "bad")) : null,
                words.length ? h("div", { class: "lx-chips" }, h("span", { class: "lx-label" }, t("Trigger words")), words) : null);
        }

        // --- text → sliders
        const read = X.safely(async () => {
            const given = text.value.trim();
            let found = null;
            if (/<(lora|lyco):/i.test(given)) {
                try {
                    const said = await X.post("/tag/read", { text: given });
                    if (!file || said.name !== file.call) await picker.choose(said.name);
                    te.set(said.te);
                    unet.set(said.unet);
                    start.set(said.steps.start || "0.0");
                    stop.set(said.steps.stop || "1.0");
                    found = said.lbw ? X.readWeights(said.lbw, presets) : X.readWeights("ALL", presets);
                } catch (error) {
                    wrong.textContent = error.message;
                }
            } else {
                found = X.readWeights(given, presets);
                const count = given.split(",").length;
                wrong.textContent = count === 1 ? t("No preset is called {0}.", given) : t("{0} numbers; a file takes 12, 17, 20, 25 or 26.", count);
            }
            unread = found ? "" : wrong.textContent;
            if (!found) return told(true);
            // the sliders take the length of the text where the file has that layout, else one that holds every number
            const length = found.names.length;
            const own = file ? file.layouts : [17, 26];
            const hidden = found.names.some((name, i) => !X.layouts.layouts[size].labels.includes(name) && found.values[i] !== 0);
            const wanted = own.includes(length) ? length : hidden ? (length === 25 ? 26 : length) : size;
            if (wanted !== size) {
                size = wanted;
                layoutHolder.current.set(size);
                editor.layout(X.layouts.layouts[size].labels, xl());
            }
            editor.put(found.names, found.values);
            preset = found.preset;
            told(true);
        });
        text.addEventListener("input", X.later(300, read));

        // --- presets
        const list = X.select([["", t("(own weights)")]], "", (name) => {
            if (!name) return;
            text.value = name;
            read();
        }, { title: t("Weights that were saved under a name"), "aria-label": t("Presets") });
        const name = X.input("", null, { placeholder: t("Name of a new preset"), "aria-label": t("Name of a new preset"), title: t("What the preset will be called, here and in tags") });
        const took = (found) => {
            presets = found.presets;
            for (const line of found.notes) X.toast(line, "bad");
            const now = preset;
            X.put(list, h("option", { value: "" }, t("(own weights)")), ["builtin", "own"].map((kind) => {
                const rows = presets.filter((one) => (kind === "own" ? one.own || !one.builtin : one.builtin && !one.own));
                return rows.length ? h("optgroup", { label: kind === "own" ? t("mine") : t("built in") }, rows.map((one) => h("option", { value: one.name }, one.name))) : null;
            }));
            list.value = now;
        };
        const chosen = () => presets.find((one) => one.name === list.value);
        const save = X.safely(async () => {
            if (unread) throw new X.Wrong(unread, text);
            const wanted = name.value.trim() || (chosen() && chosen().own ? list.value : "");
            if (!wanted) return name.focus();
            took(await X.api("/presets", { method: "PUT", body: { name: wanted, values: vector() } }));
            preset = wanted;
            name.value = "";
            told();
            X.toast(t("Saved as {0}", wanted));
        });
        const rename = X.safely(async () => {
            const one = chosen();
            if (!one || !one.own || !name.value.trim()) return X.toast(t("Choose one of your presets and write its new name"), "bad");
            const to = name.value.trim();
            took(await X.post("/presets/rename", { name: one.name, to }));
            preset = to;
            name.value = "";
            told();
        });
        const remove = X.safely(async () => {
            const one = chosen();
            if (!one || !one.own) return X.toast(t("Choose one of your presets; the built-in ones stay"), "bad");
            took(await X.api("/presets", { method: "DELETE", query: { name: one.name } }));
            preset = "";
            told();
        });
        const upload = h("input", { type: "file", accept: ".txt,text/plain", hidden: true, onchange: X.safely(async () => {
            const found = await X.post("/presets/import", { text: await upload.files[0].text() });
            took(found);
            X.toast(t("{0} presets read", found.taken.length));
            upload.value = "";
        }) });
        const save_file = X.safely(async () => {
            const { text: lines } = await X.api("/presets/export");
            const link = h("a", { href: URL.createObjectURL(new Blob([lines], { type: "text/plain" })), download: "presets.txt" });
            link.click();
            URL.revokeObjectURL(link.href);
        });

        // --- groups: each slider stands where its blocks do
        const groups = [["ALL", t("All"), t("every block")], ["IN", "IN", t("the blocks on the way in")], ["MID", "MID", t("the middle block")],
            ["OUT", "OUT", t("the blocks on the way out")]].map(([key, label, tip]) => {
            const slide = h("input", { type: "range", class: "lx-range", min: 0, max: 1, step: 0.05, value: 1, "aria-label": `${label}: ${tip}`,
                oninput: () => editor.group(key, Number(slide.value)) });
            const element = h("div", { class: "lx-handle", title: t("Moves {0} together", tip) }, h("span", {}, label), slide,
                X.button("0", () => editor.group(key, 0), { kind: "quiet", tip: t("Set to 0: {0}", tip) }),
                X.button("1", () => editor.group(key, 1), { kind: "quiet", tip: t("Set to 1: {0}", tip) }));
            return { key, slide, element };
        });
        function sync() {
            const [low, high] = editor.limits();
            for (const { key, slide, element } of groups) {
                const values = editor.of(key), numbers = values.filter((value) => typeof value === "number");
                const mixed = values.some((value) => value !== values[0]);
                Object.assign(slide, { min: low, max: high, disabled: !values.length });
                slide.value = numbers.reduce((sum, value) => sum + value, 0) / (numbers.length || 1);
                slide.style.setProperty("--share", `${(100 * (slide.value - low)) / (high - low)}%`);
                slide.setAttribute("aria-valuetext", mixed || !numbers.length ? t("different weights") : clean(numbers[0]));
                element.classList.toggle("mixed", mixed || !numbers.length);
            }
        }
        const handles = h("div", { class: "lx-handles" }, groups.map((one) => one.element));

        const inserts = X.inserts(async (target) => {
            target.set((await written(target.get())).prompt);
            X.toast(t("Written into the prompt"));
        }, "main", t("Writes the tag into the prompt, or updates the one that is there"));

        X.put(panel,
            h("div", { class: "lx-split" },
                h("div", { class: "lx-side" },
                    X.card(t("LoRA"), picker, about, h("div", { class: "lx-row wrap" }, X.button(t("What does each block do?"), () => file && X.go("blocks", file.name), { tip: t("Measures the blocks, with pictures or without") }))),
                    X.card(t("Strength"), unet, te, start, stop)),
                h("div", { class: "lx-main" },
                    h("section", { class: "lx-card" },
                        h("div", { class: "lx-row wrap" }, h("h3", {}, t("Blocks")), h("span", { class: "lx-grow" }), layoutHolder.current, span),
                        handles, editor,
                        h("p", { class: "lx-hint" }, t("Bars show how much each block of the file changes. Drag a slider; with Shift, paint over several; double-click switches between 0 and 1."))),
                    h("section", { class: "lx-card lx-two" },
                        h("div", {}, h("h3", {}, t("As text")), text, wrong,
                            h("div", { class: "lx-row wrap" }, X.button(t("Copy"), () => X.copy(text.value), { tip: t("Copy the block weights") }))),
                        h("div", {}, h("h3", {}, t("Presets")), list, h("div", { class: "lx-row wrap" }, name,
                            X.button(t("Save"), save, { tip: t("Save the weights as they are now under this name") })),
                        h("div", { class: "lx-row wrap" }, X.button(t("Rename"), rename, { kind: "quiet", tip: t("Give the chosen preset the name written above") }),
                            X.button(t("Delete"), remove, { kind: "quiet", tip: t("Delete the chosen preset") }),
                            X.button(t("Import"), () => upload.click(), { kind: "quiet", tip: t("Read presets from a text file with lines NAME:1,0,1,…") }),
                            X.button(t("Export"), save_file, { kind: "quiet", tip: t("Your presets as a text file") }), upload))),
                    h("section", { class: "lx-card lx-tagline" }, h("div", { class: "lx-grow" }, tag, idle), h("div", { class: "lx-row wrap" }, inserts,
                        X.button(t("Copy tag"), X.safely(async () => X.copy((await written()).tag)), { tip: t("Copy the tag as text") }),
                        X.button(t("Write into a file"), X.safely(() => {
                            if (!file) return X.toast(t("Choose a file"), "bad");
                            const { lbw, step: range } = wish();
                            if (range) X.toast(t("A file holds no range of steps: From and Until are left out of it"), "bad");
                            return X.go("tools", "reweight", { name: file.name, lbw, te: te.get(), unet: unet.get() });
                        }), { tip: t("A copy that needs no block weights in the prompt") }))))));
        layout(size);
        X.safely(async () => {
            took(await X.api("/presets"));
            const last = X.recall("lora", "");
            if (!(last && (await picker.choose(last, true)))) await picker.first();
        })();
        X.on("presets", X.safely(async () => took(await X.api("/presets"))));
        /** A file, and block weights for it as text. */
        panel.take = async (name, given) => {
            arriving = given || "";
            await picker.choose(name);
        };
    }

    // --- where a tag can go; the Generate panel adds its own field

    function put(field, text) {
        field.value = text;
        field.dispatchEvent(new Event("input", { bubbles: true }));
    }
    const web = (name) => ({
        label: name === "txt2img" ? "Insert into txt2img" : "Insert into img2img",
        there: () => X.choices.prompts,
        field: () => document.querySelector(`#${name}_prompt textarea`),
        get() {
            return this.field() ? this.field().value : "";
        },
        set(text) {
            const field = this.field();
            if (!field) throw new Error(t("The prompt field was not found."));
            put(field, text);
        },
        seed(number) {
            const field = document.querySelector(`#${name}_seed input`);
            if (field) put(field, number);
        },
    });
    Object.assign(X.prompts, { txt2img: web("txt2img"), img2img: web("img2img") });

    X.panel({ name: "weights", title: "Weights", tip: "How strongly a LoRA acts, block by block", order: 20, make,
        open: (name, given) => name && X.panels.find((one) => one.name === "weights").element.take(name, given) });
})();
