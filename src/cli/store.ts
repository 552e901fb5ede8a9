import { z } from "zod";
import { formatBytes } from "../files/format-bytes.js";
import { quote } from "../files/quote.js";
import { aNumber, someWords } from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";
import type { BlockHead } from "../kv/block-codec.js";
import type { BlockFolder } from "../kv/block-folder.js";
import { isBlockId } from "../kv/block-id.js";
import { holdsPassage } from "../kv/block-store.js";
import { copyBlocks } from "../kv/copy-blocks.js";
import { type DocumentEntry, Documents, readEntry } from "../kv/documents.js";
import { type FolderEntry, readFolder } from "../kv/folder-report.js";
import { type OpenedPlace, openFolderPlace, openStoreToRead, storePlaceField } from "../kv/store-place.js";
import { removeClaims } from "./claims.js";
import { command, type FlagsOf, flag, operand, repeated, toggle } from "./command.js";
import { formatTable, note, type Terminal, write, writeJson } from "./terminal.js";

const folder = operand(flag("<place>", "a folder or a server, as --store names it", storePlaceField));

const digits = {
  schema: z
    .string()
    .regex(/^[0-9a-f]{4,64}$/)
    .optional(),
  wanted: "4 to 64 hexadecimal digits, lower case",
};

const lsFlags = {
  folder,
  documents: toggle('documents in place of blocks; with --json {"id","metadata","blocks","owner"}'),
  json: toggle(
    'one line of JSON for each: {"id","kind","tokens","bytes","used","model","owner","producer"} or {"id","error"}',
  ),
};

export const storeLsCommand = command({
  name: "ls",
  summary: "Lists the blocks and pages in a folder or on a server.",
  flags: lsFlags,
  run: runLs,
  help: `
Examples:
  block-attention store ls ./blocks
  block-attention store ls ./blocks --json | head`,
});

async function runLs({ folder: place, documents, json }: FlagsOf<typeof lsFlags>, terminal: Terminal): Promise<number> {
  await using opened = await openStoreToRead(place);
  if (documents === true) {
    for await (const { id, metadata, blocks, owner } of documentsIn(opened)) {
      const tokens = blocks.reduce((sum, block) => sum + block.tokens, 0);
      const text = `${quote(String(id))}  ${blocks.length} blocks, ${tokens} tokens\n`;
      if (json === true) await writeJson(terminal, { id, metadata, blocks: blocks.map((block) => block.id), owner });
      else await write(terminal.stdout, text, terminal.signal);
    }
    return 0;
  }
  let isSound = true;
  for await (const entry of readFolder(opened, { isWhole: false, signal: terminal.signal })) {
    const { id, numBytes: bytes } = entry;
    const used = new Date(entry.usedMs).toISOString();
    if ("error" in entry) isSound = false;
    const told =
      "error" in entry
        ? { id, bytes, used, error: entry.error }
        : {
            ...{ id, kind: entry.head.kind, tokens: entry.head.shape.numTokens, bytes, used },
            ...{ model: entry.head.model, owner: entry.head.owner, producer: entry.head.producer },
          };
    if (json === true) await writeJson(terminal, told);
    else {
      const what =
        "error" in entry ? `unsound: ${entry.error}` : `${entry.head.kind}, ${entry.head.shape.numTokens} tokens`;
      await write(terminal.stdout, `${id}  ${formatBytes(bytes).padStart(9)}  ${used}  ${what}\n`, terminal.signal);
    }
  }
  return isSound ? 0 : 1;
}

/** @throws Error for a server. */
function folderOf({ folder }: OpenedPlace, action: string): BlockFolder {
  if (folder === undefined) throw new Error(`Cannot ${action}: the place is a server, wanted a folder`);
  return folder;
}

async function* documentsIn({ texts }: OpenedPlace): AsyncGenerator<DocumentEntry & { readonly owner: string }> {
  for (const owner of await texts.owners()) {
    for await (const name of texts.list(owner)) {
      const entry = readEntry(await texts.get(name));
      if (entry !== undefined) yield { ...entry, owner };
    }
  }
}

const statFlags = { folder, json: toggle("one line of JSON") };

export const storeStatCommand = command({
  name: "stat",
  summary: "Tells how much is in a folder or on a server, of which models.",
  flags: statFlags,
  run: runStat,
  help: `
Examples:
  block-attention store stat ./blocks`,
});

