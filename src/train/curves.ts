import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { isJsonObject, parseJson } from "../files/bounded-json.js";
import { escapeXml } from "../files/escape-xml.js";
import { quote } from "../files/quote.js";

/** One evaluation: shares from 0 to 1 by name, such as "block_answer_accuracy". */
export interface CurvePoint {
  readonly step: number;
  readonly shares: Readonly<Record<string, number>>;
}

/**
 * The evaluations of a run, from the state that its last checkpoint keeps (Transformers' trainer_state.json).
 *
 * @throws Error if the folder has no checkpoint, or its state is not what the trainer writes.
 */
export async function readCurve(run: string): Promise<CurvePoint[]> {
  const entries = await readdir(run).catch((error: unknown) => {
    throw new Error(`Cannot read the run ${quote(run)}: ${(error as Error).message}`);
  });
  const steps = entries.flatMap((entry) => /^checkpoint-(\d+)$/.exec(entry)?.[1] ?? []).map(Number);
  if (steps.length === 0) throw new Error(`Cannot read the run ${quote(run)}: it has no checkpoint`);
  const path = join(run, `checkpoint-${Math.max(...steps)}`, "trainer_state.json");
  const state = parseJson(await readFile(path, "utf8"), path);
  const history = isJsonObject(state) ? state.log_history : undefined;
  if (!Array.isArray(history)) throw new Error(`Cannot read ${quote(path)}: it has no "log_history"`);
  return history.flatMap((logged): CurvePoint[] => {
    if (!isJsonObject(logged) || typeof logged.step !== "number") return [];
    const shares = Object.entries(logged).flatMap(([key, value]) =>
      key.startsWith("eval_") && key.endsWith("_accuracy") && typeof value === "number" ? [[key.slice(5), value]] : [],
    );
    return shares.length === 0 ? [] : [{ step: logged.step, shares: Object.fromEntries(shares) }];
  });
}

const width = 860;
const height = 352;
const margin = { left: 48, right: 190, top: 48, bottom: 40 };
const lines = [
  { key: "block_answer_accuracy", label: "block mode, whole answers", colour: "#2563eb", dash: "" },
  { key: "full_answer_accuracy", label: "full mode, whole answers", colour: "#ea580c", dash: "" },
  { key: "block_first_token_accuracy", label: "block mode, first tokens", colour: "#2563eb", dash: "5 4" },
  { key: "full_first_token_accuracy", label: "full mode, first tokens", colour: "#ea580c", dash: "5 4" },
] as const;

/** Accuracies in both modes against steps: an SVG picture that reads in light and dark. */
export function curvesPicture(title: string, points: readonly CurvePoint[]): string {
  const end = points.at(-1)?.step ?? 0;
  const innerWidth = width - margin.left - margin.right;
  const innerHeight = height - margin.top - margin.bottom;
  const bottom = margin.top + innerHeight;
  const x = (step: number) => (margin.left + (innerWidth * step) / Math.max(1, end)).toFixed(1);
  const y = (share: number) => (bottom - innerHeight * share).toFixed(1);
  const grid = [0, 0.25, 0.5, 0.75, 1].map(
    (share) =>
      `<line class="grid" x1="${margin.left}" x2="${margin.left + innerWidth}" y1="${y(share)}" y2="${y(share)}"/>` +
      `<text x="${margin.left - 8}" y="${Number(y(share)) + 4}" text-anchor="end">${100 * share}</text>`,
  );
  const last =
    `<line class="grid" x1="${x(end)}" x2="${x(end)}" y1="${margin.top}" y2="${bottom}"/>` +
    `<text x="${x(end)}" y="${bottom + 16}" text-anchor="middle">${end}</text>`;
  const drawn = lines.flatMap(({ key, label, colour, dash }) => {
    const at = points.flatMap(({ step, shares }) => {
      const share = shares[key];
      return share === undefined ? [] : [{ x: x(step), y: y(share), step, share }];
    });
    if (at.length === 0) return [];
    const path = at.map((point) => `${point.x},${point.y}`).join(" ");
    return [
      `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="1.5" stroke-dasharray="${dash}"/>`,
      ...at.map(
        (point) =>
          `<circle cx="${point.x}" cy="${point.y}" r="2.5" fill="${colour}"><title>step ${point.step}, ${label}: ${(100 * point.share).toFixed(1)} %</title></circle>`,
      ),
    ];
  });
  const legend = lines.map(({ label, colour, dash }, i) => {
    const at = margin.top + 12 + 20 * i;
    const from = width - margin.right + 14;
    return (
      `<line x1="${from}" x2="${from + 24}" y1="${at}" y2="${at}" stroke="${colour}" stroke-width="1.5" stroke-dasharray="${dash}"/>` +
      `<text x="${from + 30}" y="${at + 4}">${label}</text>`
    );
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" font-family="sans-serif" font-size="11">
<title>${escapeXml(title)}</title>
<style>text{fill:#64748b}.title{font-size:14px;font-weight:600}.grid{stroke:#94a3b8;stroke-opacity:.35}@media (prefers-color-scheme:dark){text{fill:#94a3b8}}</style>
<text class="title" x="16" y="24">${escapeXml(title)}: percent right against steps</text>
${[...grid, last, ...drawn, ...legend].join("\n")}
</svg>
`;
}
