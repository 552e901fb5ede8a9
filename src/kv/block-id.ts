import type { KVType } from "../files/element-types.js";
import { hashFields } from "./hash-fields.js";

declare const blockIdBrand: unique symbol;

/** The name of a block KV: 64 hexadecimal digits, lower case. */
export type BlockId = string & { readonly [blockIdBrand]: true };

export interface BlockIdFields {
  /** Of the model: weights, config, tokenizer, adapter (`modelFingerprint`). */
  readonly fingerprint: string;
  readonly kvType: KVType;
  /** BLOCK_KV_FORMAT_VERSION. */
  readonly formatVersion: number;
  /** Keeps tenants apart: no two salts share a block. "" where there is one tenant. */
  readonly salt: string;
  /** The ids of the block's tokens, one or more. */
  readonly tokenIds: readonly number[] | Uint32Array;
}

/**
 * The id of a block: SHA-256 over all that its keys and values depend on, so that a mismatch is a miss and never a wrong
 * answer.
 *
 * @throws RangeError if there is no token, or a token id or the version is not a whole number from 0 to 2^32 - 1.
 */
export function blockId(fields: BlockIdFields): BlockId {
  const { fingerprint, kvType, formatVersion, salt, tokenIds } = fields;
  if (tokenIds.length === 0) throw new RangeError("Cannot make a block id: the block has no tokens");
  const version = u32Bytes([formatVersion], "format version");
  const tokens = u32Bytes(tokenIds, "token id");
  return hashFields("block-attention block id", [fingerprint, kvType, version, salt, tokens]) as BlockId;
}

function u32Bytes(values: readonly number[] | Uint32Array, name: string): Uint8Array {
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