async function runStat({ folder: place, json }: FlagsOf<typeof statFlags>, terminal: Terminal): Promise<number> {
  await using opened = await openStoreToRead(place);
  const groups = new Map<
    string,
    { model: string; owners: Set<string>; blocks: number; pages: number; tokens: number; bytes: number }
  >();
  let [unsound, bytes] = [0, 0];
  for await (const entry of readFolder(opened, { isWhole: false, signal: terminal.signal })) {
    bytes += entry.numBytes;
    if ("error" in entry) {
      unsound += 1;
      continue;
    }
    const { model, owner, kind, shape } = entry.head;
    const group = groups.get(model) ?? { model, owners: new Set(), blocks: 0, pages: 0, tokens: 0, bytes: 0 };
    groups.set(model, group);
    group.owners.add(owner);
    group[kind === "page" ? "pages" : "blocks"] += 1;
    group.tokens += shape.numTokens;
    group.bytes += entry.numBytes;
  }
  const models = [...groups.values()].map((group) => ({ ...group, owners: group.owners.size }));
  if (json === true) {
    await writeJson(terminal, { bytes, unsound, models });
    return 0;
  }
  const rows = models.map((one) => [
    one.model.slice(0, 12),
    ...[one.owners, one.blocks, one.pages, one.tokens].map(String),
    formatBytes(one.bytes),
  ]);
  await write(
    terminal.stdout,
    `${formatTable([["model", "owners", "blocks", "pages", "tokens", "size"], ...rows])}\n${formatBytes(bytes)} in all, ${unsound} unsound\n`,
    terminal.signal,
  );
  return 0;
}

const verifyFlags = { folder, json: toggle('one line of JSON: {"blocks","unsound"}') };

export const storeVerifyCommand = command({
  name: "verify",
  summary: "Reads all blocks in a folder or on a server, and checks their digests.",
  flags: verifyFlags,
  run: runVerify,
  help: `
Nothing is changed: what is unsound is a miss for whoever asks for it, and is moved aside then.

Examples:
  block-attention store verify ./blocks`,
});

async function runVerify({ folder: place, json }: FlagsOf<typeof verifyFlags>, terminal: Terminal): Promise<number> {
  await using opened = await openStoreToRead(place);
  let [blocks, unsound] = [0, 0];
  for await (const entry of readFolder(opened, { isWhole: true, signal: terminal.signal })) {
    blocks += 1;
    if (!("error" in entry)) continue;
    unsound += 1;
    note(terminal, `${entry.path}: ${entry.error}`);
  }
  if (json === true) await writeJson(terminal, { blocks, unsound });
  else await write(terminal.stdout, `${blocks} read, ${unsound} unsound\n`, terminal.signal);
  return unsound === 0 ? 0 : 1;
}

/** Which blocks are meant. */
const choiceFlags = {
  model: flag("<digest>", "those of a model, by its identity's first digits as store stat tells it", digits),
  owner: flag("<digest>", "those of an owner, by its name's first digits as store ls --json tells it", digits),
  id: flag("<id>", "one, by its id's first digits", digits),
};
const ofDocument = flag("<id>", "those of a document, as store ls --documents tells it", someWords);

function isChosen({ model = "", owner = "", id = "" }: FlagsOf<typeof choiceFlags>, head: BlockHead): boolean {
  return head.model.startsWith(model) && head.owner.startsWith(owner) && head.id.startsWith(id);
}

const rmFlags = {
  folder,
  ...choiceFlags,
  document: { ...ofDocument, about: "a document, its blocks, and all that saw them, but for what another one has too" },
  unsound: toggle("those that are unsound"),
  json: toggle('one line of JSON: {"removed","bytes"}'),
};

export const storeRmCommand = command({
  name: "rm",
  summary: "Removes blocks from a server, or from a folder that no process writes into.",
  flags: rmFlags,
  run: runRm,
  help: `
Examples:
  block-attention store rm ./blocks --model 4f2a09c1
  block-attention store rm ./blocks --unsound`,
});

