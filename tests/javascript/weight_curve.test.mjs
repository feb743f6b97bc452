import assert from "node:assert/strict";
import { test } from "node:test";
import {
    curveLine,
    formatCurve,
    parseCurve,
    placeAt,
    timeAxis,
    timeOf,
} from "../../javascript/lora_ext/weights/weight_curve.mjs";
import { actedPoints, parseActedWeights } from "../../javascript/lora_ext/weights/acted_weights.mjs";

test("a curve is read and written again as the server reads it", () => {
    const texts = {
        "0@0,1@0.5;0@1": "0@0, 1@0.5, 0@1",
        "1@0.5 Cosine; -.5~0": "-0.5@0, 1@0.5 cosine",
        "0@20,1@10": "1@10, 0@20",
        "0@S0.5 , 1@ s14.6": "1@s14.6, 0@s0.5",
        "0.2@0,1": "0.2@0, 1@1",
        0.8: "0.8@1",
        "0@0.5,1@0.5": "0@0.5, 1@0.5",
    };
    for (const [text, written] of Object.entries(texts)) assert.equal(formatCurve(parseCurve(text)), written);
    const wrong = [
        "",
        ";,",
        "@0",
        "1@",
        "1@x",
        "1@-1",
        "1@0 cosin",
        "1@s14,0@1",
        "1@s14,0",
        "1@s0,0@s1",
        "nan@0",
        "1@s",
    ];
    assert.deepEqual(
        wrong.map(parseCurve),
        wrong.map(() => null),
    );
});

test("what the places are, and the axis of time", () => {
    const axis = (text) => [parseCurve(text).over, timeAxis(parseCurve(text))];
    assert.deepEqual(axis("0@0,1@1"), ["shares", [0, 1]]);
    assert.deepEqual(axis("0@0,1@8"), ["steps", [0, 20]]);
    assert.deepEqual(axis("0@0,1@30"), ["steps", [0, 30]]);
    assert.deepEqual(axis("1@s9,0@s1"), ["noise levels", [-Math.log(14.6), -Math.log(0.03)]]);
    assert.deepEqual(axis("1@s99,0@s0.01")[1], [-Math.log(99), -Math.log(0.01)]);
});

test("places that a dragged point can have", () => {
    assert.deepEqual(
        [-1, 0.123, 2].map((time) => placeAt("shares", time)),
        [0, 0.12, 1],
    );
    assert.deepEqual(
        [-1, 3.6].map((time) => placeAt("steps", time)),
        [0, 4],
    );
    assert.equal(placeAt("noise levels", timeOf("noise levels", 14.6)), 14.6);
});

test("the line has the server's values between keyframes", () => {
    const at = (text, time) => {
        const line = curveLine(parseCurve(text));
        return line.findLast(([place]) => place <= time + 1e-9)[1];
    };
    const middle = ["linear", "ease-in", "ease-out", "cosine", "step"].map((easing) => at(`0@0,1@1 ${easing}`, 0.5));
    middle.forEach((value, i) => assert.ok(Math.abs(value - [0.5, 0.25, 0.75, 0.5, 0][i]) < 1e-9));
    assert.deepEqual([at("0@0,0.5@0.5,1@0.5", 0.5), at("2@0.5", 0.1), at("0@0,1@0.5", 0.9)], [1, 2, 1]);
    assert.ok(Math.abs(at("1@s10,0@s0.1", 0) - 0.5) < 1e-9); // sigma 1 lies half way
});

test("a line about the weights that acted is read as weight_trace.py writes it", () => {
    const acted = parseActedWeights("a: cat: weight at each of 6 U-Net calls ▄▆█▁▁▁ 0, 0.12, 1e-05, -0.15, -0.15, 2");
    assert.deepEqual(acted, { name: "a: cat", calls: 6, weights: [0, 0.12, 1e-5, -0.15, -0.15, 2] });
    assert.deepEqual(actedPoints({ name: "", calls: 100, weights: [0, 1, 2] }), [
        [1, 0],
        [50, 1],
        [100, 2],
    ]);
    assert.deepEqual(actedPoints({ name: "", calls: 1, weights: [0.5] }), [[1, 0.5]]);
    for (const other of ["", "cat: weight at each of 6 U-Net calls", "cat: weight at each of 2 U-Net calls ▄▆ 0, x"])
        assert.equal(parseActedWeights(other), null);
});
