// Rules for the page's modules: limits of length, and what eslint holds for mistakes.
import js from "@eslint/js";
import globals from "globals";

const lengths = {
    "max-len": ["error", { code: 120 }],
    "max-lines": ["error", { max: 320 }],
    "max-lines-per-function": ["error", { max: 40, skipComments: true, skipBlankLines: true }],
};

export default [
    js.configs.recommended,
    {
        files: ["javascript/**/*.mjs"],
        languageOptions: { ecmaVersion: 2022, sourceType: "module", globals: globals.browser },
        rules: {
            ...lengths,
            eqeqeq: "error",
            "no-implicit-globals": "error",
            "no-shadow": "error",
            "no-var": "error",
            "object-shorthand": "error",
            "prefer-const": "error",
            "no-restricted-properties": [
                "error",
                { property: "innerHTML", message: "Text of files must stay text." },
                { property: "outerHTML", message: "Text of files must stay text." },
                { property: "insertAdjacentHTML", message: "Text of files must stay text." },
            ],
        },
    },
    {
        files: ["tests/javascript/**/*.mjs"],
        languageOptions: { ecmaVersion: 2022, sourceType: "module", globals: globals.node },
        rules: lengths,
    },
];
