import { expect, test } from "vitest";
import { userCacheDir } from "./user-cache-dir.js";

test.each([
  ["linux", {}, "/home/ada", "/home/ada/.cache/block-attention"],
  ["linux", { XDG_CACHE_HOME: "/big/cache" }, "/home/ada", "/big/cache/block-attention"],
  ["linux", { XDG_CACHE_HOME: "relative" }, "/home/ada", "/home/ada/.cache/block-attention"],
  ["linux", { XDG_CACHE_HOME: "" }, "/home/ada", "/home/ada/.cache/block-attention"],
  ["darwin", {}, "/Users/ada", "/Users/ada/Library/Caches/block-attention"],
  ["win32", { LOCALAPPDATA: "D:\\Local" }, "C:\\Users\\ada", "D:\\Local\\block-attention"],
  ["win32", {}, "C:\\Users\\ada", "C:\\Users\\ada\\AppData\\Local\\block-attention"],
] as const)("userCacheDir(): on %s with %o", (platform, env, homeDir, expected) => {
  expect(userCacheDir({ platform, env, homeDir })).toBe(expected);
});
