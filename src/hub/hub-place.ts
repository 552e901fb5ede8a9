import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { HUB_URL } from "@huggingface/hub";
import { undefinedIfMissing } from "../files/regular-file.js";
import { userCacheDir } from "../kv/user-cache-dir.js";

export type Env = Readonly<Record<string, string | undefined>>;

/** Where models come from and where they lie, by the variables that the `hf` command goes by too. */
export interface HubPlace {
  /** The hub's address, without a slash at its end. */
  readonly endpoint: string;
  readonly token: string | undefined;
  /** The folder that is shared with `hf`: one folder a repository. */
  readonly cacheDir: string;
  /** One folder for each model that has a name of its own here. */
  readonly ownDir: string;
  readonly isOffline: boolean;
}

/** @throws Error if there is a file of the token that cannot be read. */
export async function hubPlace(env: Env): Promise<HubPlace> {
  const homeDir = homedir();
  const home = env.HF_HOME || join(env.XDG_CACHE_HOME || join(homeDir, ".cache"), "huggingface");
  const tokenPath = env.HF_TOKEN_PATH || join(home, "token");
  const token = env.HF_TOKEN || (await readFile(tokenPath, "utf8").catch(undefinedIfMissing));
  return {
    endpoint: (env.HF_ENDPOINT || HUB_URL).replace(/\/+$/, ""),
    token: token?.trim() || undefined,
    cacheDir: env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(home, "hub"),
    ownDir: join(userCacheDir({ platform: process.platform, env, homeDir }), "models"),
    isOffline: /^(1|on|yes|true)$/i.test(env.HF_HUB_OFFLINE ?? ""),
  };
}
