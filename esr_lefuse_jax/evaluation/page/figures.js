// Tables that sort, plots of the spread, and the record of the run.
const BEST_FIRST = (column) => (column.higher_is_better ? -1 : 1);
const PAGE = 200;
const current = { means: null, spread: null, rows: null };

function number(column, value) { return value.toFixed(column.digits); }
function arrow(column) { return column.higher_is_better ? "↑" : "↓"; }
function label(column) { return `${column.title} ${arrow(column)}`; }
function tooltip(column) {
  return `${column.key}: ${column.convention}. ${column.higher_is_better ? "Higher" : "Lower"} is better.`;
}

// A header cell that sorts: first the better end, then the other one.
function sortable(table, index, text, title, sort, first, isText) {
  const active = sort.index === index;
  const th = element("th", { title, class: isText ? "text" : "", tabindex: "0", "aria-sort": active ? (sort.direction > 0 ? "ascending" : "descending") : "none" },
    text, element("span", { class: "dir" }, active ? (sort.direction > 0 ? "▲" : "▼") : ""));
  const toggle = () => {
    if (active) sort.direction = -sort.direction;
    else { sort.index = index; sort.direction = first; }
    table();
  };
  th.addEventListener("click", toggle);
  th.addEventListener("keydown", (event) => { if (event.key === "Enter") toggle(); });
  return th;
}

function compare(a, b, direction) { // what is not defined comes last, whichever the direction
  if (a === undefined || a === null) return b === undefined || b === null ? 0 : 1;
  if (b === undefined || b === null) return -1;
  return (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b) * direction;
}

function tabs(id, key, redraw) {
  const names = Object.keys(DATA.stages);
  current[key] = names[0];
  const draw = () => {
    $(id).replaceChildren(...names.map((name) => element("button", { type: "button", role: "tab", "aria-selected": name === current[key],
      onclick: () => { current[key] = name; draw(); redraw(true); } }, DATA.stages[name].label)));
  };
  draw();
}

function meanTable() {
  const sort = { index: -1, direction: 1 };
  const draw = (fresh) => {
    if (fresh) { sort.index = -1; }
    const stage = DATA.stages[current.means];
    $("meannote").textContent = `Over the ${stage.images} image${stage.images === 1 ? "" : "s"} that every method has. ` +
      "Best in colour; bars run from the worst mean to the best; ± is the standard deviation over images; (n/N) tells on how many a metric is defined.";
    const head = element("tr", {}, sortable(draw, 0, "Method", "", sort, 1, true));
    stage.columns.forEach((column, i) => head.append(sortable(draw, i + 1, label(column), tooltip(column), sort, BEST_FIRST(column))));
    const value = (method) => (sort.index === 0 ? method : stage.means[method][stage.columns[sort.index - 1].key].value);
    const methods = [...stage.methods];
    if (sort.index >= 0) methods.sort((a, b) => compare(value(a), value(b), sort.direction));
    const body = methods.map((method) => {
      const row = element("tr", { style: `--colour:${colour(method)}` }, element("td", {}, element("span", { class: "dot" }), method));
      for (const column of stage.columns) {
        const mean = stage.means[method][column.key];
        if (mean.value === null) { row.append(element("td", { class: "none", title: mean.reason || "" }, "not defined")); continue; }
        const all = stage.methods.map((m) => stage.means[m][column.key].value).filter((v) => v !== null);
        const low = Math.min(...all), high = Math.max(...all);
        const height = high > low ? (mean.value - low) / (high - low) : 1;
        const share = column.higher_is_better || high === low ? height : 1 - height;
        const part = mean.count < mean.total ? ` (${mean.count}/${mean.total})` : "";
        row.append(element("td", { class: stage.best[column.key].includes(method) ? "best" : "" }, number(column, mean.value),
          element("small", {}, mean.total > 1 ? ` ±${number(column, mean.deviation)}${part}` : part),
          element("span", { class: "meter" }, element("i", { style: `width:${4 + 96 * share}%` }))));
      }
      return row;
    });
    $("meantable").replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
  };
  tabs("meantabs", "means", draw);
  draw();
}

function rowTable() {
  const sort = { index: 0, direction: 1 };
  let limit = PAGE;
  const draw = (fresh) => {
    if (fresh) { sort.index = 0; sort.direction = 1; limit = PAGE; }
    const stage = DATA.stages[current.rows], wanted = $("filter").value.trim().toLowerCase();
    const head = element("tr", {}, sortable(draw, 0, "Image", "", sort, 1, true), sortable(draw, 1, "Method", "", sort, 1, true));
    stage.columns.forEach((column, i) => head.append(sortable(draw, i + 2, label(column), tooltip(column), sort, BEST_FIRST(column))));
    const value = (row) => (sort.index === 0 ? row.stem : sort.index === 1 ? row.method : row.values[stage.columns[sort.index - 2].key]);
    const rows = DATA.rows.filter((row) => row.stage === current.rows && `${row.stem} ${row.method}`.toLowerCase().includes(wanted));
    rows.sort((a, b) => compare(value(a), value(b), sort.direction));
    const shown = DATA.images.length ? DATA.images[state.image].stem : null;
    const body = rows.slice(0, limit).map((row) => {
      const line = element("tr", { style: `--colour:${colour(row.method)}`, class: row.stem === shown ? "current" : "", onclick: () => open(row) },
        element("td", {}, row.stem), element("td", { class: "text" }, element("span", { class: "dot" }), row.method));
      for (const column of stage.columns) {
        const known = column.key in row.values;
        line.append(element("td", known ? {} : { class: "none", title: row.undefined[column.key] || "" }, known ? number(column, row.values[column.key]) : "not defined"));
      }
      return line;
    });
    $("rowtable").replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
    $("more").hidden = rows.length <= limit;
    $("more").textContent = `Show ${Math.min(PAGE, rows.length - limit)} more of ${rows.length - limit}`;
  };
  tabs("rowtabs", "rows", draw);
  $("filter").addEventListener("input", () => draw());
  $("more").addEventListener("click", () => { limit += PAGE; draw(); });
  listeners.push(() => draw());
  draw();
}

