// The display of one run: stages, plate map, latest pictures, use of the machine, Cancel and Detach or Attach.

const SIGNS = { running: "\u25b6", done: "\u2713", failed: "\u2717", cancelled: "\u25a0", interrupted: "\u25a0" };
const [ABSENT, WAITING, RUNNING, DONE, FAILED] = [0, 1, 2, 3, 4];
const SAID = ["", "waiting", "running", "done", "failed"];

function paintWell(state, share) {
  return (context, x, y, size, colors) => {
    const [cx, cy, radius] = [x + size / 2, y + size / 2, size * 0.37];
    context.lineWidth = size < 12 ? 1 : 1.5;
    if (state === ABSENT) {
      context.fillStyle = colors.empty;
      context.beginPath();
      context.arc(cx, cy, size < 12 ? 0.8 : 1.5, 0, 7);
      context.fill();
    } else if (state === FAILED) {
      const half = size * 0.4;
      context.fillStyle = colors.fail;
      context.fillRect(cx - half, cy - half, 2 * half, 2 * half);
      context.strokeStyle = "#fff";
      const arm = size * 0.2;
      context.beginPath();
      context.moveTo(cx - arm, cy - arm);
      context.lineTo(cx + arm, cy + arm);
      context.moveTo(cx - arm, cy + arm);
      context.lineTo(cx + arm, cy - arm);
      context.stroke();
    } else {
      context.strokeStyle = state === WAITING ? colors.line : colors.done;
      context.beginPath();
      context.arc(cx, cy, radius, 0, 7);
      context.stroke();
      if (state === DONE || share > 0) {
        context.fillStyle = colors.done;
        context.beginPath();
        context.moveTo(cx, cy);
        context.arc(cx, cy, radius, -Math.PI / 2, -Math.PI / 2 + 2 * Math.PI * (state === DONE ? 1 : share));
        context.fill();
      }
    }
  };
}

