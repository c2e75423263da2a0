// NumPy's .npy as typed arrays, without a copy where the bytes allow it.
//
//   const { shape, data } = parseNpy(buffer)                       float and integer arrays, C order
//   const { length, fields } = parseNpy(buffer)                    records: fields.step.at(i), fields.values.row(i)

const TYPES = {
  f4: Float32Array, f8: Float64Array, i4: Int32Array, u4: Uint32Array, i2: Int16Array, u2: Uint16Array,
  i1: Int8Array, u1: Uint8Array, b1: Uint8Array,
};

export function parseNpy(buffer) {
  const bytes = new Uint8Array(buffer);
  const long = bytes[6] > 1;
  const view = new DataView(buffer);
  const size = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = (long ? 12 : 10) + size;
  const header = new TextDecoder("latin1").decode(bytes.subarray(long ? 12 : 10, start));
  if (/'fortran_order': True/.test(header)) throw new Error("an array in Fortran order is not read");
  const shape = numbers(/'shape': \(([^)]*)\)/.exec(header)[1]);
  const plain = /'descr': '([<|=])([a-z]\d)'/.exec(header);
  if (plain) return { shape, data: typed(buffer, start, plain[2], product(shape)) };
  return records(buffer, start, header, shape[0]);
}

function records(buffer, start, header, length) {
  const list = /'descr': \[(.*?)\](?=, 'fortran_order'|, 'shape'|\})/.exec(header)[1];
  const fields = {};
  let offset = 0;
  const found = [...list.matchAll(/\('(\w+)', '[<|=]([a-z]\d)'(?:, \(([^)]*)\))?\)/g)];
  for (const [, name, type, shape] of found) {
    fields[name] = { type, shape: shape === undefined ? [] : numbers(shape), offset };
    offset += product(fields[name].shape) * Number(type[1]);
  }
  for (const field of Object.values(fields)) {
    const at = (index) => start + index * offset + field.offset;
    field.at = (index) => scalar(new DataView(buffer), at(index), field.type);
    field.row = (index) => typed(buffer, at(index), field.type, product(field.shape));
  }
  return { length, fields };
}

const numbers = (text) => text.split(",").filter((part) => part.trim()).map(Number);
const product = (shape) => shape.reduce((all, size) => all * size, 1);

function typed(buffer, start, type, length) {
  const Type = TYPES[type];
  if (!Type) throw new Error(`arrays of ${type} are not read`);
  if (start % Type.BYTES_PER_ELEMENT === 0) return new Type(buffer, start, length);
  return new Type(buffer.slice(start, start + length * Type.BYTES_PER_ELEMENT));
}

function scalar(view, at, type) {
  if (type === "i8" || type === "u8") return Number(view.getBigInt64(at, true));
  if (type === "f8") return view.getFloat64(at, true);
  if (type === "f4") return view.getFloat32(at, true);
  if (type === "i4") return view.getInt32(at, true);
  throw new Error(`single values of ${type} are not read`);
}
