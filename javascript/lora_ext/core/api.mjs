// Calls of the API.
import { page } from "./page.mjs";
import { t } from "./strings.mjs";

/** Where the API is: the modules themselves come from it, so this holds below any path that a proxy adds. */
const API = new URL("../..", import.meta.url).pathname;

/** @typedef {Record<string, string | number | boolean | null | undefined>} Query "" and null are left out */
/** @typedef {import("../api_types").Answers} Answers */
/**
 * What a route answers; `any` where the path has a name in it.
 * @template {string} Route method and path
 * @typedef {Route extends keyof Answers ? Answers[Route] : any} Answer
 */

/**
 * The address of a route, for `fetch`, pictures and links.
 * @param {string} path begins with a slash
 * @param {Query} [query]
 */
export function apiUrl(path, query = {}) {
    const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
    const parameters = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
    return `${API}${path.slice(1)}${given.length ? `?${parameters}` : ""}`;
}

/**
 * Calls the API. The error that it throws has the server's own words.
 * @template {string} Path
 * @template {string} [Method="GET"]
 * @param {Path} path
 * @param {{ method?: Method, body?: unknown, query?: Query, signal?: AbortSignal }} [options]
 * @returns {Promise<Answer<`${Method} ${Path}`>>}
 */
export async function api(path, { method, body, query, signal } = {}) {
    const cut = (/** @type {unknown} */ error) =>
        isAbort(error) ? error : new Error(t("The program does not answer. Is it still running?"), { cause: error });
    let response;
    try {
        response = await fetch(apiUrl(path, query), {
            method: method || "GET",
            signal: signal || null,
            credentials: "same-origin",
            headers: {
                "X-Lora-Ext": page.root.dataset.token || "",
                ...(body ? { "Content-Type": "application/json" } : {}),
            },
            body: body ? JSON.stringify(body) : null,
        });
    } catch (error) {
        throw cut(error);
    }
    const answer = await response.json().catch((error) => {
        if (error instanceof SyntaxError) return {}; // no JSON, as what a proxy answers
        throw cut(error); // given up, or cut off, while it was read
    });
    if (response.ok) return answer;
    throw Object.assign(new Error(answer.error || `${response.status} ${response.statusText}`), answer);
}

/**
 * @template {string} Path
 * @param {Path} path
 * @param {unknown} [body]
 * @returns {Promise<Answer<`POST ${Path}`>>}
 */
export const post = (path, body) => api(path, { method: "POST", body });

/**
 * Whether an error only says that a request was given up for a newer one.
 * @param {unknown} error
 */
export const isAbort = (error) => error instanceof Error && error.name === "AbortError";
