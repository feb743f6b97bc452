// Puts every kind of control in each of its states on the page: a row a kind, a column a state. Evaluated in the page.
async () => {
    const from = (name) => import(`${location.origin}/lora-ext/v1/modules/${name}`);
    const [basic, numbers, ranges, { h }, rows, { blockSlider }, { dropZone }] = await Promise.all(
        [
            "controls/basic.mjs",
            "controls/number_field.mjs",
            "controls/range_field.mjs",
            "core/elements.mjs",
            "library/lora_row.mjs",
            "weights/block_slider.mjs",
            "start/drop_zone.mjs",
        ].map(from),
    );
    const typed = (made, input, text) => {
        input.value = text;
        input.dispatchEvent(new Event("input", { bubbles: true }));
        return made;
    };
    const nothing = () => {};
    const button = (kind) => (more) => basic.button("Draw", nothing, { kind, ...more });
    const toggle = (cls, text) => (more) => h("button", { type: "button", class: cls, ...more }, text);
    const number = (text) => {
        const made = numbers.numberField("Steps", "20", { low: 1, high: 150, whole: true, usual: 20 });
        return typed(made, made.box, text);
    };
    const slider = (text) => {
        const made = ranges.rangeField("U-Net", { min: 0, max: 1, step: 0.05, value: 0.6 });
        return typed(made, made.querySelector("input.lx-number"), text);
    };
    const off = (made) => {
        for (const one of made.matches("input, button, select, textarea") ? [made] : made.querySelectorAll("input, button, select, textarea")) one.disabled = true;
        return made;
    };
    const invalid = (made) => (made.setAttribute("aria-invalid", "true"), made);
    const row = { name: "cat", title: "cat", base: "SD1", kind: "LoRA", rank: 8, mixed: false, thumb: null, marks: { favourite: true, rating: 3, tags: [] } };
    const file = (more) => h("button", { type: "button", class: "lx-file", ...more }, rows.thumbnail(row),
        h("span", { class: "lx-pick-text" }, h("b", {}, row.title), h("small", {}, rows.describeRow(row)), h("small", {}, rows.markText(row))));
    const picker = (more) => h("button", { type: "button", class: "lx-pick", ...more }, rows.thumbnail(row),
        h("span", { class: "lx-pick-text" }, h("b", {}, row.title), h("small", {}, rows.describeRow(row))), h("span", { class: "lx-chevron" }));
    const tab = (more) => h("div", { class: "lx-tabs" }, h("button", { type: "button", role: "tab", ...more }, "Files"));
    const folder = (more) => h("div", { class: "lx-folder-line" }, h("span", {}),
        h("button", { type: "button", class: "lx-folder", ...more }, h("span", {}, "styles"), h("small", {}, 12)));
    const star = (on) => basic.button(on ? "★" : "☆", nothing, { kind: "quiet lx-star", "aria-pressed": on });
    const block = (value) => {
        const made = blockSlider("OUT05", { range: () => [0, 1], value: () => value, set: nothing, under: () => null });
        Object.entries({ "--value": value, "--zero": 0, height: "60px" }).forEach((style) => made.style.setProperty(...style));
        return made;
    };
    const drop = (cls) => {
        const made = dropZone(nothing);
        if (cls) made.classList.add(cls);
        return made;
    };
    const bar = (state, share) => {
        const fill = h("i", {});
        fill.style.width = share;
        return h("div", { class: "lx-job", "data-state": state }, h("div", { class: "lx-bar" }, fill));
    };
    const fold = (open) => h("details", { open }, basic.summary("Settings"), "Sampler, steps");
    const choice = (to) => basic.segments(["kohya", "diffusers"], to, nothing, "Format");
    // kind: off, on, focus, disabled, invalid; null where a kind has no such state
    const kinds = {
        button: [button("")({}), null, button("")({}), off(button("")({})), null],
        "main button": [button("main")({}), null, button("main")({}), off(button("main")({})), null],
        "quiet button": [button("quiet")({}), button("quiet")({ "aria-expanded": true }), button("quiet")({}), off(button("quiet")({})), null],
        text: [basic.textInput(""), basic.textInput("a cat"), basic.textInput("a cat"), off(basic.textInput("a cat")), invalid(basic.textInput("a/cat"))],
        "text area": [basic.textArea(2, ""), basic.textArea(2, "a cat"), basic.textArea(2, "a cat"), off(basic.textArea(2, "a cat")), invalid(basic.textArea(2, "0@x"))],
        number: [number(""), number("20"), number("20"), off(number("20")), number("lots")],
        slider: [slider("0"), slider("0.6"), slider("0.6"), off(slider("0.6")), slider("7")],
        choice: [basic.select(["any kind", "LoRA"], "any kind"), basic.select(["any kind", "LoRA"], "LoRA"), basic.select(["LoRA"], "LoRA"), off(basic.select(["LoRA"], "LoRA")), invalid(basic.select(["LoRA"], "LoRA"))],
        box: [basic.checkbox("Overwrite", false, null), basic.checkbox("Overwrite", true, null), basic.checkbox("Overwrite", true, null), off(basic.checkbox("Overwrite", true, null)), null],
        segments: [choice("kohya"), choice("diffusers"), choice("kohya"), off(choice("kohya")), null],
        tab: [tab({}), tab({ "aria-selected": true }), tab({}), null, null],
        folder: [folder({}), folder({ "aria-current": true }), folder({}), null, null],
        star: [star(false), star(true), star(true), null, null],
        "block slider": [block(0), block(0.6), block(0.6), null, null],
        "drop zone": [drop(""), drop("over"), drop(""), null, null],
        chip: [toggle("lx-chip", "harbour")({ "aria-pressed": false }), toggle("lx-chip", "harbour")({ "aria-pressed": true }), toggle("lx-chip", "harbour")({}), off(toggle("lx-chip", "harbour")({})), null],
        file: [file({}), file({ "aria-pressed": true }), file({}), off(file({})), null],
        picker: [picker({}), picker({ "aria-expanded": true }), picker({}), off(picker({})), null],
        progress: [bar("running", "0%"), bar("running", "60%"), null, bar("cancelled", "60%"), bar("failed", "60%")],
        fold: [fold(false), fold(true), fold(false), null, null],
        note: [basic.note("nothing yet"), basic.note("done", "good"), null, null, basic.note("not found", "bad")],
    };
    const heights = { "text area": "58px", "block slider": "68px", "drop zone": "290px", number: "92px", slider: "92px", file: "76px", picker: "60px", progress: "20px", fold: "52px" };
    const states = ["off", "on", "focus", "disabled", "invalid"];
    const cells = Object.entries(kinds).flatMap(([kind, made]) => [
        h("small", {}, kind),
        ...made.map((one, i) => h("div", { class: "lx-cell", "data-cell": `${kind}, ${states[i]}`, "data-state": one ? states[i] : null }, one)),
    ]);
    const sheet = h("div", { id: "lx-control-sheet" }, h("small", {}, ""), ...states.map((state) => h("small", {}, state)), cells);
    for (const one of sheet.querySelectorAll(".lx-file")) one.style.width = "100%";
    Object.assign(sheet.style, { display: "grid", gridTemplateColumns: "90px repeat(5, 176px)", gridTemplateRows: `16px ${Object.keys(kinds).map((kind) => heights[kind] || "40px").join(" ")}`, gap: "8px 12px", alignItems: "start", width: "1060px", padding: "10px", background: "var(--paper)" });
    document.querySelector("#lora-ext").replaceChildren(sheet);
    document.activeElement.blur();
};
