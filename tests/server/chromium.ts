import { existsSync } from "node:fs";

/** Chromium as Debian and others install it; `CHROMIUM_PATH` names another. Undefined where there is none. */
export function chromiumPath(): string | undefined {
  const own = process.env.CHROMIUM_PATH;
  const usual = [
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/usr/bin/google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
  ];
  return (own === undefined || own === "" ? usual : [own]).find((path) => existsSync(path));
}
