// Which folder of src/ may import which: downward only. scripts/check-imports.mjs runs this.
// A new folder has no imports until it stands here.
const lowest = ["files"];
const aboveFiles = [...lowest, "tokenizer"];
const belowEngine = [...aboveFiles, "blocks", "ggml", "kv", "model"];
const mayImport = {
  files: [],
  ggml: lowest,
  tokenizer: lowest,
  jinja: [],
  blocks: [...aboveFiles, "jinja"],
  kv: [...lowest, "ggml"],
  model: [...lowest, "ggml"],
  hub: [...lowest, "kv", "model"],
  engine: belowEngine,
  state: [...belowEngine, "engine"],
  server: [...belowEngine, "engine"],
  data: [...belowEngine, "engine"],
  eval: [...belowEngine, "engine", "data"],
  train: [...belowEngine, "engine", "data"],
  cli: [...belowEngine, "hub", "engine", "server", "data", "eval", "train"],
};
const testFile = "\\.(test|suite)\\.js$";

/** The rule of one folder: of our own code it imports nothing but itself and what the table names. */
const direction = ([folder, allowed]) => ({
  name: `${folder} imports downward`,
  comment: `src/${folder} may import ${allowed.length === 0 ? "nothing else of ours" : allowed.map((name) => `src/${name}`).join(", ")}`,
  severity: "error",
  from: { path: `^src/${folder}/`, pathNot: testFile },
  to: { path: "^src/", pathNot: `^src/(${[folder, ...allowed].join("|")})/` },
});

/** @type {import("dependency-cruiser").IConfiguration} */
module.exports = {
  forbidden: [
    ...Object.entries(mayImport).map(direction),
    {
      name: "no unknown folder",
      comment: "a folder of src/ has its directions in .dependency-cruiser.cjs",
      severity: "error",
      from: { path: "^src/", pathNot: [`^src/(${Object.keys(mayImport).join("|")})/`, "^src/index\\.js$", testFile] },
      to: {},
    },
    {
      name: "koffi in ggml only",
      comment: "src/ggml is the only folder that knows C",
      severity: "error",
      from: { pathNot: "^src/ggml/" },
      to: { path: "(^|/)node_modules/koffi/" },
    },
    {
      name: "no cycle",
      comment: "modules that need each other are one module, or lack a third",
      severity: "error",
      from: {},
      to: { circular: true },
    },
    {
      name: "no test code in the product",
      comment: "what ships imports neither tests, benchmarks, examples nor packages for development",
      severity: "error",
      from: { path: "^src/", pathNot: testFile },
      to: { path: ["^(tests|bench|examples)/", testFile] },
    },
    {
      name: "no development package in the product",
      comment: "what ships imports packages under dependencies only",
      severity: "error",
      from: { path: "^src/", pathNot: testFile },
      to: { dependencyTypes: ["npm-dev", "npm-no-pkg", "npm-unknown"] },
    },
    {
      name: "no import of nothing",
      comment: "the module is not there; examples are not looked at",
      severity: "error",
      from: {},
      to: { couldNotResolve: true, pathNot: "/examples/" },
    },
  ],
  options: { doNotFollow: { path: "node_modules" }, combinedDependencies: false },
};
