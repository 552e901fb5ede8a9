import { join } from "node:path";
import { expect, test } from "vitest";
import { readSetting } from "../files/settings.js";
import { expectError, temporaryFolder } from "../files/test-files.suite.js";
import { openStorePlaces, storePlaceField, storePlacesField } from "./store-place.js";

const isPlace = (text: string) => storePlaceField.schema.safeParse(text).success;

test("storePlaceField: folders, Redis and S3, each with settings of its own", () => {
  for (const text of [
    "blocks",
    "./blocks?cap=20GB&key=some/key",
    "file:///var/blocks",
    "redis://host",
    "rediss://user:p%40ss@[::1]:6380/3?prefix=a&timeout=500&key=k",
    "s3://my-bucket",
    "s3://my-bucket/a/b?region=eu-central-1&endpoint=http://127.0.0.1:9000&timeout=3000",
  ]) {
    expect([text, isPlace(text)]).toEqual([text, true]);
  }
  for (const text of [
    ...[
      "",
      "?cap=1GB",
      "./blocks?cap=much",
      "./blocks?prefix=a",
      "./blocks?cap=",
      "ftp://host/x",
      "redis://",
      "redis://host/name",
    ],
    ...[
      "redis://host?timeout=0",
      "redis://host?timeout=9999999999",
      "redis://host?region=x",
      "s3://B",
      "s3://user@bucket",
      "s3://bucket?endpoint=host:9000",
    ],
    ...["s3://bucket?endpoint=http://user:secret@host", "s3://bucket?prefix=a"],
  ]) {
    expect([text, isPlace(text)]).toEqual([text, false]);
  }
});

test("storePlacesField: a text has commas between places, and a folder's name may have some", () => {
  const read = (text: string) => readSetting(storePlacesField, text, "--store");
  expect(read("./a,b?cap=1GB,redis://host,s3://bucket/x,/c")).toEqual([
    ...["./a,b?cap=1GB", "redis://host", "s3://bucket/x", "/c"],
  ]);
  expect(read("blocks")).toEqual(["blocks"]);
  expect(() => read("redis://user:secret@host/name")).toThrow('"redis://…@host/name"');
});

test("openStorePlaces(): a server has no cap of ours, and a key that is missing is told before anything is opened", async () => {
  const folder = await temporaryFolder();
  const blocks = join(folder, "blocks");
  for (const [server, limits] of [
    ["redis://me:secret@host", "maxmemory"],
    ["s3://bucket", "lifecycle rules"],
  ]) {
    const message = await expectError(openStorePlaces([blocks, `${server}?cap=1GB`]), `it has a cap, wanted none: `);
    expect(message).toContain(limits);
    expect(message).not.toContain("secret");
  }
  await expectError(openStorePlaces(`redis://host?key=${join(folder, "none")}`), "no such file");
  await expectError(openStorePlaces("redis://host?key=no+such%20key"), '"no+such key"');
  // The folder that was opened before the error was closed again.
  const [again] = await openStorePlaces(blocks, (warning) => expect(warning).toBe(""));
  await again?.[Symbol.asyncDispose]();
});
