import { isInputError } from "../files/input-error.js";

/** What a caller may choose by: see `EngineError`. */
export type EngineErrorCode = "invalid" | "too_long" | "queue_full" | "slow_reader";

/**
 * Why an engine did not take a request. What is the caller's fault, and a full queue, comes out as this; all else (a device
 * that fails, an engine that closes) as the error that it is.
 *
 * | code | HTTP | |
 * |---|---|---|
 * | `invalid` | 400 | the prompt or an option cannot be used; the reason is the `cause` |
 * | `too_long` | 400 | the prompt does not fit the model's context, or the memory of contexts |
 * | `queue_full` | 503 | too many requests wait; later there may be room |
 * | `slow_reader` | 500 | nobody read the answer for `readerTimeoutMs` while as much of it waited as may |
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
