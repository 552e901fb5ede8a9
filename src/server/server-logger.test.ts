import { join, parse, sep } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { quote } from "../files/quote.js";
import { serverLogger } from "./server-logger.js";

test("serverLogger(): paths of a user have the names that were given, as text, within quotes and in stacks", () => {
  const lines: string[] = [];
  const root = process.platform === "win32" ? "C:\\Users" : "/home";
  const at = (...parts: string[]) => join(root, ...parts);
  const logger = serverLogger(
    "info",
    { write: (line) => lines.push(line) },
    new Map([
      [at("ada l"), "~"],
      [`${at("ada l", "models", "tiny")}${sep}`, "tiny"],
      [parse(root).root, "root"],
      ["models", "relative"],
      ["", "nothing"],
    ]),
  );
  logger.info({ path: at("ada l", "a.json"), like: at("ada lovelace"), route: "/v1/models" }, "one");
  logger.info({ lastError: `Cannot read ${quote(at("ada l", "models", "tiny", "config.json"))}: gone` }, "two");
  const error = new Error(`Cannot read ${at("ada l")}`);
  error.stack = `Error\n    at f (${pathToFileURL(at("ada l", "dist", "a.js")).href}:1:2)`;
  logger.error({ err: error }, "three");
  const [one, two, three] = lines.map((line) => JSON.parse(line));
  expect(one).toMatchObject({ path: `~${sep}a.json`, like: at("ada lovelace"), route: "/v1/models", msg: "one" });
  expect(two.lastError).toBe(`Cannot read ${quote(`tiny${sep}config.json`)}: gone`);
  expect(three.err).toMatchObject({ message: "Cannot read ~", stack: "Error\n    at f (~/dist/a.js:1:2)" });
});
