// A plate's wells on one canvas: drawn once a frame at most, reachable with the keyboard, read out by screen readers.

const rowName = (row) =>
  row < 26 ? String.fromCharCode(65 + row) : String.fromCharCode(64 + Math.floor(row / 26)) + String.fromCharCode(65 + (row % 26));
const wellName = (row, column) => rowName(row) + String(column + 1).padStart(2, "0");

const reader = document.createElement("canvas").getContext("2d");

// Resolve a colour of the theme, which may be any CSS colour or variable, for a canvas.
function themeColor(node, name, fallback) {
  const value = getComputedStyle(node).getPropertyValue(name).trim();
  if (!value) return fallback;
  reader.fillStyle = fallback;
  reader.fillStyle = value;
  return reader.fillStyle;
}

class PlateMap {
  // options: rows, columns, label, paint(context, at, x, y, size, colors), tell(at) -> text or "", open(at), select(Set)
  constructor(host, options) {
    Object.assign(this, options);
    this.cursor = -1;
    this.selected = new Set();
    this.marked = [];
    this.drawn = 0;
    this.node = document.createElement("div");
    this.node.className = "ohx-plate";
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", this.label ?? "Plate map; the arrow keys move from well to well");
    this.tip = document.createElement("div");
    this.tip.className = "ohx-tip";
    this.tip.hidden = true;
    this.spoken = document.createElement("div");
    this.spoken.className = "ohx-hidden";
    this.spoken.setAttribute("aria-live", "polite");
    this.node.append(this.canvas, this.tip, this.spoken);
    host.append(this.node);
    this.listen();
    this.themes = new MutationObserver(() => this.restyle());
    this.themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
    this.resize(options.rows, options.columns);
  }

  resize(rows, columns) {
    this.rows = rows;
    this.columns = columns;
    const most = this.width ?? 460;
    this.cell = Math.max(7, Math.min(30, Math.floor((most - 26) / Math.max(columns, 1))));
    this.left = rows > 26 ? 26 : 20;
    this.top = 18;
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [this.left + columns * this.cell + 3, this.top + rows * this.cell + 3];
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.context = this.canvas.getContext("2d");
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.colors = null;
    this.draw();
  }

  restyle() {
    this.colors = null;
    this.draw();
  }

