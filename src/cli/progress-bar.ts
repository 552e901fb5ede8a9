import { formatDuration, type Terminal } from "./terminal.js";

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

/** How often a line without a terminal tells that something still goes on. */
const plainMs = 30_000;

/**
 * What goes on where nobody knows how long it takes, and for how long it has: on a terminal a line that is drawn anew each
 * second and leaves nothing behind, elsewhere a line when it begins and one each half minute.
 */
export class StatusLine {
  #title: string | undefined;
  #detail = "";
  #startedMs = 0;
  #toldMs = 0;
  #timer: NodeJS.Timeout | undefined;

  /** @param nowMs a clock. */
  constructor(
    private readonly terminal: Terminal,
    private readonly nowMs: () => number,
  ) {}

  /** Shows it until end(), or until something else is shown. */
  show(title: string, detail = ""): void {
    this.#detail = detail;
    if (title === this.#title) return;
    this.end();
    this.#title = title;
    this.#startedMs = this.nowMs();
    this.#toldMs = this.#startedMs;
    if (!this.terminal.isErrorTerminal) this.terminal.stderr.write(`${title}\n`);
    this.#timer = setInterval(() => this.#draw(), 1000);
    this.#timer.unref();
    this.#draw();
  }

  end(): void {
    clearInterval(this.#timer);
    this.wipe();
    this.#title = undefined;
  }

  /** Makes room for another line; the next second draws it again. */
  wipe(): void {
    if (this.#title !== undefined && this.terminal.isErrorTerminal) this.terminal.stderr.write("\r\u001b[2K");
  }

  #draw(): void {
    const { stderr, errorColors, isErrorTerminal } = this.terminal;
    const now = this.nowMs();
    const time = formatDuration((now - this.#startedMs) / 1000);
    const line = `${this.#title}${this.#detail === "" ? "" : `: ${this.#detail}`}  ${time}`;
    if (isErrorTerminal) {
      stderr.write(`\r\u001b[2K${errorColors.cyan(line)}`);
    } else if (now - this.#toldMs >= plainMs) {
      this.#toldMs = now;
      stderr.write(`${line}\n`);
    }
  }
}
