// The Train panel: the form made from the recipe, preflight, the run as it goes on, history, the dataset browser.
"use strict";
(() => {
    const X = window.loraExt;
    const { h, t } = X;
    const GROUPS = { model: "model", data: "data", network: "network", dylora: "DyLoRA", blocks: "blocks", learning: "learning", optimizer: "optimizer",
        pictures: "pictures", captions: "captions", loss: "loss", cache: "caches", machine: "machine", pivotal: "a new word (pivotal tuning)", saving: "saving", samples: "samples", logging: "logging" };
    const TITLES = { pretrained_model_name_or_path: "model", train_data_dir: "folder of pictures", reg_data_dir: "regularisation pictures", network_module: "kind of network",
        network_dim: "rank", network_alpha: "alpha", conv_dim: "rank of 3×3 layers", network_train_unet_only: "U-Net only", max_train_epochs: "epochs", max_train_steps: "steps",
        train_batch_size: "pictures in a step", optimizer_type: "optimizer", lr_scheduler: "schedule of the learning rate", min_snr_gamma: "min-SNR gamma", enable_bucket: "sizes in buckets",
        flip_aug: "mirrored too", caption_extension: "caption files", shuffle_caption: "shuffle tags", keep_tokens: "tags that stay first", mixed_precision: "precision",
        save_every_n_epochs: "save every … epochs", sample_every_n_epochs: "samples every … epochs", training_comment: "comment", output_name: "name of the file" };
    const USUAL = {
        face: { tip: "One person: learns slowly, the text encoder too", values: { network_module: "lierla", network_dim: 16, network_alpha: 8, learning_rate: 1e-4, text_encoder_lr: 5e-5, max_train_steps: 1500, lr_scheduler: "cosine", min_snr_gamma: 5, enable_bucket: true, cache_latents: true, network_train_unet_only: false } },
        style: { tip: "A way of drawing: convolutions too, U-Net only", values: { network_module: "c3lier", network_dim: 16, network_alpha: 8, conv_dim: 8, conv_alpha: 4, learning_rate: 1e-4, max_train_steps: 2500, lr_scheduler: "cosine", min_snr_gamma: 5, enable_bucket: true, cache_latents: true, network_train_unet_only: true } },
        object: { tip: "One thing: small and quick", values: { network_module: "lierla", network_dim: 8, network_alpha: 4, learning_rate: 2e-4, text_encoder_lr: 5e-5, max_train_steps: 1000, lr_scheduler: "cosine", enable_bucket: true, cache_latents: true } },
        "DyLoRA sweep": { tip: "Every rank at once: compare afterwards, keep the smallest that is enough", values: { network_module: "dylora", network_dim: 32, network_alpha: 16, unit: 4, learning_rate: 1e-4, max_train_steps: 2000, lr_scheduler: "cosine", enable_bucket: true, cache_latents: true } },
    };
    let form = null;

    // --- one control a knob

    function control(field, changed) {
        const label = t(TITLES[field.name] || field.name.replaceAll("_", " "));
        const tip = `${t(field.help)} (${field.name}${field.low !== null || field.high !== null ? `, ${field.low ?? "…"} – ${field.high ?? "…"}` : ""})`;
        const said = (value) => (value === null || value === undefined ? "" : Array.isArray(value) ? value.join(field.type === "strs" ? " " : ",") : String(value));
        const help = t(field.help) === label ? null : h("small", {}, t(field.help));
        if (["int", "float"].includes(field.type) && !field.choices.length) return number(field, label, tip, help, changed);
        let box;
        if (field.type === "bool") {
            const check = X.check(label, Boolean(field.default), changed, tip);
            box = check.querySelector("input");
            const element = h("div", { class: "lx-field lx-knob" }, check, help);
            return { element, get: () => box.checked, set: (value) => (box.checked = Boolean(value)) };
        }
        if (field.choices.length) box = X.select([...(field.optional ? [["", "–"]] : []), ...field.choices.map((one) => [one, one])], said(field.default), changed);
        else if (field.name === "pretrained_model_name_or_path") {
            box = X.select([["", form.loaded ? t("the model that is loaded") : t("the small model that comes along")], ...X.choices.checkpoints.filter(Boolean).map((one) => [one, one])], "", changed);
            if (form.loaded) box.disabled = true;
        } else if (field.kind === "folder" && field.name.endsWith("data_dir")) {
            box = X.select([["", "–"], ...form.datasets.map((one) => [one, one])], "", changed);
            box.dataset.sets = "yes";
        } else {
            box = X.input(said(field.default), changed, { placeholder: field.optional ? t("not set") : said(field.default) });
        }
        const element = h("div", { class: "lx-knob" }, X.field(label, box, tip), help);
        const read = () => {
            if (box.value === "") return field.optional ? null : box.tagName === "SELECT" ? null : field.default;
            return box.value;
        };
        return { element, get: read, set: (value) => (box.value = said(value)), box };
    }

    /** A knob that is a number. Empty is its default; kept() is its text as it stands, right or wrong. */
    function number(field, label, tip, help, changed) {
        const high = field.type === "int" && !Number.isSafeInteger(field.high) ? null : field.high; // such a limit is the server's to check
        const made = X.number(label, field.default, { tip, oninput: changed, low: field.low, high, whole: field.type === "int", optional: field.optional,
            usual: field.optional ? undefined : field.default, placeholder: t("not set") });
        const get = () => {
            const found = made.get();
            return field.type === "int" && found !== null && !Number.isSafeInteger(found) ? made.box.value.trim() : found; // no digit is lost
        };
        return { element: h("div", { class: "lx-knob" }, made, help), get, set: made.set, kept: () => (made.box.check() ? made.box.value : get()) };
    }

    const same = (a, b) => a === b || String(a ?? "") === String(b ?? "");

    function make(panel) {
        X.safely(async () => {
            form = await X.api("/train/form");
            build(panel);
        })();
    }

    function build(panel) {
        const controls = {};
        let all = false;
        const view = X.jobView({ kinds: ["train"], live, result: finished, stops: [
            [t("Stop and save"), t("Ends the run after this step; what it has learned is saved, so that it can go on"), {}],
            [t("Stop"), t("Ends the run at once; what was not saved yet is lost"), { save: false }]] });
        const report = X.jobView({ kinds: ["preflight"], result: preflight });
        const prompts = h("textarea", { class: "lx-input lx-text", rows: 3, spellcheck: "false", placeholder: t("a red circle --n a square --s 20 --d 7") });
        const search = h("input", { class: "lx-input", type: "search", placeholder: t("Search settings"), "aria-label": t("Search settings"), title: t("Any words of a setting's name or of its help") });
        const groups = h("div", { class: "lx-groups" });
        const none = X.note(t("No setting matches."));
        none.hidden = true;

        const values = (read) => Object.fromEntries(form.fields.map((field) => [field.name, read(controls[field.name])])
            .filter(([name, value]) => !same(value, form.fields.find((one) => one.name === name).default)));
        const settings = () => values((one) => one.get());
        let compare = false;
        const keep = X.later(400, () => X.keep("train", { settings: values((one) => (one.kept || one.get)()), prompts: prompts.value, compare }));
        prompts.addEventListener("input", keep);

        for (const group of Object.keys(GROUPS)) {
            const rows = form.fields.filter((field) => field.group === group);
            if (!rows.length) continue;
            const grid = h("div", { class: "lx-grid" });
            for (const field of rows) {
                controls[field.name] = control(field, keep);
                controls[field.name].field = field;
                grid.append(controls[field.name].element);
            }
            groups.append(h("section", { class: "lx-group", "data-group": group }, h("h3", {}, t(GROUPS[group])), grid));
        }
        function filter() {
            const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
            let any = false;
            for (const section of groups.children) {
                let some = false;
                for (const { field, element } of Object.values(controls)) {
                    if (field.group !== section.dataset.group) continue;
                    const text = `${t(TITLES[field.name] || "")} ${field.name} ${field.name.replaceAll("_", " ")} ${field.help} ${t(field.help)}`.toLowerCase();
                    const shown = words.length ? words.every((word) => text.includes(word)) : all || field.basic;
                    element.hidden = !shown;
                    some ||= shown;
                }
                section.hidden = !some;
                any ||= some;
            }
            none.hidden = any;
        }
        search.addEventListener("input", X.later(100, filter));

        function load(values, text) {
            for (const { field, set } of Object.values(controls)) set(field.name in values ? values[field.name] : field.default);
            if (text !== undefined) prompts.value = text;
            keep();
        }
        const usual = X.select([["", t("Choose a starting point")], ...Object.entries(USUAL).map(([name]) => [name, t(name)])], "", (name) => {
            if (!name) return;
            for (const [key, value] of Object.entries(USUAL[name].values)) controls[key].set(value);
            X.toast(t(USUAL[name].tip));
            keep();
        }, { title: t("Settings that suit a face, a style, an object, or a sweep of ranks"), "aria-label": t("Choose a starting point") });

        const after = X.check(t("Compare the epochs when done"), false, (on) => {
            compare = on;
            keep();
        }, t("Draws a sheet at the end by itself: every saved file at rising weights, on the sample prompts"));
        const begin = X.picker({ label: t("Start again from a file"), tip: t("Takes over the settings that a LoRA file tells of its training"), onpick: X.safely(async (row) => {
            const { settings: found, told } = await X.api("/train/begin", { query: { name: row.name } });
            const kept = Object.fromEntries(["train_data_dir", "reg_data_dir", "output_name"].map((name) => [name, controls[name].get()]));
            load({ ...kept, ...found });
            X.toast([t("Its settings are in the form."), ...told].join(" "));
        }) });

        /** A run's settings, shown in the form. */
        const take = (values, text) => {
            load(values, text);
            tabs.set("form");
            open("form");
        };
        const asked = () => {
            try {
                return settings();
            } catch (error) { // the field is in the form, which may not be shown
                tabs.set("form");
                open("form");
                throw error;
            }
        };
        const start = X.safely(() => view.run("/train", { settings: asked(), prompts: prompts.value, compare }).then(() => history()));
        const look = X.safely(() => report.run("/train/preflight", { settings: asked(), prompts: prompts.value }));
        const past = h("div", { class: "lx-result" });
        const history = X.safely(async () => {
            const { runs } = await X.api("/train/history");
            X.put(past, runs.length ? runs.map((run) => record(run, take, start)) : X.note(t("No run yet.")));
        });
        const browser = h("div", { class: "lx-result" });
        const places = { form: h("div", { class: "lx-main" }), data: browser, history: past };
        const open = (to) => {
            for (const [key, place] of Object.entries(places)) place.hidden = key !== to;
            if (to === "data") browse(browser, () => [controls.train_data_dir.get() || form.datasets[0] || "", controls.resolution.get(), controls.enable_bucket.get()]);
            if (to === "history") history();
        };
        const tabs = X.segments([["form", t("Settings"), t("What is trained, and how")], ["data", t("Pictures"), t("The pictures and their captions")],
            ["history", t("History"), t("Runs of before: settings, curves, files")]], "form", open, t("Train"));
        X.put(places.form, h("section", { class: "lx-card" },
            h("div", { class: "lx-row wrap" }, usual, X.segments([["basic", t("basic")], ["all", t("all")]], "basic", (to) => {
                all = to === "all";
                filter();
            }, t("How many settings")), search), begin, groups, none,
            X.field(t("Sample prompts"), prompts, t("Drawn while it trains; one a line, with --n negative, --w width, --h height, --d seed, --s steps, --l CFG scale"))));
        browser.hidden = past.hidden = true;
        X.put(panel, h("div", { class: "lx-tool wide" },
            h("div", { class: "lx-main" }, tabs, Object.values(places)),
            h("div", { class: "lx-side" }, h("section", { class: "lx-card lx-stick" }, h("h3", {}, t("Run")),
                h("div", { class: "lx-row wrap" }, X.button(t("Check first"), look, { tip: t("Looks at pictures and settings: steps, time, memory, what is odd") }),
                    X.button(t("Train"), start, { kind: "main", tip: t("Puts the run into the queue; it starts when the model is free") })), after, report, view))));
        const last = X.recall("train", null);
        after.querySelector("input").checked = compare = Boolean(last && last.compare);
        if (last) load(last.settings, last.prompts);
        else {
            if (form.datasets.length) controls.train_data_dir.set(form.datasets[0]);
            if (X.choices.draws) [["resolution", "64"], ["min_bucket_reso", 64], ["network_dim", 8], ["network_alpha", 8], ["learning_rate", 0.001]].forEach(([key, value]) => controls[key].set(value));
        }
        filter();
        panel.attach = (job) => (job.kind === "train" ? view : report).attach(job.id);
        if (panel.job) panel.attach(panel.job);
        view.resume();
        report.resume();
    }

    // --- what a run shows

    X.curves = (rows) => {
        const points = (at) => rows.filter((row) => row[at] !== null).map((row) => [row[0], row[at]]);
        const losses = points(1).map((p) => p[1]).sort((a, b) => a - b);
        const high = losses.length ? losses[Math.floor((losses.length - 1) * 0.98)] * 1.1 : undefined;
        const width = X.root.clientWidth < 640 ? 360 : 520; // as wide as its place, so that its letters can be read
        const short = (value) => (value === 0 ? "0" : Math.abs(value) >= 0.01 ? value.toFixed(3) : value.toExponential(1));
        return [X.lines([{ name: t("loss"), points: points(1), kind: "pale" }, { name: t("smoothed"), points: points(2) }], { low: 0, high, width, height: 190, fy: short, xlabel: t("step") }),
            X.legend([[t("loss"), "pale"], [t("smoothed"), ""]]),
            h("details", {}, X.summary(t("Learning rates")), X.lines([{ name: t("U-Net"), points: points(3), kind: "second" }, { name: t("text encoder"), points: points(4), kind: "third" }],
                { low: 0, width, height: 130, fy: (value) => value.toExponential(1), xlabel: t("step") }), X.legend([[t("U-Net"), "second"], [t("text encoder"), "third"]]))];
    };
    X.samples = (names, most = 8) => h("div", { class: "lx-samples" }, names.slice(-most).reverse().map((name) =>
        h("a", { href: X.url("/pictures", { name }), target: "_blank", rel: "noopener", title: name.split("/").pop() }, h("img", { src: X.url("/pictures", { name }), alt: name.split("/").pop(), loading: "lazy" }))));

    function live(place, job) {
        const now = job.live;
        if (!now.rows || (job.state !== "running" && job.state !== "cancelled")) return job.state === "running" ? null : X.put(place);
        const key = `${now.rows.length}/${now.samples.length}/${now.files.length}`;
        if (place.dataset.key === key) return null;
        const open = place.querySelector("details[open]") !== null;
        place.dataset.key = key;
        const last = now.rows[now.rows.length - 1] || [];
        X.put(place, X.facts([[t("epoch"), now.progress.epochs ? `${now.progress.epoch} / ${now.progress.epochs}` : ""], [t("loss"), last[2] ? last[2].toFixed(4) : ""],
            [t("memory"), now.memory ? X.bytes(now.memory) : ""]]),
        X.curves(now.rows), now.samples.length ? X.samples(now.samples) : null, now.files.length ? X.note(t("Saved: {0}", now.files.join(", "))) : null);
        if (open) place.querySelector("details").open = true;
        return null;
    }

    /** A run's epochs × weights: the sheet that began by itself, or one that begins now. */
    const sheet = (run) => (run.files && run.files.length ? X.button(run.sheet ? t("Show the sheet") : t("Compare epochs × weights"), X.safely(async () => {
        const id = run.sheet || (await X.post(`/train/${encodeURIComponent(run.name)}/compare`)).id;
        X.homes.compare({ kind: "compare", id });
    }), { kind: "main", tip: t("Every saved file at rising weights, on the sample prompts") }) : null);

    function finished(run) {
        if (!run) return null;
        const place = h("div", { class: "lx-result" }, X.note(run.stopped ? t("Stopped and saved after {0} steps.", run.steps) : t("{0} steps in {1}.", run.steps, X.duration(run.seconds)), "good"),
            h("div", { class: "lx-row wrap" }, sheet(run)), X.offers(run.files), run.samples.length ? X.samples(run.samples) : null);
        X.safely(async () => place.append(...X.curves((await X.api("/train/curve", { query: { name: run.name } })).rows)))();
        return place;
    }

    function record(run, take, start) {
        const body = h("div", { class: "lx-result" });
        const again = (more) => () => {
            take({ ...run.settings, ...more }, run.prompts);
            X.toast(t("Settings loaded"));
        };
        const box = h("details", { class: "lx-card lx-run" }, X.summary(h("b", {}, run.name), " ",
            h("small", {}, [run.begun ? X.date(run.begun) : "", run.error ? t("failed") : run.stopped ? t("stopped") : run.ended ? t("done") : t("not finished"), run.steps ? t("{0} steps", run.steps) : "", run.loss ? t("loss {0}", run.loss.toFixed(4)) : ""].filter(Boolean).join(" · "))), body);
        box.addEventListener("toggle", X.safely(async () => {
            if (!box.open || body.childNodes.length) return;
            X.put(body, run.error ? X.note(run.error, "bad") : null,
                h("div", { class: "lx-row wrap" }, X.button(t("Use these settings"), again({}), { tip: t("Loads this run's settings into the form") }),
                    run.state ? X.button(t("Go on"), async () => {
                        again({ resume: run.state })();
                        start();
                    }, { kind: "main", tip: t("Continues from where it was saved, as if it had never stopped") }) : null),
                X.table([t("setting"), t("value")], Object.entries(run.settings).map(([name, value]) => [name, String(value)])),
                h("div", { class: "lx-row wrap" }, sheet(run)), X.offers(run.files || []), X.samples(run.samples || []));
            body.append(...X.curves((await X.api("/train/curve", { query: { name: run.name } })).rows));
        }));
        return box;
    }

    function preflight(found) {
        if (!found) return null;
        const one = found.report;
        const wait = one.expected ? X.duration(one.expected.total_seconds) : "";
        return h("div", { class: "lx-report" }, X.facts([[t("pictures"), one.concepts.reduce((sum, row) => sum + row.pictures, 0)], [t("steps"), one.steps], [t("epochs"), one.epochs],
            [t("steps an epoch"), one.steps_per_epoch], [t("time, about"), wait], [t("memory, about"), one.expected && one.expected.bytes ? X.bytes(one.expected.bytes) : ""]]),
        one.notes.map((line) => X.note(line)), one.skipped.map((line) => X.note(line, "bad")), one.too_long.map(([name, tokens]) => X.note(t("{0}: the caption is {1} tokens long, {2} are read", name, tokens, one.limit))),
        one.without_caption.length ? X.note(t("{0} pictures have no caption", one.without_caption.length)) : null,
        one.duplicates.map((group) => X.note(t("the same picture: {0}", group.join(", ")))),
        X.table([t("folder"), t("pictures"), t("repeats"), t("turns an epoch")], one.concepts.map((row) => [row.folder.split(/[\\/]/).pop() + (row.regularisation ? ` (${t("regularisation")})` : ""), row.pictures, row.repeats, row.turns])),
        h("details", {}, X.summary(t("Sizes")), X.table([t("size"), t("pictures"), t("batches")], one.buckets.map((row) => [row.size.join("×"), row.pictures, row.batches]))));
    }

    // --- the dataset browser

    const browse = X.safely(async (place, chosen) => {
        const mine = (browse.asked = (browse.asked || 0) + 1);
        const [name, resolution, bucketed] = chosen();
        const wait = X.note(t("Looking at pictures …"));
        X.put(place, X.card(t("Pictures"), wait)); // what is edited now would be gone when the others come
        const fresh = await X.api("/train/form");
        if (mine !== browse.asked) return; // another folder was chosen meanwhile
        form = { ...form, ...fresh };
        const pick = X.select(form.datasets.length ? form.datasets : [["", t("no folder is there")]], name, (to) => browse(place, () => [to, resolution, bucketed]));
        const folder = X.field(t("Folder"), pick, t("Whose pictures are shown"));
        if (!name) return void X.put(place, X.card(t("Pictures"), folder, X.note(t("Put a folder of pictures into the dataset folder."))));
        X.put(place, X.card(t("Pictures"), folder, wait));
        const found = await X.api("/dataset", { query: { name, resolution, buckets: bucketed } });
        if (mine !== browse.asked) return;
        let bucket = "", shown = 0;
        const grid = h("div", { class: "lx-grid lx-dataset" });
        const more = X.button(t("Show more"), () => page(), { kind: "quiet" });
        const rows = () => found.pictures.filter((row) => !bucket || row.bucket === bucket);
        const page = () => {
            const next = rows().slice(shown, shown + 60);
            grid.append(...next.map((row) => picture(name, row)));
            shown += next.length;
            more.hidden = shown >= rows().length;
        };
        const again = () => browse(place, () => [name, resolution, bucketed]);
        const find = X.input("", null, { "aria-label": t("Find") }), put = X.input("", null, { "aria-label": t("Replace by") });
        let tags = true;
        const told = h("div", { class: "lx-result" });
        const swap = (dry) => X.safely(async () => {
            const done = await X.post("/dataset/replace", { dataset: name, find: find.value, put: put.value, whole_tags: tags, dry });
            X.put(told, X.note(dry ? t("{0} captions would change", done.changed) : t("{0} captions changed", done.changed)), done.examples.map(([before, after]) => X.note(`${before} → ${after}`)), done.skipped.map((line) => X.note(line, "bad")));
            if (!dry && done.changed) again();
        });
        X.put(place, X.card(t("Pictures"), folder,
            X.facts([[t("pictures"), found.pictures.length], [t("without a caption"), found.missing], [t("sizes"), Object.keys(found.buckets).length]]),
            found.skipped.map((line) => X.note(line, "bad")),
            h("div", { class: "lx-chips" }, [["", t("all sizes")], ...Object.entries(found.buckets).map(([size, n]) => [size, `${size} (${n})`])].map(([key, text]) =>
                h("button", { type: "button", class: "lx-chip", "aria-pressed": key === bucket, title: t("Show pictures of this size"), onclick: (event) => {
                    bucket = key;
                    for (const one of event.target.parentNode.children) one.setAttribute("aria-pressed", one === event.target);
                    X.put(grid);
                    shown = 0;
                    page();
                } }, text))),
            h("details", {}, X.summary(t("Tags: {0}", Object.keys(found.tags).length)), h("div", { class: "lx-chips" }, Object.entries(found.tags).map(([tag, n]) =>
                h("button", { type: "button", class: "lx-chip", title: t("Find this tag"), onclick: () => (find.value = tag) }, `${tag} ${n}`)))),
            h("details", {}, X.summary(t("Find and replace")), h("div", { class: "lx-grid" }, X.field(t("Find"), find, t("What to look for in all captions")), X.field(t("Replace by"), put, t("Empty takes a tag out"))),
                X.check(t("whole tags only"), true, (on) => (tags = on), t("Between commas; else anywhere in the text")),
                h("div", { class: "lx-row wrap" }, X.button(t("Count"), swap(true), { tip: t("Shows what would change, and changes nothing") }), X.button(t("Replace"), swap(false), { tip: t("Writes the captions") })), told)),
        grid, more);
        page();
    });

    function picture(dataset, row) {
        const box = h("textarea", { class: "lx-input", rows: 3, spellcheck: "false", placeholder: row.concept ? t("no caption; the folder says: {0}", row.concept) : t("no caption"), "aria-label": t("Caption of {0}", row.name), title: t("Saved when you leave the field") });
        box.value = row.caption;
        const state = h("small", {}, `${row.bucket} · ×${row.repeats}`);
        box.addEventListener("change", X.safely(async () => {
            await X.api("/dataset/caption", { method: "PUT", body: { dataset, picture: row.name, caption: box.value } });
            state.textContent = t("saved");
        }));
        return h("div", { class: "lx-picture" }, h("img", { loading: "lazy", alt: row.name, title: row.name, src: X.url("/dataset/thumbnail", { dataset, picture: row.name, v: row.time }) }), h("div", {}, box, state));
    }

    const home = (job) => {
        const panel = X.panels.find((one) => one.name === "train").element;
        panel.job = job;
        X.go("train");
        if (panel.attach) panel.attach(job);
    };
    Object.assign(X.homes, { train: home, preflight: home });
    X.panel({ name: "train", title: "Train", tip: "Make a LoRA from your pictures", order: 30, make });
})();
