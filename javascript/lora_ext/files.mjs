// The Files panel: the library as cards, and one file's metadata readable and edited.
"use strict";
(() => {
    const X = window.loraExt;
    const { h, t } = X;
    const PAGE = 60;

    const NAMES = () => ({
        ss_output_name: t("name given by the trainer"), "modelspec.title": t("title"), "modelspec.author": t("author"), "modelspec.description": t("description"),
        "modelspec.trigger_phrase": t("trigger words"), "modelspec.tags": t("tags"), "modelspec.license": t("licence"),
        ss_sd_model_name: t("trained on"), ss_base_model_version: t("base"), ss_network_module: t("network"), ss_network_dim: t("rank"), ss_network_alpha: "alpha",
        ss_network_args: t("network arguments"), ss_resolution: t("resolution"), ss_clip_skip: "clip skip", ss_num_train_images: t("training pictures"),
        ss_num_reg_images: t("regularisation pictures"), ss_num_epochs: t("epochs"), ss_epoch: t("this epoch"), ss_steps: t("steps"), ss_max_train_steps: t("steps planned"),
        ss_learning_rate: t("learning rate"), ss_unet_lr: t("learning rate of the U-Net"), ss_text_encoder_lr: t("learning rate of the text encoder"),
        ss_lr_scheduler: t("schedule of the learning rate"), ss_optimizer: t("optimizer"), ss_seed: t("seed"), ss_training_comment: t("comment"),
        ss_mixed_precision: t("precision"), ss_min_snr_gamma: "min-SNR gamma", ss_noise_offset: t("noise offset"),
    });
    const OWN = ["ss_output_name", "modelspec.title", "modelspec.author", "modelspec.description", "modelspec.trigger_phrase", "modelspec.tags", "ss_training_comment"];

    function make(panel) {
        let rows = [], total = 0, chosen = null, asked = null;
        const search = h("input", { class: "lx-input", type: "search", placeholder: t("Search by name"), "aria-label": t("Search by name"), title: t("Any words of its name, in any order") });
        const filters = {};
        for (const [key, text] of [["base", t("any base")], ["kind", t("any kind")], ["rank", t("any rank")]]) {
            filters[key] = X.select([["", text]], "", () => load(false), { "aria-label": text, title: t("Show only these") });
            filters[key].any = text;
        }
        const sort = X.select([["newest", t("newest first")], ["oldest", t("oldest first")], ["name", t("by name")], ["largest", t("largest first")]], "newest", () => load(false), { "aria-label": t("Order"), title: t("In which order files are listed") });
        const count = h("span", { class: "lx-hint", role: "status" });
        const cards = h("div", { class: "lx-cards" });
        const end = h("div", { class: "lx-end", "aria-hidden": "true" });
        const detail = h("div", { class: "lx-detail" });
        const same = X.jobView({ kinds: ["duplicates"], result: duplicates });

        /** more: the next page. keep: as many as are shown, for files that came or went. */
        const load = X.safely(async (more, keep) => {
            asked && asked.abort();
            asked = new AbortController();
            const query = { search: search.value, sort: sort.value, limit: more ? PAGE : Math.min(Math.max(PAGE, keep ? rows.length : 0), 500), offset: more ? rows.length : 0,
                ...Object.fromEntries(Object.entries(filters).map(([key, one]) => [key, one.value])) };
            const page = await X.api("/library", { query, signal: asked.signal });
            rows = more ? [...rows, ...page.rows] : page.rows;
            total = page.total;
            X.rows(cards, rows.length ? rows : [null], (row) => (row ? X.rowKey(row) : ""), (row) => (row ? card(row) : X.note(t("No file matches."))));
            X.put(count, t("{0} files", total), page.pending ? ` · ${t("{0} still being read", page.pending)}` : "", page.errors.map((error) => X.note(error, "bad")));
            for (const [key, one] of Object.entries(filters)) {
                const now = one.value;
                X.put(one, h("option", { value: "" }, one.any), Object.entries(page.facets[key]).map(([name, times]) => h("option", { value: name }, `${name === "unknown" ? t("unknown") : name} (${times})`)));
                one.value = now;
            }
        });
        const card = (row) => h("button", { type: "button", class: "lx-file", "aria-pressed": chosen === row.name, "data-name": row.name, title: row.name,
            onclick: () => show(row.name) }, X.thumb(row),
            h("span", { class: "lx-pick-text" }, h("b", {}, row.title), h("small", {}, X.about(row) || row.error || ""), h("small", {}, `${X.bytes(row.bytes)} · ${X.date(row.time)}`)));

        const show = X.safely(async (name) => {
            chosen = name;
            for (const one of cards.children) one.setAttribute("aria-pressed", one.dataset && one.dataset.name === name);
            detail.classList.add("busy");
            try {
                const found = await X.api("/inspect", { query: { name } });
                if (chosen === name) describe(found);
            } catch (error) {
                X.put(detail, X.card(name, X.note(error.message, "bad")));
            }
            detail.classList.remove("busy");
            if (panel.clientWidth < 860) detail.scrollIntoView({ block: "start", behavior: "smooth" });
        });

        function describe(file) {
            const names = NAMES();
            const shown = Object.entries(names).filter(([key]) => file.metadata[key] && file.metadata[key] !== "None").map(([key, text]) => [text, file.metadata[key]]);
            const name = X.input(file.name, null, { "aria-label": t("Rename"), title: t("A folder may stand before the name; thumbnails come along") });
            const rename = X.safely(async () => {
                const done = await X.post("/rename", { name: file.name, to: name.value.trim() });
                X.toast(t("Renamed"));
                await load(false);
                show(done.name);
            });
            const tags = frequency(file.metadata.ss_tag_frequency);
            const course = h("div", { class: "lx-result" });
            X.safely(async () => {
                const { rows: steps } = await X.api("/train/run", { query: { name: file.name } });
                if (steps.length) X.put(course, X.curves(steps));
            })();
            X.put(detail,
                X.card(file.title, h("div", { class: "lx-row wrap" },
                    X.button(t("Set block weights"), () => X.go("weights", file.name), { kind: "main", tip: t("Open it in the Weights panel") }),
                    X.panels.some((one) => one.name === "compare") ? X.button(t("Compare"), () => X.go("compare", file.name), { tip: t("Draw a sheet with it") }) : null,
                    X.button(t("Resize"), () => X.go("tools", "resize", { name: file.name }), { tip: t("Change its rank") })),
                X.facts([[t("kind"), file.variant], [t("base"), file.family === "unknown" ? t("unknown") : file.family], [t("rank"), Object.keys(file.ranks).slice(0, 4).join(", ")],
                    [t("layers"), file.layers], [t("numbers"), Object.keys(file.dtypes).join(", ")], [t("size"), X.bytes(file.bytes)], ["hash", file.hash], [t("file"), file.path]]),
                file.not_finite ? X.note(t("This file is damaged: it contains numbers that are not finite."), "bad") : null,
                file.warnings.map((line) => X.note(line, file.other || Object.keys(file.damaged).length ? "bad" : "")),
                portrait(file),
                h("div", { class: "lx-row" }, name, X.button(t("Rename"), rename, { tip: t("A folder may stand before the name; thumbnails come along") }))),
                X.card(t("What it changes"), X.bars(file.blocks)),
                X.card(t("Training"), shown.length ? X.facts(shown) : X.note(t("It carries no metadata.")), course, dataset(file.metadata),
                    tags.length ? h("details", { open: tags.length < 40 }, X.summary(t("Caption tags")), X.table([t("tag"), t("times")], tags.slice(0, 300))) : null),
                editor(file));
        }

        /** The picture beside the file, and ways to another one. */
        function portrait(file) {
            const seen = h("div", { class: "lx-portrait" }, X.thumb(file));
            const shelf = h("div", { class: "lx-samples", hidden: true });
            const take = X.safely(async (wish) => {
                const { time } = await X.api("/thumbnail", { method: "PUT", body: { name: file.name, ...wish } });
                X.put(seen, X.thumb({ ...file, thumb: time }));
                shelf.hidden = true;
                X.toast(t("Saved beside the file"));
                load(false, true);
            });
            const upload = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp", hidden: true, onchange: X.safely(async () => {
                const reader = new FileReader();
                await new Promise((done, failed) => {
                    Object.assign(reader, { onload: done, onerror: () => failed(reader.error) });
                    reader.readAsDataURL(upload.files[0]);
                });
                upload.value = "";
                await take({ data: reader.result.split(",")[1] });
            }) });
            const choose = X.safely(async () => {
                if (!shelf.hidden) return void (shelf.hidden = true);
                const { pictures } = await X.api("/pictures/newest", { query: { limit: 60 } });
                X.put(shelf, pictures.length ? pictures.map((one) => h("button", { type: "button", title: one.name, onclick: () => take({ picture: one.name }) },
                    h("img", { loading: "lazy", alt: one.name, src: X.url("/pictures", { name: one.name, v: one.time }) }))) : X.note(t("No picture was made yet.")));
                shelf.hidden = false;
            });
            return h("div", { class: "lx-result" }, h("div", { class: "lx-row wrap" }, seen,
                X.button(t("Choose a picture"), choose, { tip: t("One that was drawn here: samples, sheets, drawings") }),
                X.button(t("Upload"), () => upload.click(), { tip: t("A picture from your disk; PNG, JPEG or WebP") }), upload), shelf);
        }

        function editor(file) {
            const wanted = {}, gone = new Set();
            const rows_ = h("div", { class: "lx-edit" });
            const row = (key, value, own) => {
                const box = h("textarea", { class: "lx-input lx-text", rows: Math.min(6, Math.ceil((value.length + 1) / 60)), spellcheck: "false",
                    oninput: () => (wanted[key] = box.value) });
                box.value = value;
                const line = h("div", { class: "lx-edit-row" }, X.field(key, box, t("What the file says under this name")), own ? null : X.button("×", () => {
                    gone.add(key);
                    delete wanted[key];
                    line.remove();
                }, { kind: "quiet", tip: t("Remove this entry"), "aria-label": t("Remove this entry") }));
                return line;
            };
            const keys = Object.keys(file.metadata).filter((key) => !OWN.includes(key)).sort();
            const key = X.input("", null, { placeholder: t("a new entry's name"), "aria-label": t("a new entry's name"), title: t("Add an entry") });
            const add = () => {
                if (!key.value.trim()) return key.focus();
                rows_.prepend(row(key.value.trim(), "", false));
                wanted[key.value.trim()] = "";
                key.value = "";
            };
            const save = X.safely(async () => {
                const put = Object.fromEntries(Object.entries(wanted).filter(([name, value]) => value !== (file.metadata[name] || "") && !(value === "" && !(name in file.metadata))));
                const remove = [...gone].filter((name) => name in file.metadata);
                if (!Object.keys(put).length && !remove.length) return X.toast(t("Nothing was changed"));
                const made = await X.post("/metadata", { name: file.name, put, remove });
                X.toast(t("Saved"));
                describe(made);
                load(false);
            });
            const all = h("details", {}, X.summary(t("All {0} entries", keys.length)));
            all.addEventListener("toggle", () => {
                if (all.open && all.childNodes.length === 1) all.append(h("div", { class: "lx-edit" }, keys.map((name) => row(name, file.metadata[name], false))));
            });
            X.put(rows_, OWN.map((name) => row(name, file.metadata[name] || "", true)));
            return X.card(t("Edit"), X.note(t("Only the text in the file's head changes; its numbers stay bit by bit.")), rows_, all, h("div", { class: "lx-row" }, key, X.button(t("Add"), add, { tip: t("Add an entry") })),
                h("div", { class: "lx-row" }, X.button(t("Save"), save, { kind: "main", tip: t("Write the entries into the file") })));
        }

        function duplicates(found) {
            if (!found.groups.length) return X.note(t("No two files have the same numbers."), "good");
            return found.groups.map((group) => h("div", { class: "lx-card" }, X.note(t("the same numbers:")), group.map(card)));
        }

        search.addEventListener("input", X.later(180, () => load(false)));
        new IntersectionObserver((seen) => {
            if (seen[0].isIntersecting && rows.length && rows.length < total) load(true);
        }, { root: cards.parentNode, rootMargin: "300px" }).observe(end);
        X.put(panel, h("div", { class: "lx-files-grid" },
            h("div", { class: "lx-main" },
                h("section", { class: "lx-card" }, h("div", { class: "lx-filters" }, search, filters.base, filters.kind, filters.rank, sort),
                    h("div", { class: "lx-row wrap" }, count, h("span", { class: "lx-grow" }), X.button(t("Find duplicates"), () => same.run("/duplicates"), { kind: "quiet", tip: t("Files with the same numbers under other names") })),
                    same, h("div", { class: "lx-shelf", tabindex: 0, role: "region", "aria-label": t("LoRA files") }, cards, end))),
            detail));
        X.put(detail, X.card(null, X.note(t("Choose a file to see what is in it."))));
        load(false);
        X.on("library", () => load(false, true));
        panel.find = async (name) => {
            search.value = name.split("/").pop();
            for (const one of Object.values(filters)) one.value = "";
            await load(false);
            show(name);
        };
    }

    /** Caption tags of all folders, most frequent first; none where the metadata is not what it should be. */
    function frequency(text) {
        const times = new Map();
        try {
            for (const tags of Object.values(JSON.parse(text || "{}"))) {
                for (const [tag, n] of Object.entries(tags)) times.set(tag.trim(), (times.get(tag.trim()) || 0) + Number(n));
            }
        } catch {
            return [];
        }
        return [...times].sort((a, b) => b[1] - a[1]);
    }

    /** The dataset's folders, as kohya's scripts note them. */
    function dataset(metadata) {
        try {
            const rows = Object.entries(JSON.parse(metadata.ss_dataset_dirs || "{}")).map(([name, one]) => [name, Number(one.img_count), Number(one.n_repeats)]);
            return rows.length ? h("details", {}, X.summary(t("Dataset")), X.table([t("folder"), t("pictures"), t("repeats")], rows)) : null;
        } catch {
            return null;
        }
    }

    /** ‖ΔW‖ of each block as bars. */
    X.bars = (blocks) => {
        const most = Math.max(...blocks.map((one) => one.norm || 0), 0) || 1;
        return h("div", { class: "lx-bars" }, blocks.map((one) => h("div", { class: "lx-bar-row", title: one.norm === null ? t("needs the base model's weights") : t("changes by {0} at weight 1", one.norm.toPrecision(3)) },
            h("span", {}, one.block || t("other")), h("i", { style: { "--share": (one.norm || 0) / most } }), h("small", {}, one.norm === null ? "–" : one.norm.toPrecision(3)))));
    };

    X.homes.duplicates = (job) => {
        X.go("files");
        X.panels.find((one) => one.name === "files").element.querySelector(".lx-job").attach(job.id);
    };
    X.panel({ name: "files", title: "Files", tip: "The library: search, metadata, duplicates", order: 60, make,
        open: (name) => name && X.panels.find((one) => one.name === "files").element.find(name) });
})();
