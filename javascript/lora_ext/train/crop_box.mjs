// The rectangle of a picture's crop: drawn, moved and resized within the picture, in any shape or a fixed aspect.

/** @typedef {[number, number, number, number]} Box left, top, width, height, in pixels of the picture */
/** @typedef {[number, number]} Pair a place, or width and height */

/** Least pixels of a side. */
const LEAST = 8;

/** @param {number} value @param {number} low @param {number} high */
const limited = (value, low, high) => Math.max(low, Math.min(high, value));

/** Width by height of the training's resolution, such as 512 or 512,768. @param {unknown} resolution */
export function trainingAspect(resolution) {
    const [width, height] = String(resolution ?? "").split(",", 2);
    const aspect = Number(width) / Number(height ?? width);
    return aspect > 0 && Number.isFinite(aspect) ? aspect : 1;
}

/**
 * Moves a box within the picture.
 * @param {Box} box
 * @param {number} dx
 * @param {number} dy
 * @param {Pair} size of the picture
 * @returns {Box}
 */
export const movedBox = ([left, top, width, height], dx, dy, size) => [
    limited(Math.round(left + dx), 0, size[0] - width),
    limited(Math.round(top + dy), 0, size[1] - height),
    width,
    height,
];

/**
 * A box from whatever was asked: whole pixels, in the picture, of the aspect (made smaller for it, about its centre).
 * @param {Box} box
 * @param {Pair} size of the picture
 * @param {number} aspect width by height, 0 for any
 * @returns {Box}
 */
export function fittedBox([left, top, wide, high], size, aspect) {
    let width = limited(wide, LEAST, size[0]),
        height = limited(high, LEAST, size[1]);
    if (aspect && width / height > aspect) width = height * aspect;
    else if (aspect) height = width / aspect;
    width = limited(Math.round(width), 1, size[0]);
    height = limited(Math.round(height), 1, size[1]);
    return movedBox([left + (wide - width) / 2, top + (high - height) / 2, width, height], 0, 0, size);
}

/**
 * The box between a corner that stays and one that is dragged.
 * @param {Pair} fixed
 * @param {Pair} dragged
 * @param {Pair} size of the picture
 * @param {number} aspect width by height, 0 for any
 * @returns {Box}
 */
export function cornerBox(fixed, dragged, size, aspect) {
    const left = dragged[0] < fixed[0],
        up = dragged[1] < fixed[1];
    const room = [left ? fixed[0] : size[0] - fixed[0], up ? fixed[1] : size[1] - fixed[1]];
    let width = Math.abs(dragged[0] - fixed[0]),
        height = Math.abs(dragged[1] - fixed[1]);
    if (aspect) {
        width = Math.min(Math.max(width, height * aspect), room[0], room[1] * aspect);
        height = width / aspect;
    }
    width = Math.min(width, room[0]);
    height = Math.min(height, room[1]);
    return fittedBox([left ? fixed[0] - width : fixed[0], up ? fixed[1] - height : fixed[1], width, height], size, 0);
}

/**
 * What an arrow key does to a box: moves it, with Shift resizes it; by 5 % of the side, with Alt by a pixel.
 * @param {{ key: string, altKey: boolean, shiftKey: boolean }} event
 * @param {Box} box
 * @param {Pair} size of the picture
 * @param {number} aspect
 * @returns {Box | null} null for any other key
 */
export function keyedBox({ key, altKey, shiftKey }, box, size, aspect) {
    const sign = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    if (!sign) return null;
    const [dx, dy] = sign.map((one, i) => one * (altKey ? 1 : Math.max(1, Math.round(size[i] / 20))));
    if (!shiftKey) return movedBox(box, dx, dy, size);
    const [left, top, width, height] = box;
    let wide = Math.max(LEAST, width + dx),
        high = Math.max(LEAST, height + dy);
    if (aspect && dx) high = wide / aspect;
    else if (aspect) wide = high * aspect;
    return cornerBox([left, top], [left + wide, top + high], size, aspect);
}
