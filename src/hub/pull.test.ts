import { existsSync } from "node:fs";
import { lstat, mkdir, readdir, readFile, readlink, utimes, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { homedir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { expect, onTestFinished, test } from "vitest";
import { expectError } from "../files/test-files.suite.js";
import { type FakeHub, type FakeRepo, type Fault, fakeCommit, fakeHub, fakeProxy, sha256 } from "./fake-hub.suite.js";
import { hubPlace } from "./hub-place.js";
import { findPulled, type PullOptions, pull } from "./pull.js";

const random = (length: number, seed = 1) =>
  Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) * 17 * seed) & 255);
const weights = random(300_000);
const folderRepo = {
  license: "apache-2.0",
  files: {
    "README.md": random(10),
    "config.json": Buffer.from("{}"),
    "tokenizer.json": random(2_000),
    "model.safetensors": weights,
    "pytorch_model.bin": random(99),
  },
} satisfies FakeRepo;
const ggufRepo = {
  files: { "m-Q4_0.gguf": random(1_000), "m-Q8_0.gguf": weights },
  revisions: ["v2"],
} satisfies FakeRepo;

const repoDir = (hub: FakeHub, name = "o--n") => join(hub.env.HF_HOME as string, "hub", `models--${name}`);
const blob = (hub: FakeHub, bytes: Uint8Array = weights) => join(repoDir(hub), "blobs", sha256(bytes));
const pullFrom = (hub: FakeHub, name: string, options: PullOptions = {}) =>
  pull(name, { env: hub.env, retryWaitMs: 1, ...options });
const ranges = (hub: FakeHub) =>
  hub.log.filter((line) => line.startsWith("store")).map((line) => line.split(" ")[3] ?? "all");

test("pull(): a repository's model lies as the hf command has it, checked, and is not fetched twice", async () => {
  const hub = await fakeHub({ "o/n": folderRepo });
  const notes: string[] = [];
  const done: number[] = [];
  const options = {
    onNote: (line: string) => notes.push(line),
    onProgress: ({ doneBytes }: { doneBytes: number }) => done.push(doneBytes),
  };
  const model = await pullFrom(hub, "hf:o/n", options);
  const snapshot = join(repoDir(hub), "snapshots", fakeCommit);
  expect(model).toMatchObject({ path: snapshot, bytes: 302_002, revision: fakeCommit, license: "apache-2.0" });
  expect(model.files.map(({ path, digest }) => [path, digest.split(":")[0]])).toEqual([
    [join(snapshot, "config.json"), "git-sha1"],
    [join(snapshot, "tokenizer.json"), "git-sha1"],
    [join(snapshot, "model.safetensors"), "sha256"],
  ]);
  expect(notes).toEqual(["o/n: 3 files, 295 KiB, licence apache-2.0"]);
  expect(done.at(-1)).toBe(302_002);
  expect((await readdir(snapshot)).sort()).toEqual(["config.json", "model.safetensors", "tokenizer.json"]);
  expect(await readlink(join(snapshot, "model.safetensors"))).toBe(join("..", "..", "blobs", sha256(weights)));
  expect(sha256(await readFile(join(snapshot, "model.safetensors")))).toBe(sha256(weights));
  expect(await readFile(join(repoDir(hub), "refs", "main"), "utf8")).toBe(fakeCommit);
  expect((await readdir(join(repoDir(hub), "blobs"))).every((name) => !name.includes("."))).toBe(true);

  hub.log.length = 0;
  expect(await pullFrom(hub, "o/n")).toEqual(model);
  expect(hub.log.every((line) => line.includes("/api/"))).toBe(true);
  // Without the hub it is found, not fetched.
  const offline = { ...hub.env, HF_ENDPOINT: "http://127.0.0.1:2", HF_HUB_OFFLINE: "1" };
  expect(await findPulled("hf:o/n", offline)).toBe(snapshot);
  expect(await findPulled(`hf:o/n@${fakeCommit}`, offline)).toBe(snapshot);
  expect(await findPulled("hf:o/n@v2", offline)).toBeUndefined();
  expect(await findPulled("hf:o/other", offline)).toBeUndefined();
  await expectError(
    pull("o/other", { env: offline }),
    /HF_HUB_OFFLINE is set; online, block-attention pull o\/other fetches it$/,
  );
});

