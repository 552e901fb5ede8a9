import { isIP } from "node:net";

/** Whether an address, as --host has it, is this machine's own and nobody else's. */
export function isLoopback(host: string): boolean {
  const name = bare(host);
  if (name === "localhost" || name.endsWith(".localhost")) return true;
  if (isIP(name) === 4) return name.startsWith("127.");
  return isIP(name) === 6 && /^(0*:)*0*1$/.test(name);
}

/** An address as a URL has it: IPv6 in brackets. */
export function urlHost(host: string): string {
  return isIP(host) === 6 ? `[${host}]` : host;
}

/**
 * Which Host headers a server on this machine's own address answers. A web page whose name was made to point here (DNS
 * rebinding) says its own name there, and is refused; a client of this machine says one of the loopback's names.
 *
 * @param allowed further names, as a proxy on this machine may use.
 */
export function hostGuard(host: string, allowed: readonly string[] = []): (header: string | undefined) => boolean {
  const names = new Set([host, ...allowed].map(bare));
  return (header) => {
    const name = hostName(header ?? "");
    return name !== undefined && (isLoopback(name) || names.has(name));
  };
}

/** The name of "name:port"; undefined if the header is none. */
function hostName(header: string): string | undefined {
  const [, name] = /^(\[[0-9A-Fa-f:.]+\]|[^:[\]/?#@\s]+)(?::\d{1,5})?$/.exec(header) ?? [];
  return name === undefined ? undefined : bare(name);
}

function bare(name: string): string {
  return name
    .toLowerCase()
    .replace(/^\[(.*)\]$/, "$1")
    .replace(/\.$/, "");
}
