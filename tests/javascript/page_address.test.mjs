import assert from "node:assert/strict";
import { test } from "node:test";
import { formatPlace, parsePlace } from "../../javascript/lora_ext/core/page_address.mjs";
import { UndoHistory } from "../../javascript/lora_ext/controls/undo.mjs";

test("a place is the same after it was written into the address", () => {
    for (const item of ["", "cat", "folder/cat", "a b/ü%2F#?&", "日本/語"]) {
        assert.deepEqual(parsePlace(formatPlace({ panel: "files", item })), { panel: "files", item });
    }
    assert.equal(formatPlace({ panel: "weights", item: "style/my cat" }), "#lora/weights/style/my%20cat");
});

test("other fragments are no places", () => {
    for (const fragment of ["", "#", "#top", "#lora", "#lora/%", "#lora/files/%E0%A4%A"]) {
        assert.equal(parsePlace(fragment), null);
    }
});

/** A history with states that are noted one second apart. @param {string[]} states */
function historyOf(...states) {
    const history = new UndoHistory();
    states.forEach((state, second) => history.note(state, 1000 * second));
    return history;
}

test("undo and redo go through the states, and a change ends what could be redone", () => {
    const history = historyOf("a", "b", "c");
    assert.deepEqual([history.undo(), history.undo(), history.undo()], ["b", "a", null]);
    assert.deepEqual([history.redo(), history.redo(), history.redo()], ["b", "c", null]);
    history.undo();
    history.note("d", 9000);
    assert.equal(history.redo(), null);
    assert.deepEqual([history.undo(), history.undo()], ["b", "a"]);
});

test("changes in quick succession are one, and the same state is no change", () => {
    const history = historyOf("a");
    for (const [i, state] of ["b", "c", "c", "d"].entries()) history.note(state, 5000 + 100 * i);
    assert.equal(history.undo(), "a");
    assert.equal(history.redo(), "d");
    history.note("e", 5500); // not joined with what was redone
    assert.deepEqual([history.undo(), history.undo()], ["d", "a"]);
});
