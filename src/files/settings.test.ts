import { expect, test } from "vitest";
import { wholeNumber } from "./options.js";
import { bytes, listOf, readSetting } from "./settings.js";
import { UsageError } from "./usage-error.js";

test("readSetting(): bytes as plain numbers, with decimal and with binary units", () => {
  const read = (text: string) => readSetting(bytes(0), text, "--store-bytes");
  expect(["0", "1000", "512MiB", "2GB", "1.5 kib", "3b"].map(read)).toEqual([0, 1000, 2 ** 29, 2e9, 1536, 3]);
  for (const text of ["", "-1", "1.5", "5XB", "MiB", "1e9", "999999TiB", "NaN", "0x10"]) {
    const wanted = "wanted a whole number of bytes from 0 on, for instance 1000000, 512MiB or 2GB";
    expect(() => read(text)).toThrow(
      new UsageError(`Cannot use --store-bytes: it is ${JSON.stringify(text)}, ${wanted}`),
    );
  }
});

test("readSetting(): lists, as text and as JSON has them", () => {
  const counts = listOf(wholeNumber(1), { isUnique: true });
  expect(readSetting(counts, "512, 1024", "--tokens")).toEqual([512, 1024]);
  expect(readSetting(counts, [512, 1024], "--tokens")).toEqual([512, 1024]);
  for (const wrong of ["512,,1", "1,2,1", [], [1, 1], "", null, 1]) {
    expect(() => readSetting(counts, wrong, "--tokens")).toThrow(/each a whole number from 1 on, none twice$/);
  }
});
