import { execFile } from "node:child_process";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { usableMemory } from "../engine/byte-budget.js";
import { engineSettingsOf } from "../engine/engine-options.js";
import { type MemoryFit, measureFit, requireFit, waitsForDisk } from "../engine/memory-fit.js";
import { embeddedModelPath } from "../engine/model.js";
import { isJsonObject, readJson } from "../files/bounded-json.js";
import { formatBytes } from "../files/format-bytes.js";
import { Backend } from "../ggml/backend.js";
import { ThreadCount } from "../ggml/cpu/thread-count.js";
import { chooseDevice } from "../ggml/device.js";
import { Graph } from "../ggml/graph.js";
import {
  type BuildKind,
  cpuFeatures,
  findGgmlDirectory,
  type Ggml,
  ggmlPackageName,
  ggmlVariable,
  kindsWithoutDevice,
  loadGgml,
} from "../ggml/library.js";
import { installedOpenVino, openVinoCommand } from "../ggml/openvino/library.js";
import { openModel } from "../model/open-model.js";
import { command, type FlagsOf, toggle } from "./command.js";
import { engineFlag } from "./options.js";
import { errorLine, type Terminal, write, writeJson } from "./terminal.js";

/** How far a small prompt's log-probabilities in block mode are from the CPU's, or why there are none. */
type BlockModeTest = { readonly largest_difference: number } | { readonly error: string };

interface Report {
  readonly node: string;
  readonly koffi: string;
  readonly platform: string;
  readonly threads: number;
  /** What other programs use of the cores now; by default, graphs get so many threads fewer. */
  readonly others_cores: number;
  readonly memory_bytes: number;
  readonly ggml:
    | {
        readonly version: string;
        readonly directory: string;
        readonly cpu_features: readonly string[];
        readonly devices: readonly {
          readonly name: string;
          readonly description: string;
          readonly backend: string;
          readonly kind: string;
          readonly is_software: boolean;
          readonly free_bytes: number;
          readonly total_bytes: number;
          readonly block_mode: BlockModeTest;
        }[];
      }
    | undefined;
  /** What multiplies prompts and blocks by quantized weights in ggml's place; absent where it is not installed. */
  readonly openvino?: { readonly version: string; readonly directory: string } | { readonly error: string } | undefined;
  /** Builds of ggml that could be installed, and whether they are. */
  readonly packages: readonly { readonly kind: BuildKind; readonly package: string; readonly installed: boolean }[];
  /** Whether the model fits that was asked for, in numbers. */
  readonly model_memory:
    | {
        readonly needed_bytes: number;
        readonly available_bytes: number;
        readonly weight_bytes: number;
        readonly mapped_bytes: number;
        readonly context_bytes: number;
        readonly store_bytes: number;
        readonly graph_bytes: number;
        readonly program_bytes: number;
        readonly swap_bytes: number;
        readonly fits: boolean;
        readonly stays_in_memory: boolean;
        readonly summary: string;
      }
    | undefined;
  readonly self_test: { readonly passed: boolean; readonly device: string | undefined };
  /** What is needed and missing, one line each. */
  readonly problems: readonly string[];
}

const doctorFlags = {
  model: { ...engineFlag("model"), about: "a model, to see whether it fits" },
  weights: engineFlag("weights"),
  mapWeights: engineFlag("mapWeights"),
  backend: engineFlag("backend"),
  device: engineFlag("device"),
  storeBytes: engineFlag("storeBytes"),
  contextBytes: engineFlag("contextBytes"),
  json: toggle("one line of JSON"),
};

export const doctorCommand = command({
  name: "doctor",
  summary: "Tells whether this machine can compute, and what is missing.",
  flags: doctorFlags,
  run: runDoctor,
  help: `
Examples:
  block-attention doctor --json
  block-attention doctor --model model.gguf --weights q8_0`,
});

