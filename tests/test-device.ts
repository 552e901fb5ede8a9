import { type TensorType, tensorTypes } from "../src/files/element-types.js";
import { Backend } from "../src/ggml/backend.js";
import { findGgmlDirectory, loadGgml } from "../src/ggml/library.js";

/** ggml, of the folder BLOCK_ATTENTION_GGML where that is set. */
export const testGgml = loadGgml(await findGgmlDirectory("cpu"));

/** What tests compute on: ggml's name in BLOCK_ATTENTION_TEST_DEVICE, else the CPU. */
export const testDevice = process.env.BLOCK_ATTENTION_TEST_DEVICE ?? "CPU";
/** Whether products round numbers to 16 bit, as ggml's kernels for Vulkan do where they are not told otherwise. */
export const deviceRounds = testDevice !== "CPU" && process.env.GGML_VK_DISABLE_F16 === undefined;

const isSoftware = /^llvmpipe/.test(testGgml.devices.find(({ name }) => name === testDevice)?.description ?? "");

/**
 * The types of weights that products are tried with. Mesa's software device compiles no kernel for 4-bit floats within half an hour
 * (LLVM 15).
 */
export const testedTypes: readonly TensorType[] = isSoftware
  ? tensorTypes.filter((type) => !/FP4$/.test(type))
  : tensorTypes;

/** Those that whole models are tried with: a software device compiles each type's kernels for minutes, and has one of each family. */
export const modelTypes: readonly TensorType[] = isSoftware
  ? ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "IQ4_NL"]
  : tensorTypes;

/** How long a test may take, in ms: a software device takes minutes where the CPU takes seconds. */
export function deviceTimeout(cpuMs: number): number {
  return testDevice === "CPU" ? cpuMs : 1_800_000;
}

export function testBackend(threads = 1): Backend {
  return new Backend(testGgml, { threads, device: testDevice });
}

/**
 * A bound on how far log-probabilities may be off, from the CPU's. Devices that round nothing sum in another order, and their own exponents
 * and sines are less exact: that makes 0.00105 where attention is sharp and the prompt has 1,500 tokens.
 *
 * @param rounding where products round numbers to 11 bits, each 2^-11 off at most: over the layers of the tests' models 0.03.
 * @param exact on another device whose products do not.
 */
export function deviceBound(cpu: number, rounding = 0.1, exact = cpu + 1e-3): number {
  if (testDevice === "CPU") return cpu;
  return deviceRounds ? Math.max(cpu, rounding) : exact;
}
