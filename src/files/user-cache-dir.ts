import { homedir } from "node:os";
import path from "node:path";

/** What decides where a user's cache folder is: process.platform, process.env and os.homedir(). */
export interface UserPlace {
  readonly platform: NodeJS.Platform;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly homeDir: string;
}

/**
 * The project's folder in the user's cache folder: XDG_CACHE_HOME or ~/.cache, ~/Library/Caches on macOS, LOCALAPPDATA on
 * Windows. It may not exist yet.
 *
 * @see the XDG base directory specification: a relative XDG_CACHE_HOME is ignored.
 */
export function userCacheDir({ platform, env, homeDir }: UserPlace): string {
  const paths = platform === "win32" ? path.win32 : path.posix;
  return paths.join(userCacheRoot({ platform, env, homeDir }), "block-attention");
}

/** The same for who runs this process. */
export function thisUsersCacheDir(env: UserPlace["env"] = process.env): string {
  return userCacheDir({ platform: process.platform, env, homeDir: homedir() });
}

function userCacheRoot({ platform, env, homeDir }: UserPlace): string {
  const { XDG_CACHE_HOME: xdg, LOCALAPPDATA: localAppData } = env;
  if (platform === "win32") return localAppData || path.win32.join(homeDir, "AppData", "Local");
  if (xdg !== undefined && path.posix.isAbsolute(xdg)) return xdg;
  return platform === "darwin" ? path.posix.join(homeDir, "Library", "Caches") : path.posix.join(homeDir, ".cache");
}