/** Tells whether this machine can compute, and what is missing. @returns 1 if something that is needed is missing. */
async function runDoctor(flags: FlagsOf<typeof doctorFlags>, terminal: Terminal): Promise<number> {
  const report = await examine(flags, terminal.signal);
  if (flags.json === true) await writeJson(terminal, report);
  else await write(terminal.stdout, formatReport(report, terminal), terminal.signal);
  return report.problems.length === 0 ? 0 : 1;
}

async function examine(flags: FlagsOf<typeof doctorFlags>, signal: AbortSignal): Promise<Report> {
  const problems: string[] = [];
  let ggml: Ggml | undefined;
  let device: string | undefined;
  const blockMode = new Map<string, BlockModeTest>();
  let passed = false;
  let fit: MemoryFit | undefined;
  try {
    const directory = await findGgmlDirectory(flags.backend ?? "auto");
    // Loading starts the devices' drivers, which may end a process: another one does it first.
    const expected = await scoreOn("CPU", directory, signal);
    if ("error" in expected && expected.isEnd) throw new Error(`Cannot load ggml in "${directory}": ${expected.error}`);
    ggml = loadGgml(directory);
    for (const kind of kindsWithoutDevice(ggml)) {
      problems.push(`Cannot use backend "${kind}": its library in "${directory}" found no device or driver`);
    }
    using backend = new Backend(ggml, { threads: Math.min(2, availableParallelism()), device: "CPU" });
    device = backend.device.name;
    const largest = await selfTest(backend, signal);
    passed = largest <= 1e-5;
    if (!passed)
      problems.push(`Cannot trust device "${device}": a 4 x 4 product is ${largest} off, at most 1e-5 is wanted`);
    for (const { name } of ggml.devices) {
      const test = compare(name === "CPU" ? expected : await scoreOn(name, directory, signal), expected);
      blockMode.set(name, test);
      if ("error" in test) problems.push(`Cannot use device "${name}" in block mode: ${test.error}`);
      else if (!(test.largest_difference <= blockModeBound)) {
        const off = `a prompt in block mode is ${test.largest_difference} off in log-probability`;
        problems.push(`Cannot trust device "${name}": ${off}, at most ${blockModeBound} is wanted`);
      }
    }
    const chosen = chooseDevice(ggml, flags.device, flags.backend);
    // In this process, which a device that failed may end.
    if (flags.model !== undefined && "largest_difference" in (blockMode.get(chosen.name) ?? {})) {
      const { backend: kind, device: name, weights = "keep", ...limits } = engineSettingsOf(flags);
      using loading = new Backend(ggml, { threads: 1, backend: kind, device: name });
      const source = await openModel(flags.model);
      const asked = { ...limits, conversion: weights };
      fit = measureFit(loading, source, asked);
      requireFit(loading, source, asked, fit);
    }
  } catch (error) {
    signal.throwIfAborted();
    problems.push(errorLine(error));
  }
  return {
    node: process.versions.node,
    koffi: await readKoffiVersion(),
    platform: `${process.platform}-${process.arch}`,
    threads: availableParallelism(),
    others_cores: await coresOfOthers(),
    memory_bytes: usableMemory(),
    ggml: ggml && {
      version: ggml.version,
      directory: ggml.directory,
      cpu_features: cpuFeatures(ggml),
      devices: ggml.devices.map(({ name, description, backend, kind, isSoftware, memoryBytes }) => ({
        name,
        description,
        backend,
        kind,
        is_software: isSoftware,
        free_bytes: memoryBytes.free,
        total_bytes: memoryBytes.total,
        block_mode: blockMode.get(name) ?? { error: "it was not tried" },
      })),
    },
    openvino: openVinoState(),
    packages: await findPackages(),
    model_memory: fit && {
      needed_bytes: fit.neededBytes,
      available_bytes: fit.availableBytes,
      weight_bytes: fit.weightBytes,
      mapped_bytes: fit.mappedBytes,
      context_bytes: fit.leastContextBytes,
      store_bytes: fit.leastStoreBytes,
      graph_bytes: fit.graphBytes,
      program_bytes: fit.programBytes,
      swap_bytes: fit.swapBytes,
      fits: fit.fits,
      stays_in_memory: fit.stays,
      summary: fit.summary,
    },
    self_test: { passed, device },
    problems,
  };
}

