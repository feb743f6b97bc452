// The Compare panel: a sheet of pictures over epochs, weights, blocks, ranks, seeds; a click takes the tag.
"use strict";
(() => {
    const X = window.loraExt;
    const { h, t } = X;

    function make(panel) {
        X.safely(async () => build(panel, await X.api("/compare/axes"), await X.api("/train/form")))();
    }

    function build(panel, known, form) {
        const last = X.recall("compare", {});
        const kinds = [["", t("nothing")], ...known.kinds.map((kind) => [kind.name, t(kind.title)])];
        const usual = { x: "weight:0.2-1.0(+0.2)", y: "seed:1,2", z: "", ...last.axes };
        const axis = (key, label, tip) => {
            const [, kind, rest] = /^([^: ]*)(.*)$/.exec(usual[key] || "");
            const pick = X.select(kinds, kind, (to) => {
                values.value = to ? known.kinds.find((one) => one.name === to).example.split(" or ")[0].slice(to.length).replace(/^:/, "") : "";
                hint();
            });
            const values = X.input(rest.replace(/^:/, ""), null, { placeholder: t("values"), "aria-label": `${label}: ${t("values")}`,
                title: t("What it goes through: a list such as 0.2,0.5,1, or a range such as 0-1(+0.25)") });
            const said = h("small", {});
            const hint = () => {
                const found = known.kinds.find((one) => one.name === pick.value);
                said.textContent = found ? t("for example {0}", found.example) : "";
                values.disabled = !found;
            };
            hint();
            const element = h("div", { class: "lx-axis" }, X.field(label, pick, tip), values, said);
            element.get = () => (pick.value ? (/^ /.test(values.value) || /^[A-Za-z0-9]+:/.test(values.value) && pick.value === "block" ? `${pick.value} ${values.value.trim()}` : `${pick.value}:${values.value}`) : "");
            element.set = (text) => {
                const [, name, more] = /^([^: ]*)(.*)$/.exec(text || "");
                pick.value = name;
                values.value = more.replace(/^:/, "");
                hint();
            };
            return element;
        };
        const axes = { x: axis("x", t("Columns"), t("What changes from column to column")), y: axis("y", t("Rows"), t("What changes from row to row")), z: axis("z", t("Pages"), t("What changes from page to page")) };
        const prompt = h("textarea", { class: "lx-input", rows: 3, spellcheck: "false" });
        prompt.value = last.prompt ?? (X.prompts.own.there() ? "a red circle on a blue background" : "");
        const picker = X.picker({ label: t("LoRA"), tip: t("The file that columns, rows and pages speak about"), onpick: () => {} });
        const range = (key, label, min, max, step, value, tip, more = {}) => X.range(label, { min, max, step, value: last[key] ?? value, usual: value, tip, ...more });
        const numbers = { steps: range("steps", t("Steps"), 1, 150, 1, X.choices.draws ? 12 : 20, t("More steps, finer and slower")), cfg: range("cfg", t("CFG scale"), 1, 20, 0.5, X.choices.draws ? 2.5 : 7, t("How strictly the prompt is followed")),
            seed: range("seed", t("Seed"), 0, 4294967295, 1, 7, t("Same seed, same picture")), width: range("width", t("Width"), 0, 2048, 64, 0, t("0: what the model was made for"), { multiple: 8 }), height: range("height", t("Height"), 0, 2048, 64, 0, t("0: what the model was made for"), { multiple: 8 }) };
        const sampler = X.select(X.choices.samplers, last.sampler || (X.choices.samplers.includes("DPM++ 2M") ? "DPM++ 2M" : X.choices.samplers[0]));
        const model = X.select(X.choices.checkpoints.length ? X.choices.checkpoints.map((one) => [one, one || t("the small model that comes along")]) : [["", ""]], last.checkpoint ?? X.choices.checkpoints[0] ?? "");
        const images = X.select([["", t("no scores by likeness")], ...form.datasets.map((one) => [one, one])], last.dataset || "");
        const out = h("div", { class: "lx-result" }, X.note(t("Draw a sheet, or open one of before.")));
        const drawn = {}; // the sheet of the job in sight
        const view = X.jobView({ kinds: ["compare"], live: (place, job) => live(drawn, place, job), result: (sheet) => {
            if (sheet && drawn.table && drawn.table.folder === sheet.folder) drawn.table.fill(sheet);
            else if (sheet) X.put(out, grid(sheet));
            list();
            return null;
        } });
        const past = h("div", { class: "lx-jobs-past" });
        const wish = () => ({ prompt: prompt.value, checkpoint: model.value || "", lora: picker.value ? picker.value.name : "", sampler: sampler.value || "DPM++ 2M", dataset: images.value,
            ...Object.fromEntries(Object.entries(axes).map(([key, one]) => [key, one.get()])), ...Object.fromEntries(Object.entries(numbers).map(([key, one]) => [key, one.get()])) });
        const draw = X.safely((more = {}) => {
            const asked = { ...wish(), ...more };
            X.keep("compare", { ...asked, axes: { x: asked.x, y: asked.y, z: asked.z } });
            if (!view.busy()) {
                clear(drawn);
                X.put(out);
            }
            return view.run("/compare", asked);
        });
        const list = X.safely(async () => {
            const { sheets } = await X.api("/compare/history");
            X.put(past, sheets.slice(0, 20).map((one) => h("button", { type: "button", class: "lx-item", title: t("Show this sheet"), onclick: X.safely(async () => {
                const sheet = await X.api(`/compare/${encodeURIComponent(one.folder)}`);
                if (!drawn.filling) clear(drawn);
                X.put(out, sheet.complete ? null : h("div", { class: "lx-row" }, X.note(t("This sheet is not finished.")), X.button(t("Go on"), () => draw({ ...sheet.asked, folder: one.folder }), { kind: "main", tip: t("Draws what is missing") })), grid(sheet));
            }) }, h("span", { class: "lx-pick-text" }, h("b", {}, one.folder), h("small", {}, [t("{0} pictures", one.cells), X.date(one.time), one.complete ? "" : t("not finished")].filter(Boolean).join(" · "))))));
        });
        const ready = [
            [t("weight × seed"), { x: "weight:0.2-1.0(+0.2)", y: "seed:1,2" }], [t("block presets"), { x: "preset:ALL,INALL,MIDD,OUTALL", y: "seed:1,2" }],
            [t("epochs × weight"), { x: "epoch:all", y: "weight:0.6,0.8,1" }], [t("DyLoRA ranks"), { x: "rank:all", y: "seed:1,2" }]];
        X.put(panel, h("div", { class: "lx-split compare" },
            h("div", { class: "lx-side" }, X.card(t("Sheet"), picker,
                h("div", { class: "lx-chips" }, ready.map(([text, wanted]) => h("button", { type: "button", class: "lx-chip", title: t("Fill in columns and rows"), onclick: () => {
                    for (const key of ["x", "y", "z"]) axes[key].set(wanted[key] || "");
                } }, text))), Object.values(axes),
                X.field(t("Prompt"), prompt, t("What is drawn; the LoRA's tag is added where it is missing")),
                X.field(t("Training pictures"), images, t("Scores say how near each picture comes to these")),
                h("div", { class: "lx-row" }, X.button(t("Draw sheet"), () => draw(), { kind: "main", tip: t("Draws every combination") })),
                h("details", {}, X.summary(t("Settings")), h("div", { class: "lx-grid" }, X.choices.draws ? X.field(t("Model"), model, t("Which model draws")) : null, X.field(t("Sampler"), sampler, t("How the noise is taken away")), Object.values(numbers)))),
            h("details", { class: "lx-card", open: false }, X.summary(t("Sheets of before")), past)),
            h("div", { class: "lx-main" }, X.card(t("Result"), view, out))));
        list();
        panel.attach = (job) => view.attach(job.id);
        if (panel.job) panel.attach(panel.job);
        else view.resume();
        panel.picker = picker;
        X.safely(async () => {
            const wanted = X.recall("lora", "");
            if (!(wanted && (await picker.choose(wanted, true)))) await picker.first();
        })();
    }

    /** While a sheet is drawn: its table, filling. It stays when the job ends, with what was opened in it. */
    function live(drawn, place, job) {
        const now = job.live;
        drawn.filling = job.state === "running";
        if (drawn.table && drawn.table.folder !== now.folder) clear(drawn);
        const key = `${now.folder} ${now.done}`;
        if (!drawn.filling || !now.folder || drawn.key === key) return null;
        drawn.key = key;
        return X.safely(async () => {
            const sheet = await X.api(`/compare/${encodeURIComponent(now.folder)}`);
            if (drawn.key !== key || !sheet.cells) return;
            if (drawn.table) drawn.table.fill(sheet);
            else place.append((drawn.table = grid(sheet)));
        })();
    }

    function clear(drawn) {
        if (drawn.table) drawn.table.remove();
        drawn.table = drawn.key = null;
    }

    /** A sheet as a table of pictures; a click on one shows it with its tag. fill(sheet) adds what came since and leaves
    what was opened: a picture, a page, where the table is scrolled to. */
    function grid(sheet) {
        const [xs, ys, zs] = ["x", "y", "z"].map((name) => sheet.axes[name].labels);
        const box = h("div", { class: "lx-result" }), about = h("div", { class: "lx-result" }), tail = h("div", { class: "lx-result" });
        const at = new Map(sheet.cells.map((cell, place) => [`${cell.x} ${cell.y} ${cell.z}`, place]));
        const tds = new Map();
        let chosen = new Set(), opened = -1;
        const send = (cell) => X.inserts(async (one) => {
            one.set((await X.post("/compare/prompt", { tag: cell.tag, prompt: one.get() })).prompt);
            one.seed(cell.seed);
            X.toast(t("Written into the prompt, with the seed"));
        }, "main", t("Writes this tag and this seed, in the place of the run's tag where there is one"));
        const same = (cell) => (!cell.same_as ? "" : cell.same_as === "without a LoRA" ? t("The same picture as without a LoRA") : t("The same picture as {0}", cell.same_as));
        const show = (place) => {
            const cell = sheet.cells[place];
            const key = `${place} ${Boolean(cell.score)} ${chosen.has(place)}`;
            for (const [one, td] of tds) td.classList.toggle("opened", one === place);
            if (about.dataset.key === key) return;
            about.dataset.key = key;
            X.put(about, h("div", { class: "lx-shown" },
                h("a", { href: X.url("/pictures", { name: cell.file }), target: "_blank", rel: "noopener", title: t("Open the picture alone") }, h("img", { src: X.url("/pictures", { name: cell.file }), alt: t("the picture") })),
                h("div", { class: "lx-result" }, h("code", { class: "lx-tag" }, cell.tag || cell.prompt),
                    X.facts([[t("seed"), cell.seed], [t("difference"), cell.score ? X.percent(cell.score.difference) : ""], [t("sharpness"), cell.score ? cell.score.sharpness.toFixed(2) : ""],
                        [t("likeness"), cell.score && cell.score.likeness !== null ? cell.score.likeness.toFixed(3) : ""], [t("copy of"), cell.score ? cell.score.copy_of : ""]]),
                    h("div", { class: "lx-row wrap" }, cell.tag ? send(cell) : null,
                        X.button(t("Copy tag"), () => X.copy(cell.tag || cell.prompt), { tip: t("Copy the tag as text") })), same(cell) ? X.note(same(cell)) : null,
                    chosen.has(place) ? X.note(sheet.suggested.reason, "good") : null)));
        };
        const bar = (score) => h("span", { class: score.copy_of ? "lx-score bad" : "lx-score", style: { "--share": Math.min(1, score.likeness ?? score.difference) },
            title: score.copy_of ? t("nearly a copy of {0}", score.copy_of) : t("how strongly it acts, or how near it comes to the training pictures") });
        const fill = (td, place) => {
            const cell = sheet.cells[place];
            if (!cell || !cell.file) return;
            if (!td.querySelector("button")) {
                X.put(td, h("button", { type: "button", onclick: () => show((opened = place)) },
                    h("img", { loading: "lazy", src: X.url("/pictures", { name: cell.file }), alt: cell.tag || ys[cell.y] || xs[cell.x] })));
            }
            if (cell.score && !td.querySelector(".lx-score")) td.append(bar(cell.score), same(cell) ? h("span", { class: "lx-same", title: same(cell) }, "=") : "");
            td.classList.toggle("chosen", chosen.has(place));
            td.firstChild.title = [cell.tag, chosen.has(place) ? t("suggested") : "", same(cell)].filter(Boolean).join(" · ");
        };
        const page = (z) => {
            tds.clear();
            const rows = ys.map((label, y) => h("tr", {}, h("th", { scope: "row" }, label || ""), xs.map((_, x) => {
                const place = at.get(`${x} ${y} ${z}`);
                const td = h("td", { class: place === opened ? "opened" : null }, h("span", { class: "lx-blank" }));
                tds.set(place, td);
                fill(td, place);
                return td;
            })));
            X.put(box, h("div", { class: "lx-scroll lx-sheet", tabindex: 0, role: "region", "aria-label": t("Sheet") }, h("table", {},
                h("thead", {}, h("tr", {}, h("th", {}), xs.map((label) => h("th", { scope: "col" }, label || "")))), h("tbody", {}, rows))));
        };
        const zoom = X.range(t("Zoom"), { min: 48, max: 768, step: 4, value: X.recall("zoom", 116), tip: t("How large the pictures are shown"), oninput: (to) => {
            box.style.setProperty("--cell", `${to}px`);
            X.keep("zoom", to);
        } });
        box.style.setProperty("--cell", `${zoom.get()}px`);
        const made = h("div", { class: "lx-result" }, zs.length > 1 ? X.segments(zs.map((label, i) => [String(i), label]), "0", (to) => page(Number(to)), sheet.axes.z.title) : null, zoom, box, about, tail);
        made.folder = sheet.folder;
        made.fill = (newer) => {
            sheet = newer;
            chosen = new Set(sheet.suggested ? sheet.suggested.cells : []);
            for (const [place, td] of tds) fill(td, place);
            const wanted = opened >= 0 ? opened : [...chosen][0];
            if (sheet.cells[wanted] && sheet.cells[wanted].file) show(wanted);
            X.put(tail, sheet.suggested && !chosen.size ? X.note(sheet.suggested.reason) : null, sheet.same ? X.note(sheet.same) : null, sheet.warning ? X.note(sheet.warning, "bad") : null,
                h("div", { class: "lx-row wrap" }, sheet.pages.map((name) => h("a", { class: "lx-button", href: X.url("/pictures", { name }), target: "_blank", rel: "noopener", title: t("The labelled sheet as a picture") }, name.split("/").pop())),
                    sheet.table ? h("a", { class: "lx-button", href: X.url(`/compare/${encodeURIComponent(sheet.folder)}/scores.csv`), title: t("All scores as a table"), download: true }, "scores.csv") : null),
                sheet.measured ? X.note(t("Likeness is measured by: {0}", sheet.measured)) : null);
        };
        page(0);
        made.fill(sheet);
        return made;
    }

    X.homes.compare = (job) => {
        const panel = X.panels.find((one) => one.name === "compare").element;
        panel.job = job;
        X.go("compare");
        if (panel.attach) panel.attach(job);
    };
    X.panel({ name: "compare", title: "Compare", tip: "Sheets of pictures: which file and weight to keep", order: 40, make,
        open: (name) => name && X.panels.find((one) => one.name === "compare").element.picker.choose(name) });
})();
