// Draws the pictures of docs/reuse.md, docs/images/reuse-*.svg, from what the command prints of examples/reuse:
//   npm run build && node scripts/reuse-pictures.mjs
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** What a command prints of each prompt of a file, JSON lines. */
function ask(command, file, ...flags) {
  const args = [
    join(root, "dist/cli/main.js"),
    command,
    "--model",
    join(root, "models/tiny-rag"),
    "--input",
    join(root, "examples/reuse", file),
    "--json",
  ];
  const options = { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] };
  return execFileSync(process.execPath, [...args, ...flags], options)
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}

const answersOf = (file, mode) => ask("generate", file, "--mode", mode, "--threads", "1", "--max-tokens", "40");

const passages = { A: "Into the Wild is a", B: "Sean Penn (born", C: "The Lost Daughter is a" };

/** The blocks of a prompt with the names that the pictures have for them. */
function named(blocks) {
  let numGlobal = 0;
  return blocks.map(({ text, tokens, kind }, i) => {
    const passage = Object.keys(passages).find((name) => text.includes(passages[name]));
    const ofTurn = numGlobal % 2 === 0 ? "question" : "answer";
    const global = () => `${ofTurn} ${1 + Math.floor(numGlobal++ / 2)}`;
    const name = kind === "global" ? global() : i === 0 ? "text" : (passage ?? text.trim());
    return { name, tokens, kind };
  });
}

const style = `text{fill:#475569}.title{font-size:14px;font-weight:600}.small{font-size:11px}rect{stroke:#94a3b8}
.computed{fill:#f59e0b;fill-opacity:.45}.blocks{fill:#10b981;fill-opacity:.4}.pages{fill:#3b82f6;fill-opacity:.4}.unseen{fill:none;stroke-opacity:.35}
@media(prefers-color-scheme:dark){text{fill:#cbd5e1}}`;
const text = (x, y, words, more = "") => `<text x="${x}" y="${y}"${more}>${words.replaceAll("<", "&lt;")}</text>`;
const box = (x, y, width, height, kind) =>
  `<rect class="${kind}" x="${x.toFixed(1)}" y="${y}" width="${width.toFixed(1)}" height="${height}"/>`;
const middle = ' text-anchor="middle"';

function draw(name, title, width, height, parts) {
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" font-family="sans-serif" font-size="12">`,
    `<title>${title}</title>`,
    `<style>${style}</style>`,
    text(16, 24, title, ' class="title"'),
    ...parts,
    "</svg>",
  ];
  const path = join(root, `docs/images/reuse-${name}.svg`);
  writeFileSync(path, `${lines.join("\n")}\n`);
  console.log(`Drawn: ${path}`);
}

/** Boxes with the colours' meanings. */
function legend(x, y, names) {
  return Object.entries(names).flatMap(([kind, words], i) => [
    box(x + i * 190, y - 10, 12, 12, kind),
    text(x + i * 190 + 18, y, words, ' class="small"'),
  ]);
}

/** Who sees whom: a row for each block that sees, a column for each that is seen. */
function drawSpans() {
  const blocks = named(ask("segment", "turns.jsonl")[1].blocks);
  const [size, left, top] = [34, 170, 92];
  const rows = blocks.flatMap(({ name, kind }, i) => {
    const y = top + i * size;
    const cells = blocks.slice(0, i + 1).map((_, k) => {
      const x = left + k * size;
      const fill = kind === "local" ? "blocks" : "pages";
      if (k === i) return `<path class="${fill}" d="M${x} ${y}v${size}h${size}z"/>${box(x, y, size, size, "unseen")}`;
      return box(x, y, size, size, kind === "local" ? "unseen" : fill);
    });
    return [text(left - 10, y + 21, `${name}, ${kind}`, ' text-anchor="end"'), ...cells];
  });
  const columns = blocks.map(({ name }, i) => {
    const at = `${left + i * size + 20} ${top - 8}`;
    return `<text transform="translate(${at}) rotate(-35)">${name}</text>`;
  });
  const x = left + blocks.length * size + 30;
  const notes = [
    "Block mode: a local span sees itself alone,",
    "so its keys and values fit any prompt.",
    "A global span sees all before it: they fit a",
    "prompt that begins with the same spans.",
    "",
    "Full mode: every row is like the last one.",
  ].map((words, i) => text(x, top + 30 + i * 20, words));
  draw("spans", "Who sees whom: a prompt of two turns over passages A, B, C", 720, top + blocks.length * size + 20, [
    ...columns,
    ...rows,
    ...notes,
  ]);
}

