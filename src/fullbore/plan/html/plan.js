// The page of a plan, or of one operating point: what a server will carry, and what that rests on.
(() => {
  const { data, main, make, known, number, time, color, tell, short, room, plot, path, card, legend, bars } = sheet;
  const parts = data.parts;
  const plan = parts.some((part) => part.limits);
  const count = (value) => Math.round(value).toLocaleString("en-US");
  const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;
  const gigabytes = (bytes) => `${number(bytes / 1e9, 1)} GB`;
  // Every kind of a step has one colour on all of the page.
  const kinds = ["expert weights", "other weights", "KV cache", "arithmetic", "activations", "collectives", "kernel launches", "host", "waiting for prompts"];
  const paint = (kind) => { const place = kinds.indexOf(kind); return place === 8 || place < 0 ? "var(--wait)" : color(place); };
  const sum = (part) => part.split.reduce((total, [, ms]) => total + ms, 0);
  const section = (title, why) => {
    make(main, "h2", {}, title);
    if (why) make(main, "p", { class: "why" }, why);
    return make(main, "div", { class: "grid" });
  };

  function table(parent, heads, rows, label) {
    const holder = make(parent, "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label });
    const made = make(holder, "table");
    const head = make(make(made, "thead"), "tr");
    for (const text of heads) make(head, "th", { scope: "col" }, text);
    const body = make(made, "tbody");
    for (const row of rows) {
      const line = make(body, "tr", row.chosen ? { class: "chosen" } : {});
      for (const text of row.cells ?? row) make(line, "td", {}, text);
    }
    return made;
  }

  // ---- the answer

  // A figure on its own scale: where it lies, the range around it, and its limit.
  function gauge(parent, name, figure, say, limit, unit = "") {
    const row = make(parent, "div", { class: "gauge" });
    make(row, "span", { class: "what" }, name);
    const width = 220, high = 22, most = Math.max(figure.p90, limit ?? 0) * 1.06, toX = (value) => 3 + (Math.min(value, most) / most) * (width - 6);
    const svg = make(row, "svg", { viewBox: `0 0 ${width} ${high}`, role: "img", "aria-label": `${name}: ${say(figure.mean)}, ${say(figure.p10)} to ${say(figure.p90)}` });
    make(svg, "line", { class: "rule", x1: 3, x2: width - 3, y1: high / 2, y2: high / 2 });
    make(svg, "rect", { x: toX(figure.p10), width: Math.max(1, toX(figure.p90) - toX(figure.p10)), y: high / 2 - 4, height: 8, rx: 4, fill: "var(--c0)", opacity: 0.28 });
    if (known(limit)) make(svg, "line", { class: "limit", x1: toX(limit), x2: toX(limit), y1: 1, y2: high - 1 });
    make(svg, "circle", { cx: toX(figure.mean), cy: high / 2, r: 5, fill: "var(--c0)" });
    tell(svg, `${name}: ${say(figure.mean)}${unit}; 80 of 100 truths lie in ${say(figure.p10)} to ${say(figure.p90)}${unit}${known(limit) ? `; limit ${say(limit)}` : ""}`);
    make(row, "span", { class: "value" }, say(figure.mean) + unit);
    make(row, "span", { class: "range" }, `${say(figure.p10)} – ${say(figure.p90)}`);
  }
  const rate = (parent, name, figure) => gauge(parent, name, figure, (value) => number(value), null, " tok/s");

  function answer() {
    const grid = section(plan ? "The answer" : "What it will do", "Dot: expected. Band: holds the truth in 80 of 100 cases." + (plan ? " Dashed: the limit." : ""));
    for (const part of parts) {
      const made = card(grid, part.name, part.asked);
      const big = make(made, "p", { class: "big" });
      make(big, "strong", {}, count(part.at.concurrency));
      make(big, "span", {}, plan ? " requests in flight inside the limits" : " requests in flight");
      if (part.best) make(made, "p", { class: "why" }, `${count(part.best.sure)} of them with nine chances of ten, ${count(part.best.hoped)} with one.`);
      const judged = part.limits && part.limits.percentile !== "mean" ? ` ${part.limits.percentile}` : "";
      gauge(made, `TPOT${judged}`, part.at.tpot_ms, time, part.limits?.tpot);
      gauge(made, `TTFT${judged}`, part.at.ttft_ms, time, part.limits?.ttft);
      rate(made, "output", part.at.output_tok_s);
      rate(made, "total", part.at.total_tok_s);
    }
    if (data.peak) {
      const made = card(grid, "peak", "Scenario peak, whatever its limits");
      const big = make(made, "p", { class: "big" });
      make(big, "strong", {}, number(data.peak.total_tok_s.mean));
      make(big, "span", {}, " tokens a second, in and out");
      make(made, "p", { class: "why" }, `With ${count(data.peak.concurrency)} in flight.`);
      rate(made, "total", data.peak.total_tok_s);
      rate(made, "output", data.peak.output_tok_s);
      gauge(made, "TPOT", data.peak.tpot_ms, time);
    }
    limits(grid);
  }

  function limits(grid) {
    const list = make(card(grid, "What limits it"), "ul", { class: "notes" });
    for (const part of parts) {
      const total = sum(part), [kind, ms] = part.split.reduce((most, each) => (each[1] > most[1] ? each : most));
      const left = Object.entries(part.headroom), [bound] = left.reduce((least, each) => (each[1] < least[1] ? each : least), left[0] ?? []);
      const lines = [
        bound && `${bound} binds: ${left.map(([name, share]) => `${percent(share)} of the ${name}`).join(" and ")} are left`,
        `the largest part of the TPOT is ${kind}: ${time(ms)} of ${time(total)} (${percent(ms / total)})`,
        `the floor, touched weights and the cache once through memory, is ${time(part.floor_ms)} (${percent(part.floor_ms / total)})`,
        `memory holds ${count(part.at_once)} such requests at full length${part.at_once < part.at.concurrency ? ": some wait for others to end" : ""}`,
      ].filter(Boolean);
      if (!plan) { for (const line of lines) make(list, "li", {}, line); continue; }
      const item = make(list, "li");
      make(item, "strong", {}, part.name);
      item.appendChild(document.createTextNode(`: ${lines.join("; ")}.`));
    }
  }

  // ---- curves

  // One figure against the requests in flight, its range shaded.
  function curve(parent, part, key, title, unit, scale, limit) {
    const points = part.curve.map((each) => [each.concurrency, each[key].mean / scale, each[key].p10 / scale, each[key].p90 / scale]);
    const most = Math.max(...points.map((point) => point[0]));
    const bound = known(limit) ? limit / scale : null;
    const tops = points.map((point) => point[1]);
    // Far above a limit nothing is worth seeing; without one the range may be cut, the figure may not.
    const high = Math.min(Math.max(...points.map((point) => point[3])), bound === null ? 1.8 * Math.max(...tops) : 3 * bound);
    const frame = plot(make(parent, "div"), { x: [0, 1.02 * most], y: [0, 1.06 * Math.max(high, (bound ?? 0) * 1.1)], xName: "requests in flight", yName: unit, height: 230, label: `${title} against requests in flight, ${part.name}` });
    const { svg, inside, toX, toY } = frame, bottom = frame.height - frame.bottom;
    if (part.best) {
      const left = toX(Math.min(part.best.sure, most)), right = toX(Math.min(part.best.hoped, 1.02 * most));
      tell(make(inside, "rect", { x: left, width: Math.max(0, right - left), y: frame.top, height: bottom - frame.top, fill: "var(--shade)" }), `the limits hold up to ${count(part.best.sure)} with nine chances of ten, up to ${count(part.best.hoped)} with one`);
    }
    const lower = points.map((point) => [point[0], point[2]]), upper = points.map((point) => [point[0], point[3]]);
    make(inside, "path", { d: `${path(upper, toX, toY)}${path(lower.reverse(), toX, toY).replace("M", "L")}Z`, fill: "var(--c0)", opacity: 0.15 });
    make(inside, "path", { d: path(points, toX, toY), fill: "none", stroke: "var(--c0)", "stroke-width": 2 });
    if (bound !== null) {
      make(svg, "line", { class: "limit", x1: frame.left, x2: frame.width - frame.right, y1: toY(bound), y2: toY(bound) });
      make(svg, "text", { class: "limit", x: frame.left + 4, y: toY(bound) - 5 }, `limit ${time(limit)}`);
    }
    for (const [x, y, low, up] of points) tell(make(inside, "circle", { cx: toX(x), cy: toY(y), r: x === part.at.concurrency ? 5 : 3, fill: x === part.at.concurrency ? "var(--c0)" : "var(--card)", stroke: "var(--c0)", "stroke-width": 1.6 }), `${count(x)} in flight: ${number(y, 2)} ${unit}\n80 of 100 truths in ${number(low, 2)} to ${number(up, 2)}`);
    const here = points.find((point) => point[0] === part.at.concurrency);
    if (here) {
      const before = toX(here[0]) > frame.width - 90;
      make(svg, "text", { class: "name", x: toX(here[0]) + (before ? -9 : 9), y: toY(here[1]) + (key.endsWith("_tok_s") ? 16 : -8), "text-anchor": before ? "end" : "start" }, count(here[0]));
    }
  }

  function curves() {
    make(main, "h2", {}, "Throughput and waiting against load");
    make(main, "p", { class: "why" }, plan
      ? "Band: 80 of 100 truths. Shaded from the load that is sure to keep the limits to the one that may: nine chances of ten at its left edge, one at its right."
      : "Band: 80 of 100 truths. The full dot is the load that was asked for.");
    for (const part of parts) {
      const made = card(make(main, "div", { class: "stack" }), plan ? part.name : "Around this point", part.asked);
      const three = make(made, "div", { class: "three" });
      const seconds = Math.max(...part.curve.map((each) => each.ttft_ms.mean), part.limits?.ttft ?? 0) >= 2000;
      curve(three, part, "output_tok_s", "Output", "output tokens / s", 1);
      curve(three, part, "tpot_ms", "TPOT", "TPOT, ms", 1, part.limits?.tpot);
      curve(three, part, "ttft_ms", "TTFT", seconds ? "TTFT, s" : "TTFT, ms", seconds ? 1000 : 1, part.limits?.ttft);
    }
  }

  function front() {
    const shown = parts.filter((part) => part.front.length);
    if (!shown.length) return;
    const grid = section("The Pareto front", "What no other way and load beats in TPOT, TTFT and output together. The number at a dot is the requests in flight.");
    const ways = [...new Set(shown.flatMap((part) => part.front.map((spot) => spot.way)))];
    for (const part of shown) {
      const made = card(grid, part.name);
      const limit = part.limits?.tpot, most = Math.max(...part.front.map((spot) => spot.tpot_ms));
      const frame = plot(made, { x: [0, 1.08 * (limit < 2.5 * most ? Math.max(limit, most) : most)], y: [0, 1.12 * Math.max(...part.front.map((spot) => spot.output_tok_s))], xName: "TPOT, ms", yName: "output tokens / s", label: `Pareto front of ${part.name}` });
      const { svg, toX, toY } = frame;
      if (limit < 2.5 * most) {
        make(svg, "line", { class: "limit", x1: toX(limit), x2: toX(limit), y1: frame.top, y2: frame.height - frame.bottom });
        make(svg, "text", { class: "limit", x: toX(limit) - 5, y: frame.top + 9, "text-anchor": "end" }, `limit ${time(limit)}`);
      }
      const at = (spot) => [spot.tpot_ms, spot.output_tok_s];
      make(svg, "path", { d: path(part.front.map(at), toX, toY), fill: "none", stroke: "var(--line)", "stroke-width": 1.6 });
      const taken = [];
      for (const spot of part.front) {
        const [x, y] = [toX(spot.tpot_ms), toY(spot.output_tok_s)];
        tell(make(svg, "circle", { cx: x, cy: y, r: 5, fill: color(ways.indexOf(spot.way)) }), `${spot.way}\n${count(spot.concurrency)} in flight: ${number(spot.output_tok_s)} tok/s, TPOT ${time(spot.tpot_ms)}, TTFT ${time(spot.ttft_ms)}`);
        // A label that would cover another is left to the pointer.
        if (taken.some(([a, b]) => Math.abs(a - x) < 30 && Math.abs(b - y) < 15)) continue;
        taken.push([x, y]);
        make(svg, "text", { x: x - 9, y: y - 7, "text-anchor": "end" }, count(spot.concurrency));
      }
      legend(made, ways.map((way, place) => [way, color(place)]), true);
    }
  }

  // ---- what it is spent on

  function split() {
    const made = card(section("Where the time of a token goes"), "Parts of the TPOT", "The line across is the floor: touched weights and the cache, once through memory.", true);
    const least = Math.max(...parts.flatMap((part) => [sum(part), part.floor_ms]));
    const rows = parts.map((part) => {
      const total = sum(part), inOrder = [...part.split].sort(([a], [b]) => kinds.indexOf(a) - kinds.indexOf(b));
      return {
        name: part.name,
        parts: inOrder.map(([kind, ms]) => [ms, paint(kind), `${kind}: ${time(ms)}, ${percent(ms / total, 1)}`, percent(ms / total)]),
        mark: [part.floor_ms, `floor ${time(part.floor_ms)}`],
        after: time(total),
      };
    });
    bars(made, rows, { most: least, unit: "ms", label: "Parts of the TPOT" });
    const present = kinds.filter((kind) => parts.some((part) => part.split.some(([name, ms]) => name === kind && ms >= 0.05)));
    legend(made, present.map((kind) => [kind, paint(kind)]));
    const heads = ["", ...parts.flatMap((part) => (parts.length > 1 ? [`${part.name}, ms`, "share"] : ["ms", "share"]))];
    const lines = present.map((kind) => [kind, ...parts.flatMap((part) => {
      const ms = part.split.find(([name]) => name === kind)?.[1] ?? 0;
      return [number(ms, 2), percent(ms / sum(part), 1)];
    })]);
    lines.push({ chosen: true, cells: ["TPOT", ...parts.flatMap((part) => [number(sum(part), 2), ""])] });
    lines.push(["floor", ...parts.flatMap((part) => [number(part.floor_ms, 2), percent(part.floor_ms / sum(part), 1)])]);
    const more = make(made, "details");
    make(more, "summary", {}, "in figures");
    table(more, heads, lines, "parts of the TPOT in figures");
  }

  function advice() {
    const shown = parts.filter((part) => part.changes.length);
    if (!shown.length) return;
    const grid = section("What would change it", "The model run again with one thing changed: TPOT at the same load, then how many would be in flight inside the limits.");
    for (const part of shown) {
      const made = card(grid, part.name);
      const now = part.at.tpot_ms.mean, gain = (change) => change.limit - part.best.concurrency;
      bars(made, [
        { name: "as planned", parts: [[now, "var(--soft)", `as planned: ${time(now)}`, ""]], after: `${time(now)} · ${count(part.best.concurrency)}` },
        ...part.changes.map((change) => ({
          name: change.name,
          parts: [[change.tpot_ms, change.tpot_ms < now * 0.9995 ? "var(--c1)" : change.tpot_ms > now * 1.0005 ? "var(--limit)" : "var(--soft)", `${change.name}: TPOT ${time(change.tpot_ms)}, ${count(change.limit)} in flight`, ""]],
          after: `${time(change.tpot_ms)} · ${count(change.limit)} (${gain(change) < 0 ? "−" : gain(change) ? "+" : "±"}${count(Math.abs(gain(change)))})`,
        })),
      ], { most: Math.max(now, ...part.changes.map((change) => change.tpot_ms)), unit: "ms", label: `Changes for ${part.name}`, side: true });
    }
  }

  function people() {
    const shown = parts.filter((part) => part.people.length);
    if (!shown.length) return;
    const grid = section("People", `On one server, so that ${percent(data.inside)} of their requests are inside the limits. Active: share of all people in the busy hour; an hour: requests that each of them asks. Nobody knows habits before: look along the rows.`);
    for (const part of shown) {
      const made = card(grid, part.name), asked = part.people[0].asked;
      const shares = [...new Set(part.people.map((each) => each.habits.active_share))], hourly = [...new Set(part.people.map((each) => each.habits.requests_hour))];
      if (!asked) {
        const most = (share, hour) => part.people.find((each) => each.habits.active_share === share && each.habits.requests_hour === hour)?.most;
        table(made, ["active", ...hourly.map((hour) => `${hour} an hour`)], shares.map((share) => [percent(share), ...hourly.map((hour) => (known(most(share, hour)) ? count(most(share, hour)) : "–"))]), `people, ${part.name}`);
        continue;
      }
      table(made, ["active", "requests / h", "on one server", "servers", "people on each", "wait", "inside"], part.people.map((each) => [
        percent(each.habits.active_share), number(each.habits.requests_hour, 0), count(each.most), count(each.servers), count(each.asked.people), percent(each.asked.waits, 1), percent(each.asked.inside, 1),
      ]), `people, ${part.name}`);
    }
  }

  function memory() {
    const held = data.memory;
    const made = card(section("Memory of each device"), held.device, `${gigabytes(held.device_bytes)}, of which ${percent(held.used_share)} are used. The server caches ${count(held.cache_tokens)} tokens of ${number(held.token_bytes / 1e3, 1)} kB.`, true);
    const own = { experts: paint("expert weights"), "KV cache": paint("KV cache"), "activations, graphs, buffers": "var(--wait)", "kept free": "var(--grid)" };
    const shades = held.parts.map(([name], place) => own[name] ?? color([1, 3, 4, 5, 6, 7][place % 6]));
    const share = (size) => percent(size / held.device_bytes, size < held.device_bytes / 50 ? 2 : 0);
    bars(made, [{ name: "", parts: held.parts.map(([name, size], place) => [size / 1e9, shades[place], `${name}: ${gigabytes(size)}, ${share(size)}`, size > held.device_bytes / 12 ? `${name} ${gigabytes(size)}` : ""]), after: "" }], { most: held.device_bytes / 1e9, unit: "GB", label: "Memory of a device", tall: 34 });
    legend(made, held.parts.map(([name, size], place) => [`${name} ${size >= 1e8 ? gigabytes(size) : `${number(size / 1e6, 1)} MB`}`, shades[place]]));
    make(made, "p", { class: "why after" }, "Requests that fit at once, by their length in tokens:");
    table(made, held.most.map(([tokens]) => count(tokens)), [held.most.map(([, fit]) => count(fit))], "requests that fit at once");
  }

  // ---- what to do, and what it rests on

  function losers() {
    if (!data.losers.length) return;
    const made = card(section("Why the next ones lost"), "Runners-up", "Their most in flight inside the limits, and what they break or miss where the winner is at its own.", true);
    const rows = data.losers.map((each) => [each.way, ...each.limits.map(count), each.why]);
    table(made, ["way", ...parts.map((part) => part.name), "why"], rows, "runners-up").classList.add("wordy");
  }

  function commands() {
    if (!data.launches.length && !data.steps.length) return;
    const grid = section("Commands");
    for (const launch of data.launches) {
      const made = card(grid, `Start ${launch.engine}`, `Flags: ${launch.sources.join("; ")}`, true);
      if (launch.command) make(made, "pre", { class: "command", tabindex: "0" }, launch.command);
      for (const note of launch.notes) make(made, "p", { class: "why" }, `${note}.`);
    }
    if (!data.steps.length) return;
    const made = card(grid, "Then", "", true);
    for (const step of data.steps) {
      make(made, "p", { class: "why" }, step.purpose);
      make(made, "pre", { class: "command", tabindex: "0" }, step.command);
    }
  }

  function sources() {
    const grid = section("Where every figure comes from");
    const made = card(grid, `Factors of ${data.profile.engine}`, `Rest on ${data.profile.rests_on}.`);
    if (data.notes.length) {
      const notes = make(made, "ul", { class: "notes" });
      for (const note of data.notes) make(notes, "li", {}, note);
    }
    const device = card(grid, `Figures of ${data.memory.device}`, "As its maker states them, as they were measured, scaled from a relative, or assumed.");
    const sources = [...new Set(data.figures.map((each) => each.source))];
    table(device, ["", "value", "known by", "source"], data.figures.map((each) => [each.what, `${short(each.value)} ${each.unit}`, each.mark, `${sources.indexOf(each.source) + 1}`]), "figures of the device");
    const list = make(device, "ol", { class: "notes why after" });
    for (const source of sources) make(list, "li", {}, source);
  }

  answer(); curves(); front(); split(); advice(); people(); memory(); losers(); commands(); sources();
  sheet.done();
})();
