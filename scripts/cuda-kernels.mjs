// Compiles the kernels of ggml's CUDA package for one GPU ahead of time. The package holds machine code for some GPUs and PTX for
// the others, which the driver compiles when a kernel is first used: minutes, and only a driver as new as the package's CUDA, 13.1, can.
// Machine code of 13.1 runs on every driver of 13.
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, homedir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import zlib from "node:zlib";

const compiler = "nvidia-cuda-nvcc==13.1.115";
const run = promisify(execFile);
const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "block-attention", "cuda");
/** How a list of images of one file's kernels begins, and the kind of an image that is PTX. */
const magic = Buffer.from([0x50, 0xed, 0x55, 0xba]);
const ptxKind = 1;

/** The lists of images in a library: where each begins and ends, and its PTX by architecture (90 is sm_90). */
function* imageLists(library) {
  for (let start = library.indexOf(magic); start >= 0; start = library.indexOf(magic, start + 1)) {
    const headerBytes = library.readUInt16LE(start + 6);
    if (headerBytes !== 16) continue;
    const end = start + headerBytes + Number(library.readBigUInt64LE(start + 8));
    const ptx = new Map();
    for (let at = start + headerBytes; at < end; ) {
      const begin = at + library.readUInt32LE(at + 4);
      const storedBytes = library.readUInt32LE(at + 16);
      const arch = library.readUInt32LE(at + 28);
      if (library.readUInt16LE(at) === ptxKind) ptx.set(arch, library.subarray(begin, begin + storedBytes));
      at = begin + Number(library.readBigUInt64LE(at + 8));
    }
    yield { start, end, ptx };
  }
}

/**
 * Puts machine code for one architecture in the place of all that a library of CUDA kernels holds. What was compiled before is
 * taken from the user's cache.
 *
 * @param arch of the GPU: "90" for Hopper.
 * @throws Error where the compiler cannot be had (it is a Python package), or a kernel does not compile.
 */
export async function compileKernels(path, arch) {
  if (zlib.zstdDecompressSync === undefined) throw new Error("Cannot compile kernels: Node 22.15 or newer is wanted");
  const bin = join(cache, "nvcc", "nvidia", "cu13", "bin");
  if (!existsSync(join(bin, "ptxas"))) {
    const download = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", cache];
    await run("python3", [...download, "--platform", "manylinux_2_17_x86_64", compiler]);
    const wheel = join(cache, "nvidia_cuda_nvcc-13.1.115-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl");
    await run("python3", ["-m", "zipfile", "-e", wheel, join(cache, "nvcc")]);
    await run("chmod", ["-R", "+x", bin]);
    rmSync(wheel);
  }
  mkdirSync(cache, { recursive: true });
  const library = readFileSync(path);
  const lists = [...imageLists(library)];
  const compile = async ({ start, end, ptx }) => {
    const newest = Math.max(...[...ptx.keys()].filter((known) => known <= Number(arch)));
    // It ends with a zero byte, which the compiler takes for a part of it.
    const source = zlib.zstdDecompressSync(ptx.get(newest)).toString("latin1").replace(/\0+$/, "");
    const made = join(cache, `${createHash("sha256").update(source).digest("hex")}.sm_${arch}.fatbin`);
    if (!existsSync(made)) {
      const partial = join(cache, `${process.pid}-${start}`);
      writeFileSync(`${partial}.ptx`, source, "latin1");
      await run(join(bin, "ptxas"), [`-arch=sm_${arch}`, "-O3", `${partial}.ptx`, "-o", `${partial}.cubin`]);
      const image = `--image3=kind=elf,sm=${arch},file=${partial}.cubin`;
      await run(join(bin, "fatbinary"), ["-64", "--compress-all", `--create=${partial}.fatbin`, image]);
      renameSync(`${partial}.fatbin`, made);
      for (const kind of ["ptx", "cubin"]) rmSync(`${partial}.${kind}`);
    }
    const images = readFileSync(made);
    if (images.length > end - start)
      throw new Error(`Cannot compile kernels: ${images.length} bytes do not fit into ${end - start}`);
    library.fill(0, start, end);
    images.copy(library, start);
  };
  const queue = lists.values();
  const worker = async () => {
    for (const list of queue) await compile(list);
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  writeFileSync(path, library);
}
