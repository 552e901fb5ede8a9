import type { TokenLogprob } from "./sampler.js";
import { topIds } from "./top-ids.js";

/**
 * A token's log-probability and the likeliest tokens', natural logarithms of the softmax of logits [vocabulary].
 * @throws RangeError if a logit is NaN or infinite: the model's weights are damaged.
 */
export function tokenLogprobs(
  logits: Float32Array,
  id: number,
  numTop: number,
): { readonly logprob: number; readonly top: TokenLogprob[] } {
  let max = Number.NEGATIVE_INFINITY;
  for (const logit of logits) {
    if (!Number.isFinite(logit)) throw new RangeError(`Cannot score: a logit is ${logit}, finite numbers are wanted`);
    if (logit > max) max = logit;
  }
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  const logSum = max + Math.log(sum);
  const logprob = (of: number): number => (logits[of] as number) - logSum;
  return { logprob: logprob(id), top: topIds(logits, numTop).map((of) => ({ id: of, logprob: logprob(of) })) };
}
