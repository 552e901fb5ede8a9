const inherited =
  /^--(max-old-space-size|max-semi-space-size|stack-trace-limit|stack-size)=|^--(enable-source-maps|no-warnings|no-deprecation)$/;

/**
 * Which of Node's own options, as process.execArgv has them, hold for the engine's process too: limits of memory and what
 * helps to understand errors; not an inspector's port, a watcher, or a script to evaluate.
 */
export function childExecArgv(execArgv: readonly string[]): string[] {
  return execArgv.filter((option) => inherited.test(option));
}
