import { setTimeout as sleep } from "node:timers/promises";
import { EnvHttpProxyAgent, fetch, Headers, type RequestInit, type Response } from "undici";
import { networkFailure, retryAfterMs } from "../files/http-failures.js";
import { quote } from "../files/quote.js";
import type { HubPlace, Proxies } from "./hub-place.js";

/** A request to the hub that was answered, but not with what was asked for. */
export class HubError extends Error {
  override readonly name = "HubError";

  /** @param code what the hub calls it, for instance "GatedRepo". */
  constructor(
    message: string,
    readonly status: number,
    readonly code: string | undefined,
  ) {
    super(message);
  }
}

export interface HubFetchOptions extends Pick<HubPlace, "endpoint" | "token" | "proxies"> {
  readonly signal?: AbortSignal | undefined;
  /** Of a request that the network or the server fails. Default 5. */
  readonly maxTries?: number | undefined;
  /** The wait before the second try; each one after is twice as long, or as long as the server asks for. Default 500. */
  readonly retryWaitMs?: number | undefined;
  /** A server that says nothing for so long is as one that is gone. Default 60,000. */
  readonly silenceMs?: number | undefined;
}

export type HubFetch = (url: string, init?: RequestInit) => Promise<Response>;

const maxWaitMs = 60_000;

/**
 * fetch() that goes through the environment's proxy, adds the token (to what the endpoint's host is asked, and no other), follows
 * redirects (fetch itself drops the token where they leave the host), and tries again what may pass: no connection, too many requests, an error of the server.
 *
 * @returns a function that gives answers of status 2xx, and 416. It throws HubError for any other, Error of one line where the
 *   host cannot be reached; the signal's reason.
 */
export function hubFetch(options: HubFetchOptions): HubFetch {
  const { endpoint, token, proxies, signal, maxTries = 5, retryWaitMs = 500, silenceMs = 60_000 } = options;
  const connect = { timeout: Math.min(silenceMs, 10_000) };
  const dispatcher = new EnvHttpProxyAgent({ ...proxies, connect, bodyTimeout: silenceMs });
  // A proxy that says nothing holds its connection, and with it the process.
  const hangUp = () => void dispatcher.destroy();
  signal?.addEventListener("abort", hangUp, { once: true });
  const { origin } = new URL(endpoint);
  return async (url, init = {}) => {
    const headers = new Headers(init.headers);
    if (token !== undefined && new URL(url).origin === origin) headers.set("authorization", `Bearer ${token}`);
    for (let tries = 1; ; tries++) {
      let waitMs = retryWaitMs * 2 ** (tries - 1);
      const silence = new AbortController();
      const timer = setTimeout(() => silence.abort(new Error(`no answer in ${silenceMs / 1000} s`)), silenceMs);
      try {
        const signals = AbortSignal.any([silence.signal, ...(signal ? [signal] : [])]);
        const response = await fetch(url, { ...init, headers, dispatcher, signal: signals }).finally(() =>
          clearTimeout(timer),
        );
        if (response.ok || response.status === 416) return response;
        const { status } = response;
        await response.body?.cancel();
        if ((status !== 429 && status < 500) || tries >= maxTries) {
          const code = response.headers.get("x-error-code") ?? undefined;
          throw new HubError(`Cannot fetch ${quote(url)}: the server answers ${code ?? status}`, status, code);
        }
        waitMs = retryAfterMs(response.headers.get("retry-after"), Date.now(), maxWaitMs) ?? waitMs;
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof HubError) throw error;
        const { reason, code } = networkFailure(error);
        const refusal = /^Proxy response \((4\d\d)\)/.exec(reason)?.[1];
        if (tries >= maxTries || code === "ENOTFOUND" || refusal !== undefined) {
          hangUp();
          const why =
            (refusal === undefined ? reason : `the proxy answers ${refusal}`) + proxyHint(url, proxies, refusal);
          throw new Error(`Cannot reach ${quote(new URL(url).host)}: ${why}`, { cause: error });
        }
      }
      await sleep(Math.min(maxWaitMs, waitMs), undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
  };
}

/** Which proxy is set, since what fails may be the proxy; without its password. */
function proxyHint(url: string, { httpProxy, httpsProxy }: Proxies, refusal: string | undefined): string {
  const isSecure = url.startsWith("https:");
  const address = isSecure ? httpsProxy : httpProxy;
  if (address === "") return "";
  const name = isSecure ? "HTTPS_PROXY" : "HTTP_PROXY";
  const { protocol, host } = new URL(address);
  const wanted =
    refusal === "407" ? `, wanted one with the right name and password, as ${protocol}//NAME:PASSWORD@${host}` : "";
  return `; ${name} is ${quote(`${protocol}//${host}`)}${wanted}`;
}
