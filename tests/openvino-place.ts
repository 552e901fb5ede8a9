import { findOpenVino, openVinoVariable } from "../src/ggml/openvino/library.js";

/** The folder with OpenVINO's Python package that tests use: `.ci/run` sets it. */
const chosen = process.env.TEST_OPENVINO;

/** The folder of the libraries in it; undefined where there is none. */
export const testOpenVino = chosen ? findOpenVino({ [openVinoVariable]: chosen }, "") : undefined;
/** Of the title of a test that needs them. */
export const openVinoSkipped =
  testOpenVino === undefined ? " (skipped: TEST_OPENVINO names no folder with OpenVINO)" : "";
