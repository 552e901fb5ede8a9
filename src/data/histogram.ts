import { escapeXml } from "../files/escape-xml.js";

/** Counts of whole numbers in equal steps, for reports. */
export class Histogram {
  readonly #counts = new Map<number, number>();
  #total = 0;
  #sum = 0;
  #max = 0;

  constructor(readonly step: number) {}

  add(value: number): void {
    const bin = Math.floor(value / this.step);
    this.#counts.set(bin, (this.#counts.get(bin) ?? 0) + 1);
    this.#total += 1;
    this.#sum += value;
    this.#max = Math.max(this.#max, value);
  }

  /** From the first bin to the last that has any; `from` included, `to` not. */
  bins(): { readonly from: number; readonly to: number; readonly count: number }[] {
    const last = Math.max(-1, ...this.#counts.keys());
    return Array.from({ length: last + 1 }, (_, bin) => {
      return { from: bin * this.step, to: (bin + 1) * this.step, count: this.#counts.get(bin) ?? 0 };
    });
  }

  summary(): { readonly count: number; readonly mean: number; readonly max: number } {
    return { count: this.#total, mean: this.#total === 0 ? 0 : this.#sum / this.#total, max: this.#max };
  }
}

const width = 720;
const height = 300;
const margin = { left: 70, right: 16, top: 36, bottom: 46 };

/** A histogram as an SVG picture that reads in light and dark. */
export function histogramPicture(histogram: Histogram, title: string, unit: string): string {
  const bins = histogram.bins();
  const most = Math.max(1, ...bins.map(({ count }) => count));
  const innerWidth = width - margin.left - margin.right;
  const innerHeight = height - margin.top - margin.bottom;
  const x = (bin: number) => margin.left + (innerWidth * bin) / Math.max(1, bins.length);
  const y = (count: number) => margin.top + innerHeight * (1 - count / most);
  const bars = bins.map(({ from, to, count }, bin) => {
    const size = `width="${(x(bin + 1) - x(bin) - 1).toFixed(2)}" height="${(innerHeight * (count / most)).toFixed(2)}"`;
    return `<rect x="${x(bin).toFixed(2)}" y="${y(count).toFixed(2)}" ${size}><title>${from} to ${to - 1} ${unit}: ${count}</title></rect>`;
  });
  const every = Math.max(1, Math.ceil(bins.length / 8));
  const ticks = bins
    .filter((_, bin) => bin % every === 0)
    .map(({ from }) => `<text x="${x(from / histogram.step).toFixed(2)}" y="${height - 26}">${from}</text>`);
  const { count, mean, max } = histogram.summary();
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" font-family="sans-serif" font-size="12">
<title>${escapeXml(title)}</title>
<style>rect{fill:#3b82f6}text{fill:#64748b}.title{font-size:14px;font-weight:600}line{stroke:#94a3b8}</style>
<text class="title" x="${margin.left}" y="20">${escapeXml(title)}: ${count} samples, ${mean.toFixed(1)} ${unit} on average, at most ${max}</text>
<line x1="${margin.left}" y1="${height - margin.bottom}" x2="${width - margin.right}" y2="${height - margin.bottom}"/>
<text x="8" y="${margin.top + 4}">${most}</text><text x="8" y="${height - margin.bottom}">0</text>
${bars.join("\n")}
${ticks.join("\n")}
<text x="${width / 2}" y="${height - 8}">${escapeXml(unit)}</text>
</svg>
`;
}