async function runRm(flags: FlagsOf<typeof rmFlags>, terminal: Terminal): Promise<number> {
  const { folder: place, model, owner, id, document, unsound = false, json } = flags;
  if ([model, owner, id, document].every((one) => one === undefined) && !unsound) {
    const wanted = "--model, --owner, --id, --document or --unsound";
    throw new UsageError(`Cannot remove blocks: nothing says which, wanted ${wanted}`);
  }
  if (document !== undefined && (unsound || model !== undefined || id !== undefined)) {
    throw new UsageError("Cannot remove blocks: --document goes with --owner alone");
  }
  await using opened = await openStoreToRead(place);
  if (!(await opened.tryToWrite())) throw new Error(`Cannot remove blocks: ${opened.reason}`);
  const isMeant = (entry: FolderEntry): boolean => {
    if (id !== undefined && !entry.id.startsWith(id)) return false;
    if ("error" in entry) return unsound || (id !== undefined && isBlockId(id));
    return !unsound && isChosen({ model, owner, id }, entry.head);
  };
  const sums =
    document === undefined
      ? await removeAll(opened, unsound, isMeant, terminal)
      : await removeDocument(opened, document, owner ?? "", terminal);
  if (json === true) await writeJson(terminal, sums);
  else await write(terminal.stdout, `${sums.removed} removed, ${formatBytes(sums.bytes)}\n`, terminal.signal);
  return 0;
}

async function removeDocument(
  folder: OpenedPlace,
  id: string,
  owner: string,
  terminal: Terminal,
): Promise<{ removed: number; bytes: number }> {
  const sums = { removed: 0, bytes: 0 };
  const forget = async (names: ReadonlySet<string>, of: string) => {
    const isMeant = (entry: FolderEntry) =>
      !("error" in entry) && entry.head.owner === of && holdsPassage(entry.head, names);
    const { removed, bytes } = await removeAll(folder, false, isMeant, terminal);
    sums.removed += removed;
    sums.bytes += bytes;
  };
  const { texts } = folder;
  const documents = new Documents(texts, forget, (name) => name);
  let isThere = false;
  for (const name of await texts.owners()) {
    if (name.startsWith(owner)) isThere = (await documents.delete(name, id)) || isThere;
  }
  if (!isThere) throw new Error(`Cannot remove the document ${quote(id)}: there is none`);
  return sums;
}

/** @param isWhole whether keys and values are checked too. @param isDry whether they are only counted. */
async function removeAll(
  folder: OpenedPlace,
  isWhole: boolean,
  isMeant: (entry: FolderEntry) => boolean,
  terminal: Terminal,
  isDry = false,
): Promise<{ removed: number; bytes: number }> {
  const sums = { removed: 0, bytes: 0 };
  for await (const entry of readFolder(folder, { isWhole, signal: terminal.signal })) {
    if (!isMeant(entry)) continue;
    if (!isDry) await folder.remove(entry.path);
    sums.removed += 1;
    sums.bytes += entry.numBytes;
  }
  return sums;
}

const gcFlags = {
  folder,
  keepModel: repeated("<digest>", "a model whose blocks stay, by its identity's first digits; others' go", digits),
  keepProducer: repeated(
    "<text>",
    "what computed the blocks that stay, as store ls --json tells it, or how that begins; others go",
    someWords,
  ),
  olderThan: flag("<days>", "those that were last used so many days ago go", aNumber("days", z.number().min(0))),
  dryRun: toggle("remove nothing, and tell what would be removed"),
  json: toggle('one line of JSON: {"removed","bytes","quarantined"}'),
};

export const storeGcCommand = command({
  name: "gc",
  summary: "Removes what nobody can use from a folder that no process writes into.",
  flags: gcFlags,
  run: runGc,
  help: `
Blocks that are unsound or of another version go, and what lies in quarantine. Blocks that are sound go where an option says so: those of
models that are not served any more, those that another build or processor computed (misses, there), and those not used for long.

Examples:
  block-attention store gc ./blocks --dry-run
  block-attention store gc ./blocks --keep-model 4f2a09c1 --older-than 30`,
});

