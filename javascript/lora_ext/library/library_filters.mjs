// The fields above the list of files: search, filters, order.
import { debounce } from "../core/debounce.mjs";
import { h, setChildren } from "../core/elements.mjs";
import { t } from "../core/strings.mjs";
import { select } from "../controls/basic.mjs";
import { folderTree } from "./folder_tree.mjs";
import { familyName } from "./lora_row.mjs";
import { nameSearch } from "./search_list.mjs";

/** @typedef {import("../api_types").LibraryPage} LibraryPage */

/**
 * A field that filters the list by one property of the files.
 * @param {"base" | "kind" | "rank" | "tag"} name
 * @param {string} any text of the option that shows all
 * @param {() => void} onchange
 */
function listFilter(name, any, onchange) {
    const element = select([["", any]], "", onchange, { "aria-label": any, title: t("Show only these") });
    return {
        name,
        element,
        /** Shows the values that there are, with their counts; the chosen one stays. */
        showFacets(/** @type {LibraryPage["facets"]} */ facets) {
            const chosen = element.value;
            const values = Object.entries(facets[name]).map(([value, count]) =>
                h("option", { value }, `${familyName(value)} (${count})`),
            );
            setChildren(element, h("option", { value: "" }, any), values);
            if (chosen && !(chosen in facets[name])) element.append(h("option", { value: chosen }, chosen));
            element.value = chosen;
        },
    };
}

/** Filters by what the user has marked. @param {() => void} onchange */
function markFilter(onchange) {
    const stars = [5, 4, 3, 2, 1].map((count) => /** @type {const} */ ([String(count), t("{0} stars or more", count)]));
    const any = t("any rating");
    return select([["", any], ["favourite", t("favourites")], ...stars], "", onchange, {
        "aria-label": any,
        title: t("Show only these"),
    });
}

/** @param {() => void} onchange */
const orderField = (onchange) =>
    select(
        [
            ["newest", t("newest first")],
            ["oldest", t("oldest first")],
            ["name", t("by name")],
            ["largest", t("largest first")],
            ["used", t("recently used")],
            ["rating", t("best rated")],
        ],
        "newest",
        onchange,
        { "aria-label": t("Order"), title: t("In which order files are listed") },
    );

/** @param {() => void} onchange */
export function listFilters(onchange) {
    const search = nameSearch();
    search.addEventListener("input", debounce(180, onchange));
    const filters = [
        listFilter("base", t("any base"), onchange),
        listFilter("kind", t("any kind"), onchange),
        listFilter("rank", t("any rank"), onchange),
        listFilter("tag", t("any tag"), onchange),
    ];
    const marks = markFilter(onchange);
    const sort = orderField(onchange);
    const folders = folderTree(onchange);
    return {
        elements: [search, filters.map(({ element }) => element), marks, sort],
        folders: folders.element,
        query: () => ({
            search: search.value,
            sort: sort.value,
            folder: folders.get(),
            favourite: marks.value === "favourite" || null,
            rating: Number(marks.value) || null,
            ...Object.fromEntries(filters.map(({ name, element }) => [name, element.value])),
        }),
        /** Shows what there is to filter by. */
        showFacets(/** @type {LibraryPage["facets"]} */ facets) {
            for (const filter of filters) filter.showFacets(facets);
            folders.show(facets.folder);
        },
        /** Searches for one name among all files. */
        searchFor(/** @type {string} */ name) {
            search.value = name;
            for (const element of [...filters.map((filter) => filter.element), marks]) element.value = "";
            folders.clear();
        },
    };
}
