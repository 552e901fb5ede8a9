import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from "node:http";
import { type AddressInfo, connect } from "node:net";
import type { Duplex } from "node:stream";
import { onTestFinished } from "vitest";
import { temporaryFolder } from "../files/test-files.suite.js";

/** What goes wrong with one answer that holds a file's bytes. Places are shares of the answer, 0 to 1. */
export type Fault =
  /** The connection is cut: before the headers where `at` is 0. */
  | { readonly kind: "cut"; readonly at: number }
  /** A proper end, too early. */
  | { readonly kind: "short"; readonly at: number }
  | { readonly kind: "changed"; readonly at: number }
  | { readonly kind: "longer" }
  /** The whole file, whatever was asked for. */
  | { readonly kind: "noRanges" }
  /** Another piece than was asked for, and said so. */
  | { readonly kind: "otherRange" }
  | { readonly kind: "otherSize" }
  | { readonly kind: "status"; readonly status: number }
  /** Another file, as after a change on the server: its ETag is another. */
  | { readonly kind: "otherFile" };

interface FakeFile {
  readonly bytes: Uint8Array;
  readonly isLfs: boolean;
}

export interface FakeRepo {
  readonly files: Readonly<Record<string, Uint8Array>>;
  readonly commit?: string;
  /** Branches beside main. */
  readonly revisions?: readonly string[];
  readonly license?: string;
  readonly isGated?: boolean;
  /** No file is sent to anybody. */
  readonly isForbidden?: boolean;
  /** Wrong sizes and digests of the list, by path. */
  readonly says?: Readonly<Record<string, { readonly size?: number; readonly oid?: string; readonly path?: string }>>;
}

export interface FakeHub {
  readonly url: string;
  /** HF_ENDPOINT, a cache folder of this test's own, and no token. */
  readonly env: Readonly<Record<string, string>>;
  /** As "hub GET /path" or "store GET /path", with the range and " (token)" where there is one. */
  readonly log: string[];
  /** The next answers with bytes go wrong like this, one each. */
  readonly faults: Fault[];
  /** Called with each answer with bytes before it begins. */
  onBytes: (() => void | Promise<void>) | undefined;
}

export const fakeCommit = "c0ffee".padEnd(40, "0");

/** A server that speaks the hub's protocol, and another host that has the bytes of large files. They end with the test. */
export async function fakeHub(repos: Readonly<Record<string, FakeRepo>>): Promise<FakeHub> {
  const folder = await temporaryFolder();
  const log: string[] = [];
  const faults: Fault[] = [];
  const note = (host: string, { method, url, headers }: IncomingMessage) =>
    log.push(
      `${host} ${method} ${url}${headers.range === undefined ? "" : ` ${headers.range}`}${headers.authorization === undefined ? "" : " (token)"}`,
    );
  const hub: FakeHub = {
    url: "",
    env: { HOME: folder, PATH: process.env.PATH ?? "", HF_HOME: folder, XDG_CACHE_HOME: folder },
    log,
    faults,
    onBytes: undefined,
  };
  const storeUrl = await listen((request, response) => {
    note("store", request);
    const file = findFile(repos, decodeURIComponent(request.url ?? ""));
    void sendFile(request, response, file?.bytes ?? Buffer.alloc(0), hub);
  });
  const url = await listen((request, response) => {
    note("hub", request);
    const path = decodeURIComponent(new URL(request.url ?? "", "http://hub").pathname);
    const [, name, rest = ""] = /^\/(?:api\/models\/)?([^/]+\/[^/]+)(.*)$/.exec(path) ?? [];
    const refuse = (status: number, code: string) => response.writeHead(status, { "x-error-code": code }).end("{}");
    const json = (value: unknown) =>
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
    if (request.headers.authorization === "Bearer unknown") return response.writeHead(401).end("{}");
    if (path === "/api/models") return json(Object.keys(repos).map((id) => ({ id, _id: id })));
    const repo = repos[name ?? ""];
    if (repo === undefined) return refuse(request.headers.authorization ? 404 : 401, "RepoNotFound");
    const commit = repo.commit ?? fakeCommit;
    const isKnown = (revision: string) => ["HEAD", "main", commit, ...(repo.revisions ?? [])].includes(revision);
    const [, revision] = /^\/(?:revision|tree|resolve)\/([^/]+)/.exec(rest) ?? [];
    if (!isKnown(revision ?? "")) return refuse(404, "RevisionNotFound");
    if (rest.startsWith("/revision/")) {
      return json({ _id: "1", id: name, sha: commit, gated: repo.isGated, cardData: { license: repo.license } });
    }
    if (rest.startsWith("/tree/")) return json(Object.keys(repo.files).map((file) => listed(repo, file)));
    if (repo.isForbidden) return response.writeHead(403).end("{}");
    if (repo.isGated && !request.headers.authorization) return refuse(403, "GatedRepo");
    const file = findFile(repos, path);
    if (file === undefined) return refuse(404, "EntryNotFound");
    if (!file.isLfs) return void sendFile(request, response, file.bytes, hub);
    return response
      .writeHead(302, {
        location: storeUrl + encodeURI(path),
        "x-repo-commit": commit,
        "x-linked-etag": `"${sha256(file.bytes)}"`,
        "x-linked-size": file.bytes.length,
      })
      .end();
  });
  return Object.assign(hub, { url, env: { ...hub.env, HF_ENDPOINT: url } });
}

