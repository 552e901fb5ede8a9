import type { GetObjectCommandOutput, S3Client } from "@aws-sdk/client-s3";
import type { RemoteObject, RemoteObjects } from "./remote-objects.js";

type Package = typeof import("@aws-sdk/client-s3");

/** Of an object that is written by one request. */
const maxObjectBytes = 5 * 2 ** 30;

/** Objects in a bucket of S3, or of a server that speaks as it does. Credentials are found as the AWS command line finds them. */
export class S3Objects implements RemoteObjects {
  readonly name = "s3";
  readonly maxBytes = maxObjectBytes;

  private constructor(
    private readonly sdk: Package,
    private readonly client: S3Client,
    private readonly bucket: string,
    private readonly prefix: string,
    readonly address: string,
  ) {}

  /**
   * @param url s3://bucket[/prefix].
   * @param options.endpoint of a server that is not Amazon's: buckets are paths there. Default: as the AWS command line has it.
   * @throws Error where the package "@aws-sdk/client-s3" is not installed.
   */
  static async open(
    url: URL,
    options: {
      readonly timeoutMs: number;
      readonly region?: string | undefined;
      readonly endpoint?: string | undefined;
    },
  ): Promise<S3Objects> {
    const { timeoutMs, region, endpoint } = options;
    const sdk = await import("@aws-sdk/client-s3").catch(() => {
      const name = "@aws-sdk/client-s3";
      throw new Error(`Cannot use an S3 store: the package "${name}" is missing, wanted "npm install ${name}"`);
    });
    const client = new sdk.S3Client({
      ...(region !== undefined && { region }),
      ...(endpoint !== undefined && { endpoint, forcePathStyle: true }),
      // Who asks decides when it is tried again.
      maxAttempts: 1,
      // Blocks have digests of their own, and not every server knows those of S3.
      ...{ requestChecksumCalculation: "WHEN_REQUIRED", responseChecksumValidation: "WHEN_REQUIRED" },
      requestHandler: { connectionTimeout: timeoutMs },
    });
    const path = url.pathname.slice(1).replace(/\/*$/, "");
    const at = endpoint === undefined ? "" : ` at ${new URL(endpoint).origin}`;
    return new S3Objects(sdk, client, url.host, path === "" ? "" : `${path}/`, `s3://${url.host}/${path}${at}`);
  }

  async get(key: string, count: number, position: number, signal: AbortSignal): Promise<Uint8Array | undefined> {
    const Range = `bytes=${position}-${position + count - 1}`;
    const command = new this.sdk.GetObjectCommand({ ...this.#at(key), Range });
    const found = await this.client.send(command, { abortSignal: signal }).catch((error: unknown) => {
      // It has no byte there: it was cut.
      return statusOf(error) === 416 ? new Uint8Array() : undefinedIfGone(error);
    });
    return found instanceof Uint8Array ? found : found && (await bytesOf(found, signal));
  }

  async touch(key: string, signal: AbortSignal): Promise<boolean> {
    const command = new this.sdk.HeadObjectCommand(this.#at(key));
    return (await this.client.send(command, { abortSignal: signal }).catch(undefinedIfGone)) !== undefined;
  }

  async put(key: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    await this.client.send(new this.sdk.PutObjectCommand({ ...this.#at(key), Body: bytes }), { abortSignal: signal });
  }

  async remove(key: string, signal: AbortSignal): Promise<boolean> {
    const wasThere = await this.touch(key, signal);
    await this.client.send(new this.sdk.DeleteObjectCommand(this.#at(key)), { abortSignal: signal });
    return wasThere;
  }

  async *list(signal: AbortSignal, within = ""): AsyncGenerator<RemoteObject> {
    const asked = { Bucket: this.bucket, Prefix: this.prefix + within };
    for await (const page of this.sdk.paginateListObjectsV2({ client: this.client }, asked, { abortSignal: signal })) {
      for (const { Key = "", Size = 0, LastModified } of page.Contents ?? []) {
        yield { key: Key.slice(this.prefix.length), size: Size, usedMs: LastModified?.getTime() ?? 0 };
      }
    }
  }

  isAnswer(error: unknown): boolean {
    return statusOf(error) !== undefined;
  }

  #at(key: string) {
    return { Bucket: this.bucket, Key: this.prefix + key };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.destroy();
  }
}

/** The signal that ends a request does not end its answer's body. */
async function bytesOf({ Body }: GetObjectCommandOutput, signal: AbortSignal): Promise<Uint8Array> {
  const body = Body as NonNullable<typeof Body> & { destroy?(error: unknown): void };
  const end = () => body.destroy?.(signal.reason);
  signal.addEventListener("abort", end, { once: true });
  try {
    return await body.transformToByteArray();
  } finally {
    signal.removeEventListener("abort", end);
  }
}

function statusOf(error: unknown): number | undefined {
  return (error as { readonly $metadata?: { readonly httpStatusCode?: number } }).$metadata?.httpStatusCode;
}

/** No such object. A bucket that is missing is an error. */
function undefinedIfGone(error: unknown): undefined {
  const isGone = statusOf(error) === 404 && (error as Error).name !== "NoSuchBucket";
  if (!isGone) throw error;
}
