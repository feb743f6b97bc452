// A training run's loss and learning rates as charts.
import { h } from "../core/elements.mjs";
import { isNarrow } from "../core/page.mjs";
import { t } from "../core/strings.mjs";
import { summary } from "../controls/basic.mjs";
import { legend, lineChart } from "../controls/chart.mjs";

/** @typedef {import("../api_types").TrainingCurve["rows"][number]} CurveRow */
/** @typedef {import("../controls/chart.mjs").Point} Point */

/**
 * The points of one column over the steps; steps without a number are left out.
 * @param {CurveRow[]} rows
 * @param {1 | 2 | 3 | 4} column
 * @returns {Point[]}
 */
export const curvePoints = (rows, column) =>
    rows.flatMap((row) => (row[column] === null ? [] : [/** @type {Point} */ ([row[0], row[column]])]));

/**
 * Where the loss axis ends: a little above the 98th percentile, so that single high losses do not flatten the rest.
 * @param {number[]} losses
 */
export function lossLimit(losses) {
    const sorted = [...losses].sort((a, b) => a - b);
    return sorted.length ? sorted[Math.floor((sorted.length - 1) * 0.98)] * 1.1 : undefined;
}

/** @param {number} value */
const shortNumber = (value) =>
    value === 0 ? "0" : Math.abs(value) >= 0.01 ? value.toFixed(3) : value.toExponential(1);

/** @param {CurveRow[]} rows */
export function trainingCurves(rows) {
    const losses = curvePoints(rows, 1),
        high = lossLimit(losses.map(([, loss]) => loss));
    const width = isNarrow() ? 360 : 520; // as wide as its place, so that its letters can be read
    const shared = { low: 0, width, xlabel: t("step") };
    const loss = lineChart(
        [
            { name: t("loss"), points: losses, kind: "pale" },
            { name: t("smoothed"), points: curvePoints(rows, 2) },
        ],
        { ...shared, ...(high === undefined ? {} : { high }), height: 190, fy: shortNumber },
    );
    const rates = lineChart(
        [
            { name: t("U-Net"), points: curvePoints(rows, 3), kind: "second" },
            { name: t("text encoder"), points: curvePoints(rows, 4), kind: "third" },
        ],
        { ...shared, height: 130, fy: (value) => value.toExponential(1) },
    );
    return [
        loss,
        legend([
            [t("loss"), "pale"],
            [t("smoothed"), ""],
        ]),
        h(
            "details",
            {},
            summary(t("Learning rates")),
            rates,
            legend([
                [t("U-Net"), "second"],
                [t("text encoder"), "third"],
            ]),
        ),
    ];
}
