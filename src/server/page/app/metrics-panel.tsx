import { useEffect, useState } from "preact/hooks";
import { formatBytes } from "../../../files/format-bytes.js";
import { type Api, ApiError, metricsText } from "./api.js";
import { formatCount, formatNoun, formatRate, formatShare } from "./format.js";
import { LineChart } from "./line-chart.js";
import { type Reading, readMetrics, type Step, stepBetween } from "./metrics.js";

/** A minute, at a reading a second. */
const numSteps = 60;
const periodMs = 1_000;
const retryMs = 5_000;

interface History {
  readonly last: Reading | undefined;
  readonly steps: readonly Step[];
  readonly error?: string;
}

/** The server's own metrics of the last minute, all of its clients together. */
export function MetricsPanel({ api, onFailure }: { api: Api; onFailure: (error: unknown) => void }) {
  const { last, steps, error } = useMetrics(api, onFailure);
  const now = steps.at(-1);
  const line = (name: string, kind: "plain" | "stored" | "computed", key: keyof Step) => ({
    name,
    kind,
    values: steps.map((step) => step[key]),
  });
  // Between prompts the share stays what it was.
  let recent: number | undefined;
  const shares = steps.map(({ hitRate }) => {
    recent = hitRate ?? recent;
    return recent;
  });
  const rate = (value: number | undefined) => (value === undefined ? "–" : formatRate(value));
  return (
    <section class="panel metrics" aria-labelledby="metrics-title">
      <div class="panel-head">
        <h2 id="metrics-title">The server, last minute</h2>
        <span class="muted">{error === undefined ? "all clients, updated each second" : ""}</span>
      </div>
      {error !== undefined && <p class="error">{error}</p>}
      <div class="charts">
        <LineChart
          title="Requests a second"
          value={rate(now?.requestsPerSecond)}
          detail={last?.requests === undefined ? undefined : `${formatCount(last.requests)} in all`}
          series={[line("requests", "plain", "requestsPerSecond")]}
          length={numSteps}
        />
        <LineChart
          title="Prompt tokens a second"
          value={rate(now === undefined ? undefined : sum(now.computedPerSecond, now.storedPerSecond))}
          series={[
            line("from the store", "stored", "storedPerSecond"),
            line("computed", "computed", "computedPerSecond"),
          ]}
          length={numSteps}
        />
        <LineChart
          title="Share from the store"
          value={recent === undefined ? "–" : formatShare(recent)}
          detail={lifetimeShare(last)}
          series={[{ name: "share", kind: "stored", values: shares }]}
          length={numSteps}
          max={1}
        />
        <LineChart
          title="Block store"
          value={last?.storeBytes === undefined ? "–" : formatBytes(last.storeBytes)}
          detail={last?.numBlocks === undefined ? undefined : formatNoun(last.numBlocks, "block")}
          series={[line("bytes", "plain", "storeBytes")]}
          length={numSteps}
        />
      </div>
    </section>
  );
}

function sum(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined && b === undefined ? undefined : (a ?? 0) + (b ?? 0);
}

function lifetimeShare(last: Reading | undefined): string | undefined {
  const total = (last?.computedTokens ?? 0) + (last?.storedTokens ?? 0);
  return total === 0 ? undefined : `${formatShare((last?.storedTokens ?? 0) / total)} since the start`;
}

/** Reads the metrics each second while the page can be seen. */
function useMetrics(api: Api, onFailure: (error: unknown) => void): History {
  const [history, setHistory] = useState<History>({ last: undefined, steps: [] });
  useEffect(() => {
    const ended = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let isReading = false;
    const read = async () => {
      if (document.hidden || isReading) return;
      isReading = true;
      let waitMs = periodMs;
      try {
        const reading = readMetrics(await metricsText(api, ended.signal), performance.now());
        setHistory(({ last, steps }) => {
          if (last === undefined) return { last: reading, steps };
          // After a rest in the background the lines begin anew.
          const kept = reading.atMs - last.atMs > 5 * periodMs ? [] : steps;
          return { last: reading, steps: [...kept, stepBetween(last, reading)].slice(-numSteps) };
        });
      } catch (error) {
        if (ended.signal.aborted) return;
        setHistory((before) => ({ ...before, error: `Cannot read the metrics: ${(error as Error).message}` }));
        onFailure(error);
        // Another key makes another `api`, with which this begins anew.
        if (error instanceof ApiError && error.status === 401) return;
        waitMs = retryMs;
      } finally {
        isReading = false;
      }
      timer = setTimeout(read, waitMs);
    };
    const onVisibility = () => {
      clearTimeout(timer);
      void read();
    };
    document.addEventListener("visibilitychange", onVisibility);
    setHistory({ last: undefined, steps: [] });
    void read();
    return () => {
      ended.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisibility);
    };
  }, [api, onFailure]);
  return history;
}
