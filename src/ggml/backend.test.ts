import { getEventListeners } from "node:events";
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, onTestFinished, test } from "vitest";
import { expectInTime } from "../../tests/in-time.js";
import { Backend } from "./backend.js";
import { chooseDevice } from "./device.js";
import { Graph } from "./graph.js";
import {
  type BuildKind,
  cpuFeatures,
  type Device,
  findGgmlDirectory,
  ggmlPackageName,
  kindsWithoutDevice,
  loadGgml,
} from "./library.js";

const directory = await findGgmlDirectory("cpu");
const ggml = loadGgml(directory);
const none = { contexts: 0, buffers: 0, bufferBytes: 0, backends: 0 };
afterEach(() => expect(ggml.live).toEqual(none));

test("Backend: everything that it takes goes back", async () => {
  {
    using backend = new Backend(ggml, { threads: 2 });
    expect(backend.device.kind).toBe("cpu");
    using storage = backend.allocate([{ name: "x", type: "F32", ne: [8] }]);
    expect(ggml.live).toMatchObject({ buffers: 1, backends: 1, bufferBytes: storage.byteLength });
    expect(() => storage.get("y")).toThrow('Cannot find tensor "y" among 1');
    storage[Symbol.dispose]();
    expect(ggml.live).toMatchObject({ buffers: 0, bufferBytes: 0 });
  }
  const backend = new Backend(ggml, { threads: 1 });
  backend[Symbol.dispose]();
  backend[Symbol.dispose]();
  expect(backend.computeBytes).toBe(0);
});

test.each([0, -1, 1.5, Number.NaN, 513])("Backend: %s threads are refused", (threads) => {
  expect(() => new Backend(ggml, { threads })).toThrow(`Cannot use ${threads} threads: an integer from 1 to 512`);
});

test("Backend: an unknown device is refused, and the known ones named", () => {
  expect(() => new Backend(ggml, { threads: 1, device: "TPU7" })).toThrow(/^Cannot use device "TPU7": .*"CPU"$/);
});

test("Backend: reads and writes stay inside a tensor", async () => {
  using backend = new Backend(ggml, { threads: 1 });
  using storage = backend.allocate([{ name: "x", type: "F32", ne: [4] }]);
  const x = storage.get("x");
  await backend.write(x, new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer));
  backend.set(x, new Uint8Array(Float32Array.of(9).buffer), 4);
  expect([...backend.readFloats(x)]).toEqual([1, 9, 3, 4]);
  expect(backend.read(x, 16)).toHaveLength(0);
  for (const [offset, length] of [
    [-1, 4],
    [0, 17],
    [16, 1],
    [0, -1],
    [Number.NaN, 4],
  ] as const) {
    expect(() => backend.read(x, offset, length)).toThrow(/^Cannot read .* x \[4\] F32: it has 16 bytes$/);
  }
  await expect(backend.write(x, new Uint8Array(8), 12)).rejects.toThrow("Cannot write 8 bytes at 12");
  expect(() => backend.set(x, new Uint8Array(8), 12)).toThrow("it has 16 bytes");
});

test("Backend: memory that the machine does not have is an error", () => {
  using backend = new Backend(ggml, { threads: 1 });
  expect(() => backend.allocate([{ name: "x", type: "F32", ne: [2 ** 50] }])).toThrow(/^Cannot allocate .* memory$/);
  expect(() => backend.allocate([{ name: "x", type: "F32", ne: [0.5] }])).toThrow("positive integers are wanted");
});

