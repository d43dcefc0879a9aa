// The page of results: what was asked, measured or simulated, at each load.
(() => {
  const { data, main, hover, make, known, number, time, color, tell, ticks, short, room, plot, path, card, legend } = sheet;
  const results = data.results;
  const origin = (result) => [result.simulated ? "simulated" : "", result.tool, result.source];
  // Chance alone, or what the model may be off by, where nothing was measured.
  const doubt = (result, key) => result.model[key] ?? result.sure[key];
  const plusMinus = (result, key) => {
    const model = result.model[key], interval = result.sure[key];
    if (model) return ` (${number(model[0])}–${number(model[1])})`;
    return interval ? ` ± ${number((interval[1] - interval[0]) / 2)}` : "";
  };

  // Lines of a throughput plot: one for each scenario, server and origin.
  function series() {
    const found = new Map();
    for (const result of results) {
      const key = [result.scenario, result.server, origin(result).filter(Boolean).join(", ")].filter(Boolean).join(" · ");
      if (!found.has(key)) found.set(key, []);
      found.get(key).push(result);
    }
    const names = [...found.keys()];
    const parts = names.map((name) => name.split(" · "));
    const same = (place) => names.length > 1 && parts.every((each) => each[place] === parts[0][place]);
    const brief = parts.map((each) => each.filter((_, place) => !same(place)).join(" · ") || each[0]);
    return names.map((name, index) => ({ name: brief[index], results: found.get(name), color: color(index) }));
  }

  function overview() {
    make(main, "h2", {}, "Results");
    const holder = make(make(main, "div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "results" }), "table");
    const head = make(make(holder, "thead"), "tr");
    for (const name of ["load", "TTFT ms", "p99", "TPOT ms", "p99", "ITL p99", "output tok/s", "total tok/s", "ok", "failed", "Little's law", "in limits"]) make(head, "th", { scope: "col" }, name);
    const body = make(holder, "tbody");
    let heading = "";
    for (const result of results) {
      const title = [result.scenario, ...origin(result)].filter(Boolean).join(" · ");
      if (title !== heading) {
        heading = title;
        const cell = make(make(body, "tr"), "td", { colspan: "12", class: "tags" }, title);
        cell.style.whiteSpace = "normal";
      }
      const f = result.figures, row = make(body, "tr");
      const spread = (of, what) => number(of ? of[what] : null);
      for (const text of [
        result.point, `${spread(f.ttft, "mean")}${plusMinus(result, "ttft")}`, spread(f.ttft, "p99"),
        `${spread(f.tpot, "mean")}${plusMinus(result, "tpot")}`, spread(f.tpot, "p99"), spread(f.itl, "p99"),
        `${number(f.output)}${plusMinus(result, "output")}`, number(f.total), `${f.ok}`,
      ]) make(row, "td", {}, text);
      make(row, "td", f.failed ? { class: "bad" } : {}, `${f.failed}`);
      make(row, "td", {}, number(f.littles_law, 2));
      make(row, "td", { class: result.keeps === null ? "" : result.keeps ? "yes" : "no" }, result.keeps === null ? "–" : result.keeps ? "yes" : "no");
    }
  }

  function throughput() {
    make(main, "h2", {}, "Throughput against latency");
    const grid = make(main, "div", { class: "grid" });
    const lines = series();
    for (const [key, title] of [["tpot", "TPOT"], ["ttft", "TTFT"]]) {
      const made = card(grid, `Output throughput against ${title}`, `Each dot is a load; further left and higher is better. Bars: 95 % intervals${results.some((result) => result.simulated) ? " (of what was simulated: where 80 of 100 truths lie)" : ""}. Hollow: breaks the limits.`);
      const at = (result) => [result.figures[key]?.mean, result.figures.output];
      const dots = results.filter((result) => at(result).every(known));
      if (!dots.length) { make(made, "p", { class: "why" }, "No result has both figures."); continue; }
      const limits = [...new Set(results.map((result) => result.limits?.[key]).filter(known))];
      const most = Math.max(...dots.map((result) => Math.max(at(result)[0], doubt(result, key)?.[1] ?? 0)));
      const shown = limits.filter((limit) => limit < 2.5 * most);
      const frame = plot(made, {
        x: [0, 1.06 * Math.max(most, ...shown)], y: [0, 1.1 * Math.max(...dots.map((result) => Math.max(at(result)[1], doubt(result, "output")?.[1] ?? 0)))],
        xName: `mean ${title}, ms`, yName: "output tokens / s", label: `Output tokens per second against mean ${title}`,
      });
      const { svg, toX, toY } = frame;
      for (const limit of shown) {
        make(svg, "line", { class: "limit", x1: toX(limit), x2: toX(limit), y1: frame.top, y2: frame.height - frame.bottom });
        make(svg, "text", { class: "limit", x: toX(limit) - 5, y: frame.top + 9, "text-anchor": "end" }, `limit ${time(limit)}`);
      }
      if (limits.length && !shown.length) make(made, "p", { class: "why" }, `The limit, ${time(Math.min(...limits))}, is far to the right of what was measured.`);
      for (const line of lines) {
        const points = line.results.filter((result) => at(result).every(known)).sort((a, b) => (a.load ?? 0) - (b.load ?? 0));
        if (points.length > 1) make(svg, "path", { d: path(points.map(at), toX, toY), fill: "none", stroke: line.color, "stroke-width": 1.8, "stroke-dasharray": points[0].simulated ? "1 4" : points[0].tool ? "4 3" : "none", "stroke-linecap": "round" });
        points.forEach((result, n) => {
          const [x, y] = at(result), x_ = toX(x), y_ = toY(y);
          for (const [interval, upright] of [[doubt(result, "output"), true], [doubt(result, key), false]]) {
            if (!interval) continue;
            const [a, b] = interval.map(upright ? toY : toX);
            make(svg, "line", upright ? { x1: x_, x2: x_, y1: a, y2: b, stroke: line.color, opacity: 0.45 } : { x1: a, x2: b, y1: y_, y2: y_, stroke: line.color, opacity: 0.45 });
          }
          const dot = make(svg, "circle", { cx: x_, cy: y_, r: 4.5, fill: result.keeps === false ? "var(--card)" : line.color, stroke: line.color, "stroke-width": 2 });
          tell(dot, `${result.simulated ? "simulated, " : ""}${result.point}\n${number(y)} output tok/s, TPOT ${time(result.figures.tpot?.mean)}, TTFT ${time(result.figures.ttft?.mean)}`);
          if (known(result.load) && (points.length < 12 || n % 2 === 0)) make(svg, "text", { x: x_ + 8, y: y_ + 14 }, short(result.load));
        });
      }
      legend(made, lines.map((line) => [line.name, line.color]));
    }
  }

  function distribution(grid, key, title, why, chosen) {
    const made = card(grid, title, why);
    const curves = results.map((result, index) => [result, result.curves[key], index]).filter(([result, curve]) => curve && result.scenario === chosen.scenario);
    const own = chosen.curves[key];
    if (!own) { make(made, "p", { class: "why" }, "Too few values, or the tool kept none."); return; }
    const low = Math.min(...own.map(([ms]) => ms)), high = own[own.length - 1][0];
    const limit = key === "itl" ? null : chosen.limits?.[key];
    const right = Math.max(high, known(limit) && limit < 2 * high ? limit : high);
    const frame = plot(made, { x: [Math.max(0, low - 0.06 * (right - low)), right + 0.05 * (right - low) + 1e-9], y: [0, 1], xName: "ms", yName: "share up to", height: 220, label: title });
    const { svg, toX, toY } = frame;
    const clip = (curve) => curve.filter(([ms]) => toX(ms) <= frame.width - frame.right + 0.5 && toX(ms) >= frame.left - 0.5);
    for (const [result, curve] of curves) if (result !== chosen) make(svg, "path", { d: path(clip(curve), toX, toY), fill: "none", stroke: "var(--soft)", opacity: 0.28 });
    make(svg, "path", { d: path(own, toX, toY), fill: "none", stroke: "var(--c0)", "stroke-width": 2.2 });
    if (known(limit) && toX(limit) <= frame.width - frame.right) make(svg, "line", { class: "limit", x1: toX(limit), x2: toX(limit), y1: frame.top, y2: frame.height - frame.bottom });
    const spread = chosen.figures[key];
    let above = Infinity; // where the last label stands: labels of near values go below each other
    for (const [name, share] of [["p99", 0.99], ["p90", 0.9], ["p50", 0.5]]) {
      if (!known(spread?.[name])) continue;
      const dot = make(svg, "circle", { cx: toX(spread[name]), cy: toY(share), r: 4, fill: "var(--c0)" });
      tell(dot, `${name}: ${time(spread[name])}`);
      const before = toX(spread[name]) > frame.width - 130;
      const y = above === Infinity ? toY(share) + 13 : Math.max(toY(share) + 4, above + 14);
      above = y;
      make(svg, "text", { class: "name", x: toX(spread[name]) + (before ? -8 : 8), y, "text-anchor": before ? "end" : "start" }, `${name} ${time(spread[name])}`);
    }
  }

  function timeline(grid, chosen) {
    const made = card(grid, "Along the run", "Requests in flight and tokens per second. Shaded: the steady window, without ramp and drain.", true);
    const steps = chosen.timeline;
    if (!steps) { make(made, "p", { class: "why" }, "The tool kept no times."); return; }
    const inner = make(made, "div", { class: "grid" });
    const length = steps.step * steps.in_flight.length;
    for (const [name, values, paint] of [["requests in flight", steps.in_flight, "var(--c1)"], ["output tokens / s", steps.output, "var(--c0)"]]) {
      const frame = plot(make(inner, "div"), { x: [0, length], y: [0, 1.1 * Math.max(...values, 1e-9)], xName: "seconds from the first send", yName: name, height: 210, label: name });
      const { svg, toX, toY } = frame, steady = chosen.figures.steady;
      if (steady) make(svg, "rect", { x: toX(steady.from), width: Math.max(0, toX(steady.to) - toX(steady.from)), y: frame.top, height: frame.height - frame.bottom - frame.top, fill: "var(--shade)" });
      const stairs = values.flatMap((value, n) => [[n * steps.step, value], [(n + 1) * steps.step, value]]);
      make(svg, "path", { d: `${path(stairs, toX, toY)}L${toX(length)} ${toY(0)}L${toX(0)} ${toY(0)}Z`, fill: paint, opacity: 0.12 });
      make(svg, "path", { d: path(stairs, toX, toY), fill: "none", stroke: paint, "stroke-width": 1.6 });
      const touch = make(svg, "rect", { x: frame.left, width: frame.width - frame.left - frame.right, y: frame.top, height: frame.height - frame.top - frame.bottom, fill: "transparent" });
      touch.addEventListener("pointermove", (event) => {
        const box = svg.getBoundingClientRect();
        const share = ((event.clientX - box.left) / box.width * frame.width - frame.left) / (frame.width - frame.left - frame.right);
        const n = Math.min(values.length - 1, Math.max(0, Math.floor(share * values.length)));
        hover.textContent = `${number(n * steps.step)} s: ${number(values[n])} ${name}`;
        hover.hidden = false;
        hover.style.left = `${Math.min(event.clientX + 14, innerWidth - hover.offsetWidth - 8)}px`;
        hover.style.top = `${Math.max(8, event.clientY - 40)}px`;
      });
      touch.addEventListener("pointerleave", () => { hover.hidden = true; });
    }
  }

  function waterfall(grid, chosen) {
    const kept = chosen.requests;
    const sample = kept && kept.of > kept.rows.length ? ` ${kept.rows.length} of ${kept.of} are drawn, evenly chosen.` : "";
    const made = card(grid, "Every request", `From its sending to its end, in order of sending.${sample}`, true);
    if (!kept) { make(made, "p", { class: "why" }, "The tool kept no requests."); return; }
    const rows = kept.rows, tall = Math.min(640, Math.max(120, 60 + rows.length * 7));
    const end = Math.max(...rows.map((row) => row[3]), 1e-6);
    const width = room(made, 1240), left = 12, bottom = 34, top = 6, each = (tall - bottom - top) / rows.length;
    const svg = make(made, "svg", { viewBox: `0 0 ${width} ${tall}`, role: "img", tabindex: "0", "aria-label": "Waiting and decoding of each request" });
    const cancelled = (fault) => fault.startsWith("cancelled");
    const paintOf = (fault) => (!fault ? "var(--c0)" : cancelled(fault) ? "var(--soft)" : "var(--bad)");
    const toX = (seconds) => left + (seconds / end) * (width - left - 12);
    for (const at of ticks(0, end, Math.round(width / 130))) {
      make(svg, "line", { class: "rule", x1: toX(at), x2: toX(at), y1: top, y2: tall - bottom });
      make(svg, "text", { x: toX(at), y: tall - bottom + 16, "text-anchor": "middle" }, `${short(at)} s`);
    }
    rows.forEach(([id, sent, first, last, fault], n) => {
      const y = top + n * each, high = Math.max(1, each * 0.76);
      const group = make(svg, "g");
      const bar = (from, to, paint) => make(group, "rect", { x: toX(from), width: Math.max(0.8, toX(to) - toX(from)), y, height: high, fill: paint });
      if (first === null) bar(sent, last, fault ? paintOf(fault) : "var(--wait)");
      else { bar(sent, first, "var(--wait)"); bar(first, last, paintOf(fault)); }
      tell(group, `request ${id}\nfirst token after ${first === null ? "–" : time(1000 * (first - sent))}, end after ${time(1000 * (last - sent))}${fault ? `\n${fault}` : ""}`);
    });
    const entries = [["until the first token", "var(--wait)"], ["decoding", "var(--c0)"]];
    if (rows.some((row) => row[4] && !cancelled(row[4]))) entries.push(["failed", "var(--bad)"]);
    if (rows.some((row) => cancelled(row[4]))) entries.push(["cancelled", "var(--soft)"]);
    legend(made, entries);
  }

  function close() {
    const detailed = results.findLastIndex((result) => result.timeline);
    const shown = detailed < 0 ? results.length - 1 : detailed;
    make(main, "h2", {}, "One load in detail");
    const choice = make(main, "p");
    const label = make(choice, "label", { for: "choice" }, "Load: ");
    const select = make(choice, "select", { id: "choice" });
    results.forEach((result, n) => make(select, "option", { value: n }, [result.name, result.point, ...origin(result)].filter(Boolean).join(" · ")));
    select.value = String(shown);
    if (results.length < 2) { select.hidden = true; label.textContent = `${results[0].name}, ${results[0].point}`; }
    const grid = make(main, "div", { class: "grid" });
    const draw = () => {
      const chosen = results[Number(select.value)];
      grid.replaceChildren();
      const three = make(grid, "div", { class: "wide three" });
      distribution(three, "ttft", "Time to first token", "Other loads of this scenario in grey.", chosen);
      distribution(three, "tpot", "Time per output token", "Of each request, its first token left out.", chosen);
      distribution(three, "itl", "Gaps between chunks", "Of all requests together.", chosen);
      timeline(grid, chosen);
      waterfall(grid, chosen);
    };
    select.addEventListener("change", draw);
    draw();
  }

  function conditions() {
    if (data.notes.length) {
      make(main, "h2", {}, "To be careful about");
      const list = make(make(main, "div", { class: "card" }), "ul", { class: "notes" });
      for (const note of data.notes) make(list, "li", {}, note);
    }
    make(main, "h2", {}, "Who was asked, and by whom");
    const holder = make(main, "div", { class: "card" });
    for (const line of new Set(results.map((result) => [result.server, result.url].filter(Boolean).join(" at ")))) make(holder, "p", { class: "tags" }, `server: ${line}`);
    for (const line of new Set(results.filter((result) => !result.simulated).map((result) => result.client))) make(holder, "p", { class: "tags" }, `client: ${line}`);
    for (const line of new Set(results.map((result) => result.simulated).filter(Boolean))) make(holder, "p", { class: "tags" }, `simulated, not measured: ${line}`);
    const flags = Object.entries(results.find((result) => Object.keys(result.flags).length)?.flags ?? {});
    if (flags.length) {
      const more = make(holder, "details");
      make(more, "summary", {}, "what the server says of itself");
      make(more, "p", { class: "tags" }, flags.map(([name, value]) => `${name} ${value}`).join(" · "));
    }
  }

  if (results.length) { overview(); throughput(); close(); conditions(); }
  sheet.done();
})();
