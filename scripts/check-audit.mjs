// Asks the registry for known weaknesses of the packages that ship (`npm audit --omit=dev`): a high or critical one fails,
// unless it stands here with the reason why it does no harm. `npm run check` skips it where the registry cannot be asked.
import { spawnSync } from "node:child_process";
import { dirname } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

/** Advisories, by the last part of their address such as "GHSA-xxxx-xxxx-xxxx", each with the reason. */
const harmless = new Map([]);

/**
 * What the registry answers: its report, or the reason why there is none.
 *
 * @returns {{ report?: { vulnerabilities: Record<string, object> }, reason?: string }}
 */
export function askRegistry() {
  // npm is a script on Windows, which only a shell can start.
  const shell = process.platform === "win32";
  const { stdout, error, signal } = spawnSync("npm", ["audit", "--omit=dev", "--json"], {
    cwd: dirname(dirname(fileURLToPath(import.meta.url))),
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
    timeout: 60_000,
    shell,
  });
  try {
    const answer = JSON.parse(stdout);
    if (answer.auditReportVersion === 2) return { report: answer };
    // Without the registry's address.
    return { reason: `the registry answers "${String(answer.message).replace(/ - .*/s, "").slice(0, 120)}"` };
  } catch {
    return { reason: `npm audit ends with ${error?.message ?? signal ?? "no report"}` };
  }
}

/** High and critical advisories, each once, with the package that has it. */
function advisoriesOf({ vulnerabilities }) {
  const found = new Map();
  for (const { name, via } of Object.values(vulnerabilities)) {
    // Text names another package of the report, which has the advisory itself.
    for (const advisory of via.filter((each) => typeof each === "object")) {
      if (["high", "critical"].includes(advisory.severity))
        found.set(advisory.url.split("/").at(-1), { name, ...advisory });
    }
  }
  return found;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { report, reason } = askRegistry();
  if (report === undefined) {
    console.error(`Cannot audit the packages: ${reason}`);
    process.exit(1);
  }
  const found = advisoriesOf(report);
  const wrong = [...found].filter(([id]) => !harmless.has(id));
  for (const [id, { name, severity, range, title }] of wrong)
    console.error(`${name} ${range}: ${severity}, ${title} (${id})`);
  const gone = [...harmless.keys()].filter((id) => !found.has(id));
  for (const id of gone) console.error(`scripts/check-audit.mjs lists "${id}", which no package has by now`);
  console.log(`${found.size} high or critical advisories, ${wrong.length} of them not listed as harmless`);
  if (wrong.length + gone.length > 0) process.exitCode = 1;
}
