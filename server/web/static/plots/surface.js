// One set of drawing calls for canvas (the screen, PNG) and for SVG, so that a picture is the same in every form.
//
//   surface.rect(x, y, w, h, { fill, stroke, alpha }), .line([[x, y], null, …], { stroke, width, dash, alpha }),
//   .area(points, { fill, alpha }), .text(words, x, y, { size, anchor, fill, weight, turn, mono }), .dot(x, y, r, { fill }),
//   .picture(canvas, x, y, w, h), .clip(x, y, w, h, () => draw inside)
// A null among the points of a line lifts the pen.

const FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif';
const MONO = '"DejaVu Sans Mono", Menlo, Consolas, monospace';

export class CanvasSurface {
  constructor(context) {
    this.context = context;
  }

  rect(x, y, w, h, { fill = null, stroke = null, alpha = 1, width = 1 } = {}) {
    const { context } = this;
    context.globalAlpha = alpha;
    if (fill) Object.assign(context, { fillStyle: fill }).fillRect(x, y, w, h);
    if (stroke) Object.assign(context, { strokeStyle: stroke, lineWidth: width }).strokeRect(x, y, w, h);
    context.globalAlpha = 1;
  }

  line(points, { stroke, width = 1, dash = [], alpha = 1 }) {
    const { context } = this;
    context.save();
    Object.assign(context, { strokeStyle: stroke, lineWidth: width, globalAlpha: alpha, lineJoin: "round" });
    context.setLineDash(dash);
    context.beginPath();
    this.#path(points);
    context.stroke();
    context.restore();
  }

  area(points, { fill, alpha = 1 }) {
    const { context } = this;
    Object.assign(context, { fillStyle: fill, globalAlpha: alpha });
    context.beginPath();
    this.#path(points);
    context.closePath();
    context.fill();
    context.globalAlpha = 1;
  }

  #path(points) {
    let down = false;
    for (const point of points) {
      if (point === null) down = false;
      else if (down) this.context.lineTo(point[0], point[1]);
      else {
        this.context.moveTo(point[0], point[1]);
        down = true;
      }
    }
  }

  text(words, x, y, { size = 12, anchor = "start", fill, weight = 400, turn = 0, mono = false }) {
    const { context } = this;
    context.save();
    context.translate(x, y);
    context.rotate((turn * Math.PI) / 180);
    const textAlign = { start: "left", middle: "center", end: "right" }[anchor];
    Object.assign(context, { fillStyle: fill, font: `${weight} ${size}px ${mono ? MONO : FONT}`, textAlign });
    context.fillText(words, 0, 0);
    context.restore();
  }

  dot(x, y, r, { fill, stroke = null }) {
    const { context } = this;
    context.beginPath();
    context.arc(x, y, r, 0, 2 * Math.PI);
    Object.assign(context, { fillStyle: fill }).fill();
    if (stroke) Object.assign(context, { strokeStyle: stroke, lineWidth: 1.5 }).stroke();
  }

  picture(canvas, x, y, w, h) {
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(canvas, x, y, w, h);
  }

  clip(x, y, w, h, draw) {
    this.context.save();
    this.context.beginPath();
    this.context.rect(x, y, w, h);
    this.context.clip();
    draw();
    this.context.restore();
  }
}

const escape = (words) =>
  String(words).replace(/[<>&"]/g, (sign) => `&#${sign.charCodeAt(0)};`).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, "");
const short = (number) => String(Math.round(number * 100) / 100);

export class SvgSurface {
  #parts = [];
  #clips = 0;

  constructor(width, height) {
    Object.assign(this, { width, height });
  }

  rect(x, y, w, h, { fill = "none", stroke = null, alpha = 1, width = 1 } = {}) {
    const edge = stroke ? ` stroke="${stroke}" stroke-width="${width}"` : "";
    this.#add(`<rect ${box(x, y, w, h)} fill="${fill ?? "none"}" opacity="${alpha}"${edge}/>`);
  }

  line(points, { stroke, width = 1, dash = [], alpha = 1 }) {
    const dashes = dash.length ? ` stroke-dasharray="${dash.join(" ")}"` : "";
    const look = `fill="none" stroke="${stroke}" stroke-width="${width}" opacity="${alpha}" stroke-linejoin="round"`;
    this.#add(`<path d="${path(points)}" ${look}${dashes}/>`);
  }

  area(points, { fill, alpha = 1 }) {
    this.#add(`<path d="${path(points)}Z" fill="${fill}" opacity="${alpha}"/>`);
  }

  text(words, x, y, { size = 12, anchor = "start", fill, weight = 400, turn = 0, mono = false }) {
    const place = `transform="translate(${short(x)} ${short(y)})${turn ? ` rotate(${turn})` : ""}"`;
    const family = mono ? ` font-family="${escape(MONO)}"` : "";
    this.#add(`<text ${place}${family} font-size="${size}" font-weight="${weight}" text-anchor="${anchor}" fill="${fill}">${escape(words)}</text>`);
  }

  dot(x, y, r, { fill, stroke = null }) {
    const edge = stroke ? ` stroke="${stroke}" stroke-width="1.5"` : "";
    this.#add(`<circle cx="${short(x)}" cy="${short(y)}" r="${r}" fill="${fill}"${edge}/>`);
  }

  picture(canvas, x, y, w, h) {
    const look = 'preserveAspectRatio="none" style="image-rendering:pixelated"';
    this.#add(`<image ${box(x, y, w, h)} ${look} href="${canvas.toDataURL("image/png")}"/>`);
  }

  clip(x, y, w, h, draw) {
    const id = `clip${(this.#clips += 1)}`;
    this.#add(`<clipPath id="${id}"><rect ${box(x, y, w, h)}/></clipPath><g clip-path="url(#${id})">`);
    draw();
    this.#add("</g>");
  }

  #add(part) {
    this.#parts.push(part);
  }

  toString() {
    const size = `width="${this.width}" height="${this.height}" viewBox="0 0 ${this.width} ${this.height}"`;
    const font = escape(FONT);
    return `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="${font}">${this.#parts.join("\n")}</svg>\n`;
  }
}

const box = (x, y, w, h) => `x="${short(x)}" y="${short(y)}" width="${short(w)}" height="${short(h)}"`;

function path(points) {
  let [words, pen] = ["", "M"];
  for (const point of points) {
    if (point !== null) words += `${pen}${short(point[0])} ${short(point[1])}`;
    pen = point === null ? "M" : "L";
  }
  return words;
}
