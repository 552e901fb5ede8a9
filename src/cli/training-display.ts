import type { TrainerEvent } from "../train/trainer-event.js";
import { StatusLine } from "./progress-bar.js";
import { formatDuration, formatTable, type Terminal } from "./terminal.js";

/** How often a step is told where no terminal shows each of them. */
const plainStepMs = 10_000;

/**
 * Shows a training run: a line that is drawn anew with each step on a terminal, else a line now and then; what goes on between
 * steps on standard error; evaluations, checkpoints and the like as lines on standard output.
 */
export class TrainingDisplay {
  readonly #status: StatusLine;
  #isDrawn = false;
  #toldAt = Number.NEGATIVE_INFINITY;

  /** @param nowMs a clock. */
  constructor(
    private readonly terminal: Terminal,
    private readonly nowMs: () => number,
  ) {
    this.#status = new StatusLine(terminal, nowMs);
  }

  /** What goes on until the next event. */
  stage(what: string): void {
    this.clear();
    this.#status.show(what);
  }

  show(event: TrainerEvent): void {
    switch (event.event) {
      case "stage":
        this.stage(event.stage);
        return;
      case "start":
        this.#line(formatStart(event));
        if (event.firstStep > 0) this.#line(`Going on after step ${event.firstStep}`);
        return;
      case "step":
        this.#step(event);
        return;
      case "evaluation":
        this.#line(formatEvaluation(event.step, event.metrics));
        return;
      case "answer":
        this.#line(
          `${event.isRight ? "right" : "wrong"} in ${event.mode} mode, sample ${event.sample}: ${JSON.stringify(event.answer)}, gold ${JSON.stringify(event.gold)}`,
        );
        return;
      case "checkpoint":
        this.#line(`Checkpoint after step ${event.step}: ${event.path}`);
        return;
      case "export":
        this.#line(`Exported: ${event.path}`);
        return;
      case "end":
        this.#line(
          event.why === "done"
            ? `Done after step ${event.step}`
            : `Stopped by ${event.why} after step ${event.step}; the same command goes on from there`,
        );
        return;
      default:
        event satisfies never;
    }
  }

  /** A line that is no event, on standard error. */
  text(line: string): void {
    this.#status.wipe();
    this.#wipe();
    this.terminal.stderr.write(`${line}\n`);
  }

  /** Takes the drawn line away; nothing goes on any more. */
  clear(): void {
    this.#status.end();
    this.#wipe();
  }

  #wipe(): void {
    if (this.#isDrawn) this.terminal.stderr.write("\r\u001b[2K");
    this.#isDrawn = false;
  }

  #step(event: Extract<TrainerEvent, { event: "step" }>): void {
    this.#status.end();
    const line = formatStep(event);
    if (this.terminal.isErrorTerminal) {
      this.terminal.stderr.write(`\r\u001b[2K${this.terminal.errorColors.cyan(line)}`);
      this.#isDrawn = true;
      return;
    }
    const now = this.nowMs();
    if (event.step < event.steps && now - this.#toldAt < plainStepMs) return;
    this.#toldAt = now;
    this.#line(line);
  }

  #line(text: string): void {
    this.clear();
    this.terminal.stdout.write(`${text}\n`);
  }
}

function formatStart(event: Extract<TrainerEvent, { event: "start" }>): string {
  const { weights, trained, samples, modes, steps, device, processes, precision, run } = event;
  const count = (value: number) => value.toLocaleString("en-US");
  const learning = trained === weights ? "" : `, ${count(trained)} of them learn`;
  const on = `${device}${processes > 1 ? ` in ${processes} processes` : ""}, ${precision}`;
  return `Training ${run}: ${count(weights)} weights${learning}; ${count(samples)} samples in ${modes.join(" and ")} mode, ${count(steps)} steps on ${on}`;
}

function formatStep({
  step,
  steps,
  loss,
  tokensPerSecond,
  secondsLeft,
}: Extract<TrainerEvent, { event: "step" }>): string {
  const parts = [`step ${step}/${steps}`, `loss ${loss.toFixed(4)}`];
  if (tokensPerSecond !== undefined) parts.push(`${Math.round(tokensPerSecond).toLocaleString("en-US")} tokens/s`);
  if (secondsLeft !== undefined) parts.push(`${formatDuration(secondsLeft)} left`);
  return parts.join("  ");
}

/** A table of the trainer's metrics: a row a measure, a column a mode, and what full mode is ahead of block mode. */
function formatEvaluation(step: number, metrics: Readonly<Record<string, number>>): string {
  const columns = ["block", "full", "full_minus_block"].filter((mode) => `${mode}_loss` in metrics);
  const names = Object.keys(metrics)
    .filter((key) => key.startsWith(`${columns[0]}_`))
    .map((key) => key.slice(`${columns[0]}_`.length));
  const cell = (column: string, name: string): string => {
    const value = metrics[`${column}_${name}`];
    if (value === undefined) return "";
    const sign = column === "full_minus_block" && value >= 0 ? "+" : "";
    return name === "loss" ? sign + value.toFixed(4) : `${sign}${(100 * value).toFixed(1)} %`;
  };
  const head = [`Evaluation after step ${step}`, ...columns.map((column) => column.replaceAll("_", " "))];
  return formatTable([
    head,
    ...names.map((name) => [`  ${name.replaceAll("_", " ")}`, ...columns.map((column) => cell(column, name))]),
  ]);
}
