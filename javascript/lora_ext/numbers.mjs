// Number fields: what is typed is checked beside the field. An empty field is the usual value or an error, never 0.
"use strict";
(() => {
    const X = window.loraExt;
    const { h, t } = X;
    let made = 0;

    /** A field that holds no value that can be sent. box: its input. */
    X.Wrong = class extends Error {
        constructor(text, box) {
            super(text);
            this.box = box;
        }

        /** Shows the field, wherever it is folded away, and puts the cursor into it. */
        reveal() {
            for (let one = this.box; one && one !== X.root; one = one.parentElement) {
                if (one.tagName === "DETAILS") one.open = true;
                if (one.hidden && !one.matches(".lx-panel")) one.hidden = false;
            }
            this.box.scrollIntoView({ block: "nearest" });
            this.box.focus({ preventScroll: true });
        }
    };

    /** What a field accepts, in words. */
    function accepted({ low = null, high = null, whole = false, multiple = 0, words = "" }) {
        if (words) return words;
        if (multiple > 1) return t("a multiple of {0} from {1} to {2}", multiple, low, high);
        if (low !== null && high !== null) return whole ? t("a whole number from {0} to {1}", low, high) : t("a number from {0} to {1}", low, high);
        if (low !== null) return whole ? t("a whole number, {0} or more", low) : t("a number, {0} or more", low);
        if (high !== null) return whole ? t("a whole number, {0} or less", high) : t("a number, {0} or less", high);
        return whole ? t("a whole number") : t("a number");
    }

    /** What is wrong with a box's text, "" where nothing is. Only an empty box that has no usual value is asked to be filled. */
    function wrong(box, rules) {
        const text = box.value.trim();
        if (box.validity.badInput) return t("This is not {0}.", accepted(rules));
        if (!text) return rules.optional || rules.usual !== undefined ? "" : t("This is empty; write {0}.", accepted(rules));
        if (rules.parse) return rules.parse(text) === undefined ? t("{0} is not {1}.", short(text), accepted(rules)) : "";
        const value = Number(text);
        const { low = null, high = null, whole = false, multiple = 0 } = rules;
        const fits = Number.isFinite(value) && (!whole || Number.isInteger(value)) && (low === null || value >= low) && (high === null || value <= high)
            && (multiple < 2 || value % multiple === 0);
        return fits ? "" : t("{0} is not {1}.", short(text), accepted(rules));
    }
    const short = (text) => (text.length > 24 ? `${text.slice(0, 24)}…` : text);

    /** Makes an input a number field: what is wrong is told in the line `said` that belongs beside it.

    rules: low, high, whole, multiple; usual: what an empty field means, shown as its placeholder; optional: empty is null;
    parse(text): its value where it is no plain number, undefined for what cannot be, and `words`, what is accepted.
    onchange(): after each change, of right and of wrong text. Adds number(), which raises X.Wrong, and check(). */
    X.asNumber = (box, rules, onchange) => {
        const said = h("small", { class: "lx-wrong", id: `lx-wrong-${++made}`, role: "alert", hidden: true });
        if (rules.usual !== undefined) box.placeholder = rules.usual;
        box.said = said;
        box.rules = rules;
        box.check = () => {
            const text = wrong(box, rules);
            said.textContent = text;
            said.hidden = !text;
            if (text) box.setAttribute("aria-describedby", said.id);
            else box.removeAttribute("aria-describedby");
            box.setAttribute("aria-invalid", Boolean(text));
            return text;
        };
        box.number = () => {
            const text = box.check();
            if (text) throw new X.Wrong(text, box);
            if (box.value.trim() === "") return rules.usual ?? null;
            return rules.parse ? rules.parse(box.value.trim()) : Number(box.value);
        };
        box.addEventListener("input", () => {
            box.check();
            onchange && onchange();
        });
        return said;
    };

    /** A labelled number field; get() is its number (or null), set(to) shows one. */
    X.number = (label, value, { tip = "", oninput, ...rules }) => {
        const box = X.input(value ?? "", null, { inputmode: (rules.low ?? -1) >= 0 ? "decimal" : "text", placeholder: rules.placeholder || null });
        const field = X.field(label, box, tip);
        field.append(X.asNumber(box, rules, oninput));
        field.box = box;
        field.get = box.number;
        field.set = (to) => {
            box.value = to ?? "";
            box.check();
        };
        return field;
    };

    /** A range with a number beside it.

    min, max: of the slider, and of the number where hard; low, high: of the number where not. usual: see X.asNumber.
    oninput(number): after each change; onwrong(): the number cannot be read, so that nothing that was made of it is true.
    show(number): the slider's value as the box has it. parse, words: see X.asNumber. */
    X.range = (label, { min, max, step, value, tip = "", oninput, onwrong, hard = true, low = null, high = null, usual, multiple = 0, parse, words, show = String }) => {
        const rules = { low: hard ? min : low, high: hard ? max : high, whole: Number.isInteger(step) && Number.isInteger(min), multiple, usual, parse, words };
        const id = `lx-range-${++made}`;
        const slide = h("input", { type: "range", class: "lx-range", id, min, max, step, value });
        const box = h("input", { type: parse ? "text" : "number", class: "lx-number", step, "aria-label": label, ...(hard ? { min, max } : {}), value });
        /** The slider follows the number; it stands apart where it cannot show it. */
        const follow = (now) => {
            const apart = Number(now) < min || Number(now) > max || Boolean(parse && /^[1-9]\d*$/.test(now));
            slide.value = apart && parse ? min : now;
            element.classList.toggle("lx-apart", apart);
            shown();
        };
        const shown = () => slide.style.setProperty("--share", `${(100 * (slide.value - min)) / (max - min || 1)}%`);
        const said = X.asNumber(box, rules, () => {
            if (box.check()) return onwrong && onwrong();
            const now = box.number();
            follow(now);
            return oninput && oninput(now);
        });
        const element = h("div", { class: "lx-field", title: tip || null },
            h("label", { for: id }, label), h("div", { class: "lx-row tight" }, slide, box), said);
        element.box = box;
        element.get = box.number;
        element.set = (to) => {
            box.value = to;
            box.check();
            follow(to);
        };
        slide.addEventListener("input", () => {
            box.value = show(Number(slide.value));
            box.check();
            follow(box.number());
            oninput && oninput(box.number());
        });
        element.limits = (least, most) => {
            for (const one of [slide, box]) Object.assign(one, { min: least, max: most });
            Object.assign(rules, { low: least, high: most });
            [min, max] = [least, most];
            element.set(Math.min(Math.max(Number(box.value) || least, least), most));
        };
        follow(value);
        return element;
    };
})();
