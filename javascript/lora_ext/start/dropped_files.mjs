// Files that were dropped, pasted or chosen, with the folders that they came in.

/** @typedef {{ file: File, name: string }} NamedFile name: with the folders, in front of slashes */

/** What systems put into folders by themselves. */
const SYSTEM_FILES = ["thumbs.db", "desktop.ini"];

/** @param {NamedFile} file */
const isWanted = ({ name }) => {
    const last = (name.split("/").pop() || "").toLowerCase();
    return !last.startsWith(".") && !SYSTEM_FILES.includes(last);
};

/**
 * Without those that systems add, in the order of their names.
 * @param {NamedFile[]} files
 */
export const wantedFiles = (files) =>
    files.filter(isWanted).sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));

/** The files of an input or of the clipboard. @param {Iterable<File>} files */
export const namedFiles = (files) =>
    wantedFiles([...files].map((file) => ({ file, name: file.webkitRelativePath || file.name })));

/** All entries of a folder: a browser gives them in parts. @param {FileSystemDirectoryEntry} folder */
async function entriesOf(folder) {
    const reader = folder.createReader();
    /** @type {FileSystemEntry[]} */
    const all = [];
    for (;;) {
        const some = await new Promise((done, failed) => reader.readEntries(done, failed));
        if (!some.length) return all;
        all.push(...some);
    }
}

/**
 * The files of an entry, of a folder those below it too.
 * @param {FileSystemEntry} entry
 * @param {string} path of its folder, "" or ending in a slash
 * @returns {Promise<NamedFile[]>}
 */
async function filesOf(entry, path) {
    if (entry.isFile) {
        const one = /** @type {FileSystemFileEntry} */ (entry);
        const file = /** @type {File} */ (await new Promise((done, failed) => one.file(done, failed)));
        return [{ file, name: path + file.name }];
    }
    const inside = await entriesOf(/** @type {FileSystemDirectoryEntry} */ (entry));
    const files = [];
    for (const one of inside) files.push(...(await filesOf(one, `${path}${entry.name}/`)));
    return files;
}

/**
 * The files of a drop, with those in folders. It reads the entries at once: later a browser has none.
 * @param {DataTransfer} data
 * @returns {Promise<NamedFile[]>}
 */
export async function droppedFiles(data) {
    const entries = [...data.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
    const files = [...data.files];
    if (!entries.length || entries.some((entry) => !entry)) return namedFiles(files);
    const found = [];
    for (const entry of entries) found.push(...(await filesOf(/** @type {FileSystemEntry} */ (entry), "")));
    return wantedFiles(found);
}
