import type { Terminal } from "./terminal.js";

const width = 30;

/** A bar on standard error that is drawn on a terminal only, and leaves nothing behind. */
export class ProgressBar {
  #drawn = -1;

  constructor(
    private readonly terminal: Terminal,
    private readonly title: string,
  ) {}

  update(done: number, total: number): void {
    if (!this.terminal.isErrorTerminal || total <= 0) return;
    const percent = Math.floor((100 * done) / total);
    if (percent === this.#drawn) return;
    this.#drawn = percent;
    const filled = Math.round((width * percent) / 100);
    const bar = "█".repeat(filled) + "░".repeat(width - filled);
    this.terminal.stderr.write(`\r${this.title} ${this.terminal.errorColors.cyan(bar)} ${percent} %`);
  }

  /** Where nobody knows how many there will be. */
  count(done: number): void {
    if (!this.terminal.isErrorTerminal) return;
    this.#drawn = 0;
    this.terminal.stderr.write(`\r${this.title} ${this.terminal.errorColors.cyan(String(done))}`);
  }

  end(): void {
    if (this.#drawn >= 0) this.terminal.stderr.write("\r\u001b[2K");
    this.#drawn = -1;
  }
}
