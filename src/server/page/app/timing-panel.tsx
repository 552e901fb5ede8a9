import { formatCount, formatMs, formatNoun } from "./format.js";
import type { Measurements, RunKind } from "./measurement.js";

export interface TimingPanelProps {
  readonly measurements: Measurements;
  /** Names the passages now in the prompt. */
  readonly passages: string;
  readonly numPassages: number;
  /** Prompt tokens that came from the store since the page was opened. */
  readonly savedTokens: number;
  readonly isRunning: boolean;
  readonly canForget: boolean;
  /** What "forget" did last, or why it could not. */
  readonly forgotten: { readonly kind: "done" | "failed"; readonly text: string } | undefined;
  onMeasure(): void;
  onForget(): void;
}

const rows: readonly { kind: RunKind; name: string; how: string }[] = [
  { kind: "full", name: "Full attention", how: "ask in full mode" },
  { kind: "first", name: "Block, first time", how: "ask in block mode" },
  { kind: "partly", name: "Block, partly stored", how: "" },
  { kind: "stored", name: "Block, from the store", how: "ask in block mode again" },
];

/** Time to the first token by kind of run, as bars. */
export function TimingPanel(props: TimingPanelProps) {
  const { measurements, passages, numPassages, isRunning, canForget } = props;
  const longest = Math.max(0, ...Object.values(measurements).map(({ ttftMs }) => ttftMs));
  const { full, stored } = measurements;
  const isComparable = full !== undefined && stored !== undefined && full.passages === stored.passages;
  return (
    <section class="panel timing" aria-labelledby="timing-title">
      <div class="panel-head">
        <h2 id="timing-title">Time to the first token</h2>
        {isComparable && stored.ttftMs < full.ttftMs && (
          <span class="muted">
            <strong class="figure">{(full.ttftMs / Math.max(stored.ttftMs, 0.05)).toFixed(1)} times</strong> sooner from
            the store
          </span>
        )}
      </div>
      <dl class="bars">
        {rows.map(({ kind, name, how }) => {
          const found = measurements[kind];
          if (found === undefined && kind === "partly") return null;
          const isOther = found !== undefined && found.passages !== passages;
          return (
            <div key={kind} class={`bar-row bar-${kind}${isOther ? " bar-other" : ""}`} data-bar={kind}>
              <dt>{name}</dt>
              <dd>
                {found === undefined ? (
                  <span class="muted">not measured yet: {how}</span>
                ) : (
                  <>
                    <span class="bar-track" aria-hidden="true">
                      <span class="bar" style={{ width: `${(100 * found.ttftMs) / longest}%` }} />
                    </span>
                    <span class="bar-value">
                      <strong class="figure">{formatMs(found.ttftMs)}</strong>
                      <span class="muted">
                        {" "}
                        {formatCount(found.promptTokens - found.cachedTokens)} of{" "}
                        {formatNoun(found.promptTokens, "token")} computed{isOther ? "; other passages" : ""}
                      </span>
                    </span>
                  </>
                )}
              </dd>
            </div>
          );
        })}
      </dl>
      <p class="saved" data-saved={props.savedTokens}>
        <strong class="figure">{formatCount(props.savedTokens)}</strong> prompt tokens not computed again since this
        page was opened
      </p>
      <div class="row wrap">
        <button
          type="button"
          class="button button-small"
          aria-disabled={isRunning || numPassages === 0}
          onClick={() => !isRunning && numPassages > 0 && props.onMeasure()}
        >
          Measure all three
        </button>
        <button
          type="button"
          class="button button-small"
          aria-disabled={isRunning || !canForget}
          title="Takes these passages out of the server's store, so that the first time can be seen again"
          onClick={() => !isRunning && canForget && props.onForget()}
        >
          Forget these passages
        </button>
      </div>
      {props.forgotten !== undefined && (
        <p
          class={props.forgotten.kind === "failed" ? "error" : "note"}
          role={props.forgotten.kind === "failed" ? "alert" : undefined}
        >
          {props.forgotten.text}
        </p>
      )}
    </section>
  );
}
