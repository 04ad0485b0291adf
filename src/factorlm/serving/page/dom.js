// Elements made by script. Text is always set as text and never read as HTML, so nothing that a model writes can act.

const SVG = "http://www.w3.org/2000/svg";

/** An element: attributes, `on…` listeners, `style` as an object of properties, and children. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same within a picture. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([property, v]) => node.style.setProperty(property, v));
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Shows or hides, and says whether it is shown. */
export function show(node, isShown) {
  node.hidden = !isShown;
  return isShown;
}

/** Says a line to those who listen rather than look. */
export function announce(line) {
  byId("spoken").textContent = line;
}

/** One of the pictures of `icons.svg`. */
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `page/icons.svg#${name}` }));
}

/** A choice among buttons of which one is pressed: calls back with the `data-value` of the new one. */
export function segmented(group, chosen) {
  const buttons = [...group.querySelectorAll("button[data-value]")];
  const press = (value) => buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.value === value)));
  buttons.forEach((button) =>
    button.addEventListener("click", () => {
      press(button.dataset.value);
      chosen(button.dataset.value);
    }),
  );
  return press;
}

/** Puts text on the clipboard, also where the page is not trusted with it because it is served without TLS. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { class: "unseen", "aria-hidden": "true" });
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  announce("Copied");
}

/** Gives the browser a file to keep. */
export function download(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
