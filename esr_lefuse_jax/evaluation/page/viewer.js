// The image viewer: two layers under a divider, a lens, and the same crop of every layer.
const $ = (id) => document.getElementById(id);
const DATA = JSON.parse($("data").textContent);
const COLOURS = ["#4e9cf5", "#f2a33a", "#5bbf6a", "#e5616b", "#a98be8", "#35b8b0", "#e07fc0", "#b9a15a", "#8c97a8", "#c7743c"];
const colour = (method) => COLOURS[DATA.methods.indexOf(method) % COLOURS.length];
const listeners = []; // called with the image whenever another one is shown

const state = { image: 0, left: null, right: null, split: 0.5, x: 0.5, y: 0.5, zoom: 4, pinned: false };

function layer(side) {
  const layers = DATA.images[state.image].layers;
  return layers.find((l) => l.id === state[side]) || layers[side === "left" ? 0 : layers.length - 1];
}

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") node.style.cssText = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function fillStrip() {
  DATA.images.forEach((image, index) => {
    $("strip").append(element("button", { type: "button", role: "option", title: image.stem, onclick: () => show(index) },
      element("img", { src: image.thumb, alt: "", loading: "lazy" }), element("span", {}, image.stem)));
  });
}

function show(index, right) {
  if (index < 0 || index >= DATA.images.length) return;
  state.image = index;
  if (right) state.right = right;
  const image = DATA.images[index];
  $("stem").textContent = image.stem;
  $("size").textContent = `${image.width}×${image.height}`;
  [...$("strip").children].forEach((node, i) => node.setAttribute("aria-selected", i === index));
  const chosen = $("strip").children[index];
  $("strip").scrollTo({ left: chosen.offsetLeft - $("strip").clientWidth / 2 + chosen.clientWidth / 2 });
  for (const side of ["left", "right"]) {
    $(side).replaceChildren(...image.layers.map((l) => element("option", { value: l.id }, l.label)));
  }
  $("crops").replaceChildren(...image.layers.map((l, i) =>
    element("button", { type: "button", class: "crop", title: `${l.label}: show on the right (${i + 1}), with Shift on the left`,
      "data-id": l.id, onclick: (event) => choose(event.shiftKey ? "left" : "right", l.id) }, element("div"), element("span", {}, l.label))));
  fit();
  showLayers();
  listeners.forEach((listener) => listener(image));
}

function choose(side, id) {
  state[side] = id;
  showLayers();
}

function showLayers() {
  const left = layer("left"), right = layer("right");
  $("overimage").src = left.file;
  $("under").src = right.file;
  $("left").value = left.id;
  $("right").value = right.id;
  $("tagleft").textContent = left.label;
  $("tagright").textContent = right.label;
  for (const crop of $("crops").children) {
    crop.classList.toggle("left", crop.dataset.id === left.id);
    crop.classList.toggle("right", crop.dataset.id === right.id);
  }
  const parts = { image: DATA.images[state.image].stem, left: left.id, right: right.id };
  history.replaceState(null, "", "#" + new URLSearchParams(parts));
  magnify();
}

function fit() { // as large as the window allows, at the image's own shape
  const image = DATA.images[state.image], viewer = $("viewer");
  const tall = Math.max(320, window.innerHeight - 250);
  const width = Math.min(viewer.parentElement.clientWidth, (tall * image.width) / image.height);
  viewer.style.width = `${width}px`;
  viewer.style.height = `${(width * image.height) / image.width}px`;
  magnify();
}

function setSplit(value) {
  state.split = Math.min(1, Math.max(0, value));
  $("handle").style.left = `${state.split * 100}%`;
  $("handle").setAttribute("aria-valuenow", Math.round(state.split * 100));
  $("over").style.clipPath = `inset(0 ${(1 - state.split) * 100}% 0 0)`;
}

// Fills a node with the surroundings of (x, y), at `scale` of the viewer's own magnification.
function crop(node, file, scale, width, height) {
  const box = $("viewer").getBoundingClientRect();
  const w = box.width * scale, h = box.height * scale;
  node.style.backgroundImage = `url("${file}")`;
  node.style.backgroundSize = `${w}px ${h}px`;
  node.style.backgroundPosition = `${width / 2 - state.x * w}px ${height / 2 - state.y * h}px`;
}

