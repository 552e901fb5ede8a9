import { BlockCodecError } from "./block-codec.js";
import type { BlockId } from "./block-id.js";
import { type BlockRequest, holdsPassage, isOf } from "./block-store.js";

/** A block as a medium lists it, and what its head says, where it is sound and still there. */
interface ListedHead {
  readonly id: BlockId;
  readonly request: Promise<BlockRequest | undefined>;
}

/** Heads that are waited for at a time. */
const atATime = 256;

/**
 * Of all blocks on a medium those of an owner that hold passages or saw one.
 *
 * @param names `passageName()`s.
 * @throws Error where one could not be looked at, or not be listed.
 */
export async function idsWith(
  heads: AsyncIterable<ListedHead>,
  names: ReadonlySet<string>,
  owner: string,
): Promise<readonly BlockId[]> {
  const ids: BlockId[] = [];
  const looks: Promise<void>[] = [];
  const look = async ({ id, request }: ListedHead): Promise<void> => {
    const found = await request.catch((error: unknown) => {
      if (!(error instanceof BlockCodecError)) throw error;
      return undefined;
    });
    if (found !== undefined && isOf(owner, found) && holdsPassage(found, names)) ids.push(id);
  };
  for await (const head of heads) {
    const looking = look(head);
    // One that fails is told when the others of its turn have ended, and is no unhandled rejection until then.
    looking.catch(() => undefined);
    looks.push(looking);
    if (looks.length === atATime) await Promise.all(looks.splice(0));
  }
  await Promise.all(looks);
  return ids;
}
