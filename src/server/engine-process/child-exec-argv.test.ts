import { expect, test } from "vitest";
import { childExecArgv } from "./child-link.js";

test("childExecArgv(): hands on limits of memory, not inspectors and scripts", () => {
  const options = [
    "--inspect-brk=9229",
    "--max-old-space-size=512",
    "--import",
    "./hook.js",
    "--enable-source-maps",
    "-e",
    "1",
  ];
  expect(childExecArgv(options)).toEqual(["--max-old-space-size=512", "--enable-source-maps"]);
});
