import type { Command } from "commander";
import type { Terminal } from "./terminal.js";

export interface DemoFlags {
  readonly threads?: number;
}
export function demoOptions(command: Command): Command {
  return command;
}
export async function runDemo(_flags: DemoFlags, _terminal: Terminal): Promise<number> {
  return 0;
}