test("Backend.compute(): an abort stops a long graph within 200 ms; a second graph has to wait", async () => {
  using backend = new Backend(ggml, { threads: 1 });
  using long = new Graph(ggml);
  const n = 512;
  const w = long.input("w", "F32", [n, n], new Float32Array(n * n));
  let x = long.input("x", "F32", [n, 64], new Float32Array(n * 64));
  for (let i = 0; i < 2900; i++) x = long.mulMat(w, x);
  long.output(x);
  using short = new Graph(ggml);
  const sum = short.output(short.add(...ones(short)));
  const compute = (signal?: AbortSignal) => backend.compute(short, () => [...backend.readFloats(sum)], signal);
  await expectInTime(200, async () => {
    const controller = new AbortController();
    const running = backend.compute(long, () => undefined, controller.signal);
    running.catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(() => backend[Symbol.dispose]()).toThrow("Cannot close the backend: a graph is under way");
    const other = new AbortController();
    await expect(compute(other.signal)).rejects.toThrow("Cannot compute: another graph is under way");
    const from = performance.now();
    controller.abort(new Error("enough"));
    await expect(running).rejects.toThrow("enough");
    const tookMs = performance.now() - from;
    expect(await compute()).toEqual([2, 2]);
    for (const { signal } of [controller, other]) expect(getEventListeners(signal, "abort")).toEqual([]);
    return tookMs;
  });
});

function ones(graph: Graph) {
  const one = () => graph.input("one", "F32", [2], Float32Array.of(1, 1));
  return [one(), one()] as const;
}

test("Backend.compute(): what fails while reading frees the device for the next", async () => {
  using backend = new Backend(ggml, { threads: 2 });
  using graph = new Graph(ggml);
  const sum = graph.output(graph.add(...ones(graph)));
  await expect(
    backend.compute(graph, () => {
      throw new Error("Cannot read");
    }),
  ).rejects.toThrow("Cannot read");
  expect(await backend.compute(graph, () => [...backend.readFloats(sum)])).toEqual([2, 2]);
  await expect(backend.compute(graph, () => undefined, AbortSignal.abort(new Error("no")))).rejects.toThrow("no");
});

test("Backend.compute(): an input that no node reads is passed over", async () => {
  using backend = new Backend(ggml, { threads: 1 });
  for (const isPrepared of [false, true]) {
    using graph = new Graph(ggml);
    graph.input("unread", "I32", [2], Int32Array.of(1, 2));
    const sum = graph.output(graph.add(...ones(graph)));
    using prepared = isPrepared ? backend.prepare(graph) : undefined;
    expect(await backend.compute(prepared ?? graph, () => [...backend.readFloats(sum)])).toEqual([2, 2]);
  }
});

test("Backend.compute(): a closed backend says so", async () => {
  const backend = new Backend(ggml, { threads: 1 });
  backend[Symbol.dispose]();
  using graph = new Graph(ggml);
  graph.output(graph.add(...ones(graph)));
  await expect(backend.compute(graph, () => undefined)).rejects.toThrow("Cannot compute: the backend is closed");
});

test("findGgmlDirectory(): a folder that is none, and a package that is not there", async () => {
  await expect(findGgmlDirectory("cpu", { BLOCK_ATTENTION_GGML: "/no/such/folder" })).rejects.toThrow(
    'Cannot find ggml: BLOCK_ATTENTION_GGML is "/no/such/folder", a folder is wanted',
  );
  expect(await findGgmlDirectory("cpu", { BLOCK_ATTENTION_GGML: directory })).toBe(directory);
  expect(await findGgmlDirectory("cpu", { BLOCK_ATTENTION_GGML: "" })).toBe(directory);
  expect(() => ggmlPackageName("cpu", "aix", "ppc64")).toThrow(/^Cannot find ggml: no package for aix-ppc64/);
  expect(() => ggmlPackageName("abacus" as BuildKind)).toThrow('Cannot use backend "abacus": wanted auto, cpu, cuda');
  expect(ggmlPackageName("cuda", "linux", "x64")).toBe("@node-llama-cpp/linux-x64-cuda");
});

