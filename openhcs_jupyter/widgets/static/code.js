// A pane of code: edited here or from the kernel, copied, or put into a new cell below.

function element(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

// JupyterLab and Notebook let a widget see its notebook; elsewhere there is only the clipboard.
function addCell(model, el, source) {
  const notebook = model.widget_manager?.context?.model?.sharedModel;
  if (!notebook?.insertCell) return false;
  const cell = el.closest("[data-windowed-list-index]") ?? el.closest(".jp-Cell");
  let at = Number(cell?.dataset?.windowedListIndex ?? NaN);
  if (Number.isNaN(at)) at = [...document.querySelectorAll(".jp-Notebook .jp-Cell")].indexOf(cell);
  notebook.insertCell(at >= 0 ? at + 1 : notebook.cells.length, { cell_type: "code", source });
  return true;
}

function render({ model, el }) {
  el.classList.add("ohx", "ohx-codepane");
  const area = element("textarea");
  area.spellcheck = false;
  area.setAttribute("aria-label", "Code of the pipeline");
  const said = element("div", "ohx-failtext ohx-note");
  said.setAttribute("role", "alert");
  const row = element("div", "ohx-buttons");
  const [copy, add, done] = [element("button", "ohx-copy", "Copy"), element("button", "ohx-newcell", "New cell below"), element("span", "ohx-faint")];
  done.setAttribute("role", "status");
  row.append(copy, add, done);
  el.append(area, said, row);

  let telling = 0;
  const tell = () => {
    clearTimeout(telling);
    telling = 0;
    if (model.get("text") === area.value) return;
    model.set("text", area.value);
    model.save_changes();
  };
  const fit = () => { area.rows = Math.max(4, area.value.split("\n").length + 1); };
  const show = () => {
    if (telling && document.activeElement === area) return;
    if (area.value !== model.get("text")) area.value = model.get("text");
    area.readOnly = !model.get("is_editable");
    fit();
  };
  const complain = () => { said.textContent = model.get("complaint"); };
  area.addEventListener("input", () => {
    fit();
    clearTimeout(telling);
    telling = setTimeout(tell, 400);
  });
  area.addEventListener("blur", tell);
  area.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Tab" && !event.shiftKey && !area.readOnly) {
      event.preventDefault();
      area.setRangeText("    ", area.selectionStart, area.selectionEnd, "end");
      area.dispatchEvent(new Event("input"));
    } else if (event.key === "Escape") area.blur();
  });
  const report = (text) => {
    done.textContent = text;
    setTimeout(() => { done.textContent = ""; }, 4000);
  };
  async function toClipboard(told) {
    try {
      await navigator.clipboard.writeText(area.value);
    } catch {
      area.select();
      document.execCommand("copy");
    }
    report(told);
  }
  copy.addEventListener("click", () => toClipboard("Copied."));
  add.addEventListener("click", () => {
    tell();
    if (addCell(model, el, area.value.replace(/\n+$/, ""))) report("The cell is below.");
    else toClipboard("Copied; paste it into a new cell.");
  });
  const watched = [["change:text", show], ["change:is_editable", show], ["change:complaint", complain]];
  for (const [event, handler] of watched) model.on(event, handler);
  show();
  complain();
  model.send({ type: "hello" });
  return () => {
    clearTimeout(telling);
    for (const [event, handler] of watched) model.off(event, handler);
  };
}

export default { render };
