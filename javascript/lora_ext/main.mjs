// The tab: its core, the parts that panels share, and every panel.
import "./core.mjs";
import "./blocks.mjs";
import "./compare.mjs";
import "./files.mjs";
import "./generate.mjs";
import "./numbers.mjs";
import "./parts.mjs";
import "./tools.mjs";
import "./train.mjs";
import "./waiting.mjs";
import "./weights.mjs";
