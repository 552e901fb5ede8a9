import {
  type BlockId,
  blockId,
  type ContextId,
  contextId,
  extendContext,
  type ModelIdFields,
  passageName,
} from "../kv/block-id.js";
import type { BlockTokens, PromptSpan, TokenizedPrompt } from "./prompt.js";
import { lookingTokens, type Recompute } from "./recompute.js";
import type { TokenizedRepair } from "./repair.js";

/** Tokens of a page: a piece of a prompt's global text, or of its answer. */
export const PAGE_TOKENS = 64;

/** What a prompt's keys and values are kept by. */
export type PromptPart =
  /** A local block; `index` counts them. */
  | (PartTokens & { readonly kind: "block"; readonly index: number; readonly isOpen: false })
  /** So many tokens of global text, from the start of its span on: all of a page, or what is left of the span. */
  | (PartTokens & {
      readonly kind: "page";
      /** All that stands before it. */
      readonly context: ContextId;
      /** Whether the answer goes on in it. */
      readonly isOpen: boolean;
    });

interface PartTokens {
  readonly id: BlockId;
  /** Of the first token, from the prompt's start. */
  readonly place: number;
  readonly tokenIds: Int32Array;
  readonly span: PromptSpan;
}

/** What names a local block: what stands before it while it is encoded is what it saw. */
export function localBlock(
  fields: ModelIdFields,
  { tokenIds, preamble }: BlockTokens,
): { readonly id: BlockId; readonly context: ContextId | undefined } {
  if (preamble === undefined) return { id: blockId({ ...fields, tokenIds }), context: undefined };
  const nothing = contextId({ ...fields, mode: "preamble", positionReencoding: true });
  const context = extendContext(nothing, blockId({ ...fields, tokenIds: preamble }));
  return { id: blockId({ ...fields, tokenIds, context }), context };
}

/** Names the passage that a block is, by its own tokens: whatever it sees, and whether the text begins with it. */
export function nameOfPassage(
  fields: ModelIdFields,
  { tokenIds, ownTokenIds = tokenIds }: BlockTokens,
  bosId?: number,
) {
  const isFirst = ownTokenIds.length > 1 && ownTokenIds[0] === bosId;
  return passageName(blockId({ ...fields, tokenIds: isFirst ? ownTokenIds.subarray(1) : ownTokenIds }));
}

/** The blocks of a prompt as it was cut, by name, and the places where they start. */
export function passagesOf(
  { mode, spans, cutTokenIds }: TokenizedPrompt,
  fields: ModelIdFields,
  bosId: number | undefined,
): readonly { readonly start: number; readonly name: string }[] {
  let place = 0;
  const cut = cutTokenIds.filter(({ length }) => length > 0).map((ids) => ({ tokenIds: Int32Array.from(ids) }));
  return (mode === "full" ? cut : spans).map((block) => {
    const start = place;
    place += block.tokenIds.length;
    return { start, name: nameOfPassage(fields, block, bosId) };
  });
}

/**
 * The parts of a prompt and its answer, in order. A part's id is a chain: it depends on every token before it, and on how that
 * is seen, so that one prompt's page is another's only where all before it is the same.
 */
export function* promptParts(
  { mode, spans }: TokenizedPrompt,
  fields: ModelIdFields,
  {
    positionReencoding,
    repair,
  }: { readonly positionReencoding: boolean; readonly repair?: TokenizedRepair | undefined },
  answerIds: readonly number[] = [],
): Generator<PromptPart, void> {
  const isSeenOtherwise = [repair?.recompute, repair?.temperature, repair?.scale].some((x) => x !== undefined);
  const otherwise =
    repair && isSeenOtherwise ? `${repair.text} ${seenByChoice(repair.recompute, spans, fields)}` : undefined;
  let context = contextId({ ...fields, mode, positionReencoding, repair: otherwise });
  let place = 0;
  let index = 0;
  for (const span of spans) {
    if (span.kind === "local") {
      const { tokenIds } = span;
      const { id } = localBlock(fields, span);
      yield { kind: "block", id, place, tokenIds, span, index, isOpen: false };
      index += 1;
      place += tokenIds.length;
      context = extendContext(context, id);
      continue;
    }
    const isLast = span === spans.at(-1);
    const all = isLast && answerIds.length > 0 ? Int32Array.from([...span.tokenIds, ...answerIds]) : span.tokenIds;
    for (let first = 0; first < all.length; first += PAGE_TOKENS) {
      const tokenIds = all.subarray(first, first + PAGE_TOKENS);
      const id = blockId({ ...fields, tokenIds, context });
      yield { kind: "page", id, place, tokenIds, span, context, isOpen: isLast && first + PAGE_TOKENS >= all.length };
      place += tokenIds.length;
      context = extendContext(context, id);
    }
  }
}

/** What decides which tokens are computed again, beside what stands before them. */
function seenByChoice(recompute: Recompute | undefined, spans: readonly PromptSpan[], fields: ModelIdFields): string {
  if (recompute === undefined || recompute.kind === "first") return "";
  const blocks = spans.filter(({ kind }) => kind === "local").map((span) => localBlock(fields, span).id);
  return [...blocks, ...(recompute.kind === "look" ? lookingTokens(spans) : [])].join(" ");
}
