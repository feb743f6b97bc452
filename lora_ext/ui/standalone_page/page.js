// The standalone page's theme: the system's, or what ?__theme=dark (or light) asks for, as in the web UI.
"use strict";
(() => {
    const asked = new URLSearchParams(location.search).get("__theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const show = () => document.documentElement.classList.toggle("dark", asked ? asked === "dark" : system.matches);
    system.addEventListener("change", show);
    show();
})();