test("pull(): of GGUF files the named one, and a revision's name is kept", async () => {
  const hub = await fakeHub({ "o/n": ggufRepo });
  const { path } = await pullFrom(hub, "o/n@v2:q4_0");
  expect(path).toBe(join(repoDir(hub), "snapshots", fakeCommit, "m-Q4_0.gguf"));
  expect(await findPulled("hf:o/n@v2", hub.env)).toBe(path);
  expect(await findPulled("hf:o/n@v2:Q8_0", hub.env)).toBeUndefined();
  expect(await findPulled("hf:o/n", hub.env)).toBeUndefined();
  expect((await pullFrom(hub, "o/n")).path).toBe(join(repoDir(hub), "snapshots", fakeCommit, "m-Q8_0.gguf"));
  // Part of a split set is not the model.
  const splitHub = await fakeHub({
    "o/n": { files: { "m-00001-of-00002.gguf": random(5), "m-00002-of-00002.gguf": random(6, 2) } },
  });
  splitHub.faults.push({ kind: "changed", at: 0 }, { kind: "changed", at: 0 });
  await expectError(pullFrom(splitHub, "o/n"), /its sha256 is [0-9a-f]{64}, wanted/);
  const model = await pullFrom(splitHub, "o/n");
  expect(model.files).toHaveLength(2);
  expect(await findPulled("hf:o/n", splitHub.env)).toBe(model.path);
});

test("pull(): the token goes to the hub and to no other host", async () => {
  const hub = await fakeHub({ "o/n": { ...folderRepo, isGated: true } });
  await expectError(
    pullFrom(hub, "o/n"),
    `it is gated: accept its terms at ${hub.url}/o/n and set HF_TOKEN to a token of that account`,
  );
  await writeFile(join(hub.env.HF_HOME as string, "token"), "secret\n");
  hub.log.length = 0;
  await pullFrom(hub, "o/n");
  expect(hub.log.filter((line) => line.startsWith("hub")).every((line) => line.endsWith("(token)"))).toBe(true);
  expect(hub.log.filter((line) => line.startsWith("store")).map((line) => line.endsWith("(token)"))).toEqual([false]);
});

test("pull(): a token that the hub does not know, or that may not read, is said to be so, and never shown", async () => {
  const hub = await fakeHub({ "o/n": folderRepo, "o/closed": { ...folderRepo, isForbidden: true } });
  const withToken = (name: string, HF_TOKEN: string) => pullFrom(hub, name, { env: { ...hub.env, HF_TOKEN } });
  await expectError(withToken("o/n", "unknown"), /: the hub does not know the token of "HF_TOKEN", wanted another one/);
  await expectError(withToken("o/none", "known"), 'or it is private, and the token of "HF_TOKEN" does not open it');
  const refused = 'Cannot pull "o/closed": the hub refuses it (403)';
  await expectError(
    withToken("o/closed", "known"),
    `${refused}; the token of "HF_TOKEN" may lack the right to read it`,
  );
  await expectError(pullFrom(hub, "o/closed"), /^Cannot pull "o\/closed": the hub refuses it \(403\)$/);
  // What was never begun is no part of a model.
  expect(await readdir(join(repoDir(hub, "o--closed"), "blobs"))).toEqual([]);
  for (const token of ["se\ncret", "sécret"]) {
    const message = await expectError(withToken("o/n", token), 'Cannot use the token of "HF_TOKEN": it has characters');
    expect(message).not.toContain("cret");
  }
});

test("pull(): goes through the environment's proxy, with its password, and says which proxy fails", async () => {
  const hub = await fakeHub({ "o/n": ggufRepo });
  const { host } = new URL(hub.url);
  const asked: string[] = [];
  const { host: proxy } = new URL(await fakeProxy("me:pa ss", asked));
  const through = (variables: Readonly<Record<string, string>>) =>
    pullFrom(hub, "o/n", { env: { ...hub.env, ...variables } });
  await expectError(
    through({ HTTP_PROXY: `http://me:wrong@${proxy}` }),
    `Cannot reach "${host}": the proxy answers 407; HTTP_PROXY is "http://${proxy}", wanted one with the right name and password, as http://NAME:PASSWORD@${proxy}`,
  );
  await expectError(
    through({ HTTP_PROXY: "127.0.0.1:2" }),
    /: connect ECONNREFUSED 127\.0\.0\.1:2; HTTP_PROXY is "http:\/\/127\.0\.0\.1:2"$/,
  );
  for (const bad of ["http://me:%ZZ@x:1", "http://", "ftp://x:1"]) {
    await expectError(through({ HTTP_PROXY: bad }), "Cannot use HTTP_PROXY: wanted an address, as http://HOST:PORT");
  }
  expect(asked).toEqual([]);
  await through({ HTTP_PROXY: "http://127.0.0.1:2", NO_PROXY: "127.0.0.1" });
  await through({ HTTP_PROXY: "http://127.0.0.1:2", http_proxy: `me:pa%20ss@${proxy}` });
  expect(new Set(asked)).toContain(host);
});

