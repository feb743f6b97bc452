// The weights that files had at each U-Net call of a picture: a chart below each line of text that lists them.
import { h } from "../core/elements.mjs";
import { formatWeight } from "../core/format.mjs";
import { t } from "../core/strings.mjs";
import { lineChart } from "../controls/chart.mjs";

/** @typedef {{ name: string, calls: number, weights: number[] }} ActedWeights weights: of all calls or of a choice */

/** As `weight_trace.py` writes it. */
const LINE = /^(.+): weight at each of (\d+) U-Net calls [▁-█]+ (-?[\d.e+-]+(?:, -?[\d.e+-]+)*)$/;
const SIZE = { width: 480, height: 150 };

/** What a line says; null where it says something else. @param {string} line @returns {ActedWeights | null} */
export function parseActedWeights(line) {
    const [, name, calls, numbers] = LINE.exec(line.trim()) || [];
    if (!name) return null;
    const weights = numbers.split(", ").map(Number);
    return weights.every(Number.isFinite) ? { name, calls: Number(calls), weights } : null;
}

/** Where each of the weights stands on the axis of calls, from 1. @param {ActedWeights} acted */
export function actedPoints({ calls, weights }) {
    const last = Math.max(weights.length - 1, 1);
    return weights.map((weight, i) => /** @type {const} */ ([1 + Math.floor((i * (calls - 1)) / last), weight]));
}

/** The chart of a line's weights; null for any other line. @param {string} line */
export function actedChart(line) {
    const acted = parseActedWeights(line);
    if (!acted) return null;
    const low = Math.min(0, ...acted.weights),
        high = Math.max(low + 0.1, ...acted.weights);
    const series = [{ name: acted.name, points: actedPoints(acted) }];
    const chart = lineChart(series, { ...SIZE, low, high, fy: formatWeight, xlabel: t("U-Net call") });
    return h("span", { class: "lx-acted" }, chart);
}

/** How the lines of a chart look outside of the tab, to which `style.css` keeps. */
const OUTSIDE = {
    text: { fill: "currentColor", "font-size": "11" },
    ".grid": { stroke: "currentColor", "stroke-opacity": "0.2" },
    ".line": { fill: "none", stroke: "currentColor", "stroke-width": "2" },
};

/** @param {HTMLElement} chart */
function styleOutside(chart) {
    for (const [selector, attributes] of Object.entries(OUTSIDE))
        for (const part of chart.querySelectorAll(selector))
            for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
    chart.style.setProperty("display", "block");
    chart.style.setProperty("max-width", "30rem");
    return chart;
}

/** Draws the charts of the web UI's comments below a picture, each once. */
export function drawActedWeights() {
    for (const comments of document.querySelectorAll("p.comments:not([data-lx-drawn])")) {
        comments.setAttribute("data-lx-drawn", "");
        for (const line of (comments.textContent || "").split("\n")) {
            const chart = actedChart(line);
            if (chart) comments.append(styleOutside(chart));
        }
    }
}