function open(row) { // show a row's image in the viewer, its method on the right
  const index = DATA.images.findIndex((image) => image.stem === row.stem);
  if (index < 0) return;
  show(index, `${row.stage}:${row.method}`);
  $("images").scrollIntoView();
}

function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function quantile(sorted, q) {
  const at = (sorted.length - 1) * q, low = Math.floor(at);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (at - low);
}

function ticks(low, high) {
  const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const values = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) values.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return { values, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function plot(stageName, column) {
  const stage = DATA.stages[stageName], width = 430, left = 128, right = 14, line = 25;
  const rows = DATA.rows.filter((row) => row.stage === stageName && column.key in row.values);
  const frame = element("div", { class: "plot" }, element("h3", { title: tooltip(column) }, label(column), element("small", {}, column.convention)));
  if (!rows.length) { frame.append(element("p", { class: "note" }, "not defined for any image")); return frame; }
  const height = stage.methods.length * line + 26;
  const values = rows.map((row) => row.values[column.key]);
  let low = Math.min(...values), high = Math.max(...values);
  const margin = (high - low) * 0.04 || Math.abs(high) * 0.05 || 1;
  low -= margin; high += margin;
  const x = (value) => left + ((value - low) / (high - low)) * (width - left - right);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${column.title} of every image by method` });
  const marks = ticks(low, high);
  for (const tick of marks.values) {
    picture.append(svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 2, y2: height - 20 }));
    picture.append(svg("text", { x: x(tick), y: height - 6, "text-anchor": "middle" }, tick.toFixed(marks.digits)));
  }
  stage.methods.forEach((method, m) => {
    const own = rows.filter((row) => row.method === method), y = m * line + line / 2 + 2, tint = colour(method);
    const name = svg("text", { class: "name", x: left - 9, y: y + 4, "text-anchor": "end" }, method.length > 19 ? method.slice(0, 18) + "…" : method);
    name.append(svg("title", {}, method));
    picture.append(name);
    if (!own.length) return;
    const sorted = own.map((row) => row.values[column.key]).sort((a, b) => a - b);
    if (sorted.length > 3) {
      const q1 = quantile(sorted, 0.25), q3 = quantile(sorted, 0.75), middle = quantile(sorted, 0.5);
      picture.append(svg("rect", { x: x(q1), y: y - 8, width: Math.max(1, x(q3) - x(q1)), height: 16, rx: 3, fill: tint, "fill-opacity": 0.2 }));
      picture.append(svg("line", { x1: x(middle), x2: x(middle), y1: y - 8, y2: y + 8, stroke: tint, "stroke-width": 2 }));
    }
    own.forEach((row, i) => {
      const lift = own.length > 1 ? (((i * 7) % 11) / 10 - 0.5) * 12 : 0; // spread by a fixed pattern, so that redrawing moves nothing
      const dot = svg("circle", { cx: x(row.values[column.key]), cy: y + lift, r: 2.9, fill: tint, "fill-opacity": 0.85, "data-stem": row.stem });
      dot.append(svg("title", {}, `${row.stem}, ${method}: ${number(column, row.values[column.key])}`));
      dot.addEventListener("click", () => open(row));
      picture.append(dot);
    });
    const mean = sorted.reduce((sum, v) => sum + v, 0) / sorted.length;
    picture.append(svg("path", { d: `M${x(mean)} ${y - 6}l5 6l-5 6l-5 -6z`, fill: tint, stroke: "var(--panel)", "stroke-width": 1.5, "pointer-events": "none" }));
  });
  frame.append(picture);
  return frame;
}

function spread() {
  const highlight = (image) => document.querySelectorAll(".plot circle").forEach((dot) => dot.classList.toggle("current", dot.dataset.stem === image.stem));
  const draw = () => {
    $("plots").replaceChildren(...DATA.stages[current.spread].columns.map((column) => plot(current.spread, column)));
    if (DATA.images.length) highlight(DATA.images[state.image]);
  };
  tabs("spreadtabs", "spread", draw);
  listeners.push(highlight);
  draw();
}

function record() {
  const list = (entries) => element("dl", {}, ...entries.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));
  const lines = (items) => element("ul", {}, ...items.map((item) => element("li", {}, item)));
  const card = (title, content) => $("record").append(element("div", {}, element("h3", {}, title), content));
  const run = DATA.record;
  card("Conventions", list([["values", run.values || ""], ...DATA.conventions]));
  card("Run", list([["created", run.created || ""], ...Object.entries(run.inputs || {}).map(([k, v]) => [k, Array.isArray(v) ? v.join(" ") : v])]));
  card("Versions", list(Object.entries(run.versions || {})));
  if (Object.keys(run.weights || {}).length) card("Weights (SHA-256)", list(Object.entries(run.weights)));
  const remarks = [...(run.notes || []), ...DATA.notes];
  if (remarks.length) card("Remarks", lines(remarks));
  if (DATA.problems.length) card(`Left out (${DATA.problems.length})`, lines(DATA.problems));
}

$("theme").addEventListener("click", () => document.documentElement.classList.toggle("light"));
if (window.matchMedia("(prefers-color-scheme: light)").matches) document.documentElement.classList.add("light");
startViewer();
meanTable();
spread();
rowTable();
record();
