import type { Terminal } from "./terminal.js";

/** A stretch of text that is painted in one colour, under a head. */
export interface PaintedPart {
  readonly kind: "local" | "global" | "final" | "response";
  readonly text: string;
  readonly tokens: number;
}

/** Blocks in turning colours, each under its name and number of tokens, then their sum. Lines end in a newline. */
export function paintBlocks(parts: readonly PaintedPart[], { colors }: Pick<Terminal, "colors">): string {
  const inks = [colors.cyan, colors.green, colors.yellow, colors.magenta, colors.blue];
  const names = { global: "global block", final: "final block", response: "response" };
  const painted = parts.map(({ kind, text, tokens }, i) => {
    const ink = kind === "local" ? (inks[i % inks.length] as (text: string) => string) : colors.bold;
    const name = kind === "local" ? `block ${i + 1}` : names[kind];
    const head = `[${name}: ${tokens} ${tokens === 1 ? "token" : "tokens"}]`;
    // Each line on its own: a colour that runs over line ends is lost in pagers.
    const lines = cleanText(text).split("\n");
    return `${colors.dim(head)}\n${lines.map((line) => (line === "" ? "" : ink(line))).join("\n")}\n`;
  });
  const total = parts.reduce((sum, { tokens }) => sum + tokens, 0);
  const numBlocks = parts.filter(({ kind }) => kind !== "response").length;
  return `${painted.join("")}${colors.dim(`${numBlocks} blocks, ${total} tokens`)}\n`;
}

/** Text from outside moves no cursor and paints nothing: control and format characters but newline and tab become U+FFFD. */
export function cleanText(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}]/gu, (c) => (c === "\n" || c === "\t" ? c : "\u{fffd}"));
}
