// The LoRA tab's core: elements, strings, calls to /lora-ext/v1, navigation. Everything lives under #lora-ext.
// Text from files reaches the page as text nodes only; nothing here builds markup from strings.
"use strict";
(() => {
    const X = (window.loraExt = { panels: [], prompts: {}, homes: {}, choices: null, listeners: new Map() });
    const SVG = "http://www.w3.org/2000/svg";
    let root = null;
    let table = {};

    // --- strings: English is the key

    /** The text in the page's language; {0}, {1} … are filled in. */
    X.t = (text, ...values) => {
        const said = table[text] || (window.localization || {})[text] || text;
        return values.reduce((done, value, i) => done.replaceAll(`{${i}}`, String(value)), said);
    };
    const t = X.t;

    function language(given) {
        const chosen = given || (window.opts && window.opts.localization) || (window.opts ? "en" : navigator.language);
        if (/^zh.*(tw|hant|hk)/i.test(chosen)) return "zh_TW";
        if (/^zh/i.test(chosen)) return "zh_CN";
        return /^ja/i.test(chosen) ? "ja_JP" : "en";
    }

    // --- elements

    function fill(element, attributes, children) {
        for (const [name, value] of Object.entries(attributes || {})) {
            if (typeof value === "boolean" && name.startsWith("aria-")) {
                element.setAttribute(name, value); // false is a state too, and true is no empty text
                continue;
            }
            if (value === null || value === undefined || value === false) continue;
            if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
            else if (name === "class") element.setAttribute("class", value);
            else if (name === "value" && "value" in element) element.value = value;
            else if (name === "style") Object.entries(value).forEach(([k, v]) => element.style.setProperty(k, v));
            else element.setAttribute(name, value === true ? "" : value);
        }
        for (const child of children.flat(Infinity)) {
            if (child === null || child === undefined || child === false) continue;
            element.append(child instanceof Node ? child : document.createTextNode(String(child)));
        }
        return element;
    }

    /** An element: h("p", {class: "x", onclick}, "text", child …). Strings become text nodes. */
    X.h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
    /** The same for SVG. */
    X.s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
    const h = X.h;

    X.put = (element, ...children) => {
        element.replaceChildren();
        return fill(element, {}, children);
    };

    /** Brings a place's children to `rows`: a row that stays as it is keeps its element, so that no click on it is lost.

    key(row): what a row's element depends on; make(row): its element. */
    X.rows = (place, rows, key, make) => {
        const before = new Map([...place.children].map((one) => [one.dataset.key, one]));
        const wanted = rows.map((row) => [String(key(row)), row]);
        const kept = new Set(wanted.map(([name]) => name));
        for (const [name, one] of before) if (!kept.has(name)) one.remove();
        wanted.forEach(([name, row], i) => {
            let element = before.get(name);
            if (!element) {
                element = make(row);
                element.dataset.key = name;
            }
            if (place.children[i] !== element) place.insertBefore(element, place.children[i] || null);
        });
        return place;
    };

    X.button = (text, onclick, { kind = "", tip = "", ...more } = {}) =>
        h("button", { type: "button", class: `lx-button ${kind}`, title: tip || null, onclick, ...more }, text);

    X.summary = (...children) => h("summary", { title: t("Click to open or close") }, children);

    let number = 0;
    /** A labelled control; tip is its tooltip. */
    X.field = (label, control, tip = "") => {
        if (!control.id) control.id = `lx-${++number}`;
        if (tip) control.title = tip;
        return h("div", { class: "lx-field" }, h("label", { for: control.id, title: tip || null }, label), control);
    };

    X.input = (value, oninput, more = {}) =>
        h("input", { class: "lx-input", type: "text", value, autocomplete: "off", spellcheck: "false",
            oninput: (event) => oninput && oninput(event.target.value), ...more });

    X.select = (options, value, onchange, more = {}) => {
        const rows = options.map((option) => (Array.isArray(option) ? option : [option, option]));
        const made = h("select", { class: "lx-input", onchange: (event) => onchange && onchange(event.target.value), ...more },
            rows.map(([key, text]) => h("option", { value: key }, text)));
        made.value = value;
        return made;
    };

    X.check = (label, value, onchange, tip = "") => {
        const box = h("input", { type: "checkbox", onchange: (event) => onchange && onchange(event.target.checked) });
        box.checked = value;
        return h("label", { class: "lx-check", title: tip || null }, box, h("span", {}, label));
    };

    X.segments = (options, value, onchange, label) => {
        const made = h("div", { class: "lx-segments", role: "radiogroup", "aria-label": label || null, title: label || null });
        const set = (to, tell) => {
            for (const one of made.children) {
                const on = one.dataset.value === String(to);
                one.setAttribute("aria-checked", on);
                one.tabIndex = on ? 0 : -1;
                if (on && tell) one.focus();
            }
            if (tell) onchange(to);
        };
        const rows = options.map((option) => (Array.isArray(option) ? option : [option, option]));
        rows.forEach(([key, text, tip]) => made.append(h("button", { type: "button", role: "radio", title: tip || null,
            "data-value": key, onclick: () => set(key, true) }, text)));
        made.addEventListener("keydown", (event) => {
            const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
            if (!step) return;
            event.preventDefault();
            const at = rows.findIndex(([key]) => String(key) === document.activeElement.dataset.value);
            set(rows[(at + step + rows.length) % rows.length][0], true);
        });
        made.set = (to) => set(to, false);
        set(value, false);
        return made;
    };

    X.card = (title, ...children) => h("section", { class: "lx-card" }, title ? h("h3", {}, title) : null, children);
    X.note = (text, kind = "") => h("p", { class: `lx-note ${kind}`, role: kind === "bad" ? "alert" : null }, text);
    X.facts = (rows) => h("dl", { class: "lx-facts" }, rows.filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([name, value]) => h("div", { class: String(value).length > 16 ? "wide" : null }, h("dt", {}, name), h("dd", {}, value))));

    X.table = (heads, rows, more = {}) =>
        h("div", { class: "lx-scroll", tabindex: 0, role: "region", "aria-label": more.label || heads.join(", ") },
            h("table", { class: "lx-table" },
                h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
                h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) =>
                    h("td", typeof cell === "number" ? { class: "number" } : {}, cell)))))));

    /** A line at the page's edge that goes by itself. */
    X.toast = (text, kind = "") => {
        const line = h("div", { class: `lx-toast ${kind}`, role: "status" }, text);
        root.querySelector(".lx-toasts").append(line);
        setTimeout(() => line.remove(), kind === "bad" ? 9000 : 4000);
    };

    X.copy = async (text) => {
        try {
            await navigator.clipboard.writeText(text);
        } catch {
            const area = h("textarea", { style: { position: "fixed", opacity: 0 } }, text);
            document.body.append(area);
            area.select();
            document.execCommand("copy");
            area.remove();
        }
        X.toast(t("Copied"));
    };

    X.bytes = (size) => (size >= 1e9 ? `${(size / 1e9).toFixed(2)} GB` : size >= 1e6 ? `${(size / 1e6).toFixed(1)} MB`
        : `${Math.max(1, Math.round(size / 1e3))} KB`);
    X.percent = (share) => {
        const text = (100 * share).toFixed(2);
        return share < 0.999999 && text === "100.00" ? "99.99 %" : `${text.replace(/\.?0+$/, "")} %`;
    };
    X.duration = (seconds) => {
        const whole = Math.max(0, Math.round(seconds));
        if (whole < 60) return t("{0} s", whole);
        if (whole < 3600) return t("{0} min {1} s", Math.floor(whole / 60), whole % 60);
        return t("{0} h {1} min", Math.floor(whole / 3600), Math.round((whole % 3600) / 60));
    };
    X.date = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    X.later = (wait, act) => {
        let timer = 0;
        return (...values) => {
            clearTimeout(timer);
            timer = setTimeout(() => act(...values), wait);
        };
    };
    X.recall = (key, otherwise) => {
        try {
            return JSON.parse(localStorage.getItem(`lora_ext.${key}`)) ?? otherwise;
        } catch {
            return otherwise;
        }
    };
    X.keep = (key, value) => {
        try {
            localStorage.setItem(`lora_ext.${key}`, JSON.stringify(value));
        } catch { /* a browser that keeps nothing */ }
    };

    // --- the server

    X.url = (path, query = {}) => {
        const kept = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
        const alone = location.pathname.replace(/\/[^/]*$/, ""); // a proxy may give the page below a path of its own
        const base = window.gradio_config ? window.gradio_config.root || "" : alone;
        const prefix = /^https?:/.test(base) ? new URL(base).pathname.replace(/\/$/, "") : base.replace(/\/$/, "");
        return `${prefix}/lora-ext/v1${path}${kept.length ? `?${new URLSearchParams(kept)}` : ""}`;
    };

    /** Calls the API; raises an Error with the server's own words. */
    X.api = async (path, { method = "GET", body, query, signal } = {}) => {
        let answer;
        try {
            answer = await fetch(X.url(path, query), {
                method, signal, credentials: "same-origin",
                headers: { "X-Lora-Ext": root.dataset.token, ...(body ? { "Content-Type": "application/json" } : {}) },
                body: body ? JSON.stringify(body) : undefined,
            });
        } catch (error) {
            if (error.name === "AbortError") throw error;
            throw new Error(t("The program does not answer. Is it still running?"));
        }
        const said = await answer.json().catch(() => ({}));
        if (!answer.ok) throw Object.assign(new Error(said.error || `${answer.status} ${answer.statusText}`), said);
        return said;
    };
    X.post = (path, body) => X.api(path, { method: "POST", body });
    /** Runs an asynchronous handler and shows its error. */
    X.safely = (act) => async (...values) => {
        try {
            return await act(...values);
        } catch (error) {
            if (error instanceof X.Wrong) error.reveal(); // it is told beside the field
            else if (error.name !== "AbortError") X.toast(error.message, "bad");
            return undefined;
        }
    };

    // --- panels talk to each other

    X.on = (name, act) => X.listeners.set(name, [...(X.listeners.get(name) || []), act]);
    X.tell = (name, ...values) => (X.listeners.get(name) || []).forEach((act) => act(...values));

    /** Shows a panel; values are given to its `open`. */
    X.go = (name, ...values) => {
        const panel = X.panels.find((one) => one.name === name) || X.panels[0];
        for (const one of X.panels) {
            const on = one === panel;
            one.tab.setAttribute("aria-selected", on);
            one.tab.tabIndex = on ? 0 : -1;
            one.element.hidden = !on;
        }
        X.keep("panel", panel.name);
        if (!panel.made) {
            panel.made = true;
            panel.make(panel.element);
        }
        if (panel.open) panel.open(...values);
    };

    /** Registers a panel: {name, title, tip, order, make(element), open(…), when()}. */
    X.panel = (panel) => {
        X.panels.push(panel);
        X.panels.sort((a, b) => a.order - b.order);
    };

    function navigation() {
        X.panels = X.panels.filter((panel) => !panel.when || panel.when());
        const bar = h("div", { class: "lx-tabs", role: "tablist", "aria-label": t("LoRA tools") });
        for (const panel of X.panels) {
            panel.made = false;
            panel.tab = h("button", { type: "button", role: "tab", id: `lx-tab-${panel.name}`, title: t(panel.tip),
                "aria-controls": `lx-panel-${panel.name}`, onclick: () => X.go(panel.name) }, t(panel.title));
            panel.element = h("div", { class: `lx-panel lx-${panel.name}`, role: "tabpanel", id: `lx-panel-${panel.name}`,
                "aria-labelledby": panel.tab.id, hidden: true });
            bar.append(panel.tab);
        }
        bar.addEventListener("keydown", (event) => {
            const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
            if (!step) return;
            const at = X.panels.findIndex((panel) => panel.tab === document.activeElement);
            const next = X.panels[(at + step + X.panels.length) % X.panels.length];
            next.tab.focus();
            X.go(next.name);
        });
        return bar;
    }

    // every panel's script has run when the document's content is loaded, whether scripts are deferred or not
    const loaded = new Promise((done) => (document.readyState !== "loading" ? setTimeout(done) : document.addEventListener("DOMContentLoaded", done)));

    async function mount(element) {
        root = X.root = element;
        element.dataset.mounted = "yes";
        await loaded;
        const name = language(element.dataset.language);
        X.language = name;
        try {
            table = name === "en" ? {} : await X.api("/strings", { query: { language: name } });
            element.lang = name.replace("_", "-");
            [X.choices, X.layouts] = await Promise.all([X.api("/choices"), X.api("/layouts")]);
        } catch (error) {
            X.put(element, X.note(error.message, "bad"), X.button(t("Try again"), () => mount(element)));
            return;
        }
        const bar = navigation();
        X.put(element, h("div", { class: "lx-body" }, h("div", { class: "lx-top" }, bar), X.panels.map((panel) => panel.element)),
            h("div", { class: "lx-tray" }), h("div", { class: "lx-toasts" }));
        X.tell("mounted");
        X.go(X.recall("panel", X.panels[0].name));
    }

    const look = () => {
        const element = document.getElementById("lora-ext");
        if (element && !element.dataset.mounted) mount(element);
    };
    new MutationObserver(look).observe(document.documentElement, { childList: true, subtree: true });
    document.addEventListener("DOMContentLoaded", look);
    look();
})();
