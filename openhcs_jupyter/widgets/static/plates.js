// The plates of a repository: searched, grouped, chosen; a card asks for its thumbnail when it comes into sight.

function element(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

const GROUPS = { screen: "Screen", format: "Format", channels: "Channels", day: "Day" };

function render({ model, el }) {
  el.classList.add("ohx", "ohx-plates");
  const bar = element("div", "ohx-platebar");
  const search = element("input");
  search.type = "search";
  search.placeholder = "Search plates";
  search.setAttribute("aria-label", "Search plates by name, id, channel, screen or format");
  const label = element("label", "ohx-faint", "Group by ");
  const group = element("select");
  group.append(new Option("nothing", ""), ...Object.entries(GROUPS).map(([key, text]) => new Option(text, key)));
  label.append(group);
  const count = element("span", "ohx-faint");
  count.setAttribute("role", "status");
  bar.append(search, label, count);
  const list = element("div", "ohx-cards");
  list.setAttribute("role", "radiogroup");
  list.setAttribute("aria-label", "Plates");
  const said = element("div", "ohx-note");
  said.setAttribute("role", "status");
  el.append(bar, list, said);

  const pictures = new Map();
  const asked = new Set();
  const sight = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      const id = Number(target.dataset.plate);
      if (isIntersecting && !asked.has(id)) {
        asked.add(id);
        model.send({ type: "thumbnail", plate: id });
      }
    }
  });

  function card(plate) {
    const node = element("button", "ohx-card");
    node.dataset.plate = plate.id;
    node.setAttribute("role", "radio");
    node.setAttribute("aria-checked", String(model.get("chosen") === plate.id));
    const picture = element("img");
    picture.alt = "";
    if (pictures.has(plate.id)) picture.src = pictures.get(plate.id);
    const text = element("div");
    const name = element("div", "ohx-name", plate.name);
    name.append(element("span", "ohx-faint", `  id ${plate.id}`));
    text.append(name, element("div", "", `${plate.wells} wells, ${plate.fields} fields; ${plate.channels}`));
    text.append(element("div", "ohx-faint", `${plate.format}, ${plate.size}, ${plate.day}${plate.screen ? `, ${plate.screen}` : ""}`));
    if (plate.problems) text.append(element("div", "ohx-failtext", `\u26a0 ${plate.problems}`));
    node.append(picture, text);
    node.addEventListener("click", () => model.send({ type: "pick", plate: plate.id }));
    sight.observe(node);
    return node;
  }

  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const all = model.get("plates");
    const found = all.filter((plate) => {
      const text = `${plate.id} ${plate.name} ${plate.channels} ${plate.screen} ${plate.format}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    sight.disconnect();
    const groups = new Map();
    for (const plate of found) {
      const key = group.value ? plate[group.value] || "\u2013" : "";
      groups.set(key, [...(groups.get(key) ?? []), plate]);
    }
    const nodes = [];
    for (const [key, plates] of groups) {
      if (key) nodes.push(element("div", "ohx-group", key));
      nodes.push(...plates.map(card));
    }
    list.replaceChildren(...nodes);
    count.textContent = found.length === all.length ? `${all.length} in ${model.get("where")}` : `${found.length} of ${all.length}`;
  }

  function showChosen() {
    const chosen = model.get("chosen");
    for (const node of list.querySelectorAll(".ohx-card")) node.setAttribute("aria-checked", String(Number(node.dataset.plate) === chosen));
    const plate = model.get("plates").find((one) => one.id === chosen);
    said.textContent = plate ? `Cells that name no plate take ${plate.name} (id ${plate.id}).` : "";
  }

  const message = (content, buffers) => {
    if (content.type !== "tile") return;
    const id = Number(content.tile);
    if (buffers[0].byteLength) {
      pictures.set(id, URL.createObjectURL(new Blob([buffers[0]], { type: "image/jpeg" })));
      const picture = list.querySelector(`[data-plate="${id}"] img`);
      if (picture) picture.src = pictures.get(id);
    }
    model.send({ type: "ack", number: content.number });
  };
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const cards = [...list.querySelectorAll(".ohx-card")];
    cards[Math.min(cards.length - 1, Math.max(0, cards.indexOf(document.activeElement) + step))]?.focus();
    event.preventDefault();
    event.stopPropagation();
  });
  search.addEventListener("input", show);
  search.addEventListener("keydown", (event) => event.stopPropagation());
  group.addEventListener("change", show);
  model.on("change:chosen", showChosen);
  model.on("msg:custom", message);
  show();
  showChosen();
  model.send({ type: "hello" });
  return () => {
    sight.disconnect();
    model.off("change:chosen", showChosen);
    model.off("msg:custom", message);
    for (const url of pictures.values()) URL.revokeObjectURL(url);
  };
}

export default { render };
