/**
 * A caller's value of the wrong kind. Checks of what a caller gives throw this or `InputRangeError`, and nothing else does, so
 * that it can be told by its class from an error of the program's own: over HTTP it is a 400, the other a 500.
 */
export class InputTypeError extends TypeError {}

/** A caller's value of the right kind that cannot be used: see `InputTypeError`. */
export class InputRangeError extends RangeError {}

export function isInputError(error: unknown): error is InputTypeError | InputRangeError {
  return error instanceof InputTypeError || error instanceof InputRangeError;
}
