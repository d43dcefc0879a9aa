"use strict";
// What pages draw with: nothing is fetched, and every text goes in as text, never as markup.
const sheet = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const main = document.getElementById("main");
  const hover = document.getElementById("hover");
  const SVG = "http://www.w3.org/2000/svg";

  function make(parent, tag, attributes = {}, text = "") {
    const node = parent.namespaceURI === SVG || tag === "svg" ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== "") node.textContent = text;
    parent.appendChild(node);
    return node;
  }
  const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
  function number(value, digits = 1) {
    if (!known(value)) return "–";
    return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en-US") : value.toFixed(digits);
  }
  function time(ms) {
    if (!known(ms)) return "–";
    return ms >= 10000 ? `${number(ms / 1000)} s` : ms >= 1000 ? `${number(ms / 1000, 2)} s` : `${number(ms, ms < 10 ? 2 : 1)} ms`;
  }
  const color = (index) => `var(--c${index % 8})`;

  function tell(node, text) {
    make(node, "title", {}, text);
    node.addEventListener("pointerenter", () => { hover.textContent = text; hover.hidden = false; });
    node.addEventListener("pointermove", (event) => {
      hover.style.left = `${Math.min(event.clientX + 14, innerWidth - hover.offsetWidth - 8)}px`;
      hover.style.top = `${Math.max(8, event.clientY - hover.offsetHeight - 10)}px`;
    });
    node.addEventListener("pointerleave", () => { hover.hidden = true; });
  }

  // Round numbers from low to high: about `count` of them.
  function ticks(low, high, count = 5) {
    const raw = (high - low) / count || 1;
    const unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((each) => each * unit).find((each) => each >= raw * 0.999);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(Math.abs(at) < step / 1e6 ? 0 : at);
    return found;
  }
  const short = (value) => (Math.abs(value) >= 1e6 ? `${+(value / 1e6).toPrecision(4)}M` : Math.abs(value) >= 1e4 ? `${+(value / 1e3).toPrecision(4)}k` : `${+value.toPrecision(4)}`);

  // As wide as there is room, so that text has its own size on a telephone and on a wall.
  const room = (holder, most) => Math.round(Math.max(280, Math.min(most, (holder.clientWidth || 560) - 34)));

  let clips = 0;

  // An empty plot: scales, axes and a place to draw in.
  function plot(card, { x, y, xName, yName, height = 260, label }) {
    const width = room(card, 760), left = 56, right = 16, top = 12, bottom = 40;
    const svg = make(card, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, tabindex: "0" });
    const span = (range) => (range[1] > range[0] ? range : [range[0] - 0.5, range[0] + 0.5]);
    const [x0, x1] = span(x), [y0, y1] = span(y);
    const toX = (value) => left + ((value - x0) / (x1 - x0)) * (width - left - right);
    const toY = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - top - bottom);
    for (const at of ticks(y0, y1)) {
      make(svg, "line", { class: "rule", x1: left, x2: width - right, y1: toY(at), y2: toY(at) });
      make(svg, "text", { x: left - 8, y: toY(at) + 4, "text-anchor": "end" }, short(at));
    }
    for (const at of ticks(x0, x1, Math.round(width / 95))) {
      make(svg, "line", { class: "axis", x1: toX(at), x2: toX(at), y1: height - bottom, y2: height - bottom + 4 });
      make(svg, "text", { x: toX(at), y: height - bottom + 17, "text-anchor": "middle" }, short(at));
    }
    make(svg, "line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom });
    make(svg, "text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xName);
    const clip = make(make(svg, "defs"), "clipPath", { id: `clip${++clips}` });
    make(clip, "rect", { x: left, y: top, width: width - left - right, height: height - top - bottom });
    const inside = make(svg, "g", { "clip-path": `url(#clip${clips})` }); // for what may be larger than the plot
    const side = make(svg, "text", { "text-anchor": "middle", transform: `translate(13 ${(height - bottom + top) / 2}) rotate(-90)` }, yName);
    side.setAttribute("class", "side");
    return { svg, inside, toX, toY, width, height, left, right, top, bottom };
  }
  const path = (points, toX, toY) => points.map(([x, y], n) => `${n ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join("");

  function card(parent, title, why, wide = false) {
    const made = make(parent, "section", { class: wide ? "card wide" : "card" });
    make(made, "h3", {}, title);
    if (why) make(made, "p", { class: "why" }, why);
    return made;
  }
  function legend(parent, entries, always = false) {
    if (entries.length < 2 && !always) return;
    const made = make(parent, "div", { class: "legend" });
    for (const [text, paint] of entries) {
      const item = make(made, "span");
      make(item, "i", { style: `background:${paint}` });
      item.appendChild(document.createTextNode(text));
    }
  }

  // Horizontal bars of one scale. Of each row: name, parts of [value, colour, what the pointer is told, label],
  // an optional mark of [value, label], and what stands behind it. side: names stand beside, else above.
  function bars(parent, rows, { most, unit, label, side = false, tall = 24 }) {
    const width = room(parent, 1240), after = side ? 132 : 64, names = side ? Math.min(230, 0.4 * width) : 0;
    const left = names + 2, right = rows.some((row) => row.after) ? after : 2, each = tall + (side ? 8 : 34), top = side ? 2 : 20;
    const height = top + rows.length * each + 24;
    const svg = make(parent, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, tabindex: "0" });
    const toX = (value) => left + (value / most) * (width - left - right);
    for (const at of ticks(0, most, Math.round((width - left - right) / 80))) {
      make(svg, "line", { class: "rule", x1: toX(at), x2: toX(at), y1: 0, y2: height - 22 });
      if (toX(at) < width - right - 24) make(svg, "text", { x: toX(at), y: height - 8, "text-anchor": at ? "middle" : "start" }, short(at));
    }
    make(svg, "text", { x: width - 2, y: height - 8, "text-anchor": "end" }, unit);
    rows.forEach((row, place) => {
      const y = top + place * each;
      if (side) make(svg, "text", { class: "name", x: names - 6, y: y + tall / 2 + 4, "text-anchor": "end" }, row.name);
      else if (row.name) make(svg, "text", { class: "name", x: left, y: y - 5 }, row.name);
      let from = 0;
      for (const [value, paint, told, text] of row.parts) {
        const x = toX(from), wide = Math.max(0, toX(from + value) - x - 1);
        tell(make(svg, "rect", { x, y, width: wide, height: tall, rx: 2, fill: paint, opacity: 0.9 }), told);
        if (text && wide > 7 * text.length + 6) make(svg, "text", { class: paint === "var(--wait)" ? "name" : "on", x: x + wide / 2, y: y + tall / 2 + 4, "text-anchor": "middle" }, text);
        from += value;
      }
      make(svg, "text", { class: "name", x: toX(from) + 6, y: y + tall / 2 + 4 }, row.after);
      if (row.mark) {
        make(svg, "line", { class: "mark", x1: toX(row.mark[0]), x2: toX(row.mark[0]), y1: y - 4, y2: y + tall + 4 });
        make(svg, "text", { x: toX(row.mark[0]) + 4, y: y - 5 }, row.mark[1]);
      }
    });
  }

  // When everything is drawn: tests look for it.
  const done = () => { document.documentElement.dataset.drawn = String(document.querySelectorAll("svg").length); };

  return { data, main, SVG, hover, make, known, number, time, color, tell, ticks, short, room, plot, path, card, legend, bars, done };
})();