test("pull(): a hub or a proxy that says nothing is given up after so long, holds no connection, and is not asked again", async () => {
  let asked = 0;
  const open = new Set<Socket>();
  const silent = createServer((socket) => {
    asked += 1;
    open.add(
      socket
        .resume()
        .on("error", () => undefined)
        .on("close", () => open.delete(socket)),
    );
  });
  await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void silent.close());
  const url = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`;
  const hub = await fakeHub({ "o/n": ggufRepo });
  for (const variables of [{ HF_ENDPOINT: url }, { HTTP_PROXY: url }]) {
    asked = 0;
    await expectError(
      pullFrom(hub, "o/n", { env: { ...hub.env, ...variables }, silenceMs: 100 }),
      /: no answer in 0.1 s/,
    );
    expect(asked).toBe(1);
    await expect.poll(() => open.size).toBe(0);
  }
  expect(hub.log).toEqual([]);
});

test("pull(): what a disk has changed is fetched again; where all is right, nothing is written", async () => {
  const hub = await fakeHub({ "o/n": ggufRepo });
  const { path } = await pullFrom(hub, "o/n");
  const ref = join(repoDir(hub), "refs", "main");
  await utimes(ref, 1, 1);
  await pullFrom(hub, "o/n");
  expect((await lstat(ref)).mtimeMs).toBe(1000);
  expect(ranges(hub)).toHaveLength(1);
  await writeFile(path, random(300_000, 3));
  await pullFrom(hub, "o/n");
  expect(sha256(await readFile(path))).toBe(sha256(weights));
  expect(ranges(hub)).toHaveLength(2);
});

test("pull(): HF_ENDPOINT may end in a slash and have a path; HF_HOME may begin with ~", async () => {
  const hub = await fakeHub({ "o/n": ggufRepo });
  const at = (env: Readonly<Record<string, string>>) => pull("o/n", { env: { ...hub.env, ...env }, retryWaitMs: 1 });
  await at({ HF_ENDPOINT: `${hub.url}//` });
  hub.log.length = 0;
  await expectError(at({ HF_ENDPOINT: `${hub.url}/mirror/` }), "there is no such model");
  expect(hub.log[0]).toMatch(/^hub GET \/mirror\/api\/models\/o\/n\/revision\/main\?/);
  for (const bad of ["huggingface.co", "ftp://x", "file:///x"]) {
    await expectError(at({ HF_ENDPOINT: bad }), "Cannot use HF_ENDPOINT: wanted an address, as http://HOST:PORT");
  }
  const { cacheDir } = await hubPlace({ HF_HOME: "~/models", HF_TOKEN: "x" });
  expect(cacheDir).toBe(join(homedir(), "models", "hub"));
});

test("pull(): what is not there is said, with what is near", async () => {
  const hub = await fakeHub({ "o/n": ggufRepo });
  await expectError(
    pullFrom(hub, "o/nn"),
    'Cannot pull "o/nn": there is no such model, a private one wants HF_TOKEN; did you mean "o/n"?',
  );
  await expectError(pullFrom(hub, "o/n@v3"), 'Cannot pull "o/n@v3": it has no revision "v3"');
  await expectError(pullFrom(hub, "o/n:Q5_0"), 'Cannot find "Q5_0" in "o/n": it holds "m-Q4_0.gguf", "m-Q8_0.gguf"');
  await expectError(pullFrom(hub, "nothing"), "wanted OWNER/REPO[@REVISION][:FILE or QUANT], or smollm2-135m");
  await expectError(
    pull("o/n", { env: { ...hub.env, HF_ENDPOINT: "http://127.0.0.1:2" }, retryWaitMs: 1 }),
    /^Cannot reach "127.0.0.1:2": connect ECONNREFUSED/,
  );
  await expectError(pull("o/n", { endpoint: 1 } as PullOptions), 'there is no option "endpoint"');
});

