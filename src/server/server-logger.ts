import { dirname, isAbsolute } from "node:path";
import { pathToFileURL } from "node:url";
import { type DestinationStream, type Logger, pino } from "pino";

/**
 * The server's log: a line of JSON each, without prompts, answers or keys at level "info", and without the user's folders:
 * logs are sent to others.
 *
 * @param names what stands in the place of a path, which may begin a longer one: "~" for the home folder, say. The root of a
 * file system and relative paths tell nothing of a user, and stay.
 * @example names of ["/home/ada", "~"]: 'Cannot read "/home/ada/a.json"' is logged as 'Cannot read "~/a.json"'
 */
export function serverLogger(
  level: string,
  destination: DestinationStream,
  names: ReadonlyMap<string, string> = new Map(),
): Logger {
  const options: pino.LoggerOptions = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { err: pino.stdSerializers.errWithCause },
  };
  const hidden = new Map(
    [...names].flatMap(([path, name]) => spellings(path).map((spelled): [string, string] => [spelled, name])),
  );
  if (hidden.size === 0) return pino(options, destination);
  // The longest first: a model within the home folder has its own name.
  const found = [...hidden.keys()].toSorted((a, b) => b.length - a.length).map((path) => path.replace(/\W/g, "\\$&"));
  const pattern = new RegExp(`(?:${found.join("|")})(?![\\w-])`, "g");
  return pino(options, {
    write: (line) => destination.write(line.replace(pattern, (path) => hidden.get(path) ?? path)),
  });
}

/** How a path may stand in a line of JSON: as it is, quoted in a message, as a stack has it. */
function spellings(path: string): string[] {
  const folder = path.replace(/(?<=.)[\\/]+$/, "");
  if (!isAbsolute(folder) || dirname(folder) === folder) return [];
  const escaped = (text: string) => JSON.stringify(text).slice(1, -1);
  return [escaped(folder), escaped(escaped(folder)), pathToFileURL(folder).href];
}
