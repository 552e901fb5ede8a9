// Holds docs/api to what src/index.ts exports and its docstrings say; with --write, makes it anew. `npm run build` comes first.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { timeIsOver } from "./check-device.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const tools = join(root, "scripts", "api-docs");
const page = join(root, "docs", "api", "README.md");
const head = `# API reference

All that the package exports, made from its docstrings by \`node scripts/api-docs.mjs --write\`. To begin with, read [the README](../../README.md#as-a-library);
\`Engine\` and \`StateSession\` below are what most programs need.

`;

installTools();
const made = head + (await makePage());
if (process.argv.includes("--write")) {
  mkdirSync(dirname(page), { recursive: true });
  writeFileSync(page, made);
  console.log(`${page}: ${made.length} characters`);
} else if (!existsSync(page) || readFileSync(page, "utf8").replaceAll("\r\n", "\n") !== made) {
  console.error("docs/api/README.md is not what src/ says: node scripts/api-docs.mjs --write makes it anew");
  process.exitCode = 1;
} else {
  console.log("docs/api/README.md is what src/ says");
}

/** typedoc has its own TypeScript, and so its own folder. */
function installTools() {
  const written = join(tools, "node_modules", ".package-lock.json");
  const isThere =
    existsSync(written) && statSync(written).mtimeMs >= statSync(join(tools, "package-lock.json")).mtimeMs;
  if (isThere) return;
  // npm is a script on Windows, which only a shell can start.
  const { status } = spawnSync("npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"], {
    ...{ cwd: tools, stdio: "inherit", shell: process.platform === "win32" },
  });
  if (status === 0) return;
  console.error(
    "Cannot install what docs/api is made with: npm ci failed in scripts/api-docs, which needs the network once",
  );
  process.exit(timeIsOver);
}

async function makePage() {
  const { resolve } = createRequire(join(tools, "package.json"));
  const { Application, Comment, Converter, ReflectionKind } = await import(pathToFileURL(resolve("typedoc")));
  const folder = mkdtempSync(join(tmpdir(), "block-attention-api-"));
  try {
    const app = await Application.bootstrapWithPlugins({
      entryPoints: [join(root, "src", "index.ts")],
      tsconfig: join(root, "tsconfig.json"),
      plugin: [resolve("typedoc-plugin-markdown")],
      // Its default is docs/, which it empties.
      outputs: [{ name: "markdown", path: folder }],
      readme: "none",
      logLevel: "Error",
      // The project's own compiler checks types.
      skipErrorChecking: true,
      disableSources: true,
      excludeExternals: true,
      excludePrivate: true,
      validation: { notExported: false },
      outputFileStrategy: "modules",
      hidePageTitle: true,
      hideBreadcrumbs: true,
      hidePageHeader: true,
      useHTMLAnchors: false,
      parametersFormat: "table",
      interfacePropertiesFormat: "table",
      classPropertiesFormat: "table",
      typeAliasPropertiesFormat: "table",
      propertyMembersFormat: "table",
      tableColumnSettings: {
        hideDefaults: true,
        hideModifiers: true,
        hideInherited: true,
        hideOverrides: true,
        hideSources: true,
      },
    });
    const settings = await settingsTexts();
    app.converter.on(Converter.EVENT_RESOLVE_BEGIN, (context) => {
      for (const property of context.project.getReflectionsByKind(ReflectionKind.Property)) {
        const text = settings.get(property.name);
        if (text !== undefined && !property.hasComment()) {
          property.comment = new Comment([{ kind: "text", text }]);
        }
      }
    });
    const project = await app.convert();
    if (project === undefined || app.logger.hasErrors()) throw new Error("Cannot read what src/index.ts exports");
    await app.generateOutputs(project);
    return readFileSync(join(folder, "README.md"), "utf8").replaceAll("\r\n", "\n");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** What commands' help says of the options that are flags too, by their names. */
async function settingsTexts() {
  const load = (path) => import(pathToFileURL(join(root, "dist", path)));
  const { samplingFields } = await load("engine/sampling-options.js");
  const { engineSettings } = await load("engine/engine-options.js");
  const texts = Object.entries({ ...engineSettings, ...samplingFields }).map(([name, { about, wanted, fallback }]) => {
    const text = about ?? wanted;
    const sentence = `${text[0].toUpperCase()}${text.slice(1)}.`;
    return [name, fallback === undefined ? sentence : `${sentence} Default: ${fallback}.`];
  });
  return new Map(texts);
}