test("pull(): a list that would write elsewhere, or that says no digest, fetches nothing", async () => {
  const outside = await fakeHub({ "o/n": { ...ggufRepo, says: { "m-Q8_0.gguf": { path: "../../../../x.gguf" } } } });
  expect((await pullFrom(outside, "o/n")).path).toMatch(/m-Q4_0\.gguf$/);
  expect(existsSync(join(outside.env.HF_HOME as string, "x.gguf"))).toBe(false);
  const noDigest = await fakeHub({ "o/n": { ...ggufRepo, says: { "m-Q8_0.gguf": { oid: "../../x" } } } });
  await expectError(pullFrom(noDigest, "o/n"), 'Cannot fetch "m-Q8_0.gguf": the hub says no digest and size of it');
  expect(existsSync(repoDir(noDigest))).toBe(false);
});

test("pull(): a disk with too little space is said before the first byte", async () => {
  const hub = await fakeHub({ "o/n": { ...ggufRepo, says: { "m-Q8_0.gguf": { size: 2 ** 52 } } } });
  await expectError(pullFrom(hub, "o/n"), /^Cannot write into ".*": the disk has .* free, wanted 4096 TiB$/);
  expect(ranges(hub)).toEqual([]);
});

test("pull(): a cut download goes on from where it was, in this run and the next", async () => {
  const hub = await fakeHub({ "o/n": ggufRepo });
  hub.faults.push({ kind: "cut", at: 0.5 }, { kind: "status", status: 503 }, { kind: "short", at: 0.5 });
  await pullFrom(hub, "o/n");
  // A cut may take with it what was on its way.
  const starts = ranges(hub).map((range) => Number(/\d+/.exec(range)));
  expect(starts).toEqual([0, starts[1], starts[1], starts[3]]);
  expect(starts[1]).toBeGreaterThan(0);
  expect(starts[3]).toBeGreaterThan(starts[1] as number);
  expect(sha256(await readFile(blob(hub)))).toBe(sha256(weights));

  const other = await fakeHub({ "o/n": ggufRepo });
  const cancelled = new AbortController();
  const done: number[] = [];
  const options = {
    signal: cancelled.signal,
    onProgress: ({ doneBytes }: { readonly doneBytes: number }) => {
      done.push(doneBytes);
      cancelled.abort(new Error("Cancelled"));
    },
  };
  await expect(pullFrom(other, "o/n", options)).rejects.toThrow("Cancelled");
  const { size } = await lstat(`${blob(other)}.incomplete`);
  expect(size).toBeGreaterThan(0);
  expect(existsSync(blob(other))).toBe(false);
  expect(existsSync(`${blob(other)}.incomplete.lock`)).toBe(false);
  other.log.length = 0;
  await pullFrom(other, "o/n");
  expect(ranges(other)).toEqual(size === weights.length ? [] : [`bytes=${size}-`]);
  expect(sha256(await readFile(blob(other)))).toBe(sha256(weights));
});

test.each<[Fault, string[]]>([
  [{ kind: "noRanges" }, []],
  [{ kind: "otherRange" }, ["all"]],
  [{ kind: "status", status: 416 }, ["all"]],
])("pull(): a server that answers %j to a range sends the whole file in the end, once", async (fault, more) => {
  const hub = await fakeHub({ "o/n": ggufRepo });
  hub.faults.push({ kind: "cut", at: 0.5 }, fault);
  await pullFrom(hub, "o/n");
  expect(ranges(hub)).toEqual(["all", expect.stringMatching(/^bytes=/), ...more]);
  expect(sha256(await readFile(blob(hub)))).toBe(sha256(weights));
});

test("pull(): a few connections that bring nothing end nothing", async () => {
  const hub = await fakeHub({ "o/n": ggufRepo });
  const nothing = { kind: "short", at: 0 } as const;
  hub.faults.push(nothing, nothing, nothing, { kind: "short", at: 0.5 }, nothing, nothing, nothing);
  await pullFrom(hub, "o/n");
  expect(ranges(hub)).toHaveLength(8);
});

