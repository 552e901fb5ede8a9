#!/usr/bin/env node
import { isatty } from "node:tty";
import { CommanderError } from "commander";
import { RefusedOutputError } from "../files/outputs.js";
import { describeWriteError } from "../files/regular-file.js";
import { UsageError } from "../files/usage-error.js";
import { errorLine, processTerminal } from "./terminal.js";

const exitCodes = { SIGINT: 130, SIGTERM: 143 } as const;

const ending = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  const end = (): void => {
    // A second one ends the process at once, as it would without this handler.
    process.removeListener(signal, end);
    process.exitCode = exitCodes[signal];
    ending.abort(new Error("Cancelled"));
    process.stdin.destroy();
  };
  process.on(signal, end);
}
const verbose = process.argv.includes("--verbose");
let hasFailed = false;
/** Tells why the program fails, once. */
const fail = (error: unknown): void => {
  if (!hasFailed)
    process.stderr.write(`${verbose && error instanceof Error ? describeFully(error) : errorLine(error)}\n`);
  hasFailed = true;
  process.exitCode = error instanceof UsageError || error instanceof RefusedOutputError ? 2 : 1;
};
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  // Whoever reads our output has gone, as in "| head -1": nothing is wrong, and nothing is left to do.
  if (error.code !== "EPIPE") fail(describeWriteError(error, "standard output"));
  ending.abort(error);
});
process.stderr.on("error", () => undefined);
// A file that grows over the limit of its size is an error of writing, not this process's end.
if (process.platform !== "win32") process.on("SIGXFSZ", () => undefined);
for (const event of ["uncaughtException", "unhandledRejection"] as const) {
  process.on(event, (error: unknown) => {
    if (!ending.signal.aborted) fail(error);
    process.exit();
  });
}

let endsWell = false;
const hadTerminal = isatty(0);
const terminal = processTerminal(process, {
  signal: ending.signal,
  endWell: () => {
    endsWell = true;
  },
  onHangup: (listener) => {
    const onSignal = (): void => {
      if (!hadTerminal || isatty(0)) {
        listener();
        return;
      }
      // Its terminal was closed: that ends it, as without a listener.
      process.removeListener("SIGHUP", onSignal);
      process.kill(process.pid, "SIGHUP");
    };
    process.on("SIGHUP", onSignal);
    return { [Symbol.dispose]: () => process.removeListener("SIGHUP", onSignal) };
  },
});
try {
  // Hundreds of modules are opened at once: where too few files may be, that is told in a line as well.
  const { createProgram } = await import("./program.js");
  const code = await createProgram(terminal).run(process.argv);
  if (endsWell && !hasFailed) process.exitCode = code;
  else process.exitCode ??= code;
} catch (error) {
  if (ending.signal.aborted) {
    process.exitCode ??= 0;
  } else if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : 2;
  } else {
    fail(error);
  }
}

function describeFully(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by ${describeFully(error.cause)}` : "";
  return (error.stack ?? error.message) + cause;
}