/** A bar of pieces, each with its tokens and where it came from. */
function bar(y, label, pieces, scale) {
  let x = 16;
  const total = pieces.reduce((sum, { tokens }) => sum + tokens, 0);
  const computed = pieces.reduce((sum, { kind, tokens }) => sum + (kind === "computed" ? tokens : 0), 0);
  const boxes = pieces.flatMap(({ name, tokens, kind }) => {
    const width = tokens * scale;
    const at = x + width / 2;
    x += width;
    const words = width > 5 + 4.8 * name.length ? [text(at.toFixed(1), y + 30, name, `${middle} class="small"`)] : [];
    const count = width > 16 ? [text(at.toFixed(1), y + 45, `${tokens}`, `${middle} class="small"`)] : [];
    return [box(x - width, y + 14, width, 38, kind), ...words, ...count];
  });
  return [text(16, y + 6, `${label}: ${computed} of ${total} tokens computed`), ...boxes];
}

/** A block-mode prompt's pieces, coloured by what an answer says of its blocks. */
function piecesOf(blocks, { blocks: served, usage }) {
  let local = 0;
  let pages = usage.reused.prefix + usage.reused.conversation;
  return named(blocks).flatMap(({ name, tokens, kind }) => {
    if (kind === "local") return [{ name, tokens, kind: served[local++].hit ? "blocks" : "computed" }];
    const reused = Math.min(pages, tokens);
    pages -= reused;
    const both = [
      { name, tokens: reused, kind: "pages" },
      { name, tokens: tokens - reused, kind: "computed" },
    ];
    return both.filter((piece) => piece.tokens > 0);
  });
}

/** A full-mode prompt's pieces: what it begins with, as an earlier one did, and the rest. */
function wholeOf({ usage: { prompt_tokens, cached_tokens } }) {
  const both = [
    { name: "as before", tokens: cached_tokens, kind: "pages" },
    { name: cached_tokens === 0 ? "all of it" : "the rest", tokens: prompt_tokens - cached_tokens, kind: "computed" },
  ];
  return both.filter(({ tokens }) => tokens > 0);
}

const colours = { computed: "computed", blocks: "reused: a block", pages: "reused: the prompt's beginning" };

function drawBars(name, file, title, labels) {
  const cuts = ask("segment", file);
  const modes = [answersOf(file, "block").map((answer, i) => piecesOf(cuts[i].blocks, answer))];
  modes.push(answersOf(file, "full").map(wholeOf));
  const scale = 720 / Math.max(...modes.flat().map((pieces) => pieces.reduce((sum, { tokens }) => sum + tokens, 0)));
  const bars = modes.flatMap((prompts, m) =>
    prompts.flatMap((pieces, i) =>
      bar(52 + (2 * m + i) * 74, `${["Block", "Full"][m]} mode, ${labels[i]}`, pieces, scale),
    ),
  );
  draw(name, title, 752, 380, [...bars, ...legend(16, 362, colours)]);
}

drawSpans();
drawBars("turns", "turns.jsonl", "Turn by turn, over passages A, B, C", ["turn 1", "turn 2"]);
drawBars("order", "order.jsonl", "Passages in a string, and the same in another order", ["first prompt", "reversed"]);
