import { once } from "node:events";
import type { Readable, Writable } from "node:stream";
import pc from "picocolors";
import { describeSystemError } from "../files/regular-file.js";

type Colors = ReturnType<typeof pc.createColors>;

/** What a command may touch of the process it runs in. */
export interface Terminal {
  readonly stdin: Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
  /** Whether a person watches: only then are there progress bars. */
  readonly isErrorTerminal: boolean;
  /** Colours for standard output and standard error; none where NO_COLOR is set or there is no terminal. */
  readonly colors: Colors;
  readonly errorColors: Colors;
  /** Ctrl-C, or whoever read our output has gone. */
  readonly signal: AbortSignal;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** From now on Ctrl-C is a command's normal end: its exit code counts, not the signal's. */
  readonly endWell: () => void;
  /** Listens to SIGHUP, which ends a process that nobody listens in, until it is disposed. Windows has no such signal. */
  readonly onHangup: (listener: () => void) => Disposable;
}

/** The terminal of a Node process. */
export function processTerminal(
  process: NodeJS.Process,
  { signal, endWell, onHangup }: Pick<Terminal, "signal" | "endWell" | "onHangup">,
): Terminal {
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    isErrorTerminal: process.stderr.isTTY === true && process.env.TERM !== "dumb",
    colors: pc.createColors(hasColors(process.stdout, process.env)),
    errorColors: pc.createColors(hasColors(process.stderr, process.env)),
    signal,
    env: process.env,
    endWell,
    onHangup,
  };
}

function hasColors(stream: NodeJS.WriteStream, env: NodeJS.ProcessEnv): boolean {
  return stream.isTTY === true && !env.NO_COLOR && env.TERM !== "dumb";
}

/** Writes, and waits while a slow reader has not taken what is there. */
export async function write(stream: Writable, text: string, signal: AbortSignal): Promise<void> {
  if (text === "" || stream.write(text)) return;
  if (!stream.writableNeedDrain) return;
  await once(stream, "drain", { signal });
}

/** One line of JSON. */
export function writeJson(terminal: Terminal, value: unknown): Promise<void> {
  return write(terminal.stdout, `${JSON.stringify(value)}\n`, terminal.signal);
}

/** One line for a person, on standard error. */
export function note(terminal: Terminal, text: string): void {
  terminal.stderr.write(`${oneLine(text)}\n`);
}

/** What an error says, as one line. */
export function errorLine(error: unknown): string {
  return oneLine(describeSystemError(error) ?? (error instanceof Error ? error.message : String(error)));
}

function oneLine(text: string): string {
  return text.replace(/\s*[\r\n\u2028\u2029]+\s*/g, " ").trim();
}

export function formatMs(ms: number): string {
  return ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : ms >= 100 ? `${Math.round(ms)} ms` : `${ms.toFixed(1)} ms`;
}

/** @example formatDuration(3725) is "1:02:05" */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const two = (value: number) => String(value).padStart(2, "0");
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
}

/** Rows under a head, columns aligned; all but the first to the right. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
