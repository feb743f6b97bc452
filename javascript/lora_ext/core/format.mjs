// Numbers in words.
import { t } from "./strings.mjs";

/** @param {number} size in bytes */
export function formatBytes(size) {
    if (size >= 1e9) return `${(size / 1e9).toFixed(2)} GB`;
    if (size >= 1e6) return `${(size / 1e6).toFixed(1)} MB`;
    return `${Math.max(1, Math.round(size / 1e3))} KB`;
}

/**
 * A share as a percentage. Less than all is never shown as 100 %.
 * @param {number} share 0 to 1
 */
export function formatPercent(share) {
    const text = (100 * share).toFixed(2);
    return share < 0.999999 && text === "100.00" ? "99.99 %" : `${text.replace(/\.?0+$/, "")} %`;
}

/** @param {number} seconds */
export function formatDuration(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 60) return t("{0} s", whole);
    if (whole < 3600) return t("{0} min {1} s", Math.floor(whole / 60), whole % 60);
    const minutes = Math.round(whole / 60);
    return t("{0} h {1} min", Math.floor(minutes / 60), minutes % 60);
}

/** A duration that is not known exactly: minutes without seconds. @param {number} seconds */
export const formatRoughDuration = (seconds) =>
    seconds < 90 || seconds >= 3570 ? formatDuration(seconds) : t("{0} min", Math.round(seconds / 60));

/** @param {number} seconds since 1970 */
export function formatDate(seconds) {
    return new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

/**
 * A weight with at most three decimals, as a tag has it.
 * @param {number} value
 */
export const formatWeight = (value) => String(Math.round(value * 1000) / 1000);