function magnify() {
  const box = $("viewer").getBoundingClientRect();
  if (!box.width) return;
  const lens = $("lens"), side = state.x < state.split ? "left" : "right";
  const sharp = !$("smooth").checked;
  lens.classList.toggle("sharp", sharp);
  crop(lens, layer(side).file, state.zoom, 206, 206);
  lens.style.left = `${state.x * box.width - 105}px`;
  lens.style.top = `${state.y * box.height - 105}px`;
  const mark = $("mark");
  mark.hidden = !state.pinned;
  const layers = DATA.images[state.image].layers;
  [...$("crops").children].forEach((node, i) => {
    const window_ = node.firstChild;
    window_.classList.toggle("sharp", sharp);
    crop(window_, layers[i].file, state.zoom, window_.clientWidth, window_.clientHeight);
    if (i === 0) {
      const w = window_.clientWidth / state.zoom, h = window_.clientHeight / state.zoom;
      mark.style.cssText += `;left:${state.x * box.width - w / 2}px;top:${state.y * box.height - h / 2}px;width:${w}px;height:${h}px`;
    }
  });
  $("zoomvalue").textContent = `${state.zoom}×`;
  $("zoom").value = state.zoom;
}

function pointAt(event) {
  const box = $("viewer").getBoundingClientRect();
  state.x = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  state.y = Math.min(1, Math.max(0, (event.clientY - box.top) / box.height));
}

function connectViewer() {
  const viewer = $("viewer"), handle = $("handle");
  let dragging = false;
  handle.addEventListener("pointerdown", (event) => {
    dragging = true;
    handle.setPointerCapture(event.pointerId);
    $("lens").hidden = true;
    event.preventDefault();
    handle.focus({ preventScroll: true });
  });
  handle.addEventListener("pointermove", (event) => {
    if (!dragging) return;
    const box = viewer.getBoundingClientRect();
    setSplit((event.clientX - box.left) / box.width);
  });
  handle.addEventListener("pointerup", () => { dragging = false; });
  handle.addEventListener("click", (event) => event.stopPropagation());
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
    if (!step) return;
    setSplit(state.split + step);
    event.preventDefault();
    event.stopPropagation();
  });
  viewer.addEventListener("pointermove", (event) => {
    if (dragging || state.pinned) return;
    pointAt(event);
    $("lens").hidden = !$("lenson").checked || event.target.closest(".handle") !== null;
    magnify();
  });
  viewer.addEventListener("pointerleave", () => { if (!state.pinned) $("lens").hidden = true; });
  viewer.addEventListener("click", (event) => {
    state.pinned = !state.pinned;
    pointAt(event);
    $("lens").hidden = state.pinned || !$("lenson").checked;
    magnify();
  });
  viewer.addEventListener("wheel", (event) => {
    state.zoom = Math.min(12, Math.max(1.5, state.zoom - Math.sign(event.deltaY) * 0.5));
    magnify();
    event.preventDefault();
  }, { passive: false });
  $("zoom").addEventListener("input", (event) => { state.zoom = Number(event.target.value); magnify(); });
  $("smooth").addEventListener("change", magnify);
  $("lenson").addEventListener("change", () => { $("lens").hidden = true; });
  $("left").addEventListener("change", (event) => choose("left", event.target.value));
  $("right").addEventListener("change", (event) => choose("right", event.target.value));
  $("previous").addEventListener("click", () => show(state.image - 1));
  $("next").addEventListener("click", () => show(state.image + 1));
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowLeft") show(state.image - 1);
    if (event.key === "ArrowRight") show(state.image + 1);
    const digit = /^Digit([1-9])$/.exec(event.code);
    const chosen = digit && DATA.images[state.image].layers[digit[1] - 1];
    if (chosen) choose(event.shiftKey ? "left" : "right", chosen.id);
  });
  window.addEventListener("resize", fit);
}

function startViewer() {
  if (!DATA.images.length) { $("images").hidden = true; return; }
  const wanted = new URLSearchParams(location.hash.slice(1));
  state.left = wanted.get("left") || DATA.first.left;
  state.right = wanted.get("right") || DATA.first.right;
  fillStrip();
  connectViewer();
  setSplit(0.5);
  show(Math.max(0, DATA.images.findIndex((image) => image.stem === wanted.get("image"))));
}
