const units: ReadonlyMap<string, number> = new Map([
  ["", 1],
  ["b", 1],
  ["kb", 1e3],
  ["mb", 1e6],
  ["gb", 1e9],
  ["tb", 1e12],
  ["kib", 2 ** 10],
  ["mib", 2 ** 20],
  ["gib", 2 ** 30],
  ["tib", 2 ** 40],
]);

/**
 * A number of bytes as people write it: a whole number, or one with a unit such as 512MiB or 2GB; undefined if the text
 * is none.
 *
 * @example parseBytes("1.5KiB") is 1536
 */
export function parseBytes(text: string): number | undefined {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim()) ?? [];
  const factor = units.get(unit.toLowerCase());
  if (number === undefined || factor === undefined) return undefined;
  const value = Number(number) * factor;
  const isWhole = unit !== "" || Number.isInteger(value);
  const rounded = Math.floor(value);
  return Number.isSafeInteger(rounded) && isWhole ? rounded : undefined;
}
