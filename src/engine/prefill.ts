import type { Backend } from "../ggml/backend.js";
import { type Decoder, forward, pieceRows, type WantedLogits } from "../model/decoder.js";
import type { AssembledContext } from "./assemble.js";

/** The most logits of one graph, in elements: 64 MiB. */
const maxLogits = 1 << 24;

/**
 * Computes tokens over an assembled context, in pieces, each seeing all before it; their keys and values join the
 * context.
 *
 * @param position of the first token; the others follow.
 * @param firstWanted the first token whose logits are wanted, counted from the first of these; the rest after it too.
 * @yields the logits of each wanted token [vocabulary], in order.
 * @throws the signal's reason or the device's error; the context is of no use then.
 */
export async function* prefill(
  backend: Backend,
  decoder: Decoder,
  context: AssembledContext,
  tokenIds: Int32Array,
  position: number,
  firstWanted: number,
  signal?: AbortSignal,
): AsyncGenerator<Float32Array> {
  const { vocabSize } = decoder.config;
  const maxWanted = Math.max(1, Math.floor(maxLogits / vocabSize));
  for (let first = 0; first < tokenIds.length; ) {
    let count = Math.min(pieceRows(decoder), tokenIds.length - first);
    if (first + count - Math.max(first, firstWanted) > maxWanted)
      count = Math.max(first, firstWanted) + maxWanted - first;
    const piece = tokenIds.subarray(first, first + count);
    const wanted: WantedLogits[] = [];
    for (let row = Math.max(0, firstWanted - first); row < count; row++) wanted.push({ span: 0, row });
    const { keys, values } = context;
    const span = {
      kind: "piece",
      tokenIds: piece,
      position: position + first,
      past: context.length,
      keys,
      values,
    } as const;
    const built = forward(decoder, [span], wanted);
    using graph = built.graph;
    const logits = await backend.compute(
      graph,
      () => (built.logits ? backend.readFloats(built.logits) : undefined),
      signal,
    );
    context.length += count;
    first += count;
    for (let i = 0; logits && i < wanted.length; i++) yield logits.subarray(i * vocabSize, (i + 1) * vocabSize);
  }
}
