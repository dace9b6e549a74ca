// Pictures of the page as files that a person keeps.

/** The colour that a custom property has in the theme of now; canvases know no `light-dark()`. */
export function colourOf(element, name) {
  element.style.setProperty("outline-color", `var(${name})`);
  return getComputedStyle(element).outlineColor;
}

/** Keeps what a chart has drawn, on the ground of the page, with the names of its lines below. */
export function keepCanvas(plot, element, file) {
  const { canvas } = plot.ctx;
  const [size, line] = [13 * devicePixelRatio, 24 * devicePixelRatio];
  const ctx = ground(element, canvas.width, canvas.height + line);
  ctx.drawImage(canvas, 0, 0);
  ctx.font = `${size}px system-ui, sans-serif`;
  let at = line;
  for (const { label, stroke } of plot.series.slice(1)) {
    ctx.fillStyle = stroke();
    ctx.fillText(label, at, canvas.height + size);
    at += ctx.measureText(label).width + line;
  }
  save(ctx.canvas, file);
}

const STYLED = ["fill", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-family",
  "text-anchor"];
const SHARP = 2;

/** Keeps a drawing of elements, which is styled by sheets that a file does not have. */
export async function keepSvg(svg, file) {
  const copy = svg.cloneNode(true);
  const { width, height } = svg.viewBox.baseVal;
  const parts = [svg, ...svg.querySelectorAll("*")];
  for (const [index, each] of [copy, ...copy.querySelectorAll("*")].entries()) {
    const style = getComputedStyle(parts[index]);
    for (const name of STYLED) each.setAttribute(name, style.getPropertyValue(name));
    each.removeAttribute("class");
  }
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width * SHARP);
  copy.setAttribute("height", height * SHARP);
  const text = new XMLSerializer().serializeToString(copy);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const ctx = ground(svg, width * SHARP, height * SHARP);
  ctx.drawImage(image, 0, 0);
  save(ctx.canvas, file);
}

function ground(element, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const ctx = canvas.getContext("2d");
  ctx.fillStyle = colourOf(element, "--paper");
  ctx.fillRect(0, 0, width, height);
  return ctx;
}

function save(canvas, file) {
  const link = document.createElement("a");
  Object.assign(link, { download: file, href: canvas.toDataURL("image/png") }).click();
}
