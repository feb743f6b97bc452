// A curve of keyframes VALUE@PLACE as text and as points. The server's `weight_curve` has the same rules.

/** @typedef {"shares" | "steps" | "noise levels"} Places what the places are */
/** @typedef {{ place: number, value: number, easing: string }} Keyframe easing: how the curve comes to it */
/** @typedef {{ over: Places, keyframes: Keyframe[] }} WeightCurve keyframes in the order of time */

/** How a curve goes from one keyframe to the next. @type {Record<string, (share: number) => number>} */
export const EASINGS = {
    linear: (share) => share,
    "ease-in": (share) => share * share,
    "ease-out": (share) => share * (2 - share),
    cosine: (share) => 0.5 - 0.5 * Math.cos(Math.PI * share),
    step: () => 0,
};

const NUMBER = "[-+]?(?:\\d+\\.?\\d*|\\.\\d+)(?:[eE][-+]?\\d+)?";
const KEYFRAME = new RegExp(`^(${NUMBER})\\s*(?:[@~]\\s*([sS]?)(${NUMBER})(?:\\s+(\\S+))?)?$`);
/** The noise levels of Stable Diffusion, which the axis shows at least. */
const FIRST_SIGMA = 14.6,
    LAST_SIGMA = 0.03;
const SHOWN_STEPS = 20;
/** Points of a line between two keyframes. */
const POINTS = 24;

/**
 * A text's curve; a number alone is a curve of one keyframe. Null where the text is none.
 * @param {string} text
 * @returns {WeightCurve | null}
 */
export function parseCurve(text) {
    const keyframes = [];
    let levels = 0;
    const parts = text.split(/[,;]/).map((part) => part.trim());
    for (const part of parts.filter(Boolean)) {
        const match = KEYFRAME.exec(part);
        if (!match) return null;
        const [, value, sign, place, easing = "linear"] = match;
        if (!(easing.toLowerCase() in EASINGS)) return null;
        const found = {
            place: place === undefined ? 1 : Number(place),
            value: Number(value),
            easing: easing.toLowerCase(),
        };
        if (found.place < 0 || (sign && found.place === 0)) return null;
        levels += sign ? 1 : 0;
        keyframes.push(found);
    }
    if (!keyframes.length || (levels && levels < keyframes.length)) return null;
    const steps = !levels && Math.max(...keyframes.map(({ place }) => place)) > 1;
    const over = levels ? "noise levels" : steps ? "steps" : "shares";
    return sorted({ over, keyframes });
}

/**
 * When a keyframe is: it grows from the first to the last step. Noise levels are evenly spread in their logarithm.
 * @param {Places} over
 * @param {number} place
 */
export const timeOf = (over, place) => (over === "noise levels" ? -Math.log(place) : place);

/** The place at a time, in steps that a text can have. @param {Places} over @param {number} time */
export function placeAt(over, time) {
    if (over === "noise levels") return Number(Math.exp(-time).toPrecision(3));
    return over === "steps" ? Math.max(0, Math.round(time)) : Math.min(1, Math.max(0, Math.round(time * 100) / 100));
}

/**
 * Two keyframes at one place stay in their order: they are a jump.
 * @param {WeightCurve} curve
 * @returns {WeightCurve}
 */
export function sorted({ over, keyframes }) {
    return { over, keyframes: [...keyframes].sort((a, b) => timeOf(over, a.place) - timeOf(over, b.place)) };
}

/** @param {WeightCurve} curve */
export function formatCurve({ over, keyframes }) {
    const sign = over === "noise levels" ? "s" : "";
    const rows = keyframes.map(({ place, value, easing }) => {
        const ease = easing === "linear" ? "" : ` ${easing}`;
        return `${Number(value.toPrecision(6))}@${sign}${Number(place.toPrecision(6))}${ease}`;
    });
    return rows.join(", ");
}

/** Where the time axis begins and ends. @param {WeightCurve} curve @returns {[number, number]} */
export function timeAxis({ over, keyframes }) {
    if (over === "shares") return [0, 1];
    const places = keyframes.map(({ place }) => place);
    if (over === "steps") return [0, Math.max(SHOWN_STEPS, ...places)];
    return [-Math.log(Math.max(FIRST_SIGMA, ...places)), -Math.log(Math.min(LAST_SIGMA, ...places))];
}

/**
 * The curve as a line from the beginning to the end of the time axis.
 * @param {WeightCurve} curve
 * @returns {[number, number][]} time, value
 */
export function curveLine(curve) {
    const { over, keyframes } = curve,
        [begin, end] = timeAxis(curve);
    /** @type {[number, number][]} */
    const line = [[begin, keyframes[0].value]];
    keyframes.forEach(({ place, value, easing }, i) => {
        const time = timeOf(over, place);
        if (i > 0) {
            const before = keyframes[i - 1],
                start = timeOf(over, before.place);
            for (let n = 1; n < POINTS; n++) {
                const share = n / POINTS;
                const raised = EASINGS[easing](share) * (value - before.value);
                line.push([start + share * (time - start), before.value + raised]);
            }
            if (easing === "step") line.push([time, before.value]);
        }
        line.push([time, value]);
    });
    return [...line, [end, keyframes[keyframes.length - 1].value]];
}
