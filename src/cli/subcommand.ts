import type { Command } from "commander";
import type { Terminal } from "./terminal.js";

/** A command below another, as `eval rag` is below `eval`. */
export interface Subcommand {
  readonly name: string;
  readonly summary: string;
  readonly declare: (command: Command) => Command;
  /** Takes the flags that `declare` declares. @returns the exit code. */
  readonly run: (flags: never, terminal: Terminal) => Promise<number>;
  readonly help: string;
}