test("chooseDevice(): the first GPU of the kind that is no software, the CPU of any kind, else what is named", () => {
  const device = (name: string, backend: string, kind: Device["kind"], isSoftware = false): Device => {
    return { name, backend, kind, isSoftware, description: name, pointer: 0n, memoryBytes: { free: 0, total: 0 } };
  };
  const [cpu, software] = [device("CPU", "CPU", "cpu"), device("Vulkan0", "Vulkan", "gpu", true)];
  const [integrated, gpu] = [device("Vulkan1", "Vulkan", "integrated-gpu"), device("Vulkan2", "Vulkan", "gpu")];
  const of = (...devices: Device[]) => ({ directory: "folder", version: "0.25", devices });
  expect(chooseDevice(of(software, integrated, gpu, cpu), undefined)).toBe(gpu);
  expect(chooseDevice(of(software, integrated, cpu), undefined)).toBe(integrated);
  expect(chooseDevice(of(software, cpu), undefined)).toBe(cpu);
  expect(chooseDevice(of(software, gpu, cpu), undefined, "cpu")).toBe(cpu);
  expect(chooseDevice(of(software, cpu), "vulkan0", "vulkan")).toBe(software);
  const found = 'ggml 0.25 in "folder" found "Vulkan0", "CPU"';
  expect(() => chooseDevice(of(software, cpu), undefined, "vulkan")).toThrow(
    `Cannot use backend "vulkan" unless a device is named: ${found}, none of them a GPU`,
  );
  expect(() => chooseDevice(of(software, cpu), "CPU", "vulkan")).toThrow(
    `Cannot use device "CPU" of backend "vulkan": ${found}`,
  );
  expect(() => chooseDevice(of(software, cpu), undefined, "cuda")).toThrow(
    `Cannot use backend "cuda": it has no device here, ${found}`,
  );
});

test("kindsWithoutDevice(): kinds whose library is there and has found no device", async () => {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-ggml-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  for (const name of ["libggml-vulkan.so", "ggml-cuda.dll", "libggml-metal-not.so"])
    await writeFile(join(folder, name), "");
  const of = (...backends: string[]) =>
    kindsWithoutDevice({ directory: folder, devices: backends.map((backend) => ({ backend })) as Device[] });
  expect(of("CPU")).toEqual(["cuda", "vulkan"]);
  expect(of("Vulkan", "CPU")).toEqual(["cuda"]);
});

test("loadGgml(): one folder a process", async () => {
  const copy = await mkdtemp(join(tmpdir(), "block-attention-ggml-"));
  onTestFinished(() => rm(copy, { recursive: true }));
  await cp(directory, copy, { recursive: true });
  expect(() => loadGgml(copy)).toThrow(
    `Cannot load ggml: "${copy}" is wanted, and this process uses "${directory}": a process has one, whose devices are "CPU"`,
  );
});

test("findGgmlDirectory(): a stand-in that development installs in place of a package is no package", async ({
  skip,
}) => {
  const name = ggmlPackageName("cuda", "linux", "x64");
  const found: object | undefined = await import(name).catch(() => undefined);
  if (found === undefined || "getBinsDir" in found) skip("there is no stand-in here");
  if (process.platform !== "linux" || process.arch !== "x64") skip("its name is another platform's");
  await expect(findGgmlDirectory("cuda", {})).rejects.toThrow(
    `Cannot find ggml: "${name}" is not installed, but a stand-in of development is in its place (npm install ${name})`,
  );
});

test("loadGgml(): a folder without libraries, or with a library that is none", async () => {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-ggml-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  expect(() => loadGgml(folder)).toThrow(`Cannot load ggml: "${folder}" holds no library ggml-base`);
  expect(() => loadGgml(join(folder, "nothing"))).toThrow("holds no library ggml-base");
  await writeFile(join(folder, "libggml-base.so"), "no library");
  expect(() => loadGgml(folder)).toThrow(`Cannot load ggml: "${folder}" holds no library ggml`);
  await writeFile(join(folder, "libggml.so"), "no library");
  expect(() => loadGgml(folder)).toThrow(/^Cannot load ggml: [^\n]*$/);
  expect(loadGgml(directory)).toBe(ggml);
});

test("cpuFeatures(): a list of names", () => {
  const features = cpuFeatures(ggml);
  expect(features.every((name) => /^[A-Z0-9_a-z]+(=.+)?$/.test(name))).toBe(true);
});
