// A grid of pictures: they come as JPEG, are drawn when they are decoded, and zoom and move together.

function element(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

function render({ model, el }) {
  el.classList.add("ohx");
  const grid = element("div", "ohx-grid");
  const note = element("div", "ohx-note ohx-faint");
  note.setAttribute("role", "status");
  el.append(grid, note);
  const shown = new Map();
  const view = { zoom: 1, x: 0.5, y: 0.5 };
  let asked = 1;

  function paint(tile) {
    const { canvas, picture } = tile;
    if (!picture) return;
    const scale = window.devicePixelRatio || 1;
    const width = model.get("side");
    const height = Math.round((width * picture.height) / picture.width);
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    const [w, h] = [picture.width / view.zoom, picture.height / view.zoom];
    context.imageSmoothingEnabled = view.zoom < 4;
    context.drawImage(picture, view.x * picture.width - w / 2, view.y * picture.height - h / 2, w, h, 0, 0, canvas.width, canvas.height);
  }

  let due = false;
  function paintAll() {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; for (const tile of shown.values()) paint(tile); });
  }

  function hold() {
    const half = 0.5 / view.zoom;
    view.x = Math.min(1 - half, Math.max(half, view.x));
    view.y = Math.min(1 - half, Math.max(half, view.y));
    paintAll();
    if (view.zoom > 1.3 && asked < view.zoom) {
      asked = 2 * view.zoom;
      model.send({ type: "finer", zoom: view.zoom });
    }
  }

  function listen(canvas) {
    let from = null;
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas) return;
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      const [px, py] = [(event.clientX - box.left) / box.width - 0.5, (event.clientY - box.top) / box.height - 0.5];
      const before = view.zoom;
      view.zoom = Math.min(16, Math.max(1, view.zoom * Math.exp(-event.deltaY / 400)));
      view.x += px * (1 / before - 1 / view.zoom);
      view.y += py * (1 / before - 1 / view.zoom);
      hold();
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus();
      from = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const box = canvas.getBoundingClientRect();
      view.x -= (event.clientX - from[0]) / box.width / view.zoom;
      view.y -= (event.clientY - from[1]) / box.height / view.zoom;
      from = [event.clientX, event.clientY];
      hold();
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { from = null; });
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    canvas.addEventListener("keydown", (event) => {
      const move = moves[event.key];
      if (move) [view.x, view.y] = [view.x + (0.1 * move[0]) / view.zoom, view.y + (0.1 * move[1]) / view.zoom];
      else if (event.key === "+" || event.key === "=") view.zoom = Math.min(16, view.zoom * 1.5);
      else if (event.key === "-") view.zoom = Math.max(1, view.zoom / 1.5);
      else if (event.key === "0" || event.key === "Escape") Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
      else return;
      event.preventDefault();
      event.stopPropagation();
      hold();
    });
  }

  function arrange() {
    grid.style.gridTemplateColumns = `repeat(${model.get("columns")}, max-content)`;
    const list = model.get("tiles");
    const wanted = new Set(list.map((tile) => tile.id));
    for (const [id, tile] of shown) {
      if (!wanted.has(id)) {
        tile.node.remove();
        shown.delete(id);
      }
    }
    for (const { id, caption } of list) {
      let tile = shown.get(id);
      if (!tile) {
        tile = { node: element("figure"), canvas: element("canvas"), caption: element("figcaption") };
        tile.canvas.tabIndex = 0;
        tile.canvas.setAttribute("role", "img");
        tile.canvas.title = "Ctrl and wheel, or + and -: zoom; drag or arrows: move; 0: all of it";
        tile.canvas.style.width = `${model.get("side")}px`;
        tile.node.append(tile.canvas, tile.caption);
        listen(tile.canvas);
        shown.set(id, tile);
      }
      tile.caption.textContent = caption;
      tile.canvas.setAttribute("aria-label", caption);
      grid.append(tile.node);
    }
    paintAll();
  }

  const message = async (content, buffers) => {
    if (content.type !== "tile") return;
    const tile = shown.get(content.tile);
    try {
      if (tile && buffers[0].byteLength) {
        tile.picture = await createImageBitmap(new Blob([buffers[0]]));
        paint(tile);
        tile.node.dataset.number = content.number;
      }
    } finally {
      model.send({ type: "ack", number: content.number });
    }
  };
  const showNote = () => { note.textContent = model.get("note"); };
  const watched = [["change:tiles", arrange], ["change:columns", arrange], ["change:side", arrange], ["change:note", showNote], ["msg:custom", message]];
  for (const [event, handler] of watched) model.on(event, handler);
  arrange();
  showNote();
  model.send({ type: "hello" });
  return () => { for (const [event, handler] of watched) model.off(event, handler); };
}

export default { render };
