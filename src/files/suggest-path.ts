import { existsSync, readdirSync } from "node:fs";
import { homedir } from "node:os";
import { join, normalize, parse, sep } from "node:path";
import { editDistance } from "./edit-distance.js";

/** So many letters may differ, and fewer than half of a name's. */
const maxDistance = 2;

/**
 * The path that is there and that one that is not was probably meant to be: its home folder spelled out for "~", and each part
 * that is missing replaced by the one entry of the folder that is nearest to it. Undefined where there is none, or several.
 *
 * @example where "data/passages.jsonl" exists, suggestPath("dta/passages.json") is "data/passages.jsonl"
 */
export function suggestPath(path: string, home: string = homedir()): string | undefined {
  if (path === "" || path.includes("\0")) return undefined;
  if (/^~([/\\]|$)/.test(path)) {
    const inHome = join(home, path.slice(1));
    return existsSync(inHome) ? inHome : suggestPath(inHome);
  }
  const { root } = parse(normalize(path));
  let found = root;
  for (const part of normalize(path).slice(root.length).split(sep).filter(Boolean)) {
    const name = existsSync(join(found, part)) ? part : nearestName(part, namesIn(found));
    if (name === undefined) return undefined;
    found = join(found, name);
  }
  // A link that leads nowhere is there already.
  return found === normalize(path) ? undefined : found;
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder === "" ? "." : folder);
  } catch {
    // A file, or a folder that may not be listed: it suggests nothing.
    return [];
  }
}

function nearestName(wanted: string, names: readonly string[]): string | undefined {
  const distances = names
    .filter((name) => name !== wanted)
    .map((name) => ({ name, distance: nameDistance(wanted, name) }));
  const nearest = Math.min(...distances.map(({ distance }) => distance));
  const [only, another] = distances.filter(({ distance }) => distance === nearest);
  return nearest <= maxDistance && another === undefined ? only?.name : undefined;
}

/** 0 for another case, 1 for another ending; else the letters that differ, Infinity where that is half of the name. */
function nameDistance(a: string, b: string): number {
  const [first, second] = [a.toLowerCase(), b.toLowerCase()];
  if (first === second) return 0;
  if (parse(first).name === parse(second).name) return 1;
  const stem = Math.min(parse(first).name.length, parse(second).name.length);
  const isNear = Math.abs(first.length - second.length) <= maxDistance;
  const distance = isNear ? editDistance(first, second) : Number.POSITIVE_INFINITY;
  return 2 * distance < stem ? distance : Number.POSITIVE_INFINITY;
}
