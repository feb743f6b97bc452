/* eslint max-len: "off" -- a sentence stands in one line, as in the program */
// What the server says in English, as the page says it: in its language, and with its controls instead of options of
// the command line. Sentences that are not here are shown as they are.
import { t } from "./strings.mjs";

/** The server's sentences; each {0}, {1}, … is any text. A test compares them with the program. */
const SAME = [
    "{0} already exists; choose another name",
    "{0} is part of this installation and cannot be changed; merge or resize it into a new file",
    "{0} is not a picture",
    "a picture of {0}×{1} is too large; give at most {2} million pixels",
    "the file is not a PNG, JPEG or WebP picture",
    "it is not a picture that the installed Pillow can decode",
    "it is encrypted",
    "it is damaged in the zip",
    "it is no zip, or a damaged one",
    "it was not sent",
    "the file is too large; give at most {0} MiB",
    "there is no picture of this name",
    "its picture has a caption already",
    "a caption has at most {0} bytes",
    "the disk of {0} is nearly full; free some space first",
    "the upload cannot be saved: {0}",
    "the zips unfold to more than {0} MiB",
    "an upload has at most {0} files and {1} MiB; send it in parts",
    "a preset {0} already exists; choose another name",
    "{0} cannot be a preset's name: it is a number",
    "{0} cannot be a preset's name: give 1 to {1} characters without spaces, : , < >",
    "{0} cannot be a preset's name: give 1 to {1} characters",
    "no line has the form NAME:1,0,1,…",
    "there are {0} presets already; delete one first",
    "{0} is not a valid name: give it relative to its folder, without ..",
    "the name {0}… is too long",
    "the text to find is empty",
    "the tag is empty",
    "the text has no <lora:…> tag",
    "{0} has no pictures to train on; put them in it, or in folders named such as '10_my concept' (10 repeats); pictures end in {1}",
    "none of the {0} pictures can be read; the first: {1}",
    "output_name {0} must be a name without folders",
    "this run is not at work",
    "this run has no sample prompts",
    "{0} cannot be read: {1}",
    "{0} cannot be written: {1}",
    "these files have no layer in common, nothing was merged: {0}",
    "{0} and {1} are equal in all {2} layers; there is nothing to extract",
    "no layer of {0} has a rank to change ({1})",
    "every layer of {0} has weight 0; nothing would be left",
    "{0} has no LoRA layer to split ({1})",
    "no LoRA is called {0}{1}",
    "there is no checkpoint {0}",
    "{0} are {1} cells; a sheet has at most {2}",
    "{0} was not loaded: it wants to run {1}, and only tensors are read; a .safetensors file of it is safe",
    "{0} is empty (0 bytes); download it again",
    "{0} contains NaN or infinity (first in {1})",
    "{0} cannot be renamed: another program has {1} open (the web UI, if it has used it); close it there and try again, nothing was changed",
    "{0} cannot be renamed: {1}",
    "{0} cannot be renamed: its alpha is in {1} beside it; rename the folder, or convert the file to one that holds its alpha",
    "files are deleted into the system's bin, which needs {0}: pip install {1} (in the web UI with its own Python), then start the program again; nothing was deleted",
    "{0} cannot be deleted here: {1} beside it belongs to it",
    "{0} cannot be moved to the bin: {1}",
    "{0} would have more than {1} tags; remove some first",
    "{0} is not a tag: give 1 to {1} characters without commas",
    "there is no set {0}{1}",
    "{0} cannot be a set's name: give 1 to {1} characters",
    "there would be more than {0} sets; delete some first",
    "the file has no sets: it is not JSON ({0})",
    "the set {0} has no tags that can be read; nothing was imported",
    "the picture does not say how it was made: it has no infotext",
    "a set {0} already exists; rename or delete it first, nothing was imported",
    "a set has at most {0} tags",
    "{0} is not a safetensors file; convert it first",
];

/** Those that name options of the command line, and what they are on the page. @type {[string, string][]} */
const FOR_THE_PAGE = [
    [
        "{0} exists; choose another name or give --overwrite",
        "{0} exists; choose another name, or tick “replace a file of this name”",
    ],
    [
        "{0} is one of the inputs; choose another name or give --overwrite",
        "{0} is one of the inputs; choose another name, or tick “replace a file of this name”",
    ],
    [
        "there are no pictures to train on: set train_data_dir to a folder of pictures or of N_concept folders",
        "there are no pictures to train on: choose a picture folder",
    ],
    [
        "{0} does not say its unit; give --unit, the step between ranks, such as 4",
        "{0} does not say its unit: enter the step between ranks, such as 4",
    ],
    [
        "which LoRA is meant? Put <lora:name:1> into the prompt, or name it with --lora",
        "which LoRA is meant? Choose one, or put <lora:name:1> into the prompt",
    ],
];

/** @param {string} sentence */
function pattern(sentence) {
    const literal = sentence.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    return new RegExp(`^${literal.replace(/\\\{\d\\\}/g, "(.+?)")}$`, "s");
}

/** @type {{ pattern: RegExp, shown: string }[]} the longest first, since a shorter one may fit its sentences too */
const sentences = [...SAME.map((sentence) => [sentence, sentence]), ...FOR_THE_PAGE]
    .sort(([a], [b]) => b.length - a.length)
    .map(([sentence, shown]) => ({ pattern: pattern(sentence), shown }));

/**
 * A sentence of the server's in the page's words.
 * @param {string} text
 */
export function pageWords(text) {
    for (const { pattern: fits, shown } of sentences) {
        const match = fits.exec(text);
        if (match) return t(shown, ...match.slice(1));
    }
    return text;
}
