import type { KVType } from "../files/element-types.js";
import { hashFields } from "./hash-fields.js";

declare const blockIdBrand: unique symbol;
declare const contextIdBrand: unique symbol;

/** The name of a block KV: 64 hexadecimal digits, lower case. */
export type BlockId = string & { readonly [blockIdBrand]: true };
/** The name of all that some text saw before itself: 64 hexadecimal digits, lower case. */
export type ContextId = string & { readonly [contextIdBrand]: true };

/** What every id of a model, in one form and for one tenant, has in common. */
export interface ModelIdFields {
  /** The model's identity (`modelIdentity`). */
  readonly model: string;
  readonly kvType: KVType;
  /** BLOCK_KV_FORMAT_VERSION. */
  readonly formatVersion: number;
  /** Keeps tenants apart: no two salts share a block. "" where there is one tenant. */
  readonly salt: string;
}

export interface BlockIdFields extends ModelIdFields {
  /** The ids of the block's tokens, one or more. */
  readonly tokenIds: readonly number[] | Uint32Array | Int32Array;
  /** What it saw beside itself. Default: nothing, as plain blocks. */
  readonly context?: ContextId | undefined;
}

/** How text sees what stands before it: whatever changes an attended key or value. */
export interface ContextIdFields extends ModelIdFields {
  readonly mode: "block" | "full" | "preamble";
  /** Whether the keys of local blocks are turned to their places. */
  readonly positionReencoding: boolean;
  /** What else changes how they are seen, in words that name it; absent: nothing. */
  readonly repair?: string | undefined;
}

/** The id of an empty context: what the first global text of a prompt saw. */
export function contextId(fields: ContextIdFields): ContextId {
  const { model, kvType, formatVersion, salt, mode, positionReencoding, repair } = fields;
  const version = u32Bytes([formatVersion], "format version");
  const settings = [mode, positionReencoding ? "turned to their places" : "at their own positions"];
  if (repair !== undefined) settings.push(repair);
  return hashFields("block-attention context id", [model, kvType, version, salt, ...settings]) as ContextId;
}

/** The id of a context and what follows it: SHA-256 over the chain of all ids that were seen, in order. */
export function extendContext(context: ContextId, seen: BlockId): ContextId {
  return hashFields("block-attention context", [context, seen]) as ContextId;
}

/**
 * The id of a block: SHA-256 over all that its keys and values depend on, so that a mismatch is a miss and never a wrong
 * answer.
 *
 * @throws RangeError if there is no token, or a token id or the version is not a whole number from 0 to 2^32 - 1.
 */
export function blockId(fields: BlockIdFields): BlockId {
  const { model, kvType, formatVersion, salt, tokenIds, context } = fields;
  if (tokenIds.length === 0) throw new RangeError("Cannot make a block id: the block has no tokens");
  const version = u32Bytes([formatVersion], "format version");
  const tokens = u32Bytes(tokenIds, "token id");
  const seen = context === undefined ? [] : [context];
  return hashFields("block-attention block id", [model, kvType, version, salt, tokens, ...seen]) as BlockId;
}

/** Names a passage among what blocks and pages saw. @param plainId of its block that saw nothing. */
export function passageName(plainId: BlockId): string {
  return plainId.slice(0, 16);
}

/** Names an owner where others may read it: their salt may be secret, and whoever knows it can name their blocks. */
export function ownerName(salt: string): string {
  return hashFields("block-attention owner", [salt]);
}

function u32Bytes(values: readonly number[] | Uint32Array | Int32Array, name: string): Uint8Array {
  const bytes = Buffer.alloc(4 * values.length);
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff) {
      throw new RangeError(`Cannot make a block id: a ${name} is ${value}, wanted a whole number from 0 to 2^32 - 1`);
    }
    bytes.writeUInt32LE(value, 4 * i);
  }
  return bytes;
}

/** Whether a string is spelled as a block id is. */
export function isBlockId(text: string): text is BlockId {
  return /^[0-9a-f]{64}$/.test(text);
}