test("pull(): a part of other bytes is fetched once more from the start; wrong bytes never get the file's name", async () => {
  const hub = await fakeHub({ "o/n": ggufRepo });
  await mkdir(join(repoDir(hub), "blobs"), { recursive: true });
  await writeFile(`${blob(hub)}.incomplete`, random(1_000, 5));
  await pullFrom(hub, "o/n");
  expect(ranges(hub)).toEqual(["bytes=1000-", "all"]);
  expect(sha256(await readFile(blob(hub)))).toBe(sha256(weights));
  for (const fault of [{ kind: "otherFile" }, { kind: "changed", at: 0.9 }] as const) {
    const wrong = await fakeHub({ "o/n": ggufRepo });
    wrong.faults.push(fault, fault);
    await expectError(
      pullFrom(wrong, "o/n"),
      /^Cannot fetch "m-Q8_0.gguf": its sha256 is [0-9a-f]{64}, wanted [0-9a-f]{64}$/,
    );
    expect(await readdir(join(repoDir(wrong), "blobs"))).toEqual([]);
  }
  for (const [fault, message] of [
    [{ kind: "longer" }, "the server has more than 300000 bytes, wanted 300000"],
    [{ kind: "otherSize" }, "the server has 300001 bytes, wanted 300000"],
  ] as const) {
    const wrong = await fakeHub({ "o/n": ggufRepo });
    wrong.faults.push(fault);
    await expectError(pullFrom(wrong, "o/n"), message);
    expect(existsSync(blob(wrong))).toBe(false);
  }
});

test("pull(): a server that is cut again and again ends in an error, and the part is kept", async () => {
  const hub = await fakeHub({ "o/n": ggufRepo });
  hub.faults.push(
    { kind: "cut", at: 0.5 },
    ...Array.from({ length: 9 }, () => ({ kind: "cut", at: 0.000001 }) as const),
  );
  await expectError(
    pullFrom(hub, "o/n"),
    / \d+ of 300000 bytes are kept, and the same command goes on from there$|^Cannot reach /,
  );
  expect((await lstat(`${blob(hub)}.incomplete`)).size).toBeGreaterThan(0);
  const busy = await fakeHub({ "o/n": ggufRepo });
  busy.faults.push(...Array.from({ length: 5 }, () => ({ kind: "status", status: 429 }) as const));
  await expectError(pullFrom(busy, "o/n"), /the server answers 429$/);
  const forbidden = await fakeHub({ "o/n": ggufRepo });
  forbidden.faults.push({ kind: "status", status: 404 });
  await expectError(pullFrom(forbidden, "o/n"), /^Cannot pull "o\/n": there is no such model/);
});

test("pull(): two at the same time: one fetches, the other says so or finds it", async () => {
  const hub = await fakeHub({ "o/n": ggufRepo });
  const outcomes = await Promise.allSettled([pullFrom(hub, "o/n"), pullFrom(hub, "o/n")]);
  expect(outcomes.some(({ status }) => status === "fulfilled")).toBe(true);
  for (const outcome of outcomes) {
    if (outcome.status === "rejected")
      expect(String(outcome.reason)).toMatch(/Cannot fetch "m-Q8_0.gguf": process \d+ does/);
  }
  expect(sha256(await readFile(blob(hub)))).toBe(sha256(weights));
});

const anyFault: fc.Arbitrary<Fault> = fc.oneof(
  fc.record({ kind: fc.constantFrom("cut", "short", "changed"), at: fc.double({ min: 0, max: 1, noNaN: true }) }),
  fc.record({ kind: fc.constant("status" as const), status: fc.constantFrom(429, 500, 503, 403, 416) }),
  fc.record({ kind: fc.constantFrom("longer", "noRanges", "otherRange", "otherSize", "otherFile") }),
) as fc.Arbitrary<Fault>;

test("pull(): whatever goes wrong, the file is right or there is an error, never a wrong file under its name", async () => {
  const hub = await fakeHub({ "o/n": ggufRepo });
  let numPulled = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(anyFault, { minLength: 1, maxLength: 8 }), async (faults) => {
      const env = { ...hub.env, HF_HUB_CACHE: join(hub.env.HF_HOME as string, `run-${numPulled++}`) };
      const path = join(env.HF_HUB_CACHE, "models--o--n", "blobs", sha256(weights));
      hub.faults.splice(0, Number.POSITIVE_INFINITY, ...faults);
      const error = await pull("o/n", { env, retryWaitMs: 0 }).catch((reason: unknown) => reason);
      if (error instanceof Error) expect(error.message).toMatch(/^Cannot [^\n]+[^.\n]$/);
      if (existsSync(path)) expect(sha256(await readFile(path))).toBe(sha256(weights));
      else expect(error).toBeInstanceOf(Error);
      // What is left of it does no harm to the next one.
      hub.faults.length = 0;
      expect(sha256(await readFile((await pull("o/n", { env, retryWaitMs: 0 })).path))).toBe(sha256(weights));
    }),
    { numRuns: 60 },
  );
}, 60_000);
