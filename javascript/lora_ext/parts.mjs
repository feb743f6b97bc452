// Parts that several panels use: charts, the LoRA picker, jobs and their tray, reports.
"use strict";
(() => {
    const X = window.loraExt;
    const { h, s, t } = X;

    // --- charts

    /** Lines over x. series: [{name, points: [[x, y]], kind}]; marker: an x; label functions make tooltips and axes. */
    X.lines = (series, { width = X.root.clientWidth < 640 ? 360 : 640, height = 220, low, high, x: [left, right] = [], marker, xlabel, ylabel, fx = String, fy = String } = {}) => {
        const pad = { left: 52, right: 14, top: 12, bottom: 30 };
        const all = series.flatMap((one) => one.points);
        if (!all.length) return h("p", { class: "lx-note" }, t("Nothing to draw yet."));
        const xs = [left ?? Math.min(...all.map((p) => p[0])), right ?? Math.max(...all.map((p) => p[0]))];
        const ys = [low ?? Math.min(...all.map((p) => p[1])), high ?? Math.max(...all.map((p) => p[1]))];
        if (ys[0] === ys[1]) ys[1] = ys[0] + (Math.abs(ys[0]) || 1) * 0.1;
        const px = (x) => pad.left + ((x - xs[0]) / (xs[1] - xs[0] || 1)) * (width - pad.left - pad.right);
        const py = (y) => height - pad.bottom - ((y - ys[0]) / (ys[1] - ys[0])) * (height - pad.top - pad.bottom);
        const chart = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "lx-chart", role: "img",
            "aria-label": series.map((one) => one.name).join(", ") });
        for (let i = 0; i <= 4; i++) {
            const y = ys[0] + ((ys[1] - ys[0]) * i) / 4;
            chart.append(s("line", { class: "grid", x1: pad.left, x2: width - pad.right, y1: py(y), y2: py(y) }),
                s("text", { x: pad.left - 6, y: py(y) + 4, "text-anchor": "end" }, fy(y)));
        }
        for (const x of xs) {
            chart.append(s("text", { x: px(x), y: height - 10, "text-anchor": x === xs[0] ? "start" : "end" }, fx(x)));
        }
        if (xlabel) chart.append(s("text", { x: (pad.left + width - pad.right) / 2, y: height - 10, "text-anchor": "middle", class: "soft" }, xlabel));
        if (ylabel) chart.append(s("text", { x: pad.left + 4, y: pad.top + 2, class: "soft" }, ylabel));
        for (const one of series) {
            if (!one.points.length) continue;
            const path = one.points.map(([x, y], i) => `${i ? "L" : "M"}${px(x).toFixed(1)} ${py(Math.min(Math.max(y, ys[0]), ys[1])).toFixed(1)}`).join("");
            chart.append(s("path", { d: path, class: `line ${one.kind || ""}` }, s("title", {}, one.name)));
        }
        const line = s("line", { class: "marker", y1: pad.top, y2: height - pad.bottom, x1: -9, x2: -9 });
        chart.append(line);
        chart.mark = (x) => {
            const at = px(Math.min(Math.max(x, xs[0]), xs[1]));
            line.setAttribute("x1", at);
            line.setAttribute("x2", at);
        };
        if (marker !== undefined) chart.mark(marker);
        return chart;
    };

    X.legend = (rows) => h("div", { class: "lx-legend" }, rows.map(([name, kind]) => h("span", { class: kind }, name)));

    // --- a LoRA, chosen

    X.thumb = (row) => row && row.thumb
        ? h("img", { class: "lx-thumb", loading: "lazy", alt: "", src: X.url("/thumbnail", { name: row.name, v: row.thumb }) })
        : h("span", { class: "lx-thumb none", "aria-hidden": "true" }, (row ? row.title : "?").slice(0, 1).toUpperCase());

    /** What a row's element depends on. */
    X.rowKey = (row) => [row.name, row.call, row.time, row.thumb, row.base, row.kind, row.rank, row.error].join("|");

    X.about = (row) => [row.base && row.base !== "unknown" ? row.base : null, row.kind,
        row.rank ? t("rank {0}", row.mixed ? `${row.rank}…` : row.rank) : null].filter(Boolean).join(" · ");

    /** A button that opens a searchable list of the library. element.value is the chosen row. */
    X.picker = ({ label, onpick, tip = "" }) => {
        let rows = [], total = 0, at = -1, asked = null, turn = 0;
        const face = h("button", { type: "button", class: "lx-pick", "aria-haspopup": "listbox", "aria-expanded": "false",
            title: tip || t("Choose a LoRA file") });
        const search = h("input", { class: "lx-input", type: "search", placeholder: t("Search by name"), "aria-label": t("Search by name"), title: t("Any words of its name, in any order") });
        const list = h("div", { class: "lx-list", role: "listbox", "aria-label": t("LoRA files") });
        const box = h("div", { class: "lx-pop", hidden: true }, search, list);
        const made = h("div", { class: "lx-field lx-picker" }, label ? h("span", { class: "lx-label" }, label) : null, face, box);

        function show() {
            const row = made.value;
            X.put(face, X.thumb(row), h("span", { class: "lx-pick-text" },
                h("b", {}, row ? row.title : t("Choose a LoRA")), h("small", {}, row ? X.about(row) : t("newest first"))),
                h("span", { class: "lx-chevron", "aria-hidden": "true" }));
        }
        function item(row) {
            return h("button", { type: "button", role: "option", tabindex: -1, "aria-selected": "false", class: "lx-item",
                title: row.name, onclick: () => pick(row) }, X.thumb(row),
                h("span", { class: "lx-pick-text" }, h("b", {}, row.title), h("small", {}, X.about(row) || row.error || "")));
        }
        function pick(row) {
            const open_ = !box.hidden;
            turn += 1;
            made.value = row;
            close();
            show();
            if (open_) face.focus();
            onpick && onpick(row);
        }
        const selected = () => [...list.children].forEach((one, i) => one.setAttribute("aria-selected", i === at));
        function mark(to) {
            at = Math.max(0, Math.min(rows.length - 1, to));
            selected();
            list.children[at] && list.children[at].scrollIntoView({ block: "nearest" });
        }
        async function load(more) {
            asked && asked.abort();
            asked = new AbortController();
            const page = await X.api("/library", { signal: asked.signal, query: { search: search.value, sort: "newest", limit: 40, offset: more ? rows.length : 0 } });
            rows = more ? [...rows, ...page.rows] : page.rows;
            total = page.total;
            if (!more) at = -1;
            X.rows(list, rows.length ? rows : [null], (row) => (row ? X.rowKey(row) : ""), (row) => (row ? item(row) : X.note(t("No file matches."))));
            selected();
        }
        const open = () => {
            box.hidden = false;
            face.setAttribute("aria-expanded", "true");
            search.value = "";
            search.focus();
            X.safely(load)(false);
            document.addEventListener("pointerdown", outside, true);
        };
        const close = () => {
            box.hidden = true;
            face.setAttribute("aria-expanded", "false");
            document.removeEventListener("pointerdown", outside, true);
        };
        const outside = (event) => made.contains(event.target) || close();
        face.addEventListener("click", () => (box.hidden ? open() : close()));
        search.addEventListener("input", X.later(150, X.safely(() => load(false))));
        list.addEventListener("scroll", X.later(60, () => {
            if (list.scrollTop + list.clientHeight > list.scrollHeight - 200 && rows.length < total) X.safely(load)(true);
        }));
        box.addEventListener("keydown", (event) => {
            if (event.key === "Escape") (close(), face.focus());
            else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
                event.preventDefault();
                mark(at + (event.key === "ArrowDown" ? 1 : -1));
            } else if (event.key === "Enter" && rows.length) {
                event.preventDefault();
                pick(rows[Math.max(0, at)]);
            }
        });
        X.on("library", () => !box.hidden && list.scrollTop === 0 && X.safely(load)(false));
        made.value = null;
        made.set = (row) => {
            made.value = row;
            show();
        };
        /** Chooses the file of a name, and tells, where no one chose meanwhile. gentle: only where nothing is chosen. */
        made.choose = X.safely(async (name, gentle = false) => {
            const mine = gentle ? turn : ++turn;
            const page = await X.api("/library", { query: { search: name.split("/").pop(), limit: 500 } });
            const row = page.rows.find((one) => one.name === name || one.call === name) || null;
            if (mine !== turn || (gentle && made.value)) return made.value;
            if (row) pick(row);
            return row;
        });
        /** Chooses the newest file where nothing is chosen. */
        made.first = X.safely(async () => {
            if (made.value) return;
            const page = await X.api("/library", { query: { sort: "newest", limit: 1 } });
            if (page.rows.length && !made.value) {
                made.value = page.rows[0];
                show();
                onpick && onpick(made.value);
            }
        });
        show();
        return made;
    };

    // --- jobs

    const ENDED = ["done", "failed", "cancelled"];
    const state = (job) => ({ waiting: t("waiting"), running: t("running"), done: t("done"), failed: t("failed"), cancelled: t("cancelled") })[job.state];

    /** Follows a job: show(job) at each report; resolves with the ended job. */
    X.follow = async (id, show, alive = () => true) => {
        for (;;) {
            const job = await X.api(`/jobs/${encodeURIComponent(id)}`);
            show(job);
            if (ENDED.includes(job.state)) return job;
            await new Promise((wake) => setTimeout(wake, document.hidden ? 3000 : 400));
            if (!alive()) return job;
        }
    };

    const STOP = () => [[t("Stop"), t("Stop this job"), {}]];

    /** A place that shows one job: bar, words, time left, log, cancel. `run(path, body)` fills it.

    A job that has not ended stays in sight when another is started: the others are listed under it.
    stops: buttons that end it: [text, tooltip, query of the call]. empty: what stands there before the first one. */
    X.jobView = ({ live, result, kinds = [], stops = STOP(), empty = null } = {}) => {
        const made = h("div", { class: "lx-job", "aria-live": "polite", "data-empty": empty });
        const bar = h("div", { class: "lx-bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, h("i", {}));
        const words = h("span", { class: "lx-job-words" });
        const buttons = stops.map(([text, tip, query]) =>
            X.button(text, X.safely(() => X.api(`/jobs/${encodeURIComponent(made.id_)}/cancel`, { method: "POST", query })), { tip }));
        const head = h("div", { class: "lx-row wrap" }, words, buttons);
        const log = h("pre", { class: "lx-log" });
        const logs = h("details", {}, X.summary(t("Log")), log);
        const shown = h("div", { class: "lx-live" });
        const out = h("div", { class: "lx-result" });
        const others = new Map(), also = h("div", { class: "lx-result lx-also" });
        /** The other jobs that were started here: a click shows one in the place of this. */
        const list = () => X.put(also, [...others].map(([id, title]) => h("div", { class: "lx-row wrap" }, h("span", {}, t("Also started: {0}", title)),
            X.button(t("Show"), () => made.attach(id), { kind: "quiet", tip: t("Shows this job here, in the place of the other") }))));
        function show(job) {
            made.title_ = job.title;
            const share = job.total ? (100 * job.done) / job.total : 0;
            const ended = ENDED.includes(job.state);
            made.dataset.state = job.state;
            bar.firstChild.style.width = `${job.state === "done" ? 100 : share}%`;
            bar.setAttribute("aria-valuenow", Math.round(share));
            bar.classList.toggle("busy", job.state === "running" && !job.total);
            const left = job.left ? t("{0} left", X.duration(job.left)) : "";
            const took = ended && job.started ? X.duration(job.ended - job.started) : "";
            X.put(words, h("b", {}, job.stopping ? t("stopping…") : state(job)), " ",
                [job.state === "running" && job.total ? `${job.done} / ${job.total}` : "", ended || job.live.progress ? "" : t(job.text), left, took].filter(Boolean).join(" · "));
            for (const one of buttons) {
                one.hidden = ended;
                one.disabled = job.stopping;
            }
            if (log.textContent !== job.log.join("\n")) log.textContent = job.log.join("\n");
            logs.hidden = !job.log.length;
            if (live) live(shown, job);
        }
        made.busy = () => Boolean(made.id_) && !ENDED.includes(made.dataset.state);
        const attach = async (id) => {
            X.put(made, head, bar, shown, out, logs, also);
            X.put(out);
            delete made.dataset.state;
            list();
            const job = await X.follow(id, show, () => made.id_ === id && made.isConnected);
            if (made.id_ !== id || !ENDED.includes(job.state)) return job;
            if (job.state === "failed") X.put(out, X.note(job.error, "bad"));
            if (job.state === "done" || job.result) X.put(out, result ? result(job.result, job) : null);
            X.tell("jobs");
            return job;
        };
        /** Follows a job; asked again for the same one, it goes on as before, so that a result is shown once. */
        made.attach = (id) => {
            if (made.id_ !== id) {
                if (made.busy() && made.title_) others.set(made.id_, made.title_);
                others.delete(id);
                made.id_ = id;
                made.following = attach(id);
            }
            return made.following;
        };
        made.run = async (path, body) => {
            const kept = made.busy();
            if (!kept) {
                X.put(made);
                made.id_ = null;
                delete made.dataset.state;
            }
            try {
                const job = await X.post(path, body);
                X.tell("jobs");
                if (!made.busy()) return await made.attach(job.id);
                others.set(job.id, job.title);
                list();
                X.toast(t("{0} is in the queue; Jobs shows all of them", job.title));
                return job;
            } catch (error) {
                if (kept) X.toast(error.message, "bad");
                else {
                    made.id_ = null;
                    X.put(made, X.note(error.message, "bad"));
                }
                return null;
            }
        };
        /** After the page was opened again: the job of its kinds that runs, or will next. */
        made.resume = X.safely(async () => {
            const { jobs } = await X.api("/jobs");
            const mine = jobs.filter((job) => kinds.includes(job.kind) && !ENDED.includes(job.state));
            const found = mine.find((job) => job.state === "running") || mine[0];
            if (found && !made.id_) made.attach(found.id);
        });
        return made;
    };

    /** Writes a file's tag into a prompt, in the place of the one that is there. */
    X.insert = async (prompt, name) => {
        const { call } = await X.api("/inspect", { query: { name } });
        prompt.set((await X.post("/tag", { name: call, prompt: prompt.get() })).prompt);
        X.toast(t("Written into the prompt"));
    };
    /** A button for each prompt that the page has; act(prompt) does it. */
    X.inserts = (act, kind, tip) => Object.values(X.prompts).filter((one) => one.there()).map((one) => X.button(t(one.label), X.safely(() => act(one)), { kind, tip }));

    /** What can be done with new files. */
    X.offers = (files) => h("div", { class: "lx-offers" }, files.map((name) => h("div", { class: "lx-row wrap" }, h("b", {}, name),
        X.inserts((where) => X.insert(where, name), "quiet", t("Writes the tag into the prompt, or updates the one that is there")),
        X.button(t("Set block weights"), () => X.go("weights", name), { kind: "quiet", tip: t("Open it in the Weights panel") }),
        X.panels.some((one) => one.name === "compare") ? X.button(t("Compare"), () => X.go("compare", name), { kind: "quiet", tip: t("Draw a sheet with it") }) : null,
        X.button(t("Show in Files"), () => X.go("files", name), { kind: "quiet", tip: t("Find it in the library") }))));

    // --- what a tool did

    X.report = (report) => {
        const totals = report.totals;
        const rows = [];
        for (const layer of report.layers) {
            const last = rows[rows.length - 1];
            const key = [layer.old_rank, layer.new_rank, layer.kept, layer.note].join();
            if (last && last.key === key) last.more += 1;
            else rows.push({ key, layer, more: 0 });
        }
        const rank = (value) => (value === null ? t("full") : value);
        const facts = X.facts([[t("layers"), totals.layers],
            [t("ranks in all"), totals.rank_before || totals.rank_after ? `${totals.rank_before} → ${totals.rank_after}` : ""],
            [t("kept of the norm"), X.percent(totals.kept)],
            [t("left after rounding"), X.percent(totals.survived)],
            [t("largest loss"), report.largest_loss ? `${report.largest_loss.layer} (${X.percent(report.largest_loss.kept)})` : ""]]);
        const lists = [...Object.entries(report.only_in).map(([name, some]) => t("{0} layers only in {1}", some.length, name)),
            ...Object.entries(report.not_understood).map(([name, some]) => t("{0} keys of {1} were not understood", some.length, name)),
            ...Object.entries(report.left_out).map(([name, some]) => t("{0} layers of {1} were left out", some.length, name)),
            report.unchanged.length ? t("{0} layers stayed as they were", report.unchanged.length) : null, ...report.notes].filter(Boolean);
        return h("div", { class: "lx-report" }, facts, lists.map((line) => X.note(line)),
            report.layers.length ? h("details", {}, X.summary(t("Layer by layer")),
                X.table([t("layer"), t("rank"), t("new"), t("kept")], rows.map(({ layer, more }) =>
                    [layer.layer + (more ? ` ${t("and {0} more", more)}` : "") + (layer.note ? ` (${layer.note})` : ""),
                        rank(layer.old_rank), rank(layer.new_rank), X.percent(layer.kept)]))) : null);
    };

    // --- the tray: every job, wherever one is

    function tray(place) {
        const list = h("div", { class: "lx-jobs", hidden: true });
        const face = h("button", { type: "button", class: "lx-tray-face", "aria-expanded": "false", title: t("All jobs: progress, log, results"),
            onclick: () => {
                list.hidden = !list.hidden;
                face.setAttribute("aria-expanded", !list.hidden);
                look();
            } });
        const notice = X.note("", "bad");
        notice.hidden = true;
        X.root.querySelector(".lx-top").after(notice);
        X.put(place, list, face);
        let timer = 0, files = null;
        const look = async () => {
            clearTimeout(timer);
            let busy = false;
            try {
                const { jobs, library, applied_by: owner } = await X.api("/jobs");
                notice.hidden = !owner;
                if (owner) X.put(notice, t("LoRA tags are applied by {0}: lbw=, step= and whatever else LoRA ext adds to a tag has no effect in pictures.", owner));
                const running = jobs.filter((job) => job.state === "running"), waiting = jobs.filter((job) => job.state === "waiting");
                const ended = jobs.filter((job) => ENDED.includes(job.state)).slice(-40).reverse();
                busy = running.length + waiting.length > 0;
                X.tell("busy", running.find((job) => job.lane === "model") || null);
                const first = running[0], more = running.length + waiting.length - 1;
                X.put(face, first ? h("span", { class: "lx-dot" }) : null,
                    first ? `${first.title} · ${first.total ? Math.round((100 * first.done) / first.total) : 0} %` : t("Jobs"), more > 0 ? ` +${more}` : "");
                if (!list.hidden) {
                    const rows = [...running, ...waiting, ...ended];
                    X.rows(list, rows.length ? rows : [null], (job) => (job ? `${job.id} ${job.state}` : ""), (job) => (job ? line(job) : X.note(t("No jobs yet."))));
                    rows.forEach((job, i) => list.children[i].show(job, waiting.filter((one) => one.lane === job.lane)));
                }
                if (files !== null && files !== library.join()) X.tell("library");
                files = library.join();
            } catch { /* told where something was asked for */ }
            timer = setTimeout(look, document.hidden ? 10000 : busy ? 900 : 6000);
        };
        const line = (job) => {
            const path = `/jobs/${encodeURIComponent(job.id)}`;
            const asking = (act) => X.safely(async () => (await act(), look()));
            const words = h("small", {}), part = h("i", {});
            const move = (to, sign, tip) => X.button(sign, asking(() => X.post(`${path}/move`, { to })), { kind: "quiet", tip, "aria-label": tip });
            const moves = job.state === "waiting" ? [move("first", "⤒", t("Next: before all that wait")), move("up", "↑", t("One place earlier")), move("down", "↓", t("One place later"))] : [];
            const made = h("div", { class: "lx-jobline", "data-state": job.state },
                h("button", { type: "button", class: "lx-jobname", title: t("Open the panel of this job"), onclick: () => X.open(job) }, h("b", {}, job.title), words),
                moves.length ? h("div", { class: "lx-moves" }, moves) : h("div", { class: "lx-bar" }, part),
                ENDED.includes(job.state) ? X.button("×", asking(() => X.api(path, { method: "DELETE" })), { kind: "quiet", tip: t("Take it off the list"), "aria-label": t("Take it off the list") })
                    : X.button(t("Stop"), asking(() => X.post(`${path}/cancel`)), { tip: t("Stop this job") }));
            made.show = (now, queue) => {
                const at = queue.findIndex((one) => one.id === now.id);
                words.textContent = [t(now.kind), state(now), at >= 0 && queue.length > 1 ? `${at + 1} / ${queue.length}` : "", now.left ? t("{0} left", X.duration(now.left)) : ""].filter(Boolean).join(" · ");
                part.style.width = `${now.state === "done" ? 100 : now.total ? (100 * now.done) / now.total : 0}%`;
                moves.forEach((one, i) => (one.disabled = i < 2 ? at === 0 : at === queue.length - 1));
            };
            return made;
        };
        X.on("jobs", look);
        look();
    }

    /** Shows the panel of a job; X.homes: kind → what opens it. */
    X.open = (job) => {
        const home = X.homes[job.kind];
        if (home) home(job);
    };
    X.on("mounted", () => tray(X.root.querySelector(".lx-tray")));
})();