async function runGc(flags: FlagsOf<typeof gcFlags>, terminal: Terminal): Promise<number> {
  const { keepModel, keepProducer, olderThan = Number.POSITIVE_INFINITY, dryRun = false } = flags;
  await using opened = await openStoreToRead(flags.folder);
  if (!dryRun && !(await opened.tryToWrite())) throw new Error(`Cannot remove blocks: ${opened.reason}`);
  const usedAfterMs = Date.now() - olderThan * 86_400_000;
  const isKept = (kept: readonly string[] | undefined, name: string) =>
    kept?.some((one) => name.startsWith(one)) ?? true;
  const folder = folderOf(opened, "remove blocks");
  // What is encrypted with a key that is not given here may be sound.
  const isMeant = (entry: FolderEntry) =>
    "error" in entry
      ? entry.fault !== "key"
      : !isKept(keepModel, entry.head.model) ||
        !isKept(keepProducer, entry.head.producer) ||
        entry.usedMs < usedAfterMs;
  const sums = await removeAll(opened, false, isMeant, terminal, dryRun);
  const quarantined = await folder.quarantined(!dryRun);
  // Of processes that were killed: those that encode find no harm in it.
  if (!dryRun) await removeClaims(folder.path);
  if (flags.json === true) await writeJson(terminal, { ...sums, quarantined });
  else {
    const done = dryRun ? "would be removed" : "removed";
    const text = `${sums.removed} blocks, ${formatBytes(sums.bytes)}, and ${formatBytes(quarantined)} in quarantine ${done}\n`;
    await write(terminal.stdout, text, terminal.signal);
  }
  return 0;
}

const copied = toggle('one line of JSON: {"copied","there","unsound","no_key","full","bytes"}');
const exportFlags = {
  folder,
  to: operand(flag("<to>", "a folder to copy them into, and its cap where it has one", storePlaceField)),
  ...choiceFlags,
  document: ofDocument,
  json: copied,
};

export const storeExportCommand = command({
  name: "export",
  summary: "Copies blocks from a folder into another, to carry them elsewhere.",
  flags: exportFlags,
  run: ({ folder: from, to, json, ...choice }, terminal) => copyAll(from, to, choice, json, terminal),
  help: `
What is there already stays: the same command goes on where it was interrupted. The new folder is a store as the old one is.

Examples:
  block-attention store export ./blocks ./some --model 4f2a09c1 && tar cf some.tar ./some`,
});

const importFlags = {
  folder,
  from: operand(flag("<from>", "a folder that store export made, or any other store", storePlaceField)),
  ...choiceFlags,
  document: ofDocument,
  json: copied,
};

export const storeImportCommand = command({
  name: "import",
  summary: "Copies blocks into a folder, each checked, also while others write there.",
  flags: importFlags,
  run: ({ folder: to, from, json, ...choice }, terminal) => copyAll(from, to, choice, json, terminal),
  help: `
What another build or processor computed is a miss here, unless it is the same one.

Examples:
  tar xf some.tar && block-attention store import ./blocks?cap=20GB ./some`,
});

/** @returns the exit code: 1 if one is unsound, found no room, or its owner has no key. */
async function copyAll(
  fromPlace: string,
  toPlace: string,
  { document, ...choice }: FlagsOf<typeof choiceFlags> & { readonly document: string | undefined },
  json: boolean | undefined,
  terminal: Terminal,
): Promise<number> {
  const { signal } = terminal;
  await using from = await openStoreToRead(fromPlace);
  await using to = await openFolderPlace(toPlace);
  if (!to.folder.canWrite) throw new Error(`Cannot copy blocks: ${to.folder.reason}`);
  const sums = { copied: 0, there: 0, unsound: 0, no_key: 0, full: 0, bytes: 0 };
  const names = new Map<string, Set<string>>();
  for await (const { id, owner, blocks } of documentsIn(from)) {
    if (String(id) === document) names.set(owner, new Set(blocks.map(({ name }) => name)));
  }
  // Pages saw others, too.
  const isMeant = (head: BlockHead) =>
    isChosen(choice, head) &&
    (document === undefined || (head.kind === "block" && holdsPassage(head, names.get(head.owner) ?? new Set())));
  for await (const block of copyBlocks(
    { folder: folderOf(from, "copy blocks"), keys: from.keys },
    to,
    isMeant,
    signal,
  )) {
    sums[block.outcome === "no-key" ? "no_key" : block.outcome] += 1;
    if (block.outcome === "copied") sums.bytes += block.bytes;
    if (block.error !== undefined) note(terminal, block.error);
  }
  const { copied, there, unsound, no_key, full, bytes } = sums;
  const missed = `${unsound} unsound, ${no_key} of owners without a key, ${full} found no room`;
  const text = `${copied} copied, ${formatBytes(bytes)}; ${there} were there, ${missed}\n`;
  if (json === true) await writeJson(terminal, sums);
  else await write(terminal.stdout, text, signal);
  return unsound + no_key + full > 0 ? 1 : 0;
}
