import { formatCount, formatMs, formatNoun } from "./format.js";
import type { Measurement, Measurements, RunKind } from "./measurement.js";
import type { Measuring } from "./run.js";

export interface TimingPanelProps {
  /** The last question of each kind. */
  readonly asked: Measurements;
  /** Names the passages now in the prompt. */
  readonly passages: string;
  /** What "measure" found so far, and over how many passages. */
  readonly measured:
    | { readonly medians: Measurements; readonly runs: readonly Measurement[]; readonly numPassages: number }
    | undefined;
  readonly measuring: Measuring;
  /** Prompt tokens that came from the store since the page was opened. */
  readonly savedTokens: number;
  /** Whether a question or a measurement runs. */
  readonly isRunning: boolean;
  readonly canForget: boolean;
  /** What "forget" did last, or why it could not. */
  readonly forgotten: { readonly kind: "done" | "failed"; readonly text: string } | undefined;
  onMeasure(): void;
  onStop(): void;
  onForget(): void;
}

const rows: readonly { kind: RunKind; name: string; how: string }[] = [
  { kind: "full", name: "Full attention", how: "ask in full mode" },
  { kind: "first", name: "Block, first time", how: "ask in block mode" },
  { kind: "partly", name: "Block, partly stored", how: "" },
  { kind: "stored", name: "Block, from the store", how: "ask in block mode again" },
];

/** Of "measure": so many passages, and each kind of run so many times. */
export const numMeasuredPassages = 15;
export const numMeasuredRounds = 5;
/** One request to begin with, then three in each round. */
const numMeasuredRequests = 1 + 3 * numMeasuredRounds;

/** Time to the first token by kind of run: the questions that were asked, and what was measured. */
export function TimingPanel(props: TimingPanelProps) {
  const { asked, passages, measured, measuring, isRunning, canForget } = props;
  const isMeasuring = measuring.kind === "running";
  const numRounds = measured?.runs.filter(({ kind }) => kind === "full").length ?? 0;
  return (
    <section class="panel timing" aria-labelledby="timing-title">
      <div class="panel-head">
        <h2 id="timing-title">Time to the first token</h2>
        <TimesSooner measurements={asked} />
      </div>
      <Bars measurements={asked} passages={passages} />
      <p class="saved" data-saved={props.savedTokens}>
        <strong class="figure">{formatCount(props.savedTokens)}</strong> prompt tokens not computed again since this
        page was opened
      </p>
      <div class="row wrap">
        <button
          type="button"
          class="button button-small"
          aria-disabled={isRunning && !isMeasuring}
          aria-describedby="measure-help"
          onClick={isMeasuring ? props.onStop : () => !isRunning && props.onMeasure()}
        >
          {isMeasuring ? "Stop measuring" : "Measure all three"}
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
      <p id="measure-help" class="muted help">
        {isMeasuring
          ? `Measuring: ${measuring.numDone} of ${numMeasuredRequests} requests are done`
          : `Measures each ${numMeasuredRounds} times over ${numMeasuredPassages} passages: those in the prompt, filled up with examples.`}
      </p>
      {measuring.kind === "failed" && (
        <p class="error" role="alert">
          {measuring.message}
        </p>
      )}
      {props.forgotten !== undefined && (
        <p
          class={props.forgotten.kind === "failed" ? "error" : "note"}
          role={props.forgotten.kind === "failed" ? "alert" : undefined}
        >
          {props.forgotten.text}
        </p>
      )}
      {measured !== undefined && (
        <div class="measured" data-measured={numRounds}>
          <div class="panel-head">
            <h3>
              Median of {numRounds} over {formatNoun(measured.numPassages, "passage")}
            </h3>
            <TimesSooner measurements={measured.medians} />
          </div>
          <Bars measurements={measured.medians} />
        </div>
      )}
    </section>
  );
}

/** How much sooner the first token comes where the same passages come from the store. */
function TimesSooner({ measurements: { full, stored } }: { measurements: Measurements }) {
  if (full === undefined || stored === undefined || full.passages !== stored.passages) return null;
  if (stored.ttftMs >= full.ttftMs) return null;
  return (
    <span class="muted">
      <strong class="figure">{(full.ttftMs / Math.max(stored.ttftMs, 0.05)).toFixed(1)} times</strong> sooner from the
      store
    </span>
  );
}

/** Measurements as bars; with `passages`, those over other passages are told apart. */
function Bars({ measurements, passages }: { measurements: Measurements; passages?: string }) {
  const longest = Math.max(0, ...Object.values(measurements).map(({ ttftMs }) => ttftMs));
  return (
    <dl class="bars">
      {rows.map(({ kind, name, how }) => {
        const found = measurements[kind];
        if (found === undefined && kind === "partly") return null;
        const isOther = found !== undefined && passages !== undefined && found.passages !== passages;
        return (
          <div key={kind} class={`bar-row bar-${kind}${isOther ? " bar-other" : ""}`} data-bar={kind}>
            <dt>{name}</dt>
            <dd>
              {found === undefined ? (
                <span class="muted">not measured yet{passages === undefined ? "" : `: ${how}`}</span>
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
  );
}
