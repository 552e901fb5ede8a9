import { cpuFeatures } from "../src/ggml/library.js";
import { findOpenVino, openVinoVariable } from "../src/ggml/openvino/library.js";
import { testGgml } from "./test-device.js";

/** The folder with OpenVINO's Python package that tests use: `.ci/run` sets it. */
const chosen = process.env.TEST_OPENVINO;
/** Without these instructions a row's bytes depend on the number of rows, and engines refuse OpenVINO: AVX2 alone, for one. */
const isFit = cpuFeatures(testGgml).some((feature) => /^AVX(512)?_VNNI$/.test(feature));

/** The folder of the libraries in it; undefined where there is none, or the processor has no use for it. */
export const testOpenVino = chosen && isFit ? findOpenVino({ [openVinoVariable]: chosen }, "") : undefined;
/** Of the title of a test that needs them. */
export const openVinoSkipped = testOpenVino
  ? ""
  : ` (skipped: ${isFit ? "TEST_OPENVINO names no folder with OpenVINO" : "this processor has no VNNI"})`;
