import { PassThrough, Writable } from "node:stream";
import pc from "picocolors";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Terminal } from "./terminal.js";
import { TrainingDisplay } from "./training-display.js";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function display(isErrorTerminal: boolean) {
  const written = { stdout: "", stderr: "" };
  const into = (name: keyof typeof written) =>
    new Writable({
      write(chunk, _encoding, done) {
        written[name] += String(chunk);
        done();
      },
    });
  const colors = pc.createColors(false);
  const terminal: Terminal = {
    stdin: new PassThrough(),
    stdout: into("stdout"),
    stderr: into("stderr"),
    isErrorTerminal,
    colors,
    errorColors: colors,
    signal: new AbortController().signal,
    env: {},
    endWell: () => undefined,
    onHangup: () => ({ [Symbol.dispose]: () => undefined }),
  };
  return { shown: new TrainingDisplay(terminal, () => performance.now()), written };
}

const step = { event: "step", step: 1, steps: 2, loss: 3 } as const;

test("TrainingDisplay: without a terminal a stage is a line, and one each half minute that it takes", () => {
  const { shown, written } = display(false);
  shown.stage("Starting");
  vi.advanceTimersByTime(10_000);
  shown.show({ event: "stage", stage: "Loading the model" });
  vi.advanceTimersByTime(65_000);
  shown.text("a warning");
  shown.show(step);
  vi.advanceTimersByTime(65_000);
  expect(written.stderr).toBe(
    "Starting\nLoading the model\nLoading the model  0:00:30\nLoading the model  0:01:00\na warning\n",
  );
  expect(written.stdout).toBe("step 1/2  loss 3.0000\n");
});

test("TrainingDisplay: on a terminal a stage is drawn anew each second, and gives way to lines and steps", () => {
  const { shown, written } = display(true);
  const wipe = "\r\u001b[2K";
  shown.stage("Loading");
  vi.advanceTimersByTime(2_000);
  shown.text("a warning");
  shown.show(step);
  shown.clear();
  vi.advanceTimersByTime(5_000);
  expect(written.stderr).toBe(
    [
      `${wipe}Loading  0:00:00${wipe}Loading  0:00:01${wipe}Loading  0:00:02`,
      `${wipe}a warning\n`,
      `${wipe}${wipe}step 1/2  loss 3.0000${wipe}`,
    ].join(""),
  );
  expect(written.stdout).toBe("");
});
