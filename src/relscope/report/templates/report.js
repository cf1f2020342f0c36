// Draws the maps, the verdicts, lines and scatter plots from the numbers in #plot-data, and unpacks the
// files the page carries.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("plot-data").textContent);
  const root = document.documentElement;
  const config = { displayModeBar: false, doubleClick: false, scrollZoom: false, showTips: false };
  const limits = data.limits;
  let flowLimit = data.zoom ? "modules" : "flow";
  // A comparison shows groups of maps, each in its own quantity, and maps of one family beside each other.
  const quantities = { ...data.quantities };
  const quantityOf = (map) => (map.group ? quantities[map.group] : data.quantity);
  const ofHeads = (map) => map.kind === "heads" || map.kind === "edges"; // rows are numbers, not names
  const mapOf = Object.fromEntries(data.maps.map((map) => [map.id, map]));
  const stacked = window.matchMedia("screen and (max-width: 800px)");
  let matters = "effect_tuned";

  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const fixed = (value, decimals) => {
    const text = value.toFixed(decimals);
    return (Number(text) === 0 ? (0).toFixed(decimals) : text).replace("-", "−");
  };
  // Plotly reads tags in labels; names come from the rows, so they are escaped here as they are in the page.
  const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function withInterval(value, low, high, decimals, queries) {
    if (value === null) return "–";
    if (low === null || high === null) return fixed(value, decimals) + (queries < 2 ? " (one query: no interval)" : " (no interval: the gap may be 0)");
    return fixed(value, decimals) + " [" + fixed(low, decimals) + ", " + fixed(high, decimals) + "]";
  }

  function hoverText(map, i, j) {
    const cells = map.cells;
    if (cells.effect[i][j] === null) return "";
    const layer = map.layers[j];
    if (map.group === "readout") return hoverReadout(map, i, j);
    const where = ofHeads(map) ? "L" + layer + "H" + map.rows[i] + ", " + map.name : "layer " + layer + ", " + map.rows[i];
    if (map.family) return hoverFamily(map, where, i, j);
    const low = cells[data.quantity + "_low"][i][j], high = cells[data.quantity + "_high"][i][j];
    const n = cells.n_pairs[i][j], queries = cells.n_queries[i][j];
    return "<b>" + escape(where) + "</b>" +
      "<br>IE " + withInterval(cells.ie[i][j], cells.ie_low[i][j], cells.ie_high[i][j], map.ie_decimals, queries) +
      "<br>effect " + withInterval(cells.effect[i][j], cells.effect_low[i][j], cells.effect_high[i][j], map.decimals, queries) + " logits" +
      (low !== null && low <= 0 && high >= 0 ? "<br>the interval of the " + (data.quantity === "ie" ? "IE" : "effect") + " includes 0" : "") +
      "<br>P(yes) − P(no) changes by " + withInterval(cells.p_effect[i][j], cells.p_effect_low[i][j], cells.p_effect_high[i][j], map.p_decimals, queries) +
      "<br>n = " + n + (n === 1 ? " pair" : " pairs") + " of " + queries + (queries === 1 ? " query" : " queries");
  }

  const countWords = (n, queries) => "<br>n = " + n + (n === 1 ? " pair" : " pairs") + " of " + queries + (queries === 1 ? " query" : " queries");

  function hoverReadout(map, i, j) {
    const cells = map.cells, row = map.rows[i];
    const where = map.columns ? row + " with " + map.columns[j] : ofHeads(map) ? "L" + map.layers[j] + "H" + row : row + " of layer " + map.layers[j];
    return "<b>" + escape(where) + "</b><br>" + withInterval(cells.effect[i][j], cells.effect_low[i][j], cells.effect_high[i][j], map.decimals, cells.n_queries[i][j]) +
      " " + map.unit + countWords(cells.n_pairs[i][j], cells.n_queries[i][j]);
  }

  function hoverFamily(map, where, i, j) {
    const runs = map.group === "runs"; // each rests on pairs of its own
    const lines = map.family.map((id) => mapOf[id]).filter((other) => other.cells.effect[i][j] !== null).map((other) => {
      const cells = other.cells, queries = cells.n_queries[i][j];
      const share = cells.ie_low[i][j] === null ? "" : "; " + data.share_words[map.group] + " " + withInterval(cells.ie[i][j], cells.ie_low[i][j], cells.ie_high[i][j], other.ie_decimals, queries);
      return escape(other.panel) + ": " + withInterval(cells.effect[i][j], cells.effect_low[i][j], cells.effect_high[i][j], other.decimals, queries) + " logits" + share + (runs ? "; n = " + cells.n_pairs[i][j] : "");
    });
    const last = mapOf[map.family[map.family.length - 1]], quantity = quantityOf(map);
    const low = last.cells[quantity + "_low"][i][j], high = last.cells[quantity + "_high"][i][j];
    if (map.group === "effects" && low !== null && low <= 0 && high >= 0) lines.push("the interval of the difference includes 0");
    return "<b>" + escape(where) + "</b><br>" + lines.join("<br>") + (runs ? "" : countWords(map.cells.n_pairs[i][j], map.cells.n_queries[i][j]));
  }

  // Whole numbers in steps of 1, 2, 5, 10, ... so that labels keep a distance of at least `room` pixels.
  function step(count, pixels, room) {
    const most = Math.max(1, Math.floor(pixels / room));
    for (let power = 1; ; power *= 10) {
      for (const factor of [1, 2, 5]) if (count / (factor * power) <= most) return factor * power;
    }
  }

  // On paper the page is narrower than on the screen, and no event says how wide: every plot keeps its share of it.
  const PAPER = 680;
  let printing = false;
  function widthOf(node) {
    const width = node.getBoundingClientRect().width;
    return Math.floor(printing ? (PAPER * width) / document.getElementById("main").clientWidth : width);
  }

  function baseLayout(width, height, margin) {
    return {
      width: width, height: height, margin: margin, autosize: false, dragmode: false, showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("ink") },
      hoverlabel: { bgcolor: colour("paper"), bordercolor: colour("muted"), font: { family: getComputedStyle(document.body).fontFamily, color: colour("ink"), size: 13 }, align: "left", namelength: -1 },
    };
  }

  function drawMap(map) {
    const node = document.getElementById(map.id);
    const width = widthOf(node);
    const rows = map.rows.length, columns = map.layers.length, named = !ofHeads(map);
    const longest = Math.max(...map.rows.map((row) => row.length));
    const bare = map.bare && !stacked.matches; // the rows are named at the first map of the line
    const margin = { l: bare ? 4 : named ? Math.round(7 * longest + 12) : 38, r: 4, t: 4, b: map.columns ? Math.round(7 * longest + 12) : 38 };
    const inner = width - margin.l - margin.r;
    const cell = inner / columns;
    const tall = named ? 26 * rows : Math.min(440, Math.max(11 * rows, Math.min(cell, 26) * rows, 60));
    const quantity = quantityOf(map);
    const limit = map.limits ? map.limits[quantity] : limits[named ? flowLimit : "heads"];
    const side = Math.min(cell, tall / rows);
    const gap = side < 5 ? 0 : side < 7 ? 0.5 : 1;
    const trace = {
      type: "heatmap", x: map.layers, y: map.rows.map((_, i) => i), z: map.cells[quantity],
      text: map.rows.map((_, i) => map.layers.map((_, j) => hoverText(map, i, j))),
      hovertemplate: "%{text}<extra></extra>", hoverongaps: false, xgap: gap, ygap: gap,
      zmin: -limit, zmax: limit, zmid: 0, showscale: false,
      colorscale: data.colours.map((c, i) => [i / (data.colours.length - 1), c]),
    };
    const layout = baseLayout(width, tall + margin.t + margin.b, margin);
    if (map.missing) layout.plot_bgcolor = colour("gap");
    const axis = { fixedrange: true, showgrid: false, zeroline: false, ticks: "", showline: false };
    layout.xaxis = { ...axis, title: { text: "layer", standoff: 6 }, tick0: 0, dtick: step(columns, inner, 30), range: [-0.5, columns - 0.5] };
    if (map.columns) layout.xaxis = { ...axis, tickvals: map.layers, ticktext: map.columns.map(escape), tickangle: -90, range: layout.xaxis.range };
    layout.yaxis = { ...axis, range: [rows - 0.5, -0.5] };
    if (bare) {
      layout.yaxis.tickvals = [];
    } else if (named) {
      layout.yaxis.tickvals = map.rows.map((_, i) => i);
      layout.yaxis.ticktext = map.rows.map((row) => escape(row) + " ");
    } else {
      layout.yaxis.title = { text: "head", standoff: 8 };
      layout.yaxis.tick0 = 0;
      layout.yaxis.dtick = step(rows, tall, 18);
    }
    return Plotly.react(node, [trace], layout, config);
  }

  function drawVerdicts(verdicts) {
    const node = document.getElementById("plot-verdicts");
    const width = widthOf(node);
    const margin = { l: 46, r: 4, t: 8, b: 44 };
    const edges = verdicts.edges, centres = edges.slice(1).map((edge, i) => (edge + edges[i]) / 2);
    const decimals = Math.min(4, Math.max(0, ...edges.map((edge) => (String(edge).split(".")[1] || "").length)));
    const between = (i) => "LD from " + fixed(edges[i], decimals) + " to " + fixed(edges[i + 1], decimals);
    const bar = (counts, sign, name, fill, pattern) => ({
      type: "bar", name: name, x: centres, y: counts.map((n) => sign * n), width: edges.slice(1).map((edge, i) => 0.92 * (edge - edges[i])),
      marker: { color: colour(fill), pattern: { shape: pattern, size: 5, solidity: 0.35, fgcolor: colour("paper"), fillmode: "overlay" } },
      hovertext: counts.map((n, i) => "<b>" + name + "</b><br>" + between(i) + "<br>n = " + n),
      hovertemplate: "%{hovertext}<extra></extra>",
    });
    const most = Math.max(1, ...verdicts.clean, ...verdicts.corrupted);
    const every = step(most, 90, 24);
    const ticks = [];
    for (let n = 0; n <= most; n += every) ticks.push(n);
    const layout = baseLayout(width, 270, margin);
    layout.barmode = "overlay";
    layout.bargap = 0;
    layout.xaxis = { fixedrange: true, title: { text: "logit difference of the verdict", standoff: 8 }, zeroline: false, showgrid: false, range: [edges[0], edges[edges.length - 1]] };
    layout.yaxis = {
      fixedrange: true, title: { text: "verdicts", standoff: 6 }, range: [-1.18 * most, 1.18 * most], gridcolor: colour("line"), zerolinecolor: colour("muted"),
      tickvals: [...ticks.slice(1).map((n) => -n).reverse(), ...ticks], ticktext: [...ticks.slice(1).reverse(), ...ticks].map(String),
    };
    layout.shapes = [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: colour("ink"), width: 1, dash: "dot" } }];
    const note = (text, y, anchor) => ({ text: text, xref: "paper", yref: "paper", x: 0.004, y: y, xanchor: "left", yanchor: anchor, showarrow: false, bgcolor: colour("paper"), borderpad: 2, font: { size: 12.5, color: colour("ink") } });
    layout.annotations = [note(data.runs.clean, 1, "top"), note(data.runs.corrupted, 0, "bottom")];
    return Plotly.react(node, [bar(verdicts.clean, 1, data.runs.clean, "positive", ""), bar(verdicts.corrupted, -1, data.runs.corrupted, "negative", "/")], layout, config);
  }

  const widest = (values) => Math.max(0, ...values.filter((value) => value !== null));

  // Names of the few points farthest out, none on top of another.
  function named(plot, sizes) {
    const top = [widest(plot.moved) || 1, widest(sizes) || 1];
    const at = (i) => [plot.moved[i] / top[0], sizes[i] / top[1]];
    const known = plot.layer.map((_, i) => i).filter((i) => plot.moved[i] !== null);
    const order = [...known].sort((a, b) => sizes[b] - sizes[a]).slice(0, 4).concat([...known].sort((a, b) => plot.moved[b] - plot.moved[a]).slice(0, 2));
    const kept = [];
    for (const i of order) {
      if (kept.every((k) => Math.abs(at(k)[0] - at(i)[0]) > 0.16 || Math.abs(at(k)[1] - at(i)[1]) > 0.09)) kept.push(i);
    }
    return plot.layer.map((_, i) => (kept.includes(i) ? "L" + plot.layer[i] + "H" + plot.head[i] : ""));
  }

  function drawScatter(plot) {
    const node = document.getElementById(plot.id);
    const width = widthOf(node);
    const sizes = plot[matters].map((value) => Math.abs(value));
    const range = (name, i) => withInterval(plot[name][i], plot[name + "_low"][i], plot[name + "_high"][i], plot.decimals, plot.n_queries);
    const percent = (value) => fixed(100 * value, 1) + " %";
    const weight = (name, i) => (plot[name][i] === null ? "" : "<br>its weights " + name.slice(-1) + " moved by " + percent(plot[name][i]));
    const trace = {
      type: "scatter", mode: "markers+text", x: plot.moved, y: sizes, cliponaxis: false,
      text: named(plot, sizes), textposition: "top center", textfont: { size: 11.5, color: colour("ink") },
      marker: { size: 7, opacity: 0.85, color: plot.layer, cmin: 0, cmax: plot.n_layers - 1, colorscale: data.layer_colours.map((c, i) => [i / (data.layer_colours.length - 1), c]), line: { width: 0.5, color: colour("paper") } },
      hovertext: plot.layer.map((layer, i) => "<b>L" + layer + "H" + plot.head[i] + ", " + escape(plot.region) + "</b>" +
        "<br>output moved by " + percent(plot.moved[i]) + (plot.moved_low[i] === null ? "" : " [" + percent(plot.moved_low[i]) + ", " + percent(plot.moved_high[i]) + "]") +
        "<br>effect, base: " + range("effect_base", i) + "<br>effect, tuned: " + range("effect_tuned", i) + "<br>difference: " + range("difference", i) + " logits" +
        weight("moved_q", i) + weight("moved_o", i)),
      hovertemplate: "%{hovertext}<extra></extra>",
    };
    const layout = baseLayout(width, 300, { l: 58, r: 26, t: 12, b: 46 });
    const axis = { fixedrange: true, zeroline: false, gridcolor: colour("line"), nticks: 6 };
    layout.hovermode = "closest";
    layout.xaxis = { ...axis, title: { text: "output moved by", standoff: 8 }, tickformat: ".0%", range: [0, 1.06 * (widest(plot.moved) || 1)] };
    layout.yaxis = { ...axis, title: { text: matters === "difference" ? "|tuned − base|, logits" : "|effect|, tuned, logits", standoff: 8 }, range: [-0.04 * (widest(sizes) || 1), 1.12 * (widest(sizes) || 1)] };
    return Plotly.react(node, [trace], layout, config);
  }

  // Names of points stand above them, to the left or right of those near an edge; a name on top of a stronger one is left out.
  function withinPlot(plot, xs, ys, layout) {
    const { l, r, t, b } = layout.margin, width = layout.width - l - r, height = layout.height - t - b;
    const taken = [];
    const text = [], position = [];
    plot.shown_names.forEach((name, i) => {
      const long = 6.4 * name.length; // of the widest letters of this size
      const x = ((plot.x[i] - xs[0]) / (xs[1] - xs[0])) * width, y = ((plot.y[i] - ys[0]) / (ys[1] - ys[0])) * height;
      const side = x + long / 2 > width + r ? "left" : x < long / 2 ? "right" : "center";
      const left = side === "left" ? x - long : side === "right" ? x : x - long / 2;
      const free = taken.every(([from, to, at]) => left > to || left + long < from || Math.abs(y - at) > 15);
      if (name && free) taken.push([left, left + long, y]);
      text.push(name && free ? name : "");
      position.push("top " + side);
    });
    return { text, position };
  }

  // One run's sites against another's: equal effects on a rising line, whatever the scales.
  function drawSites(plot) {
    const node = document.getElementById(plot.id);
    const [one, other] = plot.letters;
    const range = (values) => {
      const low = Math.min(0, ...values), high = Math.max(0, ...values), room = (high - low || 1) * 0.08;
      return [low - room, high + 1.4 * room];
    };
    const layout = baseLayout(widthOf(node), 320, { l: 58, r: 26, t: 12, b: 46 });
    const names = withinPlot(plot, range(plot.x), range(plot.y), layout);
    const trace = {
      type: "scatter", mode: "markers+text", x: plot.x, y: plot.y, cliponaxis: false,
      text: names.text.map(escape), textposition: names.position, textfont: { size: 11.5, color: colour("ink") },
      marker: { size: 6, opacity: 0.8, color: plot.layer, cmin: 0, cmax: Math.max(1, plot.n_layers - 1), colorscale: data.layer_colours.map((c, i) => [i / (data.layer_colours.length - 1), c]), line: { width: 0.5, color: colour("muted") } },
      hovertext: plot.names.map((name, i) => "<b>" + escape(name) + "</b><br>" + one + ": " + fixed(plot.x[i], plot.decimals) + " logits<br>" + other + ": " + fixed(plot.y[i], plot.decimals) + " logits"),
      hovertemplate: "%{hovertext}<extra></extra>",
    };
    const axis = { fixedrange: true, zerolinecolor: colour("muted"), gridcolor: colour("line"), nticks: 6 };
    layout.hovermode = "closest";
    layout.xaxis = { ...axis, title: { text: plot.x_title, standoff: 8 }, range: range(plot.x) };
    layout.yaxis = { ...axis, title: { text: plot.y_title, standoff: 8 }, range: range(plot.y) };
    return Plotly.react(node, [trace], layout, config);
  }

  // The first line is drawn in the colour of the relevant document, whole; the second in that of the other, dashed.
  function drawLines(plot) {
    const node = document.getElementById(plot.id);
    const traces = [];
    plot.lines.forEach((line, k) => {
      const stroke = colour(k ? "negative" : "positive");
      if (line.low.every((value) => value !== null)) {
        const band = { type: "scatter", mode: "lines", hoverinfo: "skip", line: { width: 0, color: stroke } };
        traces.push({ ...band, x: line.x, y: line.low }, { ...band, x: line.x, y: line.high, fill: "tonexty", fillcolor: stroke + "33" });
      }
      traces.push({
        type: "scatter", mode: line.x.length > 40 ? "lines" : "lines+markers", name: line.name, x: line.x, y: line.mean,
        line: { color: stroke, width: 2, dash: k ? "dash" : "solid" }, marker: { size: 5, symbol: k ? "square" : "circle" },
        hovertext: line.x.map((x, i) => "<b>" + escape(line.name) + "</b>, " + escape(plot.x_title) + " " + x + "<br>" + withInterval(line.mean[i], line.low[i], line.high[i], plot.decimals, 1)),
        hovertemplate: "%{hovertext}<extra></extra>",
      });
    });
    traces.forEach((trace) => { trace.showlegend = Boolean(trace.name); });
    const layout = baseLayout(widthOf(node), 260, { l: 56, r: 8, t: 28, b: 44 });
    layout.hovermode = "closest";
    layout.showlegend = true;
    layout.legend = { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemclick: false, itemdoubleclick: false, traceorder: "normal" };
    const every = step(widest(plot.lines[0].x) + 1, layout.width, 40);
    layout.xaxis = { fixedrange: true, zeroline: false, showgrid: false, title: { text: escape(plot.x_title), standoff: 8 }, ...(plot.log_x ? { type: "log", dtick: 1 } : { tick0: 0, dtick: every }) };
    layout.yaxis = { fixedrange: true, gridcolor: colour("line"), zerolinecolor: colour("muted"), title: { text: escape(plot.y_title), standoff: 6 }, nticks: 6 };
    return Plotly.react(node, traces, layout, config);
  }

  function drawPoints(plot) {
    const node = document.getElementById(plot.id);
    const range = (axis, i, k) => withInterval(plot[axis][i], plot[axis + "_low"][i], plot[axis + "_high"][i], plot.decimals[k], plot.n_queries);
    const trace = {
      type: "scatter", mode: "markers+text", x: plot.x, y: plot.y, cliponaxis: false,
      text: plot.shown_names, textposition: "top center", textfont: { size: 11.5, color: colour("ink") },
      marker: { size: plot.marked.map((marked) => (marked ? 9 : 6)), symbol: plot.marked.map((marked) => (marked ? "circle" : "circle-open")), color: plot.marked.map((marked) => colour(marked ? "positive" : "negative")) },
      hovertext: plot.names.map((name, i) => "<b>" + name + "</b><br>S " + range("x", i, 0) + "<br>effect " + range("y", i, 1) + " logits"),
      hovertemplate: "%{hovertext}<extra></extra>",
    };
    const layout = baseLayout(widthOf(node), 300, { l: 58, r: 26, t: 16, b: 46 });
    const axis = { fixedrange: true, gridcolor: colour("line"), zerolinecolor: colour("muted"), nticks: 6 };
    layout.hovermode = "closest";
    layout.xaxis = { ...axis, title: { text: escape(plot.x_title), standoff: 8 } };
    layout.yaxis = { ...axis, title: { text: escape(plot.y_title), standoff: 8 } };
    return Plotly.react(node, [trace], layout, config);
  }

  // Quality over cost: a mark for each ranking, with the interval of its quality; named where the figure is wide enough.
  function drawCosts(plot) {
    const node = document.getElementById(plot.id);
    const looks = { "first stage": ["muted", "x"], judge: ["ink", "diamond"], "heads by effect": ["positive", "circle"], "heads by attention alone": ["negative", "square"], heads: ["accent", "triangle-up"] };
    const wide = widthOf(node) > 560;
    const end = 1.08 * (widest(plot.points.map((point) => point.x)) || 1);
    const traces = Object.entries(looks).map(([kind, [stroke, symbol]]) => {
      const of = plot.points.filter((point) => point.kind === kind);
      return {
        type: "scatter", mode: wide ? "markers+text" : "markers", name: kind, showlegend: of.length > 0, x: of.map((point) => point.x), y: of.map((point) => point.y), cliponaxis: false,
        text: of.map((point) => "\u00a0\u00a0" + escape(point.name) + "\u00a0\u00a0"), textposition: of.map((point) => (point.x < 0.5 * end ? "middle right" : "middle left")), textfont: { size: 11.5, color: colour("ink") },
        error_y: { type: "data", symmetric: false, array: of.map((point) => (point.high === null ? 0 : point.high - point.y)), arrayminus: of.map((point) => (point.low === null ? 0 : point.y - point.low)), color: colour(stroke), thickness: 1.5, width: 4 },
        marker: { size: 9, symbol: symbol, color: colour(stroke) },
        hovertext: of.map((point) => "<b>" + escape(point.name) + "</b><br>" + escape(plot.y_title) + " " + withInterval(point.y, point.low, point.high, 3, 1) + "<br>" + escape(plot.x_title) + " " + fixed(point.x, point.x < 10 ? 2 : 1)),
        hovertemplate: "%{hovertext}<extra></extra>",
      };
    });
    const layout = baseLayout(widthOf(node), wide ? 320 : 360, { l: 58, r: 12, t: 30, b: 46 });
    layout.hovermode = "closest";
    layout.showlegend = true;
    layout.legend = { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemclick: false, itemdoubleclick: false };
    layout.xaxis = { fixedrange: true, showgrid: false, zerolinecolor: colour("line"), range: [-0.04 * end, end], title: { text: escape(plot.x_title), standoff: 8 } };
    layout.yaxis = { fixedrange: true, gridcolor: colour("line"), zeroline: false, title: { text: escape(plot.y_title), standoff: 6 }, nticks: 6 };
    return Plotly.react(node, traces, layout, config);
  }

  function draw() {
    const drawn = data.maps.map(drawMap).concat((data.scatters || []).map(drawScatter), (data.site_scatters || []).map(drawSites), (data.lines || []).map(drawLines), (data.points || []).map(drawPoints), (data.costs || []).map(drawCosts));
    if (data.verdicts) drawn.push(drawVerdicts(data.verdicts));
    return Promise.all(drawn).then(() => { root.dataset.plots = "drawn"; });
  }

  function chooseScale(name) {
    flowLimit = name;
    const legend = document.querySelector('.legend[data-scale="flow"]');
    const beyond = name === "modules";
    const text = data.limit_words[name];
    legend.querySelector(".legend-low").textContent = (beyond ? "≤ " : "") + "−" + text;
    legend.querySelector(".legend-high").textContent = (beyond ? "≥ " : "") + "+" + text;
    data.maps.filter((map) => map.kind === "flow").forEach(drawMap);
  }

  function chooseQuantity(group, name) {
    quantities[group] = name;
    data.maps.filter((map) => map.group === group).forEach((map) => {
      const legend = document.querySelector('.legend[data-map="' + map.id + '"]');
      legend.querySelector(".legend-low").textContent = "−" + map.limit_words[name];
      legend.querySelector(".legend-high").textContent = "+" + map.limit_words[name];
      drawMap(map);
    });
  }

  async function save(button) {
    const packed = atob(document.getElementById(button.dataset.file).textContent);
    const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
    let blob = new Blob([bytes], { type: "application/gzip" }), name = button.dataset.name + ".gz";
    if (window.DecompressionStream) {
      blob = await new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).blob();
      name = button.dataset.name;
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  document.querySelectorAll("button[data-file]").forEach((button) => button.addEventListener("click", () => save(button)));
  if (!window.Plotly) return;

  document.querySelectorAll(".scale-choice").forEach((choice) => {
    choice.hidden = false;
    choice.addEventListener("change", (event) => {
      if (choice.dataset.group) chooseQuantity(choice.dataset.group, event.target.value);
      else if (choice.dataset.matters) { matters = event.target.value; data.scatters.forEach(drawScatter); }
      else chooseScale(event.target.value);
    });
  });
  // A listed head, pointed at, shows its square on the map.
  document.querySelectorAll(".heads-list").forEach((table) => {
    const node = document.getElementById(table.dataset.map);
    table.querySelectorAll("tr[data-layer]").forEach((row) => {
      row.addEventListener("mouseenter", () => Plotly.Fx.hover(node, { xval: Number(row.dataset.layer), yval: Number(row.dataset.head) }, "xy"));
      row.addEventListener("mouseleave", () => Plotly.Fx.unhover(node));
    });
  });
  let width = window.innerWidth, pending = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a phone's address bar changes the height alone
    width = window.innerWidth;
    clearTimeout(pending);
    pending = setTimeout(draw, 120);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.addEventListener("beforeprint", () => { printing = true; draw(); });
  window.addEventListener("afterprint", () => { printing = false; draw(); });
  draw();
})();
