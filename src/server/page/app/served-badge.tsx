import type { ServedBlock } from "./api.js";
import { formatNoun } from "./format.js";
import { Icon } from "./icons.js";

/** Says by colour, picture and words where a block's keys and values came from. */
export function ServedBadge({ block }: { block: Pick<ServedBlock, "hit" | "tokens"> }) {
  const kind = block.hit ? "stored" : "computed";
  return (
    <span class={`badge badge-${kind}`} data-served={kind}>
      <Icon name={kind} />
      {block.hit ? "from the store" : "computed"}, {formatNoun(block.tokens, "token")}
    </span>
  );
}
