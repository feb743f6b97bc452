// English texts that read otherwise for one thing. Japanese and Chinese have one form for every number.

/** Text with {0} things → the text for one. @type {Record<string, string>} */
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
};
