import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { HUB_URL } from "@huggingface/hub";
import { quote } from "../files/quote.js";
import { describeFileError, undefinedIfMissing } from "../files/regular-file.js";
import { packagedDir } from "../model/packaged-models.js";

export type Env = Readonly<Record<string, string | undefined>>;

/** Where models come from and where they lie, by the variables that the `hf` command goes by too. */
export interface HubPlace {
  /** The hub's address, without a slash at its end. */
  readonly endpoint: string;
  readonly token: string | undefined;
  /** "HF_TOKEN", or the path of the token's file. */
  readonly tokenFrom: string;
  readonly proxies: Proxies;
  /** The folder that is shared with `hf`: one folder a repository. */
  readonly cacheDir: string;
  /** One folder for each model that has a name of its own here. */
  readonly ownDir: string;
  readonly isOffline: boolean;
}

/** Addresses of proxies, each "" where there is none, by the protocol of what is asked for; and the hosts that are asked without one. */
export interface Proxies {
  readonly httpProxy: string;
  readonly httpsProxy: string;
  readonly noProxy: string;
}

/** @throws Error of one line for an address that is none, a token that is none, and a file of the token that cannot be read. */
export async function hubPlace(env: Env): Promise<HubPlace> {
  const homeDir = homedir();
  // Not every shell that sets a variable has put the folder in.
  const folder = (name: string) => env[name]?.replace(/^~(?=[/\\]|$)/, homeDir);
  const home = folder("HF_HOME") || join(env.XDG_CACHE_HOME || join(homeDir, ".cache"), "huggingface");
  const tokenPath = folder("HF_TOKEN_PATH") || join(home, "token");
  const tokenFrom = env.HF_TOKEN ? "HF_TOKEN" : tokenPath;
  const token = (env.HF_TOKEN || (await readToken(tokenPath)))?.trim();
  if (token && !/^[\x21-\x7e]+$/.test(token)) {
    throw new Error(`Cannot use the token of ${quote(tokenFrom)}: it has characters that no token has`);
  }
  const endpoint = (env.HF_ENDPOINT || HUB_URL).replace(/\/+$/, "");
  checkAddress("HF_ENDPOINT", endpoint, /^https?:$/);
  const httpProxy = proxyAt(env, "http_proxy");
  return {
    endpoint,
    token: token || undefined,
    tokenFrom,
    proxies: {
      httpProxy,
      httpsProxy: proxyAt(env, "https_proxy") || httpProxy,
      noProxy: env.no_proxy ?? env.NO_PROXY ?? "",
    },
    cacheDir: folder("HF_HUB_CACHE") || folder("HUGGINGFACE_HUB_CACHE") || join(home, "hub"),
    ownDir: packagedDir(env),
    isOffline: /^(1|on|yes|true)$/i.test(env.HF_HUB_OFFLINE ?? ""),
  };
}

async function readToken(path: string): Promise<string | undefined> {
  return await readFile(path, "utf8")
    .catch(undefinedIfMissing)
    .catch((error: unknown) => {
      throw describeFileError(error, path);
    });
}

/** As curl takes it: in lower case before upper case, and as HOST:PORT too. */
function proxyAt(env: Env, name: string): string {
  const text = env[name] || env[name.toUpperCase()] || "";
  if (text === "") return "";
  const address = text.includes("://") ? text : `http://${text}`;
  checkAddress(name.toUpperCase(), address, /^(https?|socks5?):$/);
  return address;
}

function checkAddress(name: string, text: string, protocols: RegExp): void {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  // The text may hold a password.
  if (!url || !protocols.test(url.protocol) || /%(?![0-9a-f]{2})/i.test(url.username + url.password))
    throw new Error(`Cannot use ${name}: wanted an address, as http://HOST:PORT`);
}
