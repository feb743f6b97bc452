// The Generate panel of the standalone program: a prompt and its pictures.
"use strict";
(() => {
    const X = window.loraExt;
    const { h, t } = X;
    let prompt = null, seed = null;

    X.pictures = (found) => h("div", { class: "lx-pictures" }, found.pictures.map((one) => h("figure", {},
        h("a", { href: X.url("/pictures", { name: one.name }), target: "_blank", rel: "noopener", title: t("Open the picture alone") },
            h("img", { src: X.url("/pictures", { name: one.name }), alt: t("the picture") })),
        one.infotext ? h("details", {}, X.summary(t("How it was made")), h("pre", { class: "lx-log" }, one.infotext)) : null)),
        (found.notes || []).map((line) => X.note(line)));

    function make(panel) {
        const last = X.recall("generate", {});
        prompt = h("textarea", { class: "lx-input", rows: 3, spellcheck: "false", placeholder: t("What to draw; <lora:name:0.8> applies a file") });
        prompt.value = last.prompt ?? "a red circle on a blue background";
        const negative = h("textarea", { class: "lx-input", rows: 2, spellcheck: "false" });
        negative.value = last.negative_prompt || "";
        const pick = (name, tip, label) => X.field(label, X.select(X.choices[name].map((one) => [one, one || t("the small model that comes along")]), last[name] ?? X.choices[name][0]), tip);
        const model = pick("checkpoints", t("Which model draws"), t("Model"));
        const sampler = pick("samplers", t("How the noise is taken away"), t("Sampler"));
        const schedule = pick("schedulers", t("How the steps are spread"), t("Schedule"));
        const range = (key, label, min, max, step, value, tip, more = {}) => X.range(label, { min, max, step, value: last[key] ?? value, usual: value, tip, ...more });
        const controls = {
            steps: range("steps", t("Steps"), 1, 150, 1, 20, t("More steps, finer and slower")),
            cfg: range("cfg", t("CFG scale"), 1, 20, 0.5, 2.5, t("How strictly the prompt is followed")),
            width: range("width", t("Width"), 0, 2048, 64, 0, t("0: what the model was made for"), { multiple: 8 }),
            height: range("height", t("Height"), 0, 2048, 64, 0, t("0: what the model was made for"), { multiple: 8 }),
            batch: range("batch", t("Pictures"), 1, 8, 1, 1, t("Pictures at once")),
        };
        seed = X.number(t("Seed"), last.seed ?? 7, { low: -1, high: 4294967295, whole: true, usual: -1, tip: t("Same seed, same picture; -1 draws one") });
        const settings = () => ({ prompt: prompt.value, negative_prompt: negative.value, checkpoint: model.lastChild.value, sampler: sampler.lastChild.value,
            scheduler: schedule.lastChild.value, seed: seed.get(), ...Object.fromEntries(Object.entries(controls).map(([key, one]) => [key, one.get()])) });
        const view = X.jobView({ kinds: ["generate"], empty: t("Pictures appear here."), result: (found) => (found ? X.pictures(found) : null) });
        const draw = X.safely(() => {
            const wish = settings();
            X.keep("generate", { ...wish, samplers: wish.sampler, schedulers: wish.scheduler, checkpoints: wish.checkpoint });
            return view.run("/generate", wish);
        });
        prompt.addEventListener("keydown", (event) => {
            if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) draw();
        });
        X.put(panel, h("div", { class: "lx-split even" },
            h("div", { class: "lx-side" },
                X.card(null, X.field(t("Prompt"), prompt, t("Ctrl+Enter draws")), X.field(t("Negative prompt"), negative, t("What to keep away from")),
                    h("div", { class: "lx-row wrap" }, X.button(t("Draw"), draw, { kind: "main", tip: t("Ctrl+Enter draws") }))),
                X.card(t("Settings"), model, h("div", { class: "lx-grid" }, sampler, schedule, controls.steps, controls.cfg, controls.width, controls.height,
                    controls.batch, seed))),
            h("div", { class: "lx-main" }, X.card(t("Pictures"), view))));
        view.resume();
    }

    X.prompts.own = {
        label: "Insert into prompt",
        there: () => X.choices.draws,
        get: () => (ready(), prompt.value),
        set(text) {
            ready();
            prompt.value = text;
        },
        seed(number) {
            ready();
            seed.set(number);
        },
    };
    function ready() {
        const panel = X.panels.find((one) => one.name === "generate");
        if (panel.made) return;
        panel.made = true;
        make(panel.element);
    }
    X.homes.generate = (job) => {
        X.go("generate");
        X.panels.find((one) => one.name === "generate").element.querySelector(".lx-job").attach(job.id);
    };
    X.panel({ name: "generate", title: "Generate", tip: "Draw pictures from a prompt", order: 10, when: () => X.choices.draws, make });
})();
