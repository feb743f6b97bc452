// Which files of the list are selected.

/** Names of selected files. It is on while a click on a file selects instead of showing it. */
export class Selection {
    /** @type {Set<string>} */
    names = new Set();
    isOn = false;
    /** Where a range begins: the file that was clicked last. */
    anchor = "";

    /** @param {() => void} onchange */
    constructor(onchange) {
        this.onchange = onchange;
    }

    /** @param {boolean} on */
    switch(on) {
        this.isOn = on;
        this.anchor = "";
        if (!on) this.names.clear();
        this.onchange();
    }

    /** Selects a file, or takes it out. @param {string} name */
    toggle(name) {
        this.isOn = true;
        if (!this.names.delete(name)) this.names.add(name);
        this.anchor = name;
        this.onchange();
    }

    /** @param {Iterable<string>} names */
    set(names) {
        this.names = new Set(names);
        this.onchange();
    }

    /**
     * Selects all files from the anchor to another one.
     * @param {string} name
     * @param {string[]} inOrder all names of the list
     */
    extendTo(name, inOrder) {
        const ends = [inOrder.indexOf(this.anchor), inOrder.indexOf(name)];
        if (ends.includes(-1)) return this.toggle(name);
        for (const one of inOrder.slice(Math.min(...ends), Math.max(...ends) + 1)) this.names.add(one);
        return this.onchange();
    }
}