/** The OpenVINO that engines take by themselves. */
function openVinoState(): Report["openvino"] {
  try {
    const found = installedOpenVino();
    return found && { version: found.version, directory: found.directory };
  } catch (error) {
    return { error: errorLine(error) };
  }
}

/** What other programs use within a third of a second, in cores. */
async function coresOfOthers(): Promise<number> {
  const count = new ThreadCount(availableParallelism());
  count.look();
  await new Promise((resolve) => setTimeout(resolve, 333));
  count.look();
  return Math.round(count.othersCores * 10) / 10;
}

/** From the package's own file: its libraries are src/ggml's to load. */
async function readKoffiVersion(): Promise<string> {
  const folder = dirname(createRequire(import.meta.url).resolve("koffi"));
  const manifest = await readJson(join(folder, "package.json"));
  return isJsonObject(manifest) && typeof manifest.version === "string" ? manifest.version : "of unknown version";
}

async function findPackages(): Promise<Report["packages"]> {
  const kinds: readonly BuildKind[] = process.platform === "darwin" ? ["cpu", "metal"] : ["cpu", "cuda", "vulkan"];
  const found: { kind: BuildKind; package: string; installed: boolean }[] = [];
  for (const kind of kinds) {
    let name: string;
    try {
      name = ggmlPackageName(kind);
    } catch {
      // No package for this platform: loading ggml said so already.
      continue;
    }
    const installed = await findGgmlDirectory(kind, {}).then(
      () => true,
      () => false,
    );
    found.push({ kind, package: name, installed });
  }
  return found;
}

/** Products that round to 16 bit are 0.007 off; full mode's mask is 4 off. */
const blockModeBound = 0.1;
const testPrompt = {
  blocks: [
    "Sean Penn is the son of actress Eileen Ryan.\n",
    "Into the Wild was directed by Sean Penn.\n",
    "Who is it?",
  ],
  continuation: " Eileen Ryan",
};

type Scored =
  | { readonly logprobs: readonly number[] }
  /** Why there are none, and whether the process did not end by itself. */
  | { readonly error: string; readonly isEnd: boolean };

/**
 * Scores a prompt of the embedded model in block mode in a process of its own, which the device may end.
 * @param directory of the ggml that has the device.
 */
async function scoreOn(device: string, directory: string, signal: AbortSignal): Promise<Scored> {
  const program = fileURLToPath(new URL("./main.js", import.meta.url));
  const flags = [
    "--model",
    embeddedModelPath(),
    "--input",
    "-",
    "--json",
    "--mode",
    "block",
    "--weights",
    "f32",
    "--kv-type",
    "f32",
    "--device",
    device,
  ];
  return new Promise((resolve) => {
    const env = { ...process.env, [ggmlVariable]: directory };
    // A process that a driver holds hears no other signal.
    const options = { signal, timeout: blockModeTimeoutMs, killSignal: "SIGKILL", env } as const;
    const child = execFile(process.execPath, [program, "score", ...flags], options, (error, stdout, stderr) => {
      // Drivers write there too.
      const [found, why = ""] = [stdout, stderr].map((text) => text.trim().split("\n").at(-1));
      if (error === null && found?.startsWith("{")) return resolve(JSON.parse(found) as Scored);
      const { killed, signal: by } = error ?? {};
      const end = killed ? `it took over ${blockModeTimeoutMs / 1000} s` : by && `the process ended with ${by}`;
      if (end) return resolve({ error: why ? `${end}, ${why}` : end, isEnd: true });
      resolve({ error: why || "the process gave no answer", isEnd: false });
    });
    // A process that has ended reads nothing.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(`${JSON.stringify(testPrompt)}\n`);
  });
}

/** The first run on a device compiles its kernels: minutes on a software device. */
const blockModeTimeoutMs = 300_000;

