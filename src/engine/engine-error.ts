import { isInputError } from "../files/input-error.js";

/** What a caller may choose by: see `EngineError`. */
export type EngineErrorCode = "invalid" | "too_long" | "queue_full" | "slow_reader" | "unavailable" | "died" | "failed";

/**
 * Why an engine did not do what it was asked.
 *
 * | code | HTTP | |
 * |---|---|---|
 * | `invalid` | 400 | the prompt or an option cannot be used; the reason is the `cause` |
 * | `too_long` | 400 | the prompt does not fit the model's context, or the memory of contexts |
 * | `queue_full` | 503 | too many requests wait; later there may be room |
 * | `slow_reader` | 500 | nobody read the answer for `readerTimeoutMs` while as much of it waited as may |
 * | `unavailable` | 503 | the engine is loading, restarting or closed |
 * | `died` | 500 | the engine's process died with the request |
 * | `failed` | 500 | the device or the engine failed; the reason is the `cause` |
 *
 * @example
 * await using engine = await Engine.load({ model: embeddedModelPath(), threads: 1 });
 * const error = await engine.complete({ blocks: [] }).catch((error) => error);
 * error instanceof EngineError; // true
 * error.code; // "invalid"
 */
export class EngineError extends Error {
  override readonly name = "EngineError";

  constructor(
    readonly code: EngineErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/**
 * What a check of a caller's input gives.
 *
 * @throws EngineError "invalid" for input that the check refuses (see isInputError()), which is its cause; any other error as it is.
 */
export function checkInput<T>(check: () => T): T {
  try {
    return check();
  } catch (error) {
    throw asRefusal(error);
  }
}

/** As checkInput(), of a check that takes its time. @throws the signal's reason too, as it is. */
export async function awaitInput<T>(check: Promise<T>, signal: AbortSignal): Promise<T> {
  try {
    return await check;
  } catch (error) {
    throw signal.aborted ? error : asRefusal(error);
  }
}

/** A check's error as the caller gets it: see checkInput(). */
export function asRefusal(error: unknown): unknown {
  return isInputError(error) ? new EngineError("invalid", error.message, { cause: error }) : error;
}

/**
 * What went wrong while a request ran, as its caller gets it: an EngineError, of code `failed` where it is none yet, `invalid` where it
 * is about the input.
 */
export function asEngineError(given: unknown): EngineError {
  const error = asRefusal(given);
  if (error instanceof EngineError) return error;
  return new EngineError("failed", error instanceof Error ? error.message : String(error), { cause: error });
}
