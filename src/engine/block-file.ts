import { cpuFeatures } from "../ggml/library.js";
import {
  BlockCodecError,
  type BlockFields,
  decodeBlockKV,
  encodeBlockKV,
  maxJsonBytes,
  readBlockHead,
} from "../kv/block-codec.js";
import type { BlockFileFormat } from "../kv/block-format.js";
import { BLOCK_KV_FORMAT_VERSION, blockKVByteLength } from "../kv/block-kv.js";
import type { BlockRequest } from "../kv/block-store.js";
import { hashFields } from "../kv/hash-fields.js";
import { DeviceBlockMemory } from "./device-memory.js";
import type { KVMemory } from "./kv-memory.js";
import type { LoadedModel } from "./model.js";

/** Of a block's head beside its digests and tokens: more than any has. */
const headBytes = 4096;

/** How blocks of a model lie in files. Others' blocks, computed by another build or with other instructions, are not its. */
export function blockFileFormat(
  { source, backend, decoder, identity }: LoadedModel,
  memory: KVMemory,
): BlockFileFormat<DeviceBlockMemory> {
  const { name, description, kind } = backend.device;
  const isCpu = kind === "cpu";
  const by = isCpu ? cpuFeatures(decoder.ggml).join(" ") : `${name} ${description}`;
  const products = backend.policy.products ? `, ${backend.policy.products.name}` : "";
  const made = {
    producer: `ggml ${decoder.ggml.version}, ${by}${products}`,
    compute: isCpu ? "cpu" : "device",
  } as const;
  const fieldsOf = async ({
    id,
    tokenIds,
    context,
    owner,
    isPage,
    documents,
  }: BlockRequest): Promise<Omit<BlockFields, "shape">> => {
    const { pairs } = source.config.rope;
    const model = await identity;
    return { id, tokenIds, context, salt: owner, kind: isPage ? "page" : "block", model, pairs, documents, ...made };
  };
  const bytesOf = ({ shape, tokenIds, documents = [] }: Pick<BlockRequest, "shape" | "tokenIds" | "documents">) =>
    headBytes + 36 * shape.numLayers + 4 * tokenIds.length + 24 * documents.length + blockKVByteLength(shape);
  return {
    place: hashFields("block-attention block place", [
      String(BLOCK_KV_FORMAT_VERSION),
      made.producer,
      made.compute,
      source.config.rope.pairs,
    ]).slice(0, 16),
    numBytes: ({ shape }, { tokenIds, documents }) => bytesOf({ shape, tokenIds, documents }),
    encode: async (block, request) => [await encodeBlockKV(block, await fieldsOf(request))],
    readRequest: async (bytes) => {
      const { id, shape, owner, tokenIds, context, kind, documents } = await readBlockHead(bytes.size, (count) =>
        bytes.read(count),
      );
      return { id, shape, owner, tokenIds, context, isPage: kind === "page", documents, isFromFile: true };
    },
    decode: async (bytes, request) => {
      const { size } = bytes;
      // Nothing is allocated for a file that only claims to be so long.
      const most = bytesOf(request) + maxJsonBytes;
      if (size > most) throw new BlockCodecError("length", `it has ${size} bytes, at most ${most} are wanted`);
      const wanted = { ...(await fieldsOf(request)), shape: request.shape };
      return await decodeBlockKV(bytes, wanted, () => new DeviceBlockMemory(memory, request.shape));
    },
  };
}
