// English texts that read otherwise for one thing. Japanese and Chinese have one form for every number.

/** Text with {0} things → the text for one, as the program says it too. @type {Record<string, string>} */
export const SINGULAR = {
    "{0} captions came with them": "{0} caption came with them",
    "{0} pictures added": "{0} picture added",
    "{0} pictures have no caption with the trigger word": "{0} picture has no caption with the trigger word",
    "{0} pictures": "{0} picture",
    "{0} files": "{0} file",
    "All {0} entries": "The only entry",
    "{0} layers only in {1}": "{0} layer only in {1}",
    "{0} keys of {1} were not understood": "{0} key of {1} was not understood",
    "{0} layers of {1} were left out": "{0} layer of {1} was left out",
    "{0} layers stayed as they were": "{0} layer stayed as it was",
    "Stopped and saved after {0} steps.": "Stopped and saved after {0} step.",
    "{0} steps in {1}.": "{0} step in {1}.",
    "{0} steps": "{0} step",
    "{0} pictures have no caption": "{0} picture has no caption",
    "{0} captions would change": "{0} caption would change",
    "{0} captions changed": "{0} caption changed",
    "{0} captions written": "{0} caption written",
    "Stopped: {0} captions written": "Stopped: {0} caption written",
    "{0} pictures have a caption already": "{0} picture has a caption already",
    "{0} numbers; a file takes 12, 17, 20, 25 or 26.": "{0} number; a file takes 12, 17, 20, 25 or 26.",
    "{0} presets read": "{0} preset read",
    "{0} columns": "{0} column",
    "{0} rows": "{0} row",
    "Move {0} files, and what lies beside them, to the system's bin?":
        "Move {0} file, and what lies beside it, to the system's bin?",
    "Remove the metadata of {0} files? This cannot be undone.":
        "Remove the metadata of {0} file? This cannot be undone.",
    "Saved beside {0} files": "Saved beside {0} file",
    "{0} files are in the bin": "{0} file is in the bin",
    "{0} files done": "{0} file done",
    "{0} files marked": "{0} file marked",
    "{0} files moved": "{0} file moved",
    "{0} files moved back": "{0} file moved back",
    "{0} jobs were started; Jobs shows all of them": "{0} job was started; Jobs shows all of them",
    "{0} stars or more": "{0} star or more",
    "In {0} captions; shows their pictures": "In {0} caption; shows its picture",
    "{0} settings of {1} are in the form.": "{0} setting of {1} is in the form.",
    "Move {0} files to the bin": "Move {0} file to the bin",
    "{0} groups of files that hold the same network, found among {1} files":
        "{0} group of files that hold the same network, found among {1} files",
    "{0} files were compared by their bytes alone: unreadable, or tied to a base model.":
        "{0} file was compared by its bytes alone: unreadable, or tied to a base model.",
    "; the {0} captions written before stay": "; the {0} caption written before stays",
    "{0} bytes are too few for a header": "{0} byte is too few for a header",
    "the last {0} bytes belong to no tensor": "the last {0} byte belongs to no tensor",
    "{0} bytes before {1} belong to no tensor": "{0} byte before {1} belongs to no tensor",
    "{0} damaged layers of {1} left out: {2}": "{0} damaged layer of {1} left out: {2}",
    "WARNING: {0} damaged layers are skipped, the others apply: {1}.":
        "WARNING: {0} damaged layer is skipped, the others apply: {1}.",
    "{0} layers need the base model's weights and stay as they are":
        "{0} layer needs the base model's weights and stays as it is",
    "{0} layers need the base model's weights or have no rank, and stay as they are":
        "{0} layer needs the base model's weights or has no rank, and stays as it is",
    "{0} layers need the base model's weights and are left out; merging into a checkpoint can merge them":
        "{0} layer needs the base model's weights and is left out; merging into a checkpoint can merge it",
    "; {0} files are indexed below {1}": "; {0} file is indexed below {1}",
    "; {0} pictures have one (--overwrite replaces them)": "; {0} picture has one (--overwrite replaces them)",
    "{0} entries were not understood, such as {1}": "{0} entry was not understood: {1}",
    "{0} training runs are among the LoRA files{1}": "{0} training run is among the LoRA files{1}",
    "{0} pictures are cropped by hand": "{0} picture is cropped by hand",
    "{0} pictures are kept apart for validation": "{0} picture is kept apart for validation",
    "{0} pictures are much smaller than their bucket and become blurred; set a lower resolution":
        "{0} picture is much smaller than its bucket and becomes blurred; set a lower resolution",
    "{0} pictures directly in {1} are not used, because it has folders such as {2}":
        "{0} picture directly in {1} is not used, because it has folders such as {2}",
    "{0} pictures have a painted mask; what it leaves out is not learned":
        "{0} picture has a painted mask; what it leaves out is not learned",
    "{0} pictures have neither a caption nor a folder such as '10_concept'; they get an empty one":
        "{0} picture has neither a caption nor a folder such as '10_concept'; it gets an empty one",
    "{0} pictures have no mask; their whole area is trained": "{0} picture has no mask; its whole area is trained",
    "and {0} more such pictures": "and {0} more such picture",
    "none of the {0} pictures can be read; the first: {1}": "the only picture cannot be read: {1}",
    "skipped: {0} more pictures that cannot be read": "skipped: {0} more picture that cannot be read",
    "{0}: {1} layers have another size than the checkpoint's and are left out, such as {2}":
        "{0}: {1} layer has another size than the checkpoint's and is left out: {2}",
    "Overfitting: {0} of {1} pictures are nearly copies of training pictures: {2}.":
        "Overfitting: {0} of {1} pictures is nearly a copy of a training picture: {2}.",
    "{0}: {1} of {2} layers are not measured, since their change depends on the base model's weights ({3})":
        "{0}: {1} of {2} layers is not measured, since its change depends on the base model's weights ({3})",
    "{0}: weight at each of {1} U-Net calls {2} {3}": "{0}: weight at the only U-Net call {2} {3}",
    "{0} of another size, such as {1}": "{0} of another size: {1}",
};

const THINGS = [
    ..."batch byte caption column epoch file group key layer number pair part picture".split(" "),
    ..."prompt region repeat row sample step tag tensor token value weight".split(" "),
];
/** What longer texts count. Where a verb follows, which has a form of its own, the text stands above. */
export const COUNTED = new RegExp(`(\\{(\\d)\\} (?:${THINGS.join("|")}))e?s\\b(?! (?:are|have|need|were)\\b)`, "g");

/**
 * An English text with the right words for one thing.
 * @param {string} text
 * @param {(string | number)[]} values
 */
export function englishFor(text, values) {
    // counted is the first value, but for a name before a colon
    const [, counted] = /\{(\d)\}(?!:)/.exec(text) || [];
    const whole = (counted && Number(values[Number(counted)]) === 1 && SINGULAR[text]) || text;
    return whole.replace(COUNTED, (many, one, place) => (Number(values[place]) === 1 ? one : many));
}