function compare(found: Scored, expected: Scored): BlockModeTest {
  if ("error" in found) return { error: found.error };
  if ("error" in expected) return { error: `the CPU gives nothing to compare with: ${expected.error}` };
  const distances = expected.logprobs.map((logprob, i) => Math.abs(logprob - (found.logprobs[i] ?? Number.NaN)));
  return { largest_difference: Math.max(...distances) };
}

/** The largest difference between a 4 x 4 product on the device and in JavaScript. */
async function selfTest(backend: Backend, signal: AbortSignal): Promise<number> {
  const size = 4;
  const weights_NK = Float32Array.from({ length: size * size }, (_, i) => ((i * 7) % 11) / 8 - 0.5);
  const rows_RK = Float32Array.from({ length: size * size }, (_, i) => ((i * 5) % 13) / 8 - 0.75);
  using graph = new Graph(backend.ggml);
  const weights = graph.input("weights", "F32", [size, size], weights_NK);
  const rows = graph.input("rows", "F32", [size, size], rows_RK);
  const product = graph.output(graph.mulMat(weights, rows));
  const product_RN = await backend.compute(graph, () => backend.readFloats(product), signal);
  let largest = 0;
  for (let r = 0; r < size; r += 1) {
    for (let n = 0; n < size; n += 1) {
      let sum = 0;
      for (let k = 0; k < size; k += 1) sum += (weights_NK[n * size + k] as number) * (rows_RK[r * size + k] as number);
      largest = Math.max(largest, Math.abs(sum - (product_RN[r * size + n] ?? Number.POSITIVE_INFINITY)));
    }
  }
  return largest;
}

function openVinoLine(found: Report["openvino"]): string {
  if (found === undefined) return `OpenVINO is not installed: prompts are read faster with it (${openVinoCommand()})`;
  return "error" in found
    ? found.error
    : `OpenVINO ${found.version} in ${found.directory} multiplies prompts and blocks`;
}

function formatReport(report: Report, { colors }: Terminal): string {
  const yes = colors.green("ok");
  const no = colors.red("missing");
  const lines = [
    `${yes}  Node.js ${report.node}, koffi ${report.koffi}, ${report.platform}`,
    `${yes}  ${report.threads} threads, ${formatBytes(report.memory_bytes)} of memory`,
  ];
  if (report.others_cores >= 0.5) {
    const beside = "by default an engine takes fewer threads, and they come back";
    lines.push(`${colors.yellow("--")}  other programs use ${report.others_cores} cores: ${beside}`);
  }
  if (report.ggml !== undefined) {
    lines.push(`${yes}  ggml ${report.ggml.version} in ${report.ggml.directory}`);
    for (const { name, description, free_bytes: free, total_bytes: total, ...device } of report.ggml.devices) {
      lines.push(`    device ${name}: ${description}, ${formatBytes(free)} free of ${formatBytes(total)}`);
      const { block_mode: test, is_software: isSoftware } = device;
      const off = "error" in test ? test.error : `at most ${test.largest_difference.toExponential(1)} from the CPU`;
      const note = isSoftware ? "; a program on the CPU, used only where it is named" : "";
      lines.push(`      a prompt in block mode: ${off}${note}`);
    }
    lines.push(`    ${openVinoLine(report.openvino)}`);
    lines.push(`    CPU features: ${report.ggml.cpu_features.join(" ") || "none reported"}`);
  }
  for (const { kind, package: name, installed } of report.packages) {
    // Only the CPU's build is needed; the others are there for those who have the hardware.
    const state = installed ? yes : kind === "cpu" ? no : colors.dim("--");
    lines.push(`${state}  ${kind}: ${name}${installed ? "" : ` is not installed (npm install ${name})`}`);
  }
  if (report.self_test.passed) lines.push(`${yes}  a 4 x 4 product on ${report.self_test.device} is right`);
  const { fits, stays_in_memory: stays, summary } = report.model_memory ?? {};
  if (fits) lines.push(`${stays ? yes : colors.red("slow")}  the model ${summary}${stays ? "" : `: ${waitsForDisk}`}`);
  for (const problem of report.problems) lines.push(colors.red(problem));
  return `${lines.join("\n")}\n`;
}
