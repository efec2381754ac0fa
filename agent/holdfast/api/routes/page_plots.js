// What is in memory as a map of areas, and how much was in memory over the last day.
let grouping = sessionStorage.getItem("holdfast-by") || "file-kind";
function choose(by) {
  grouping = by;
  sessionStorage.setItem("holdfast-by", by);
  for (const button of document.querySelectorAll("#grouping button")) {
    button.setAttribute("aria-pressed", String(button.dataset.by === by));
  }
}
const hasStores = (report) => Boolean(report.grouped?.groups.some((one) => one.store));
// Areas in a rectangle, each as large as its weight, as square as can be (Bruls, Huizing, van Wijk).
function squarify(weights, width, height) {
  const total = weights.reduce((sum, one) => sum + one, 0);
  const areas = weights.map((one) => (one * width * height) / total);
  const boxes = [];
  let [left, top, wide, high] = [0, 0, width, height];
  for (let from = 0; from < areas.length;) {
    const side = Math.min(wide, high);
    let sum = 0, worst = Infinity, to = from;
    while (to < areas.length) {
      const next = sum + areas[to];
      const ratio = Math.max((side ** 2 * areas[from]) / next ** 2, next ** 2 / (side ** 2 * areas[to]));
      if (ratio > worst) break;
      [sum, worst, to] = [next, ratio, to + 1];
    }
    const depth = sum / side;
    let along = 0;
    for (const area of areas.slice(from, to)) {
      const length = area / depth;
      boxes.push(wide >= high ? { left, top: top + along, width: depth, height: length }
        : { left: left + along, top, width: length, height: depth });
      along += length;
    }
    if (wide >= high) [left, wide] = [left + depth, wide - depth];
    else [top, high] = [top + depth, high - depth];
    from = to;
  }
  return boxes;
}
// Colours by store and kind, in the order of their names: the same ones at every look.
function colours(groups) {
  const of = (one) => `${one.store} ${one.kind ?? ""}`;
  const known = [...new Set(groups.filter((one) => one.store).map(of))].sort();
  return (one) => (one.store ? `h${known.indexOf(of(one)) % 8}` : "none");
}
function groupName(group, by, several) {
  if (group.groups) return `${group.groups} more`;
  if (!group.store) return "other files";
  const name = group.kind ? group.kind.replaceAll("_", " ") : group.name ?? `no ${by}`;
  return several && (group.kind || group.name === null) ? `${name} · ${group.store}` : name;
}
function treemap(report) {
  if (!hasStores(report)) return [];
  const { by, groups, rest, notes } = report.grouped;
  const all = [...groups, ...(rest.groups ? [{ ...rest, store: null }] : [])].filter((one) => one.resident > 0);
  all.sort((a, b) => b.resident - a.resident);
  const words = (one) => `${size(one.resident)} in memory · ${percent(one.resident, report.total.resident)} of all that is · `
    + `${percent(one.resident, one.bytes)} of ${size(one.bytes)} in ${one.files} ${one.files === 1 ? "file" : "files"}`;
  // Of what is hidden the width is not known.
  const [width, height] = [document.querySelector("main").clientWidth - 30, 225];
  const colour = colours(groups);
  const several = new Set(groups.map((one) => one.store).filter(Boolean)).size > 1;
  const boxes = squarify(all.map((one) => one.resident), width, height);
  const share = (part, whole) => `${(100 * part) / whole}%`;
  const leaves = all.map((one, at) => {
    const box = boxes[at], name = groupName(one, by, several);
    const label = `${name}${one.store && !name.endsWith(one.store) ? ` (${one.store})` : ""}: ${words(one)}`;
    const room = box.width > 44 && box.height > 18;
    return el("div", { class: `leaf ${colour(one)}`, role: "listitem", tabindex: "0", title: label, "aria-label": label,
      style: { left: share(box.left, width), top: share(box.top, height), width: share(box.width, width), height: share(box.height, height) } },
      room ? el("span", {}, name) : null, room && box.height > 36 ? el("span", {}, size(one.resident)) : null);
  });
  const label = `What is in memory of ${report.root} by ${by}; areas are bytes in memory`;
  const lines = all.slice(0, SHOWN).map((one) => el("div", { class: "row" }, el("span", {}, groupName(one, by, several)),
    el("span", { class: "quiet" }, words(one))));
  if (!all.length) return [el("p", { class: "quiet" }, "Nothing of it is in memory.")];
  return [el("div", { class: "map", role: "list", "aria-label": label, "data-key": by }, ...leaves), ...lines,
    ...notes.map((one) => el("div", { class: "quiet" }, one))];
}

function svg(tag, props, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(props)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
// A round number of the largest unit that fits, which is not less.
function ceiling(bytes) {
  let unit = 1;
  while (bytes / unit >= 1000) unit *= 1024;
  for (let power = 1; ; power *= 10) {
    for (const step of [1, 1.5, 2, 3, 4, 6, 8]) if (step * power * unit >= bytes) return step * power * unit;
  }
}
// Bytes in memory as the dumps of the last day recorded them: a line for each set of roots.
function plot({ since, until, points }) {
  if (!points.length) return [el("p", { class: "quiet" }, "No dump of the last day: no history of what was in memory.")];
  const [wide, high, left, right, top, bottom] = [Math.max(document.querySelector("main").clientWidth, 240), 144, 76, 12, 10, 24];
  const [from, to] = [Date.parse(since), Date.parse(until)];
  const most = ceiling(Math.max(...points.map((one) => one.resident), 1));
  const x = (moment) => left + ((wide - left - right) * (moment - from)) / (to - from);
  const y = (bytes) => high - bottom - ((high - top - bottom) * bytes) / most;
  const marks = [0, most / 2, most].flatMap((bytes) => [
    svg("path", { class: "axis", d: `M${left} ${y(bytes)}H${wide - right}` }),
    svg("text", { x: left - 6, y: y(bytes) + 4, "text-anchor": "end" }, size(bytes))]);
  const hours = (to - from) / 3600000, every = wide < 600 ? hours / 4 : hours / 8;
  for (let ago = 0; ago <= hours; ago += every) {
    const at = to - ago * 3600000;
    const text = new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
    const anchor = ago === 0 ? "end" : ago === hours ? "start" : "middle";
    marks.push(svg("text", { x: x(at), y: high - 6, "text-anchor": anchor }, text));
  }
  const series = new Map();
  for (const one of points) {
    const name = one.roots.join(", ");
    series.set(name, [...(series.get(name) ?? []), one]);
  }
  const names = [...series.keys()].slice(0, 3), dash = ["first", "second", "third"];
  const lines = names.flatMap((name, nth) => {
    const own = series.get(name);
    return [svg("polyline", { class: dash[nth], points: own.map((one) => `${x(Date.parse(one.at))},${y(one.resident)}`).join(" ") }),
      ...own.map((one) => svg("circle", { cx: x(Date.parse(one.at)), cy: y(one.resident), r: 3, class: one.outcome === "partial" ? "part" : "" },
        svg("title", {}, `${name}: ${size(one.resident)}, ${new Date(one.at).toLocaleString()}${one.outcome === "partial" ? ", partial" : ""}`)))];
  });
  const last = points.at(-1);
  const label = `In memory over the last day, from ${points.length} dumps: ${size(last.resident)} at the last`;
  return [el("div", { class: "row" }, el("strong", {}, "in memory over the last day"),
    el("span", { class: "quiet" }, `from ${points.length} ${points.length === 1 ? "dump" : "dumps"} of ${names.join("; ")}`)),
  svg("svg", { class: "plot", viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": label }, ...marks, ...lines)];
}