function findFile(repos: Readonly<Record<string, FakeRepo>>, path: string): FakeFile | undefined {
  const [, name, file] = /^\/([^/]+\/[^/]+)\/resolve\/[^/]+\/(.+)$/.exec(path) ?? [];
  const bytes = repos[name ?? ""]?.files[file ?? ""];
  return bytes && { bytes, isLfs: isLarge(file ?? "") };
}

const isLarge = (path: string) => /\.(gguf|safetensors)$/.test(path);
export const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

function listed({ files, says }: FakeRepo, path: string) {
  const bytes = files[path] as Uint8Array;
  const size = says?.[path]?.size ?? bytes.length;
  const blob = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
  const oid = says?.[path]?.oid;
  const entry = { type: "file", path: says?.[path]?.path ?? path, size, oid: oid ?? blob };
  return isLarge(path) ? { ...entry, lfs: { oid: oid ?? sha256(bytes), size, pointerSize: 130 } } : entry;
}

async function sendFile(request: IncomingMessage, response: ServerResponse, whole: Uint8Array, hub: FakeHub) {
  await hub.onBytes?.();
  const fault = hub.faults.shift();
  if (fault?.kind === "status") return void response.writeHead(fault.status, { "retry-after": "0" }).end();
  const file = fault?.kind === "otherFile" ? Buffer.from(whole).fill(7) : whole;
  const etag = `"${sha256(file)}"`;
  const asked = /^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1];
  const isSame = (request.headers["if-range"] ?? etag) === etag;
  const hasRange = asked !== undefined && isSame && fault?.kind !== "noRanges";
  const start = hasRange ? Math.max(0, Number(asked) - (fault?.kind === "otherRange" ? 1 : 0)) : 0;
  if (start > file.length) return void response.writeHead(416).end();
  const total = file.length + (fault?.kind === "otherSize" ? 1 : 0);
  const body = Buffer.from(file.subarray(start));
  const place = Math.floor((fault && "at" in fault ? fault.at : 1) * body.length);
  if (fault?.kind === "cut" && place === 0) return void response.destroy();
  if (fault?.kind === "changed" && place < body.length) body[place] = (body[place] as number) ^ 1;
  const isChunked = fault?.kind === "short" || fault?.kind === "longer";
  response.writeHead(hasRange ? 206 : 200, {
    etag,
    ...(hasRange && { "content-range": `bytes ${start}-${file.length - 1}/${total}` }),
    ...(!isChunked && { "content-length": total - start }),
  });
  if (fault?.kind === "cut" || fault?.kind === "short") {
    response.write(body.subarray(0, place), () => (fault.kind === "cut" ? response.destroy() : response.end()));
  } else if (fault?.kind === "longer") response.end(Buffer.concat([body, Buffer.from("more")]));
  else if (fault?.kind === "otherSize") response.write(body, () => response.destroy());
  else response.end(body);
}

/**
 * A proxy, which is asked for tunnels. It ends with the test.
 *
 * @param login NAME:PASSWORD that it wants.
 * @param log told each host that it leads to.
 */
export async function fakeProxy(login: string | undefined, log: string[]): Promise<string> {
  return await listen(
    (_, response) => response.writeHead(501).end(),
    (request, socket) => {
      const given = request.headers["proxy-authorization"];
      if (login !== undefined && given !== `Basic ${Buffer.from(login).toString("base64")}`) {
        return void socket.end("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
      }
      log.push(request.url ?? "");
      const [host = "", port] = (request.url ?? "").split(":");
      const server = connect(Number(port), host, () => {
        socket.write("HTTP/1.1 200 OK\r\n\r\n");
        server.pipe(socket).pipe(server);
      });
      for (const one of [server, socket]) one.on("error", () => [server, socket].map((each) => each.destroy()));
      onTestFinished(() => void server.destroy());
    },
  );
}

async function listen(
  handler: RequestListener,
  onConnect?: (request: IncomingMessage, socket: Duplex) => void,
): Promise<string> {
  const server = createServer(handler);
  if (onConnect) server.on("connect", onConnect);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
