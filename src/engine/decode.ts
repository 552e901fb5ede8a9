import type { Backend } from "../ggml/backend.js";
import type { Tensor } from "../ggml/tensor.js";
import { type Decoder, forward } from "../model/decoder.js";
import type { AssembledContext } from "./assemble.js";

/**
 * Computes one token over a context, which its key and value join.
 *
 * @returns the logits of what follows it, [vocabulary].
 * @throws RangeError if the context is full; the signal's reason or the device's error.
 */
export async function decodeToken(
  backend: Backend,
  decoder: Decoder,
  context: AssembledContext,
  tokenId: number,
  position: number,
  signal?: AbortSignal,
): Promise<Float32Array> {
  const valuesTransposed = await context.valuesTransposed(signal);
  const tokenIds = Int32Array.of(tokenId);
  const span = {
    kind: "token",
    tokenIds,
    position,
    past: context.length,
    keys: context.keys,
    valuesTransposed,
  } as const;
  const built = forward(decoder, [span], [{ span: 0, row: 0 }]);
  using graph = built.graph;
  const logits = await backend.compute(graph, () => backend.readFloats(built.logits as Tensor), signal);
  context.length += 1;
  return logits;
}
