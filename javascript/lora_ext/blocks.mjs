// The Blocks panel: what each block of a LoRA does, along the U-Net's shape; one click makes a preset of it.
"use strict";
(() => {
    const X = window.loraExt;
    const { h, t } = X;

    /** The fewest blocks that together do at least `share` of all. */
    function kept(shares, share) {
        const found = new Set();
        let sum = 0;
        for (const [label, part] of Object.entries(shares).sort((a, b) => b[1] - a[1])) {
            if (sum >= share - 1e-9 || !part) break;
            found.add(label);
            sum += part;
        }
        return found;
    }

    /** Blocks in the layout's order, neighbours drawn together: OUT03–OUT06, MID. */
    function spans(labels, chosen) {
        const groups = [];
        labels.forEach((label, i) => {
            if (!chosen.has(label)) return;
            const last = groups[groups.length - 1];
            if (last && last.end === i - 1 && labels[last.end] !== "BASE") last.end = i;
            else groups.push({ begin: i, end: i });
        });
        return groups.map(({ begin, end }) => (begin === end ? labels[begin] : `${labels[begin]}–${labels[end]}`)).join(", ");
    }

    const WAYS = () => [["norms", t("strength"), t("How large each block's change of the weights is; takes seconds, draws nothing")],
        ["lowered", t("off alone"), t("Each block is switched off alone: what the picture loses")],
        ["raised", t("on alone"), t("Each block is switched on alone: what it does by itself")]];

    function make(panel) {
        const last = X.recall("blocks", {});
        let way = last.way || "norms", size = 17;
        const prompt = h("textarea", { class: "lx-input", rows: 3, spellcheck: "false" });
        prompt.value = last.prompt ?? (X.prompts.own.there() ? "a red circle on a blue background" : "");
        const numbers = {
            seeds: X.range(t("Pictures a block"), { min: 1, max: 8, step: 1, value: last.seeds ?? 1, usual: 1, tip: t("More seeds, surer and slower") }),
            seed: X.range(t("Seed"), { min: 0, max: 4294967000, step: 1, value: last.seed ?? 7, usual: 7, tip: t("Same seed, same picture") }),
            steps: X.range(t("Steps"), { min: 1, max: 150, step: 1, value: last.steps ?? (X.choices.draws ? 12 : 20), usual: X.choices.draws ? 12 : 20, tip: t("More steps, finer and slower") }),
            cfg: X.range(t("CFG scale"), { min: 1, max: 20, step: 0.5, value: last.cfg ?? (X.choices.draws ? 2.5 : 7), usual: X.choices.draws ? 2.5 : 7, tip: t("How strictly the prompt is followed") }),
        };
        const model = X.select(X.choices.checkpoints.length ? X.choices.checkpoints.map((one) => [one, one || t("the small model that comes along")]) : [["", ""]], last.checkpoint ?? X.choices.checkpoints[0] ?? "");
        const drawing = h("div", { class: "lx-result", hidden: way === "norms" }, X.field(t("Prompt"), prompt, t("What is drawn; the LoRA's tag is added where it is missing")),
            h("details", {}, X.summary(t("Settings")), h("div", { class: "lx-grid" }, X.choices.draws ? X.field(t("Model"), model, t("Which model draws")) : null, Object.values(numbers))));
        const ways = X.segments(WAYS(), way, (to) => {
            way = to;
            drawing.hidden = to === "norms";
        }, t("How it is measured"));
        const layouts = X.select([[size, t("attention blocks")]], size, (to) => (size = Number(to)));
        const picker = X.picker({ label: t("LoRA"), onpick: X.safely(async (row) => {
            const found = await X.api("/inspect", { query: { name: row.name } });
            if (picker.value !== row) return; // another file was chosen meanwhile
            const [small, large] = found.layouts;
            size = found.layout;
            const rows = [[small, t("attention blocks")], [large, t("all blocks")], ...(large === 26 ? [[25, t("all blocks but the text encoder")]] : [])];
            X.put(layouts, rows.map(([key, text]) => h("option", { value: key }, `${text} (${key})`)));
            layouts.value = size;
        }) });
        const out = h("div", { class: "lx-result" }, X.note(t("Choose a file and measure it.")));
        const view = X.jobView({ kinds: ["blocks"], result: (found) => {
            if (found) X.put(out, map(found));
            return null;
        } });
        const measure = X.safely(() => {
            if (!picker.value) return X.toast(t("Choose a file"), "bad");
            const wish = { lora: picker.value.name, layout: size, way, prompt: prompt.value, checkpoint: model.value || "",
                ...(X.choices.samplers.includes("DPM++ 2M") ? {} : { sampler: X.choices.samplers[0] }),
                ...Object.fromEntries(Object.entries(numbers).map(([key, one]) => [key, one.get()])) };
            X.keep("blocks", wish);
            wish.seeds = Array.from({ length: wish.seeds }, (_, i) => wish.seed + i).join(",");
            return view.run("/compare/blocks", wish);
        });
        X.put(panel, h("div", { class: "lx-split" },
            h("div", { class: "lx-side" }, X.card(t("What each block does"), picker, X.field(t("Which blocks"), layouts, t("What most files change are the blocks with attention")), h("div", { class: "lx-field" }, h("span", { class: "lx-label" }, t("How it is measured")), ways), drawing,
                h("div", { class: "lx-row" }, X.button(t("Measure"), measure, { kind: "main", tip: t("Measures every block; the result becomes a preset in one click") })))),
            h("div", { class: "lx-main" }, X.card(t("Result"), view, out))));
        view.resume();
        panel.take = (name) => picker.choose(name);
        panel.attach = (id) => view.attach(id);
        X.safely(async () => {
            const wanted = X.recall("lora", "");
            if (!(wanted && (await picker.choose(wanted, true)))) await picker.first();
        })();
    }

    /** The result: a map of the blocks, what to keep, and what to do with it. */
    function map(found) {
        const labels = X.layouts.layouts[found.layout].labels, most = Math.max(...Object.values(found.shares)) || 1;
        const boxes = {}, shown = h("div", { class: "lx-result" });
        const picture = (label) => h("img", { loading: "lazy", alt: label || t("the picture to measure from"), src: X.url("/pictures", { name: found.pictures[label] }) });
        const compare = (label) => {
            for (const [name, box] of Object.entries(boxes)) box.setAttribute("aria-pressed", name === label);
            const before = found.way === "lowered" ? t("all blocks on") : t("all blocks off");
            const after = found.way === "lowered" ? t("{0} off", label) : t("{0} alone", label);
            X.put(shown, h("div", { class: "lx-pair" }, [["", before], [label, after]].map(([name, said]) => h("figure", {}, picture(name), h("figcaption", {}, said)))));
        };
        const box = (label) => {
            const part = found.shares[label], drawn = found.pictures[label];
            const percent = part === undefined ? "–" : X.percent(Math.round(part * 1000) / 1000);
            boxes[label] = h(drawn ? "button" : "div", { class: "lx-heat", "data-label": label, style: { "--heat": (part || 0) / most }, ...(drawn ? { type: "button", "aria-pressed": "false", onclick: () => compare(label) } : {}),
                title: part === undefined ? t("{0}: not in this layout", label) : drawn ? t("{0}: {1}; click to see its picture", label, percent) : `${label}: ${percent}` },
            drawn ? picture(label) : null, h("b", {}, label === "BASE" ? t("text encoder") : label), h("span", {}, percent));
            boxes[label].classList.toggle("absent", part === undefined);
            return boxes[label];
        };
        const unet = X.layouts.sdxl.length && [12, 20].includes(found.layout) ? X.layouts.sdxl : X.layouts.layouts[25].labels;
        const middle = unet.indexOf("MID");
        const lines = unet.slice(0, middle).map((label, i) => h("div", { class: "lx-heat-row", style: { "--depth": i / middle } }, box(label), h("i", { "aria-hidden": "true" }), box(unet[unet.length - 1 - i])));
        const advice = h("p", { class: "lx-note good", role: "status" });
        let chosen = new Set();
        const keep = X.range(t("Keep"), { min: 0.5, max: 1, step: 0.01, value: 0.8, usual: 0.8, tip: t("How much of the whole effect the preset is to keep"), oninput: () => told() });
        const told = () => {
            chosen = kept(found.shares, keep.get());
            for (const [label, one] of Object.entries(boxes)) one.classList.toggle("kept", chosen.has(label));
            const does = labels.reduce((sum, label) => sum + (chosen.has(label) ? found.shares[label] : 0), 0);
            advice.textContent = chosen.size ? t("Keep {0}: {1} of {2} blocks do {3} of it.", spans(labels, chosen), chosen.size, labels.length, X.percent(Math.round(does * 1000) / 1000)) : t("No block does anything in this layout.");
        };
        const vector = () => labels.map((label) => (chosen.has(label) ? 1 : 0)).join(",");
        const name = X.input("", null, { placeholder: t("Name of a new preset"), "aria-label": t("Name of a new preset"), title: t("What the preset will be called, here and in tags") });
        const save = X.safely(async () => {
            const wanted = name.value.trim() || `${found.title.replace(/[:,<>=\s]+/g, "_").slice(0, 50)}_KEEP`;
            await X.api("/presets", { method: "PUT", body: { name: wanted, values: vector() } });
            X.tell("presets");
            X.toast(t("Saved as {0}", wanted));
        });
        const made = h("div", { class: "lx-result" }, h("h3", {}, `${found.title} · ${WAYS().find(([key]) => key === found.way)[1]}`), advice,
            found.outside > 0.005 ? X.note(t("{0} of the whole file lies in layers that this layout switches off.", X.percent(Math.round(found.outside * 1000) / 1000))) : null,
            h("div", { class: "lx-grid" }, keep), h("div", { class: "lx-row wrap" }, name, X.button(t("Save as preset"), save, { kind: "main", tip: t("Keeps these blocks at 1, the others at 0, under this name") }),
                X.button(t("Set block weights"), () => X.go("weights", found.name, vector()), { tip: t("Puts the sliders of the Weights panel there") }),
                h("a", { class: "lx-button", href: X.url("/pictures", { name: found.map }), target: "_blank", rel: "noopener", title: t("The map as a picture") }, t("Map"))),
            shown, h("div", { class: "lx-map" }, labels.includes("BASE") ? h("div", { class: "lx-heat-base" }, box("BASE")) : null, lines, h("div", { class: "lx-heat-base" }, box("MID"))));
        told();
        const first = Object.keys(found.pictures).filter(Boolean).sort((a, b) => found.shares[b] - found.shares[a])[0];
        if (first) compare(first);
        return made;
    }

    X.homes.blocks = (job) => {
        X.go("blocks");
        X.panels.find((one) => one.name === "blocks").element.attach(job.id);
    };
    X.panel({ name: "blocks", title: "Blocks", tip: "What each block of a LoRA does, as a map", order: 45, make,
        open: (name) => name && X.panels.find((one) => one.name === "blocks").element.take(name) });
})();
