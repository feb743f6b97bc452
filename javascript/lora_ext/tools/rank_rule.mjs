// How ranks are chosen, for resize and extract: the same for every layer, or by its singular values.
import { h, setChildren } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";
import { grid, segments, stack } from "../controls/basic.mjs";
import { rangeField } from "../controls/range_field.mjs";

/** @typedef {{ min: number, max: number, step: number, value: number }} Limits of a method's own number */
/** @typedef {{ title: string, tip: string, param?: Limits }} RankRule */

/** @returns {Record<string, RankRule>} the name is the API's `dynamic_method` */
const rankRules = () => ({
    fixed: { title: t("fixed rank"), tip: t("Every layer gets this rank") },
    sv_fro: {
        title: t("keep a share"),
        tip: t("Each layer keeps this share of its strength"),
        param: { min: 0.05, max: 1, step: 0.01, value: 0.9 },
    },
    sv_ratio: {
        title: t("cut small values"),
        tip: t("Each layer keeps singular values above the largest divided by this"),
        param: { min: 1.5, max: 50, step: 0.5, value: 5 },
    },
    sv_cumulative: {
        title: t("keep a sum"),
        tip: t("Each layer keeps this share of the sum of its singular values"),
        param: { min: 0.05, max: 1, step: 0.01, value: 0.9 },
    },
});

/**
 * @param {() => void} onchange called after each change, to a right or a wrong value
 * @param {number} max the greatest rank
 */
export function rankRuleField(onchange, max) {
    const rules = rankRules();
    let method = "fixed";
    /** @type {ReturnType<typeof rangeField> | null} */
    let param = null;
    const rank = rangeField(t("Rank"), {
        min: 1,
        max,
        step: 1,
        value: Math.min(16, max),
        oninput: onchange,
        onwrong: onchange,
        tip: t("Larger keeps more and makes a larger file. With the other methods it is the highest rank" + " allowed"),
    });
    const place = h("div", {});
    const ways = segments(
        Object.entries(rules).map(
            ([name, { title, tip }]) => /** @type {[string, string, string]} */ ([name, title, tip]),
        ),
        "fixed",
        (to) => {
            method = to;
            const { title, tip, param: limits } = rules[to];
            param = limits ? rangeField(title, { ...limits, tip, oninput: onchange, onwrong: onchange }) : null;
            setChildren(place, param);
            onchange();
        },
        t("How the rank is chosen"),
    );
    return {
        element: stack(ways, grid(rank, place)),
        rank,
        get: () => ({ dynamic_method: method === "fixed" ? null : method, dynamic_param: param ? param.get() : null }),
    };
}
