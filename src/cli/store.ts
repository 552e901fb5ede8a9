import { z } from "zod";
import { formatBytes } from "../files/format-bytes.js";
import { UsageError } from "../files/usage-error.js";
import { isBlockId } from "../kv/block-id.js";
import { type FolderEntry, readFolder } from "../kv/folder-report.js";
import { openStoreToRead, storePlaceField } from "../kv/store-place.js";
import { command, type FlagsOf, flag, operand, toggle } from "./command.js";
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
  json: toggle('one line of JSON for each: {"id","kind","tokens","bytes","used","model","owner"} or {"id","error"}'),
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

async function runLs({ folder: place, json }: FlagsOf<typeof lsFlags>, terminal: Terminal): Promise<number> {
  await using opened = await openStoreToRead(place);
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
            ...{ model: entry.head.model, owner: entry.head.owner },
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

const rmFlags = {
  folder,
  model: flag("<digest>", "those of a model, by its identity's first digits as store stat tells it", digits),
  owner: flag("<digest>", "those of an owner, by its name's first digits as store ls --json tells it", digits),
  id: flag("<id>", "one, by its id", digits),
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
  const { folder: place, model, owner, id, unsound = false, json } = flags;
  if (model === undefined && owner === undefined && id === undefined && !unsound) {
    throw new UsageError("Cannot remove blocks: nothing says which, wanted --model, --owner, --id or --unsound");
  }
  await using opened = await openStoreToRead(place);
  if (!(await opened.tryToWrite())) throw new Error(`Cannot remove blocks: ${opened.reason}`);
  const isMeant = (entry: FolderEntry): boolean => {
    if (id !== undefined && !entry.id.startsWith(id)) return false;
    if ("error" in entry) return unsound || (id !== undefined && isBlockId(id));
    if (unsound) return false;
    const { head } = entry;
    return head.model.startsWith(model ?? "") && head.owner.startsWith(owner ?? "");
  };
  let [removed, bytes] = [0, 0];
  for await (const entry of readFolder(opened, { isWhole: unsound, signal: terminal.signal })) {
    if (!isMeant(entry)) continue;
    await opened.remove(entry.path);
    removed += 1;
    bytes += entry.numBytes;
  }
  if (json === true) await writeJson(terminal, { removed, bytes });
  else await write(terminal.stdout, `${removed} removed, ${formatBytes(bytes)}\n`, terminal.signal);
  return 0;
}
