// A plate map whose wells are coloured by numbers; wells open with a click and are selected by dragging.

function element(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

const bytes = (data) => new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength);
const short = (value) => (Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4)));

function render({ model, el }) {
  el.classList.add("ohx");
  const title = element("div", "ohx-maptitle", model.get("plate").title);
  const host = element("div");
  const legend = element("div", "ohx-legend");
  const [low, ramp, high, missing] = [element("span"), element("canvas"), element("span"), element("span", "ohx-faint", "\u25cb no value")];
  ramp.width = 256;
  ramp.height = 1;
  ramp.setAttribute("aria-hidden", "true");
  legend.append(low, ramp, high, missing);
  el.append(title, host, legend);

  let values = new Float32Array();
  let present = new Uint8Array();
  let colors = new Uint8Array(768);
  let scale = {};
  const size = model.get("plate");
  const map = new PlateMap(host, {
    rows: size.rows,
    columns: size.columns,
    width: size.columns > 24 ? 480 : 400,
    label: `Plate map of ${size.title}; the arrow keys move, Enter opens a well, the space bar selects it`,
    paint(context, at, x, y, cell, theme) {
      const value = values[at];
      if (!present[at]) {
        context.fillStyle = theme.empty;
        context.beginPath();
        context.arc(x + cell / 2, y + cell / 2, cell < 12 ? 0.8 : 1.5, 0, 7);
        context.fill();
      } else if (Number.isNaN(value)) {
        context.strokeStyle = theme.line;
        context.lineWidth = 1;
        context.beginPath();
        context.arc(x + cell / 2, y + cell / 2, cell * 0.33, 0, 7);
        context.stroke();
      } else {
        const share = Math.min(1, Math.max(0, (value - scale.low) / (scale.high - scale.low || 1)));
        const index = 3 * Math.round(255 * share);
        context.fillStyle = `rgb(${colors[index]},${colors[index + 1]},${colors[index + 2]})`;
        const gap = cell < 12 ? 0.5 : 1.5;
        context.fillRect(x + gap, y + gap, cell - 2 * gap, cell - 2 * gap);
      }
    },
    tell(at) {
      if (!present[at]) return "";
      return Number.isNaN(values[at]) ? "no value" : `${scale.label} ${short(values[at])}`;
    },
    open: (at, compare) => model.send({ type: "open", well: at, compare }),
    select: (wells) => {
      clearTimeout(map.telling);
      map.telling = setTimeout(() => model.send({ type: "select", wells: [...wells] }), 120);
    },
  });

  function show() {
    const raw = bytes(model.get("values"));
    values = new Float32Array(raw.slice().buffer);
    present = bytes(model.get("present"));
    colors = bytes(model.get("colors"));
    scale = model.get("scale");
    map.marked = model.get("marked");
    title.textContent = `${model.get("plate").title}: ${scale.label}`;
    low.textContent = short(scale.low);
    high.textContent = short(scale.high);
    const context = ramp.getContext("2d");
    const pixels = context.createImageData(256, 1);
    for (let at = 0; at < 256; at += 1) pixels.data.set([colors[3 * at], colors[3 * at + 1], colors[3 * at + 2], 255], 4 * at);
    context.putImageData(pixels, 0, 0);
    map.draw();
  }
  function showSelected() {
    map.selected = new Set(model.get("selected"));
    map.draw();
  }
  const names = ["values", "present", "colors", "scale", "marked"];
  for (const name of names) model.on(`change:${name}`, show);
  model.on("change:selected", showSelected);
  show();
  showSelected();
  model.send({ type: "hello" });
  return () => {
    for (const name of names) model.off(`change:${name}`, show);
    model.off("change:selected", showSelected);
    map.remove();
  };
}

export default { render };
