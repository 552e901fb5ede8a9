import type { Engine } from "../../src/engine/engine.js";
import type { OracleCase, OracleScores } from "./oracle-cases.js";

/** What the issue allows in log-probability, by the element type of block KV. Weights are F32. */
export const logprobBounds = { f32: 1e-3, f16: 5e-2 } as const;

/**
 * How far the engine is from the oracle at most on one prompt, in log-probability: over the continuation's tokens and
 * over the tokens that the oracle holds likeliest at each step.
 *
 * @param stepwise decodes the continuation token by token; else it is computed in one batch with the final block.
 */
export async function distanceFromOracle(
  engine: Engine,
  oracleCase: OracleCase,
  expected: OracleScores,
  stepwise: boolean,
): Promise<number> {
  const { mode, positionReencoding, blockTokenIds, continuationTokenIds } = oracleCase;
  // More than five: where two tokens are near each other, the fifth and sixth may change places.
  const found = await engine.score({ blockTokenIds }, continuationTokenIds, {
    mode,
    positionReencoding,
    stepwise,
    top: 20,
  });
  let worst = 0;
  for (const [step, logprob] of found.logprobs.entries()) {
    worst = Math.max(worst, Math.abs(logprob - expected.logprobs[step]!));
    const likeliest = new Map(found.top[step]!.map((token) => [token.id, token.logprob]));
    for (const [id, wanted] of expected.top[step]!) {
      worst = Math.max(worst, Math.abs((likeliest.get(id) ?? -Infinity) - wanted));
    }
  }
  return worst;
}