function element(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

// Where a run ended while its page was away, the page's own copy of the notebook gets the result that stays.
function keepResult(model, bundle) {
  const cells = model.widget_manager?.context?.model?.cells;
  if (!cells) return false;
  const view = "application/vnd.jupyter.widget-view+json";
  for (const cell of cells) {
    const outputs = cell.outputs;
    for (let at = 0; at < (outputs?.length ?? 0); at += 1) {
      const output = outputs.get(at).toJSON();
      if (output.data?.[view]?.model_id === model.model_id || output.data?.[view]?.model_id === model.get("id")) {
        outputs.set(at, { output_type: "display_data", data: bundle, metadata: {} });
        return true;
      }
    }
  }
  return false;
}

function render({ model, el }) {
  el.classList.add("ohx");
  const root = element("div", "ohx-run");
  const head = element("div", "ohx-head");
  const [sign, name, sentence, plate] = [element("span"), element("span", "ohx-name"), element("span"), element("span", "ohx-faint")];
  sentence.setAttribute("role", "status");
  const buttons = element("span", "ohx-buttons");
  const [follow, cancel] = [element("button"), element("button", "ohx-cancel", "Cancel")];
  follow.className = "ohx-follow";
  cancel.title = "Stop the run; what is finished is kept";
  buttons.append(follow, cancel);
  head.append(sign, name, sentence, plate, buttons);
  const body = element("div", "ohx-body");
  const side = element("div", "ohx-side");
  const [stages, usage, failures, strip] = [element("div"), element("div", "ohx-note ohx-faint"), element("div", "ohx-note ohx-failtext"), element("div", "ohx-strip")];
  side.append(stages, usage, failures, strip);
  root.append(head, body);
  el.append(root);

  let state = new Uint8Array();
  const size = model.get("plate");
  const map = new PlateMap(body, {
    rows: size.rows,
    columns: size.columns,
    width: size.columns > 24 ? 480 : 420,
    label: "Plate map of the run; the arrow keys move from well to well",
    paint: (context, at, x, y, cell, colors) => paintWell(state[2 * at] ?? 0, (state[2 * at + 1] ?? 0) / 255)(context, x, y, cell, colors),
    tell: (at) => {
      const code = state[2 * at] ?? 0;
      if (!code) return "";
      const info = model.get("info");
      const why = code === FAILED ? info.reasons[info.failed[at]] : "";
      return why ? `failed\n${why}` : code === RUNNING ? `${Math.round((100 * state[2 * at + 1]) / 255)} % done` : SAID[code];
    },
  });
  body.append(side);

  const seen = new Map();
  function showStages(list) {
    list.forEach((stage, index) => {
      let row = seen.get(index);
      if (!row) {
        row = { node: element("div", "ohx-stage"), label: element("span", "ohx-label"), bar: element("span", "ohx-bar"), count: element("span", "ohx-count") };
        row.parts = ["done", "failed", "running"].map((kind) => element("span", kind));
        row.bar.append(...row.parts);
        row.bar.setAttribute("role", "progressbar");
        row.node.append(row.label, row.bar, row.count);
        stages.append(row.node);
        seen.set(index, row);
      }
      const [label, total, done, failed, running] = stage;
      row.label.textContent = label;
      row.label.title = label;
      row.label.style.width = `${Math.min(Math.max(8, ...list.map((one) => one[0].length)), 30)}ch`;
      [done, failed, running].forEach((count, part) => { row.parts[part].style.width = `${total ? (100 * count) / total : 0}%`; });
      row.bar.setAttribute("aria-label", label);
      row.bar.setAttribute("aria-valuemax", total);
      row.bar.setAttribute("aria-valuenow", done + failed);
      row.count.textContent = `${done.toLocaleString("en")} / ${total.toLocaleString("en")}`;
      if (failed) row.count.append(element("span", "ohx-failtext", `  \u2717 ${failed}`));
    });
  }

  function showInfo() {
    const info = model.get("info");
    root.dataset.status = info.status;
    sign.textContent = SIGNS[info.status] ?? "";
    sign.style.color = info.status === "failed" || info.failures ? "var(--ohx-failtext)" : "var(--ohx-done)";
    name.textContent = info.name;
    if (sentence.textContent !== info.sentence) sentence.textContent = info.sentence;
    plate.textContent = info.plate;
    usage.textContent = info.usage;
    failures.textContent = info.failures;
    cancel.hidden = follow.hidden = info.status !== "running";
    follow.textContent = info.following ? "Detach" : "Attach";
    follow.title = info.following ? "Let the cell end; the run goes on in the background" : "Follow the run again";
    showStages(info.stages);
  }

  function showState() {
    const data = model.get("state");
    state = new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength);
    map.draw();
  }

  function showEnd() {
    const bundle = model.get("ended");
    if (!bundle["text/html"]) return;
    // The kernel replaces this output itself where it can; only a page that was loaded meanwhile is still here by then.
    setTimeout(() => {
      if (!root.isConnected || keepResult(model, bundle)) return;
      root.innerHTML = bundle["text/html"];
    }, 1500);
  }

  const message = (content, buffers) => {
    if (content.type !== "picture") return;
    const figure = element("figure");
    const image = element("img");
    image.alt = content.caption;
    const url = URL.createObjectURL(new Blob([buffers[0]], { type: "image/jpeg" }));
    image.onload = () => { URL.revokeObjectURL(url); model.send({ type: "ack", id: content.id }); };
    image.src = url;
    figure.append(image, element("figcaption", "", content.caption));
    strip.prepend(figure);
    while (strip.children.length > 3) strip.lastChild.remove();
  };
  const press = (button, type) => button.addEventListener("click", () => {
    button.disabled = true;
    setTimeout(() => { button.disabled = false; }, 1000);
    model.send({ type: type() });
  });
  press(cancel, () => "cancel");
  press(follow, () => (model.get("info").following ? "detach" : "attach"));
  const watched = [["change:info", showInfo], ["change:state", showState], ["change:ended", showEnd], ["msg:custom", message]];
  for (const [event, handler] of watched) model.on(event, handler);
  showInfo();
  showState();
  showEnd();
  model.send({ type: "hello" });
  // Saved now, the notebook shows the run again after a reload of the page.
  const context = model.widget_manager?.context;
  const saving = setTimeout(() => {
    if (root.isConnected && model.get("info").status === "running" && context?.model?.dirty && !context.model.readOnly) context.save().catch(() => {});
  }, 3000);
  return () => {
    clearTimeout(saving);
    for (const [event, handler] of watched) model.off(event, handler);
    map.remove();
  };
}

export default { render };
