/** A model of the Hugging Face hub. */
export interface HubName {
  /** As "Qwen/Qwen2.5-0.5B". */
  readonly repo: string;
  /** A branch, a tag or a commit; undefined for the main branch. */
  readonly revision: string | undefined;
  /** One model of several in the repository: a file's path, or a quantization as "Q4_K_M". */
  readonly part: string | undefined;
  /** Whether the text can be nothing else: it begins with hf: or the hub's address. */
  readonly isExplicit: boolean;
}

const prefix = /^(hf:(\/\/)?|(https?:\/\/)?(www\.)?(huggingface\.co|hf\.co)\/)/i;
const short = /^(?<repo>\w[\w.-]*\/\w[\w.-]*)(@(?<revision>\w[\w./-]*))?(:(?<part>[^\s/:\\][^:\\\p{Cc}]*))?$/u;
const address =
  /^(?<repo>\w[\w.-]*\/\w[\w.-]*)\/(resolve|blob|tree)\/(?<revision>[^/?#]+)(\/(?<part>[^?#]+))?([?#].*)?$/;

/**
 * Reads OWNER/REPO[@REVISION][:FILE or QUANT], with or without hf: before it, or the hub's own address of it.
 *
 * @returns undefined for any other text.
 * @example parseHubName("hf:o/n-GGUF@v2:Q4_K_M") has the repo "o/n-GGUF", the revision "v2" and the part "Q4_K_M"
 */
export function parseHubName(text: string): HubName | undefined {
  const name = text.replace(prefix, "");
  const isExplicit = name !== text;
  const { repo, revision, part } =
    short.exec(name.replace(/\/$/, ""))?.groups ?? (isExplicit ? parseAddress(name) : {});
  // Names and paths become paths on the disk.
  if (repo === undefined || [repo, revision, part].some((path) => path?.includes(".."))) return undefined;
  return { repo, revision: revision === "main" ? undefined : revision, part, isExplicit };
}

/** What follows the hub's host: in it a branch's "/" and a file's odd characters are escaped. */
function parseAddress(text: string): Partial<HubName> {
  const { repo, revision = "", part } = address.exec(text)?.groups ?? {};
  try {
    const name = `${repo}@${decodeURIComponent(revision)}${part ? `:${decodeURIComponent(part.replace(/\/$/, ""))}` : ""}`;
    return short.exec(name)?.groups ?? {};
  } catch {
    // No UTF-8.
    return {};
  }
}

/** The shortest text that parseHubName() reads as this name. */
export function hubNameText({ repo, revision, part }: Omit<HubName, "isExplicit">): string {
  return `${repo}${revision === undefined ? "" : `@${revision}`}${part === undefined ? "" : `:${part}`}`;
}
