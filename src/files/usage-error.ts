/** A flag, a variable or a config file that cannot be meant: who started the program must change it. Exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}
