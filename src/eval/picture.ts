import { escapeXml } from "../files/escape-xml.js";
import { METRIC_NAMES, type Metric } from "./metrics.js";
import type { GroupSummary, RunSummary } from "./summary.js";

const width = 860;
const rowHeight = 18;
const groupGap = 14;
const margin = { left: 300, right: 110, top: 48, bottom: 40 };
/** In all, then kinds in turn: told apart in light and dark, and by the colour-blind. */
export const chartColours = ["#334155", "#2563eb", "#ea580c", "#059669", "#c026d3", "#ca8a04", "#0891b2"];

/** Runs' scores, in all and by kind, with their intervals as whiskers: an SVG picture that reads in light and dark. */
export function accuracyPicture(title: string, runs: readonly RunSummary[], metric: Metric): string {
  const kinds = [...new Set(runs.flatMap((run) => Object.keys(run.kinds)))].sort();
  const innerWidth = width - margin.left - margin.right;
  const x = (share: number) => (margin.left + innerWidth * share).toFixed(2);
  const colourOf = (kind: string | undefined) =>
    chartColours[kind === undefined ? 0 : 1 + (kinds.indexOf(kind) % (chartColours.length - 1))] as string;
  const marks: string[] = [];
  let y = margin.top + rowHeight;
  const draw = (name: string, kind: string | undefined, group: GroupSummary): void => {
    const { mean, low, high } = group.scores[metric];
    const colour = colourOf(kind);
    const shown = `${(100 * mean).toFixed(1)} [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`;
    marks.push(
      `<g><title>${escapeXml(`${name}: ${shown}, ${group.questions} questions`)}</title>` +
        `<text class="${kind === undefined ? "name" : "kind"}" x="${margin.left - 12}" y="${y + 4}" text-anchor="end">${escapeXml(shorten(kind ?? name))}</text>` +
        `<line x1="${x(low)}" x2="${x(high)}" y1="${y}" y2="${y}" stroke="${colour}" stroke-width="2"/>` +
        [low, high]
          .map((end) => `<line x1="${x(end)}" x2="${x(end)}" y1="${y - 4}" y2="${y + 4}" stroke="${colour}"/>`)
          .join("") +
        `<circle cx="${x(mean)}" cy="${y}" r="${kind === undefined ? 5 : 3.5}" fill="${colour}"/>` +
        `<text x="${width - margin.right + 10}" y="${y + 4}">${shown}</text></g>`,
    );
    y += rowHeight;
  };
  for (const run of runs) {
    draw(run.name, undefined, run);
    for (const kind of kinds) {
      const group = Object.hasOwn(run.kinds, kind) ? run.kinds[kind] : undefined;
      if (group) draw(`${run.name}, ${kind}`, kind, group);
    }
    y += groupGap;
  }
  const bottom = y;
  const height = bottom + margin.bottom;
  const grid = [0, 0.2, 0.4, 0.6, 0.8, 1].map(
    (share) =>
      `<line class="grid" x1="${x(share)}" x2="${x(share)}" y1="${margin.top}" y2="${bottom}"/>` +
      `<text x="${x(share)}" y="${bottom + 16}" text-anchor="middle">${100 * share}</text>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" font-family="sans-serif" font-size="11">
<title>${escapeXml(title)}</title>
<style>text{fill:#64748b}.title{font-size:14px;font-weight:600}.name{font-weight:600}.grid{stroke:#94a3b8;stroke-opacity:.35}@media (prefers-color-scheme:dark){text{fill:#94a3b8}line[stroke="${chartColours[0]}"]{stroke:#cbd5e1}circle[fill="${chartColours[0]}"]{fill:#cbd5e1}}</style>
<text class="title" x="16" y="24">${escapeXml(title)}: ${METRIC_NAMES[metric].toLowerCase()}, percent, with 95% intervals</text>
${grid.join("\n")}
${marks.join("\n")}
</svg>
`;
}

function shorten(text: string): string {
  return text.length > 48 ? `${text.slice(0, 47)}…` : text;
}
