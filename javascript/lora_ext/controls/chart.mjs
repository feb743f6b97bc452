// Line charts.
import { h, s } from "../core/elements.mjs";
import { isNarrow } from "../core/page.mjs";
import { t } from "../core/strings.mjs";

/** @typedef {readonly [number, number]} Point */
/** @typedef {{ name: string, points: Point[], kind?: string }} Series kind: the class that gives its colour */
/**
 * @typedef {object} ChartOptions
 * @property {number} [width]
 * @property {number} [height]
 * @property {number} [low] where the y axis begins; without it, at the least value
 * @property {number} [high]
 * @property {[number, number]} [x] where the x axis begins and ends; without it, at the least and greatest value
 * @property {string} [xlabel]
 * @property {(value: number) => string} [fy] a label of the y axis
 * @property {(value: number) => string} [fx] a label of the x axis
 */
/**
 * @typedef {object} Scale
 * @property {[number, number]} x where the axis begins and ends
 * @property {[number, number]} y
 * @property {(x: number) => number} toX a value's place in the picture
 * @property {(y: number) => number} toY
 */

const PADDING = { left: 52, right: 14, top: 12, bottom: 30 };
const GRID_LINES = 4;

/**
 * Limits of the axes, and where values lie in the picture.
 * @param {Point[]} points at least one
 * @param {number} width
 * @param {number} height
 * @param {ChartOptions} options
 * @returns {Scale}
 */
export function chartScale(points, width, height, { low, high, x }) {
    const xs = points.map(([value]) => value),
        ys = points.map(([, value]) => value);
    const [left, right] = x || [Math.min(...xs), Math.max(...xs)];
    const bottom = low ?? Math.min(...ys);
    let top = high ?? Math.max(...ys);
    if (top === bottom) top = bottom + (Math.abs(bottom) || 1) * 0.1;
    const plot = { width: width - PADDING.left - PADDING.right, height: height - PADDING.top - PADDING.bottom };
    return {
        x: [left, right],
        y: [bottom, top],
        toX: (value) => PADDING.left + ((value - left) / (right - left || 1)) * plot.width,
        toY: (value) => height - PADDING.bottom - ((value - bottom) / (top - bottom)) * plot.height,
    };
}

/**
 * The path of a line; values above or below the y axis are drawn at its ends.
 * @param {Point[]} points
 * @param {Scale} scale
 */
export function linePath(points, { y: [bottom, top], toX, toY }) {
    const place = (/** @type {Point} */ [x, y]) =>
        `${toX(x).toFixed(1)} ${toY(Math.min(Math.max(y, bottom), top)).toFixed(1)}`;
    return points.map((point, i) => `${i ? "L" : "M"}${place(point)}`).join("");
}

/**
 * Grid lines and labels of both axes.
 * @param {Scale} scale
 * @param {number} width
 * @param {number} height
 * @param {ChartOptions} options
 */
export function chartAxes({ x, y: [bottom, top], toX, toY }, width, height, { xlabel, fy = String, fx = String }) {
    const right = width - PADDING.right,
        base = height - 10;
    const rows = Array.from({ length: GRID_LINES + 1 }, (_, i) => bottom + ((top - bottom) * i) / GRID_LINES);
    const lines = rows.map((value) => [
        s("line", { class: "grid", x1: PADDING.left, x2: right, y1: toY(value), y2: toY(value) }),
        s("text", { x: PADDING.left - 6, y: toY(value) + 4, "text-anchor": "end" }, fy(value)),
    ]);
    const ends = x.map((value) =>
        s("text", { x: toX(value), y: base, "text-anchor": value === x[0] ? "start" : "end" }, fx(value)),
    );
    const label = { x: (PADDING.left + right) / 2, y: base, "text-anchor": "middle", class: "soft" };
    return [...lines.flat(), ...ends, ...(xlabel ? [s("text", label, xlabel)] : [])];
}

/**
 * Lines over x.
 * @param {Series[]} series
 * @param {ChartOptions} [options]
 * @returns an element; mark(x) draws a vertical line there
 */
export function lineChart(series, options = {}) {
    const { width = isNarrow() ? 360 : 640, height = 220 } = options;
    const points = series.flatMap((one) => one.points);
    if (!points.length) return Object.assign(h("p", { class: "lx-note" }, t("Nothing to draw yet.")), { mark() {} });
    const scale = chartScale(points, width, height, options);
    const names = series.map((one) => one.name).join(", ");
    const chart = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "lx-chart", role: "img", "aria-label": names });
    chart.append(...chartAxes(scale, width, height, options));
    for (const { name, points: line, kind } of series) {
        if (!line.length) continue;
        chart.append(s("path", { d: linePath(line, scale), class: `line ${kind || ""}` }, s("title", {}, name)));
    }
    const marker = s("line", { class: "marker", y1: PADDING.top, y2: height - PADDING.bottom, x1: -9, x2: -9 });
    chart.append(marker);
    return Object.assign(chart, {
        /** @param {number} x */
        mark(x) {
            const at = String(scale.toX(Math.min(Math.max(x, scale.x[0]), scale.x[1])));
            marker.setAttribute("x1", at);
            marker.setAttribute("x2", at);
        },
    });
}

/** @param {[string, string][]} rows name, kind of its line */
export const legend = (rows) =>
    h(
        "div",
        { class: "lx-legend" },
        rows.map(([name, kind]) => h("span", { class: kind }, name)),
    );
