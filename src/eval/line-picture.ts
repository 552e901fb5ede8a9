import { escapeXml } from "../files/escape-xml.js";
import { chartColours } from "./picture.js";

/** A line of a picture. */
export interface Series {
  readonly name: string;
  /** In the order of x; low and high are the ends of an interval. */
  readonly points: readonly { readonly x: number; readonly y: number; readonly low?: number; readonly high?: number }[];
}

export interface LinePicture {
  readonly title: string;
  readonly xName: string;
  readonly yName: string;
  /** "percent": shares from 0 to 1. "log": positive values, each mark ten times the one below. */
  readonly scale: "percent" | "log";
  readonly series: readonly Series[];
}

const width = 860;
const height = 380;
const margin = { left: 70, right: 16, top: 56, bottom: 48 };
const legendRow = 18;

/** Lines over a logarithmic x, with intervals as whiskers: an SVG picture that reads in light and dark. */
export function linePicture({ title, xName, yName, scale, series: given }: LinePicture): string {
  // A logarithm has no place for 0.
  const series = given.map(({ name, points: all }) => ({
    name,
    points: all.filter(({ y }) => scale === "percent" || y > 0),
  }));
  const points = series.flatMap((one) => one.points);
  const xs = [...new Set(points.map(({ x }) => x))].sort((a, b) => a - b);
  const [firstX = 1, lastX = 1] = [xs[0], xs.at(-1)];
  const ticks = scale === "percent" ? [0, 0.2, 0.4, 0.6, 0.8, 1] : decades(points.map(({ y }) => y));
  const [low, high] = [ticks[0] as number, ticks.at(-1) as number];
  const innerWidth = width - margin.left - margin.right;
  const innerHeight = height - margin.top - margin.bottom;
  const across = (value: number, from: number, to: number) =>
    to === from ? 0.5 : Math.log(value / from) / Math.log(to / from);
  const up = (y: number) => (scale === "percent" ? y : across(y, low, high));
  const xAt = (x: number) => (margin.left + innerWidth * across(x, firstX, lastX)).toFixed(2);
  const yAt = (y: number) => (margin.top + innerHeight * (1 - up(y))).toFixed(2);
  const bottom = margin.top + innerHeight;
  const grid = [
    ...ticks.map(
      (tick) =>
        `<line class="grid" x1="${margin.left}" x2="${width - margin.right}" y1="${yAt(tick)}" y2="${yAt(tick)}"/>` +
        `<text x="${margin.left - 8}" y="${(Number(yAt(tick)) + 4).toFixed(2)}" text-anchor="end">${scale === "percent" ? Math.round(100 * tick) : tick}</text>`,
    ),
    ...xs.map((x) => `<text x="${xAt(x)}" y="${bottom + 16}" text-anchor="middle">${x}</text>`),
  ];
  const shown = (y: number) => (scale === "percent" ? `${(100 * y).toFixed(1)}%` : y.toFixed(1));
  const marks = series.map((one, i) => {
    const colour = chartColours[i % chartColours.length] as string;
    // Where colours come again, dashes tell the lines apart.
    const dashes =
      i < chartColours.length ? "" : ` stroke-dasharray="${2 + 3 * Math.floor(i / chartColours.length)} 3"`;
    const path = one.points.map(({ x, y }) => `${xAt(x)},${yAt(y)}`).join(" ");
    const dots = one.points.map(({ x, y, low: from, high: to }) => {
      const whisker =
        from === undefined || to === undefined
          ? ""
          : `<line x1="${xAt(x)}" x2="${xAt(x)}" y1="${yAt(from)}" y2="${yAt(to)}" stroke="${colour}" stroke-opacity=".5"/>`;
      return `${whisker}<circle cx="${xAt(x)}" cy="${yAt(y)}" r="3.5" fill="${colour}"><title>${escapeXml(`${one.name}, ${x}: ${shown(y)}`)}</title></circle>`;
    });
    const legendY = height + legendRow * (i + 0.5);
    return (
      `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"${dashes}/>${dots.join("")}` +
      `<line x1="${margin.left}" x2="${margin.left + 24}" y1="${legendY}" y2="${legendY}" stroke="${colour}" stroke-width="2"${dashes}/>` +
      `<text x="${margin.left + 32}" y="${legendY + 4}">${escapeXml(one.name)}</text>`
    );
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height + legendRow * series.length + 8}" role="img" font-family="sans-serif" font-size="11">
<title>${escapeXml(title)}</title>
<style>text{fill:#64748b}.title{font-size:14px;font-weight:600}.grid{stroke:#94a3b8;stroke-opacity:.35}@media (prefers-color-scheme:dark){text{fill:#94a3b8}[stroke="${chartColours[0]}"]{stroke:#cbd5e1}[fill="${chartColours[0]}"]{fill:#cbd5e1}}</style>
<text class="title" x="16" y="22">${escapeXml(title)}</text>
<text x="16" y="${margin.top - 16}">${escapeXml(yName)}</text>
<text x="${width / 2}" y="${height - 8}" text-anchor="middle">${escapeXml(xName)}</text>
${grid.join("\n")}
${marks.join("\n")}
</svg>
`;
}

/** Powers of ten from below the smallest value to above the largest. */
function decades(values: readonly number[]): number[] {
  const positive = values.filter((value) => value > 0);
  if (positive.length === 0) return [1, 10];
  const first = Math.floor(Math.log10(Math.min(...positive)));
  const last = Math.max(first + 1, Math.ceil(Math.log10(Math.max(...positive))));
  return Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i));
}
