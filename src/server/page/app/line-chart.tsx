export interface Series {
  readonly name: string;
  readonly kind: "plain" | "stored" | "computed";
  /** Oldest first; undefined where there is nothing to draw. */
  readonly values: readonly (number | undefined)[];
}

export interface LineChartProps {
  readonly title: string;
  /** The value of now, as text. */
  readonly value: string;
  readonly detail?: string | undefined;
  readonly series: readonly Series[];
  /** How many values fill the width. */
  readonly length: number;
  /** The top of the chart; where it is absent, the greatest value. */
  readonly max?: number | undefined;
}

const width = 240;
const height = 56;

/** A small chart of the last values, newest at the right. */
export function LineChart({ title, value, detail, series, length, max }: LineChartProps) {
  const greatest = Math.max(0, ...series.flatMap(({ values }) => values.filter((v) => v !== undefined)));
  const top = (max ?? greatest) || 1;
  return (
    <figure class="chart">
      <figcaption>
        <span class="chart-title">{title}</span>
        <strong class="figure">{value}</strong>
        {detail !== undefined && <span class="muted"> {detail}</span>}
      </figcaption>
      <svg viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true" focusable="false">
        <path class="chart-base" d={`M0 ${height - 0.5}H${width}`} />
        {series.map(({ name, kind, values }) => (
          <path key={name} class={`chart-line chart-${kind}`} d={linePath(values, length, top)} />
        ))}
      </svg>
      {series.length > 1 && (
        <p class="legend" aria-hidden="true">
          {series.map(({ name, kind }) => (
            <span key={name} class={`legend-${kind}`}>
              {name}
            </span>
          ))}
        </p>
      )}
    </figure>
  );
}

/** Lines through the values; a value without neighbours is a dot. */
function linePath(values: readonly (number | undefined)[], length: number, top: number): string {
  const steps = Math.max(1, length - 1);
  let path = "";
  let isDrawing = false;
  values.forEach((value, i) => {
    if (value === undefined) {
      isDrawing = false;
      return;
    }
    const x = ((length - values.length + i) / steps) * width;
    const y = height - 2 - (height - 5) * Math.min(1, value / top);
    path += `${isDrawing ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    if (!isDrawing) path += "h0.01";
    isDrawing = true;
  });
  return path;
}
