// Packs files as a zip, as they are: weights do not get smaller, and nothing is held in memory.

const TABLE = new Uint32Array(256).map((_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});
/** Beyond this a zip needs another form; servers take no files as large. */
const MAX_BYTES = 2 ** 32 - 2 ** 20;

/** The check sum of a file, read piece by piece. */
async function checkSum(file) {
  let sum = 0xffffffff;
  const reader = file.stream().getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return (sum ^ 0xffffffff) >>> 0;
    for (const byte of value) sum = (sum >>> 8) ^ TABLE[(sum ^ byte) & 0xff];
  }
}

/** Numbers of two or four bytes, the lowest first: fields([[2, 10], [4, size]]). */
function fields(list) {
  const bytes = new DataView(new ArrayBuffer(list.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of list) {
    if (size === 2) bytes.setUint16(at, value, true);
    else bytes.setUint32(at, value, true);
    at += size;
  }
  return bytes.buffer;
}

const VERSION = 20;
const UTF8 = 0x800;
const DAY = (1 << 5) | 1; // The first of January 1980: what a zip has where no date is meant.

/** A zip of files: [[name in it, file], ...]. */
export async function zip(files) {
  const parts = [];
  const directory = [];
  let place = 0;
  for (const [path, file] of files) {
    const name = new TextEncoder().encode(path);
    const sum = await checkSum(file);
    const about = [[2, VERSION], [2, UTF8], [2, 0], [2, 0], [2, DAY], [4, sum], [4, file.size],
      [4, file.size], [2, name.length], [2, 0]];
    parts.push(fields([[4, 0x04034b50], ...about]), name, file);
    directory.push(fields([[4, 0x02014b50], [2, VERSION], ...about, [2, 0], [2, 0], [2, 0], [4, 0],
      [4, place]]), name);
    place += 30 + name.length + file.size;
    if (place > MAX_BYTES) throw new Error("These files are too large to be sent.");
  }
  const size = directory.reduce((sum, part) => sum + part.byteLength, 0);
  const count = files.length;
  const end = fields([[4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, size],
    [4, place], [2, 0]]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