  // Ask for the plate to be drawn with the next frame.
  draw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.paintAll();
      this.drawn += 1;
    });
  }

  paintAll() {
    const { context, cell, left, top } = this;
    this.colors ??= {
      text: themeColor(this.node, "--ohx-text", "#444"),
      faint: themeColor(this.node, "--ohx-faint", "#777"),
      line: "rgba(128,128,128,0.55)",
      empty: "rgba(128,128,128,0.3)",
      panel: themeColor(this.node, "--ohx-panel", "#fff"),
      done: themeColor(this.node, "--ohx-done", "#0a7bc2"),
      fail: themeColor(this.node, "--ohx-fail", "#d55e00"),
      focus: themeColor(this.node, "--ohx-focus", "#e69f00"),
    };
    const colors = this.colors;
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.fillStyle = colors.faint;
    context.font = `${cell < 12 ? 8 : 10}px ${getComputedStyle(this.node).fontFamily}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const every = cell < 9 ? 4 : cell < 15 ? 2 : 1;
    for (let column = 0; column < this.columns; column += 1) {
      if (column % every === 0) context.fillText(column + 1, left + (column + 0.5) * cell, top / 2);
    }
    for (let row = 0; row < this.rows; row += 1) {
      if (row % (cell < 9 ? 2 : 1) === 0) context.fillText(rowName(row), left / 2, top + (row + 0.5) * cell);
    }
    for (let at = 0; at < this.rows * this.columns; at += 1) {
      const [x, y] = [left + (at % this.columns) * cell, top + Math.floor(at / this.columns) * cell];
      this.paint(context, at, x, y, cell, colors);
    }
    for (const at of this.selected) this.frame(at, colors.text, 2, []);
    this.marked.forEach((at, number) => this.frame(at, colors.focus, 2.5, number ? [3, 2] : []));
    if (this.cursor >= 0 && document.activeElement === this.canvas) this.frame(this.cursor, colors.focus, 1.5, []);
  }

  frame(at, color, width, dashes) {
    const { context, cell } = this;
    context.strokeStyle = color;
    context.lineWidth = width;
    context.setLineDash(dashes);
    context.strokeRect(this.left + (at % this.columns) * cell + 0.5, this.top + Math.floor(at / this.columns) * cell + 0.5, cell - 1, cell - 1);
    context.setLineDash([]);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - this.left) / this.cell);
    const row = Math.floor((event.clientY - box.top - this.top) / this.cell);
    return row >= 0 && row < this.rows && column >= 0 && column < this.columns ? row * this.columns + column : -1;
  }

  say(at) {
    const text = at >= 0 ? this.tell(at) : "";
    this.tip.hidden = !text;
    if (!text) return;
    const name = wellName(Math.floor(at / this.columns), at % this.columns);
    this.tip.textContent = `${name}: ${text}`;
    this.tip.style.left = `${this.left + (at % this.columns) * this.cell + this.cell + 6}px`;
    this.tip.style.top = `${this.top + Math.floor(at / this.columns) * this.cell + this.cell}px`;
    this.tip.style.width = "max-content";
  }

  block(from, to) {
    const [r1, r2] = [from, to].map((at) => Math.floor(at / this.columns)).sort((a, b) => a - b);
    const [c1, c2] = [from, to].map((at) => at % this.columns).sort((a, b) => a - b);
    const wells = new Set();
    for (let row = r1; row <= r2; row += 1) for (let column = c1; column <= c2; column += 1) wells.add(row * this.columns + column);
    return wells;
  }

  choose(wells) {
    this.selected = new Set([...wells].filter((at) => this.tell(at)));
    this.draw();
    this.select?.(this.selected);
  }

  toggle(at) {
    const wells = new Set(this.selected);
    if (!wells.delete(at)) wells.add(at);
    this.choose(wells);
  }

  listen() {
    const { canvas } = this;
    let start = -1;
    let dragged = false;
    canvas.addEventListener("pointermove", (event) => {
      const at = this.at(event);
      this.say(at);
      if (start >= 0 && at >= 0 && at !== start && this.select) {
        dragged = true;
        this.choose(this.block(start, at));
      }
    });
    canvas.addEventListener("pointerleave", () => this.say(-1));
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button === 0) [start, dragged] = [this.at(event), false];
    });
    window.addEventListener("pointerup", (this.released = () => { start = -1; }));
    canvas.addEventListener("click", (event) => {
      const at = this.at(event);
      if (at < 0 || dragged) return;
      this.cursor = at;
      if ((event.ctrlKey || event.metaKey) && this.select) this.toggle(at);
      else if (this.tell(at)) this.open?.(at, event.shiftKey);
      this.draw();
    });
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => { this.say(-1); this.draw(); });
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    let anchor = -1;
    canvas.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      if (step) {
        const from = this.cursor < 0 ? 0 : this.cursor;
        const row = Math.min(this.rows - 1, Math.max(0, Math.floor(from / this.columns) + step[0]));
        const column = Math.min(this.columns - 1, Math.max(0, (from % this.columns) + step[1]));
        if (event.shiftKey && this.select) {
          if (anchor < 0) anchor = from;
          this.choose(this.block(anchor, row * this.columns + column));
        } else anchor = -1;
        this.cursor = row * this.columns + column;
        this.say(this.cursor);
        this.spoken.textContent = this.tip.hidden ? wellName(row, column) : this.tip.textContent;
        this.draw();
      } else if (event.key === "Enter" && this.cursor >= 0 && this.tell(this.cursor)) this.open?.(this.cursor, event.shiftKey);
      else if (event.key === " " && this.cursor >= 0 && this.select) this.toggle(this.cursor);
      else if (event.key === "Escape" && this.select && this.selected.size) this.choose([]);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  remove() {
    this.themes.disconnect();
    window.removeEventListener("pointerup", this.released);
    this.node.remove();
  }
}
