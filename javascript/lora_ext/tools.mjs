// The file tools: merge, resize, extract, split, convert, reweight. Each is a form, a job, and a report as a table.
"use strict";
(() => {
    const X = window.loraExt;
    const { h, t } = X;
    const PRECISIONS = () => [["", t("as the input")], ["fp16", "fp16"], ["bf16", "bf16"], ["float", "float32"]];

    /** What every tool's form ends with: name of the result, precision, overwrite, the button. */
    function ending(verb, label, tip, wish, kinds = [verb]) {
        const name = X.input("", null, { placeholder: t("name of the new file") });
        const precision = X.select(PRECISIONS(), "");
        let overwrite = false;
        const view = X.jobView({ kinds, empty: t("What was done to each layer, and the new file, appear here."), result: (found) => found && h("div", { class: "lx-result" },
            X.note(found.checkpoint ? t("Written: {0}", found.checkpoint) : t("Written: {0}", found.files.join(", ")), "good"),
            found.files.length ? X.offers(found.files) : null, X.report(found.report)) });
        const go = X.safely(async () => {
            const body = wish();
            if (!body) return;
            const job = await view.run(`/${verb}`, { ...body, save_to: name.value.trim(), precision: precision.value, overwrite });
            if (job && job.state === "done") X.tell("library");
        });
        const form = h("div", { class: "lx-grid" }, X.field(t("Save as"), name, t("The result's name; a folder may stand before it")),
            X.field(t("Numbers as"), precision, t("How numbers are stored: fp16 is small, float32 exact")));
        const act = h("div", { class: "lx-row wrap" }, X.button(label, go, { kind: "main", tip }),
            X.check(t("replace a file of this name"), false, (on) => (overwrite = on), t("Without this a file that exists is never touched")));
        view.resume();
        return { name, form, act, view, suggest: (text) => {
            if (!name.dataset.own) name.value = text;
        }, watch: name.addEventListener("input", () => (name.dataset.own = name.value ? "yes" : "")) };
    }

    /** A rank that may be left out. */
    const optional = (label, tip, { placeholder = t("as the rank"), high = 4096, oninput } = {}) =>
        X.number(label, "", { low: 1, high, whole: true, optional: true, placeholder, tip, oninput });

    // --- merge
    function merge(place) {
        const rows = [];
        const list = h("div", { class: "lx-merge" });
        let presets = [];
        const method = X.segments([["concat", t("exact"), t("Ranks side by side: the exact sum, a larger file")],
            ["svd", t("at a rank"), t("The best approximation of the sum at a rank")],
            ["factors", t("as older scripts"), t("Averages the factors, as older merge scripts do")]], "concat", (to) => {
            chosen = to;
            ranks.hidden = to !== "svd";
        }, t("How files are added up"));
        let chosen = "concat";
        const rank = X.range(t("Rank of the result"), { min: 1, max: 256, step: 1, value: 16, tip: t("Larger keeps more and makes a larger file") });
        const conv = optional(t("Rank of 3×3 layers"), t("Empty: as the rank"), { high: 1024 });
        const ranks = h("div", { class: "lx-grid", hidden: true }, rank, conv);
        const into = X.select([["", t("a LoRA of its own")], ...X.choices.checkpoints.filter(Boolean).map((one) => [one, one])], "", (to) => {
            method.hidden = Boolean(to);
            ranks.hidden = Boolean(to) || chosen !== "svd";
        });
        const end = ending("merge", t("Merge"), t("Add the files up and write the result"), () => {
            const parts = rows.filter((row) => row.picker.value).map((row) => ({ name: row.picker.value.name, ratio: row.ratio.get(), lbw: row.lbw.value }));
            if (!parts.length) return X.toast(t("Choose at least one file"), "bad");
            return { parts, method: chosen, checkpoint: into.value, ...(ranks.hidden ? {} : { new_rank: rank.get(), new_conv_rank: conv.get() }) };
        });
        const suggest = () => end.suggest(rows.filter((row) => row.picker.value).map((row) => row.picker.value.title).join("-") || "");
        function add() {
            const row = { picker: X.picker({ onpick: suggest }), ratio: X.range(t("Ratio"), { min: -1, max: 2, step: 0.05, value: 1, hard: false, low: -100, high: 100, tip: t("How much of this file goes in; may be negative") }) };
            row.lbw = X.select([["", t("all blocks alike")], ...presets.map((one) => [one.name, one.name])], "");
            row.element = h("div", { class: "lx-merge-row" }, row.picker, row.ratio, X.field(t("Blocks"), row.lbw, t("A block-weight preset for this file")),
                X.button("×", () => {
                    row.element.remove();
                    rows.splice(rows.indexOf(row), 1);
                    suggest();
                }, { kind: "quiet", tip: t("Take this file out"), "aria-label": t("Take this file out") }));
            rows.push(row);
            list.append(row.element);
        }
        X.put(place, X.card(t("Merge"), X.note(t("Adds several files up into one.")), list,
            h("div", { class: "lx-row" }, X.button(t("Add a file"), add, { tip: t("One more file to merge") })),
            X.field(t("Into"), into, t("A LoRA, or a checkpoint that the files are added to")), method, ranks, end.form, end.act), X.card(t("Result"), end.view));
        X.safely(async () => {
            presets = (await X.api("/presets")).presets;
            add();
            add();
        })();
    }

    // --- how a rank is chosen, for resize and extract
    function rule(onchange, max = 128) {
        const ways = { fixed: [t("fixed rank"), t("Every layer gets this rank")], sv_fro: [t("keep a share"), t("Each layer keeps this share of its strength")],
            sv_ratio: [t("cut small values"), t("Each layer keeps singular values above the largest divided by this")],
            sv_cumulative: [t("keep a sum"), t("Each layer keeps this share of the sum of its singular values")] };
        let way = "fixed";
        const usual = { sv_fro: [0.05, 1, 0.01, 0.9], sv_ratio: [1.5, 50, 0.5, 5], sv_cumulative: [0.05, 1, 0.01, 0.9] };
        const rank = X.range(t("Rank"), { min: 1, max, step: 1, value: Math.min(16, max), oninput: onchange, onwrong: onchange, tip: t("Larger keeps more and makes a larger file; the most, where ranks are chosen") });
        const holder = h("div", {});
        let param = null;
        const segments = X.segments(Object.entries(ways).map(([key, [text, tip]]) => [key, text, tip]), "fixed", (to) => {
            way = to;
            X.put(holder);
            param = null;
            if (usual[to]) {
                const [low, high, step, value] = usual[to];
                param = X.range(ways[to][0], { min: low, max: high, step, value, oninput: onchange, onwrong: onchange, tip: ways[to][1] });
                holder.append(param);
            }
            onchange();
        }, t("How the rank is chosen"));
        return { element: h("div", { class: "lx-result" }, segments, h("div", { class: "lx-grid" }, rank, holder)), rank,
            get: () => ({ dynamic_method: way === "fixed" ? null : way, dynamic_param: param ? param.get() : null }) };
    }

    // --- resize
    function resize(place) {
        let curve = null, chart = null;
        const box = h("div", { class: "lx-curve" }, X.note(t("Choose a file to see what each rank keeps of it.")));
        const told = h("div", { class: "lx-curve-facts" });
        const conv = optional(t("Rank of Conv2d layers"), t("Empty: as the rank"), { oninput: () => preview() });
        const preview = X.later(80, X.safely(async () => {
            if (!curve || !picker.value) return;
            if (place.querySelector("[aria-invalid=true]")) return void X.put(told); // told beside its field
            const wish = { name: picker.value.name, new_rank: chosen.rank.get(), new_conv_rank: conv.get(), ...chosen.get() };
            const found = await X.post("/resize/preview", wish);
            chart && chart.mark(wish.dynamic_method ? found.mean : wish.new_rank);
            X.put(told, X.facts([[t("kept"), X.percent(found.kept)], [t("size"), X.bytes(found.bytes)], [t("size now"), X.bytes(picker.value.bytes)],
                [t("ranks"), found.least === found.most ? found.most : t("{0} to {1}, {2} on average", found.least, found.most, found.mean.toFixed(1))]]));
        }));
        const chosen = rule(() => {
            preview();
            if (chosen.rank.box.check()) return;
            chart && chart.mark(chosen.rank.get());
            if (picker.value) end.suggest(`${picker.value.title}-r${chosen.rank.get()}`);
        });
        const picker = X.picker({ onpick: X.safely(async (row) => {
            X.put(box, X.note(t("Measuring …")));
            curve = null;
            X.put(told);
            try {
                const found = await X.api("/resize/curve", { query: { name: row.name } });
                if (picker.value !== row) return; // another file was chosen meanwhile
                curve = found;
            } catch (error) {
                X.put(box, X.note(error.message, "bad"));
                return;
            }
            const top = curve.ranks[curve.ranks.length - 1];
            chosen.rank.limits(1, top);
            chosen.rank.set(Math.max(1, Math.round(top / 2)));
            const points = [[0, 0], ...curve.ranks.map((rank, i) => [rank, curve.kept[i]])];
            chart = X.lines([{ name: t("share kept"), points }], { low: 0, high: 1, height: 240, x: [0, top], fy: (y) => X.percent(y), xlabel: t("rank") });
            X.put(box, chart);
            chart.mark(chosen.rank.get());
            end.suggest(`${row.title}-r${chosen.rank.get()}`);
            preview();
        }) });
        const end = ending("resize", t("Resize"), t("Write the file at the chosen rank"), () => {
            if (!picker.value) return X.toast(t("Choose a file"), "bad");
            return { name: picker.value.name, new_rank: chosen.rank.get(), new_conv_rank: conv.get(), ...chosen.get() };
        });
        place.take = (given) => picker.choose(given.name);
        X.put(place, X.card(t("Resize"), X.note(t("Changes the rank with the least possible loss: smaller files, nearly the same picture.")), picker, box, told, chosen.element, conv, end.form, end.act), X.card(t("Result"), end.view));
    }

    // --- extract
    function extract(place) {
        const models = X.choices.checkpoints.filter(Boolean);
        const select = () => X.select(models.length ? models : [["", t("no checkpoint is there")]], models[0] || "");
        const original = select(), tuned = select();
        const chosen = rule(() => {}, 256);
        const conv = optional(t("Rank of 3×3 layers"), t("Empty leaves resnets and samplers out"), { placeholder: t("leave them out"), high: 1024 });
        const least = X.number(t("Text encoder from"), 0.01, { low: 0, high: 1e9, usual: 0.01, tip: t("Left out when no weight in it differs by more than this") });
        const end = ending("extract", t("Extract"), t("Write the difference of the two models as a LoRA"), () => {
            if (!original.value) return X.toast(t("Put checkpoints into the checkpoint folder first"), "bad");
            return { original: original.value, tuned: tuned.value, dim: chosen.rank.get(), conv_dim: conv.get(), min_diff: least.get(), ...chosen.get() };
        });
        tuned.addEventListener("change", () => end.suggest(tuned.value.replace(/.*\/|\.[^.]*$/g, "")));
        X.put(place, X.card(t("Extract"), X.note(t("What a tuned model has over its original, as a LoRA.")),
            h("div", { class: "lx-grid" }, X.field(t("Original"), original, t("The model that was tuned")), X.field(t("Tuned"), tuned, t("The model whose style is wanted"))),
            chosen.element, h("div", { class: "lx-grid" }, conv, least),
            end.form, end.act), X.card(t("Result"), end.view));
    }

    // --- split and convert
    function split(place) {
        const unit = optional(t("Unit"), t("The step between ranks; empty: what the file says"), { placeholder: t("what the file says") });
        const alpha = X.select([["", t("as the file says")], ["trained", t("as trained")], ["keep", t("kept, as kohya's script does")]], "");
        const picker = X.picker({ onpick: (row) => end.suggest(row.title) });
        const end = ending("split", t("Split"), t("Write one file for each rank"), () => {
            if (!picker.value) return X.toast(t("Choose a file"), "bad");
            return { name: picker.value.name, unit: unit.get(), alpha: alpha.value || null };
        });
        X.put(place, X.card(t("Split"), X.note(t("A DyLoRA holds a LoRA of every rank: here each becomes a file, so that they can be compared.")), picker,
            h("div", { class: "lx-grid" }, unit, X.field("alpha", alpha, t("How strongly each rank acts"))), end.form, end.act), X.card(t("Result"), end.view));
    }

    function convert(place) {
        const to = X.select([["kohya", t("kohya: web UIs, ComfyUI")], ["diffusers", t("diffusers (PEFT)")]], "kohya");
        const rank = optional(t("Other kinds become LoRA of rank"), t("LoHa, LoKr and full layers become the best LoRA of this rank; empty leaves them"), { placeholder: t("leave them") });
        const picker = X.picker({ onpick: (row) => end.suggest(`${row.title}-${to.value}`) });
        const end = ending("convert", t("Convert"), t("Write the file in the other spelling"), () => {
            if (!picker.value) return X.toast(t("Choose a file"), "bad");
            return { name: picker.value.name, to: to.value, rank: rank.get() };
        });
        X.put(place, X.card(t("Convert"), X.note(t("Between programs' spellings, .pt to .safetensors, other kinds to LoRA.")), picker,
            h("div", { class: "lx-grid" }, X.field(t("Spelling"), to, t("Which programs will read it")), rank), end.form, end.act), X.card(t("Result"), end.view));
    }

    // --- block weights, made permanent
    function reweight(place) {
        let presets = [];
        const text = h("textarea", { class: "lx-input lx-text", rows: 2, spellcheck: "false", placeholder: t("a preset's name, or numbers with commas") });
        const list = X.select([["", t("all blocks alike")]], "", (to) => (text.value = to));
        text.addEventListener("input", () => (list.value = presets.some((one) => one.name === text.value.trim()) ? text.value.trim() : ""));
        const range = (label, tip) => X.range(label, { min: 0, max: 2, step: 0.05, value: 1, hard: false, low: -100, high: 100, tip });
        const te = range(t("Text encoder"), t("How strongly the file acts on the reading of the prompt"));
        const unet = range(t("U-Net"), t("How strongly the file acts on the picture"));
        const picker = X.picker({ onpick: (row) => end.suggest(`${row.title}-blocks`) });
        const end = ending("reweight", t("Write"), t("Write the weighted copy"), () => {
            if (!picker.value) return X.toast(t("Choose a file"), "bad");
            return { name: picker.value.name, lbw: text.value.trim(), te: te.get(), unet: unet.get() };
        });
        X.put(place, X.card(t("Write block weights"), X.note(t("A copy that acts at weight 1 as the file does with these weights: for programs without block weights, and to share. Blocks at 0 are left out, so it is smaller.")), picker,
            h("div", { class: "lx-grid" }, X.field(t("Presets"), list, t("Weights that were saved under a name")), X.field(t("Block weights as text"), text, t("A preset's name, or 12, 17, 20, 25 or 26 numbers"))),
            h("div", { class: "lx-grid" }, unet, te), end.form, end.act), X.card(t("Result"), end.view));
        X.safely(async () => {
            ({ presets } = await X.api("/presets"));
            const now = text.value.trim();
            X.put(list, h("option", { value: "" }, t("(own weights)")), presets.filter((one) => !/[RUX]/i.test(one.values)).map((one) => h("option", { value: one.name }, one.name)));
            list.value = presets.some((one) => one.name === now) ? now : "";
        })();
        /** As the Weights panel has them. */
        place.take = (given) => {
            picker.choose(given.name);
            text.value = given.lbw || "";
            te.set(given.te);
            unet.set(given.unet);
            list.value = presets.some((one) => one.name === text.value) ? text.value : "";
        };
    }

    const TOOLS = { merge: ["Merge", merge], resize: ["Resize", resize], extract: ["Extract", extract], split: ["Split", split], convert: ["Convert", convert], reweight: ["Write block weights", reweight] };

    function make(panel) {
        const places = Object.fromEntries(Object.keys(TOOLS).map((key) => [key, h("div", { class: "lx-tool", hidden: true })]));
        const show = (name) => {
            for (const [key, place] of Object.entries(places)) place.hidden = key !== name;
            if (!places[name].childNodes.length) TOOLS[name][1](places[name]);
            X.keep("tool", name);
        };
        const bar = X.segments(Object.entries(TOOLS).map(([key, [title]]) => [key, t(title)]), X.recall("tool", "merge"), show, t("Tool"));
        panel.show = (name, given) => {
            bar.set(name);
            show(name);
            if (given && places[name].take) places[name].take(given);
        };
        X.put(panel, h("div", {}, bar), Object.values(places));
        show(X.recall("tool", "merge") in TOOLS ? X.recall("tool", "merge") : "merge");
    }
    for (const key of Object.keys(TOOLS)) X.homes[key] = (job) => {
        X.go("tools", key);
        X.panels.find((one) => one.name === "tools").element.querySelector(".lx-tool:not([hidden]) .lx-job").attach(job.id);
    };
    X.panel({ name: "tools", title: "Tools", tip: "Merge, resize, extract, split, convert files; write block weights", order: 50, make,
        open: (name, given) => name && X.panels.find((one) => one.name === "tools").element.show(name, given) });
})();
